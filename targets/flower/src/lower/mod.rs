//! From a program to filters: one function for each mode, made of shared parts.
//!
//! - [`region`]: the answer of a policy set as prefixes and sets of ports ([`ports`])
//! - [`software`]: everything, both directions, by the kernel's own flower: [`answers`] of sets,
//!   [`fixed`] filters
//! - [`chains`]: chains numbered by their content, roles of filters
//! - [`representor`], [`prefilter`]: what a NIC can drop or forward by itself, from [`local`] pods'
//!   [`openings`]: in [`layers`] or [`flat`], and what it can [`forward`]; as far as there is
//!   [`budget`]
//!
//! Not here: netlink, and what NICs exist.

use netpolc_table::Program;

use crate::{
    capability::Capabilities,
    lowered::{Lowered, Mode, Refused},
    topology::Topology,
};

pub mod answers;
pub mod budget;
pub mod chains;
pub mod common;
pub mod fixed;
pub mod flat;
pub mod forward;
pub mod layers;
pub mod local;
pub mod openings;
pub mod ports;
pub mod prefilter;
pub mod region;
pub mod representor;
pub mod software;
pub mod union;

/// All filters of a node for one mode.
///
/// # Errors
/// Software mode refuses what it cannot enforce completely ([`software::lower`]). The other modes
/// refuse nothing: what they leave out is with eBPF.
pub fn lower(
    program: &Program,
    topology: &Topology,
    mode: Mode,
    can: &Capabilities,
) -> Result<Lowered, Refused> {
    match mode {
        Mode::Software => software::lower(program, topology),
        Mode::Representor => Ok(representor::lower(program, topology, can)),
        Mode::Prefilter => Ok(prefilter::lower(program, topology, can)),
    }
}
