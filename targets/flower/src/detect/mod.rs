//! What a NIC's port can do with filters, found by itself: what it says ([`facts`]), what its
//! driver takes ([`probe`], on the kernel by [`nic`]), what that is worth and which mode follows
//! ([`verdict`]).
//!
//! Interfaces without `hw-tc-offload` are left alone: nothing is installed on them, not even a
//! qdisc. For the others it takes one filter for each ability, and nothing of that stays. Not here:
//! lowering, and sync of what it gives.

use netpolc_table::IfIndex;
use std::io;

use netpolc_host::netlink::Refusal;
use serde::Serialize;

use crate::{
    capability::Capabilities,
    lowered::Mode,
    quirks::{self, Fact},
};

pub mod devlink;
pub mod ethtool;
pub mod facts;
pub mod nic;
pub mod probe;
pub mod verdict;

use facts::{Facts, HwTc};
use probe::Answers;
use verdict::{Evidence, Known};

/// Everything found about one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Findings {
    /// What it says of itself.
    #[serde(flatten)]
    pub facts: Facts,
    /// Is its driver in the table of drivers?
    pub driver_known: Known,
    /// What was read in its driver's sources.
    pub driver_facts: &'static [Fact],
    /// Ability by ability; empty where hw-tc-offload is not on.
    pub evidence: Vec<Evidence>,
    /// What the lowering may use.
    pub capabilities: Capabilities,
    /// How flower is used on it; none: eBPF alone.
    pub mode: Option<Mode>,
    /// Why not more, and what to do about it.
    pub reasons: Vec<String>,
}

/// Why nothing can be found out about an interface.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No interface has the name.
    #[error("no interface {name}; there are: {interfaces}")]
    NoInterface {
        /// The name that was asked for.
        name: String,
        /// The names of those that exist, separated by commas.
        interfaces: String,
    },
    /// A socket could not be opened, or the kernel refused to list something.
    #[error("{what}: {source}")]
    Socket {
        /// What was being done, as a verb form.
        what: &'static str,
        /// The error of the socket or of the kernel.
        source: io::Error,
    },
    /// A request about qdiscs or filters.
    #[error("{what}: {source}")]
    Kernel {
        /// What was being done, as a verb with its object.
        what: String,
        /// The kernel's error code, and the text beside it where there is one.
        source: Refusal,
    },
}

/// Looks at one interface of the calling thread's network namespace, and probes it where it has
/// hw-tc-offload. Needs CAP_NET_ADMIN.
///
/// # Errors
/// There is no such interface, the kernel lists no interfaces, or a filter that was tried cannot be
/// removed again. That a filter is refused is a finding and no error.
pub fn interface(name: &str) -> Result<Findings, Error> {
    let facts = facts::gather(|other| other == name)?.into_iter().next();
    let facts = match facts {
        Some(facts) => facts,
        None => {
            let all: Vec<String> =
                facts::gather(|_| true)?.into_iter().map(|facts| facts.interface).collect();
            return Err(Error::NoInterface { name: name.to_owned(), interfaces: all.join(", ") });
        }
    };
    find(facts, nic::probe)
}

/// What was found about an interface, with its index.
pub type Found = (IfIndex, Result<Findings, Error>);

/// As [`interface`] for those that are `wanted`, which are asked about together; each with its
/// index.
///
/// # Errors
/// The kernel lists no interfaces. What fails for one interface stands beside its index.
pub fn some(wanted: impl Fn(&str) -> bool) -> Result<Vec<Found>, Error> {
    let found = facts::gather(wanted)?.into_iter();
    Ok(found.map(|facts| (facts.ifindex, find(facts, nic::probe))).collect())
}

/// As [`interface`] for all of the calling thread's network namespace, in order of index.
///
/// # Errors
/// The kernel lists no interfaces, or a filter that was tried cannot be removed again.
pub fn interfaces() -> Result<Vec<Findings>, Error> {
    facts::gather(|_| true)?.into_iter().map(|facts| find(facts, nic::probe)).collect()
}

/// What follows from facts. `probe` tries filters on the interface, knowing what its driver is
/// known for; it is called where hw-tc-offload is on.
///
/// # Errors
/// Fails where `probe` does.
pub fn find(
    facts: Facts,
    probe: impl FnOnce(&Facts, &Capabilities) -> Result<Answers, Error>,
) -> Result<Findings, Error> {
    let driver = facts.driver.as_deref().map_or("unknown", table_name);
    let (driver_known, driver_facts) =
        quirks::quirks(driver).map_or((Known::Unknown, &[][..]), |q| (Known::Driver, q.facts));
    let known = quirks::capabilities(driver);
    let (capabilities, evidence) = match facts.hw_tc_offload {
        HwTc::On => verdict::judge(&known, probe(&facts, &known)?),
        HwTc::Off | HwTc::Missing | HwTc::Unknown(_) => (verdict::nothing(driver), Vec::new()),
    };
    let (mode, reasons) = verdict::choose(&facts, driver_known, &capabilities, &evidence);
    Ok(Findings { facts, driver_known, driver_facts, evidence, capabilities, mode, reasons })
}

/// The name under which the table has a driver. Representors of some name themselves otherwise
/// (mlx5 en_rep.c, mlx5e_rep_driver_name; sfc ef100_rep.c, EFX_EF100_REP_DRIVER).
fn table_name(driver: &str) -> &str {
    match driver {
        "mlx5e_rep" => "mlx5_core",
        "efx_ef100_rep" => "sfc",
        other => other,
    }
}

#[cfg(test)]
mod tests;
