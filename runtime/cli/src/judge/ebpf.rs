//! A judge that runs the generated eBPF programs in the kernel by BPF_PROG_TEST_RUN, without
//! attaching them to an interface. Not here: the packets ([`super::datapath`]).

use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Config, Ebpf};

use super::{Error, datapath::OnDatapath};

/// Creates an empty target that can hold this number of pods.
///
/// # Errors
/// The kernel has no eBPF, or this user may not load programs.
pub fn target(pods: usize) -> Result<Ebpf, Error> {
    let mut config = Config::small();
    // Every pod of the cluster is an endpoint here.
    let endpoints = (pods as u32).saturating_add(2).min(1 << 16).next_power_of_two();
    config.capacities.endpoints = config.capacities.endpoints.max(endpoints);
    config.limits.endpoints = config.capacities.endpoints;
    Ok(Ebpf::private(config)?)
}

/// Loads the cluster's tables into maps of this process.
///
/// # Errors
/// The tables cannot be compiled, or do not fit; the kernel has no eBPF, or this user may not load
/// programs.
pub fn open(cluster: &Cluster) -> Result<OnDatapath<'_, Ebpf>, Error> {
    OnDatapath::install(cluster, target(cluster.pods.len())?)
}
