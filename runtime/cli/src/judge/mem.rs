//! The reference datapath as a judge.

use netpolc_policy::Cluster;
use netpolc_target_mem::Mem;

use super::{Error, datapath::OnDatapath};

/// Installs the cluster's tables in memory.
///
/// # Errors
/// Tables that cannot be compiled or held.
pub fn open(cluster: &Cluster) -> Result<OnDatapath<'_, Mem>, Error> {
    OnDatapath::install(cluster, Mem::default())
}
