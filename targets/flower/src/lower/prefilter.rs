//! What a NIC without switchdev does by itself: drops TCP openings to this node's pods that are
//! denied.
//!
//! On the physical ports only, in hardware only, and only drops: no filter relies on another. Not
//! here: how denied openings become filters ([`super::flat`]), what there is room for
//! ([`super::budget`]).

use netpolc_table::{Program, schema::Family};

use super::{common::name, local::Local, representor::Work};
use crate::{
    capability::Capabilities,
    lowered::{Lowered, Mode},
    topology::Topology,
};

/// The filters of a node whose NIC is not in switchdev mode.
pub fn lower(program: &Program, topology: &Topology, can: &Capabilities) -> Lowered {
    let local = Local::new(program, topology);
    let mut work = Work::flat(can);
    for family in Family::BOTH {
        for uplink in &topology.uplinks {
            for (address, pod, openings) in local.guarded(family) {
                let what = format!("{} openings to {} from outside", name(family), pod.name);
                work.reaching(uplink, what, address, openings);
            }
        }
    }
    work.done(Mode::Prefilter)
}
