//! The generated programs as a judge: run in the kernel by BPF_PROG_TEST_RUN, attached to nothing.

use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Config, Ebpf};

use super::{Error, datapath::OnDatapath};

/// Loads the cluster's tables into maps of this process.
///
/// # Errors
/// Tables that cannot be compiled or held; a kernel or user that may not load programs.
pub fn open(cluster: &Cluster) -> Result<OnDatapath<'_, Ebpf>, Error> {
    OnDatapath::install(cluster, Ebpf::private(Config::default())?)
}
