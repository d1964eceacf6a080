//! A judge that uses the reference datapath in memory. Not here: the packets ([`super::datapath`]).

use netpolc_policy::Cluster;
use netpolc_target_mem::Mem;

use super::{Error, datapath::OnDatapath};

/// Installs the cluster's tables in the reference datapath.
///
/// # Errors
/// The tables cannot be compiled, or do not fit.
pub fn open(cluster: &Cluster) -> Result<OnDatapath<'_, Mem>, Error> {
    OnDatapath::install(cluster, Mem::default())
}
