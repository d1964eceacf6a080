//! Probing on the kernel: a place where nobody has filters, filters one by one, and everything as
//! it was before.
//!
//! A filter is deleted by its whole identity (chain, prio, ethertype, handle), so that others' stay
//! whatever happens meanwhile. Not here: which filters ([`super::probe`]), their encoding
//! ([`crate::netlink`]). Sources: net/sched/{sch_api,cls_api,sch_ingress}.c,
//! include/uapi/linux/{rtnetlink,pkt_sched}.h.

use std::collections::BTreeSet;

use netpolc_host::{
    netlink::{
        BatchSocket, Refusal, attribute,
        flags::{CREATE, EXCLUSIVE},
        put_text, u32_at,
    },
    tc,
};
use netpolc_table::IfIndex;

use super::{
    Error,
    facts::Facts,
    probe::{self, Answers, Place, Probe},
};
use crate::{
    capability::Capabilities,
    filter::{Filter, Side},
    netlink::{Way, encode, numbers::TCA_CHAIN, parent},
};

/// Tries every ability on an interface. `known` says up to where it is worth asking.
///
/// # Errors
/// Fails only where something that was installed cannot be removed again, or where the filters that
/// are there cannot be listed. That nothing can be installed is an answer.
pub fn probe(facts: &Facts, known: &Capabilities) -> Result<Answers, Error> {
    let here = |doing: &str| format!("{doing} of {}", facts.interface);
    let socket = BatchSocket::open()
        .map_err(|source| Error::Socket { what: "opening a netlink socket", source })?;
    let mut port = Port { socket, ifindex: facts.ifindex, without_qdisc: None, left: None };
    let created = match port.qdisc(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE) {
        Ok(()) => true,
        Err(refusal) if refusal.errno == libc::EEXIST => false,
        // Every filter is answered with this then.
        Err(refusal) => {
            port.without_qdisc = Some(refusal);
            false
        }
    };
    let occupied = if port.without_qdisc.is_some() {
        Ok(BTreeSet::new())
    } else {
        port.occupied(parent(Side::Ingress))
    };
    let answers =
        occupied.map(|taken| probe::run(&mut port, free(&taken), facts.sibling, known.chains));
    if created {
        // Somebody may have begun to use the qdisc meanwhile.
        let hooks = [Side::Ingress, Side::Egress].map(|side| port.occupied(parent(side)));
        let removed = match hooks {
            [Ok(ingress), Ok(egress)] if ingress.is_empty() && egress.is_empty() => {
                port.qdisc(libc::RTM_DELQDISC, 0)
            }
            [Err(refusal), _] | [_, Err(refusal)] => Err(refusal),
            _ => Ok(()),
        };
        removed
            .map_err(|source| Error::Kernel { what: here("removing the clsact qdisc"), source })?;
    }
    if let Some(source) = port.left {
        return Err(Error::Kernel {
            what: here("removing a filter that was there for probing"),
            source,
        });
    }
    answers.map_err(|source| Error::Kernel { what: here("listing the filters"), source })
}

/// A prio of chain 0 and a chain that nobody uses.
fn free(occupied: &BTreeSet<(u32, u16)>) -> Place {
    // As low as can be: some firmware has few prios and chains (mlx5 en/tc.h, FDB_TC_MAX_PRIO,
    // FDB_TC_MAX_CHAIN).
    let prio = (1..u16::MAX).find(|prio| !occupied.contains(&(0, *prio)));
    let chain =
        (1..).find(|chain| occupied.range((*chain, 0)..=(*chain, u16::MAX)).next().is_none());
    Place { prio: prio.unwrap_or(u16::MAX), chain: chain.unwrap_or(1) }
}

/// An interface with a clsact or ingress qdisc. A failing socket is a refusal like others.
struct Port {
    socket: BatchSocket,
    ifindex: IfIndex,
    /// Why the interface has no such qdisc; None where it has one.
    without_qdisc: Option<Refusal>,
    /// Why something that was installed is still there.
    left: Option<Refusal>,
}

impl Port {
    fn qdisc(&mut self, kind: u16, flags: u16) -> Result<(), Refusal> {
        let mut body = tc::header(self.ifindex.get(), tc::CLSACT_HANDLE, tc::CLSACT, 0).to_vec();
        put_text(&mut body, tc::TCA_KIND, "clsact");
        self.socket.one(kind, flags, &body)?
    }

    /// (chain, prio) of all filters on one hook, whoever they belong to.
    fn occupied(&mut self, hook: u32) -> Result<BTreeSet<(u32, u16)>, Refusal> {
        let request = tc::header(self.ifindex.get(), 0, hook, 0);
        let place = |body: &[u8]| {
            let chain =
                attribute(body.get(tc::HEADER..)?, TCA_CHAIN).and_then(|value| u32_at(value, 0));
            // The prio is the upper half of tcm_info.
            Some((chain.unwrap_or(0), (u32_at(body, 16)? >> 16) as u16))
        };
        Ok(self.socket.dump(libc::RTM_GETTFILTER, &request, place)?.into_iter().collect())
    }

    fn message(&mut self, way: Way, filter: &Filter, handle: u32) -> Result<(), Refusal> {
        let ifindex = self.ifindex;
        let mut answers = self
            .socket
            .batch(1, |_, sequence, to| encode(to, way, ifindex, filter, handle, sequence))?;
        answers.pop().map_or(Ok(()), |answer| answer.map(drop))
    }
}

impl Probe for Port {
    fn attempt(&mut self, filters: &[Filter]) -> Result<(), Refusal> {
        if let Some(refusal) = &self.without_qdisc {
            return Err(refusal.clone());
        }
        let mut installed = Vec::with_capacity(filters.len());
        let mut outcome = Ok(());
        for (filter, handle) in filters.iter().zip(1..) {
            outcome = self.message(Way::Add, filter, handle);
            if outcome.is_err() {
                break;
            }
            installed.push((filter, handle));
        }
        for (filter, handle) in installed.into_iter().rev() {
            match self.message(Way::Remove, filter, handle) {
                Ok(()) => {}
                // Gone already: whoever keeps the filters of this interface in step saw one too
                // many.
                Err(refusal) if refusal.errno == libc::ENOENT => {}
                Err(refusal) => self.left = Some(refusal),
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_stays_out_of_others_places() {
        let occupied = BTreeSet::from([(0, 1), (0, 2), (0, 49152), (1, 1), (3, 7)]);
        assert_eq!(free(&occupied), Place { prio: 3, chain: 2 });
        assert_eq!(free(&BTreeSet::new()), Place { prio: 1, chain: 1 });
    }
}
