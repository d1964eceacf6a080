//! The generated programs as a judge: run in the kernel by BPF_PROG_TEST_RUN, attached to nothing.

use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Config, Ebpf};

use super::{Error, datapath::OnDatapath};

/// An empty target that can hold this many pods.
///
/// # Errors
/// A kernel or user that may not load programs.
pub fn target(pods: usize) -> Result<Ebpf, Error> {
    let mut config = Config::small();
    // Every pod is an endpoint here.
    let endpoints = (pods as u32).saturating_add(2).min(1 << 16).next_power_of_two();
    config.capacities.endpoints = config.capacities.endpoints.max(endpoints);
    config.limits.endpoints = config.capacities.endpoints;
    Ok(Ebpf::private(config)?)
}

/// Loads the cluster's tables into maps of this process.
///
/// # Errors
/// Tables that cannot be compiled or held; a kernel or user that may not load programs.
pub fn open(cluster: &Cluster) -> Result<OnDatapath<'_, Ebpf>, Error> {
    OnDatapath::install(cluster, target(cluster.pods.len())?)
}
