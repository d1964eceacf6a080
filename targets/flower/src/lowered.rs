//! What lowering gives: filters with their origin and placement, and what stays in software and
//! why.
//!
//! Not here: how it comes about ([`crate::lower`]).

use std::collections::BTreeMap;

use netpolc_table::Origins;
use netpolc_target::OffloadRecord;
use serde::Serialize;

use crate::{filter::Filter, topology::Port};

/// How flower is used on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Switchdev: on representors and the uplink; stateless drops of TCP openings, and established
    /// connections forwarded where the way is known. eBPF decides everything else.
    Representor,
    /// No switchdev: drops of TCP openings to this node's pods, on the physical port. eBPF decides
    /// everything else.
    Prefilter,
    /// The kernel's software path alone: no eBPF, the whole policy.
    Software,
}

/// All filters of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// The mode that the filters were made for.
    pub mode: Mode,
    /// Each port with its filters, in order of (side, chain, prio, match).
    pub ports: BTreeMap<Port, Vec<Placed>>,
    /// What has no filter and why, in a fixed order.
    pub spilled: Vec<Spilled>,
}

/// A filter and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The filter; its `copies` say where it runs.
    pub filter: Filter,
    /// The policies and rules behind it.
    pub origins: Origins,
}

/// Something that hardware does not do; the eBPF programs do it. In software mode: what is stricter
/// than policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    /// The port it would have been on.
    pub port: Port,
    /// What: `egress of shop/ui to 10.0.0.0/8 tcp 80-90`.
    pub what: String,
    /// Why hardware does not do it.
    pub reason: Reason,
    /// How many filters it would have taken; 0 where that is not known.
    pub filters: u32,
    /// The policies and rules behind it.
    pub origins: Origins,
}

/// Why hardware does not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The NIC has no place for more filters.
    Filters,
    /// It has no place for more chains and prios.
    Tables,
    /// It has no place for more masks.
    Masks,
    /// It cannot match TCP flags, so it cannot tell an opening packet.
    TcpFlags,
    /// It would read a key of value 0 as no key.
    ZeroKey,
    /// It cannot match IPv6 addresses.
    Ipv6,
    /// It has no connection tracking.
    Ct,
    /// It does not know which side opened a connection.
    CtReply,
    /// It cannot redirect packets to another port.
    Redirect,
    /// The host routes between the ports.
    Routed,
    /// The host may have to translate a reply back.
    Translation,
    /// The pod's hardware address is not known.
    NextHop,
    /// Its driver honours no priority and the filters would overlap.
    Priority,
    /// Software mode has no hook behind Service translation.
    Service,
    /// Software mode judges what the node itself sends like everything else that comes to the pod.
    Born,
    /// Software mode passes all protocols without ports, or none, and no messages of ICMP alone.
    Apart,
}

impl Reason {
    /// The reason in words for people.
    pub fn describe(self) -> &'static str {
        match self {
            Reason::Filters => "more filters than the NIC has room for",
            Reason::Tables => "more chains and prios than the NIC has tables for",
            Reason::Masks => "more masks than the NIC has room for",
            Reason::TcpFlags => "the NIC cannot match TCP flags",
            Reason::ZeroKey => "the NIC reads a key of value 0 as no key",
            Reason::Ipv6 => "the NIC cannot match IPv6 addresses",
            Reason::Ct => "the NIC tracks no connections",
            Reason::CtReply => "the NIC cannot match ct_state rpl",
            Reason::Redirect => "the NIC cannot redirect to another port",
            Reason::Routed => "not forwarded: the host routes between the ports",
            Reason::Translation => "not forwarded: the host may have to translate it",
            Reason::NextHop => "not forwarded: the pod's hardware address is not known",
            Reason::Service => {
                "stricter than policy: without eBPF a Service's address is judged as it is"
            }
            Reason::Born => {
                "stricter than policy: filters judge what the node sends by all policies, and not by \
                 security groups alone"
            }
            Reason::Apart => {
                "stricter than policy: filters do not tell protocols without ports apart"
            }
            Reason::Priority => "the NIC ignores priority, and the filters would overlap",
        }
    }
}

/// What [`crate::lower::lower`] cannot do at all; nothing is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Software mode must do everything, and cannot.
    #[error("software flower cannot enforce this: {what}; {remedy}")]
    Incomplete {
        /// What cannot be enforced, with the pod or policy that it belongs to.
        what: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// More chains than there are numbers.
    #[error("port {port} needs more than {limit} chains")]
    Chains {
        /// The name of the port.
        port: String,
        /// How many chains there can be.
        limit: u32,
    },
}

impl Lowered {
    /// What stands in an agent's record about it, port by port.
    pub fn record(&self, driver: &str) -> Vec<OffloadRecord> {
        let mode = format!("{:?}", self.mode).to_lowercase();
        let ports = self.ports.iter().map(|(port, filters)| {
            let mut spilled = BTreeMap::new();
            for spill in self.spilled.iter().filter(|s| s.port == *port) {
                *spilled.entry(spill.reason.describe().to_owned()).or_insert(0) +=
                    spill.filters.max(1);
            }
            let (interface, refused) = (port.name.clone(), BTreeMap::new());
            let (mode, driver) = (mode.clone(), driver.into());
            OffloadRecord { interface, mode, driver, filters: filters.len(), spilled, refused }
        });
        ports.collect()
    }
}
