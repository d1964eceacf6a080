//! Everything by the kernel's own flower: both directions, both families, replies by connection tracking.

use netpolc_table::Program;

use crate::{
    lowered::{Lowered, Refused},
    topology::Topology,
};

/// The filters of a node.
///
/// # Errors
/// What flower cannot enforce.
pub fn lower(_program: &Program, _topology: &Topology) -> Result<Lowered, Refused> {
    unimplemented!()
}
