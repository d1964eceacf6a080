//! What a NIC without switchdev does by itself: drops TCP openings to this node's pods that are denied.

use netpolc_table::Program;

use crate::{capability::Capabilities, lowered::Lowered, topology::Topology};

/// The filters of a node.
pub fn lower(_program: &Program, _topology: &Topology, _can: &Capabilities) -> Lowered {
    unimplemented!()
}
