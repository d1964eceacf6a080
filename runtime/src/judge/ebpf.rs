//! The generated programs as a judge: run in the kernel by BPF_PROG_TEST_RUN, attached to nothing.

use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Config, Ebpf};

use super::{Error, datapath::OnDatapath};

/// Loads the cluster's tables into maps of this process.
///
/// # Errors
/// Tables that cannot be compiled or held; a kernel or user that may not load programs.
pub fn open(cluster: &Cluster) -> Result<OnDatapath<'_, Ebpf>, Error> {
    let mut config = Config::small();
    // Every pod is an endpoint here, and endpoints are the one table that never grows.
    let endpoints = cluster.pods.len() as u32 + 2;
    let capacities = &mut config.capacities;
    capacities.endpoints = capacities.endpoints.max(endpoints.next_power_of_two()).min(1 << 16);
    config.limits.endpoints = config.capacities.endpoints;
    Ok(OnDatapath::install(cluster, Ebpf::private(config)?)?)
}
