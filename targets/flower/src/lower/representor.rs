//! What a switchdev NIC does by itself: drops TCP openings that are denied, forwards established connections.

use netpolc_table::Program;

use crate::{capability::Capabilities, lowered::Lowered, topology::Topology};

/// The filters of a node.
pub fn lower(_program: &Program, _topology: &Topology, _can: &Capabilities) -> Lowered {
    unimplemented!()
}
