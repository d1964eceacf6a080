//! What a switchdev NIC does by itself: drops TCP openings that are denied, forwards established
//! connections.
//!
//! ```text
//! a pod's representor (what the pod sends)          an uplink (what comes from outside)
//! 0: opening to a node, Service, own address: pass  0: opening to an isolated pod -> its sources
//!    opening to a pod here: pass, drop, -> ports    sources: prefixes, inside out: pass, drop, -> ports
//!    opening -> destinations
//!    from its own address -> ct, connections
//! destinations: prefixes, inside out: pass, drop, -> ports
//! connections: +est, by the opener's policy: redirect; rest: pass
//! ```
//!
//! Destinations are judged by the pod's egress set and, where they are pods of this node, by theirs
//! too: ingress policy sits on every port that can reach a pod, since hardware has no egress hook.
//! Each of these pods has one filter in chain 0, so that its coming and going changes nothing else.
//! A NIC without chains or without priority gets drops only ([`super::flat`]). Everything is an
//! opening (SYN without ACK) or tracked: whatever else arrives, and whatever misses, is the host's.
//! Not here: what there is room for ([`super::budget`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpolc_table::{Origins, Program, TableId, schema::Family};

use super::{
    answers::End,
    budget::{Unit, Value, fit, gather},
    chains::{Chains, Role, Rule},
    common::{FEWEST_CHAINS, FIRST_PRIO, OPENING, index, name},
    flat, forward,
    layers::{Place, Strata, hardware},
    local::{FromPod, Local},
    openings::Openings,
    ports::PortSet,
};
use crate::{
    capability::Capabilities,
    filter::{Action, Pattern, Ports, host},
    lowered::{Lowered, Mode, Reason, Spilled},
    topology::{Forwarding, Port, Topology},
};

/// Prios in chain 0 where there are chains. What passes whatever policy says comes first, then this
/// node's pods (two prios: ports, and the rest), then all other openings. So a filter never has to
/// repeat what one in front of it decides.
const EXEMPT: u16 = FIRST_PRIO;
const LOCAL: u16 = FIRST_PRIO + 1;
const OPENINGS: u16 = FIRST_PRIO + 3;
/// How many prios a family takes: IPv4 has the first ones, IPv6 those behind.
const BAND: u16 = 4;
/// How many prios a family takes in chain 0 where there are no chains.
const LAYERS: u16 = 1000;

/// How filters for openings are arranged, by what the NIC can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// In chains that chain 0 leads to.
    Chained,
    /// All in chain 0, in order of prio.
    Layered,
    /// All in chain 0, in any order.
    Flat,
}

impl Form {
    fn of(can: &Capabilities) -> Self {
        match (can.priority && can.zero_keys, can.chains >= FEWEST_CHAINS) {
            (true, true) => Form::Chained,
            (true, false) => Form::Layered,
            (false, _) => Form::Flat,
        }
    }
}

/// The filters of a node whose NIC is in switchdev mode.
pub fn lower(program: &Program, topology: &Topology, can: &Capabilities) -> Lowered {
    let local = Local::new(program, topology);
    let mut work =
        Work { can, form: Form::of(can), units: vec![], spilled: vec![], chains: BTreeMap::new() };
    for family in Family::BOTH {
        for pod in local.pods.values() {
            let from = local.opened_by(pod, family);
            let openings = from.openings();
            if !openings.allows_all() {
                let what = format!("{} openings of {}", name(family), pod.name);
                match work.form {
                    Form::Chained => work.leaving(&pod.port, what, from),
                    Form::Layered | Form::Flat => {
                        work.add(&pod.port, what, &openings, opening(family), End::Destination);
                    }
                }
            }
        }
        for uplink in &topology.uplinks {
            for (address, pod, openings) in local.guarded(family) {
                let what = format!("{} openings to {} from outside", name(family), pod.name);
                work.reaching(uplink, what, address, openings);
            }
        }
    }
    for (endpoint, pod) in &local.pods {
        let chains = work.chains.entry(pod.port.clone()).or_insert_with(|| Chains::new(can.chains));
        match forward::units(&local, *endpoint, chains, can) {
            Ok(units) => {
                if topology.forwarding == Forwarding::Translating && !units.is_empty() {
                    let what = "replies of established connections".to_owned();
                    work.spill(&pod.port, what, Reason::Translation, 0, Origins::default());
                }
                work.units.extend(units);
            }
            Err(spilled) => work.spilled.extend(spilled),
        }
    }
    work.done(Mode::Representor)
}

/// The units that were made so far, and what was left out.
pub(super) struct Work<'a> {
    can: &'a Capabilities,
    form: Form,
    units: Vec<Unit>,
    spilled: Vec<Spilled>,
    chains: BTreeMap<Port, Chains>,
}

impl<'a> Work<'a> {
    /// Drops only, in any order.
    pub(super) fn flat(can: &'a Capabilities) -> Self {
        Work { can, form: Form::Flat, units: vec![], spilled: vec![], chains: BTreeMap::new() }
    }

    /// The filters that fit into the NIC, and all that is left out.
    pub(super) fn done(self, mode: Mode) -> Lowered {
        let (ports, left) = fit(self.units, self.chains, self.can);
        Lowered { mode, ports, spilled: gather([self.spilled, left].concat()) }
    }

    /// What a pod opens, in chains.
    fn leaving(&mut self, port: &Port, what: String, mut from: FromPod) {
        let family = from.egress.family;
        let base = opening(family);
        // A NIC that cannot tell an opening, or this family, must not drop anything here.
        if self.is_unable(port, &what, &from.egress) {
            return;
        }
        // Each length of prefix is a mask, and all exemptions have one prio. If that is more than a
        // table of the NIC has, the openings themselves pass these prefixes instead.
        let lengths: BTreeSet<u8> = from.exempt.iter().map(|(prefix, _)| prefix.prefix()).collect();
        if lengths.len() as u64 > self.can.masks.into() {
            for (prefix, origins) in from.exempt.drain(..) {
                from.egress.pass(prefix, origins);
            }
        }
        let band = BAND * index(family) as u16;
        let mut rules = Vec::new();
        for (prefix, origins) in &from.exempt {
            let rule = hardware(
                Role::Exempt,
                TableId::Endpoint,
                base.clone().to(*prefix),
                Action::Pass,
                origins,
            );
            rules.push(Rule { prio: EXEMPT + band, ..rule });
        }
        // A pod of this node is written in chain 0 itself if that is one filter, or if too few pods
        // have the same answer for a shared chain to pay off: with `members` pods and `count`
        // filters each, inline takes their product, a chain their sum.
        let mut alike = BTreeMap::<&PortSet, usize>::new();
        for opening in &from.local {
            *alike.entry(&opening.allowed).or_default() += 1;
        }
        for opening in &from.local {
            let one =
                Openings::everywhere(family, opening.allowed.clone(), opening.origins.clone());
            let place = Place { base: base.clone(), remote: End::Destination, can: self.can };
            let inline = place.strata(&Openings::alone(family, opening.clone()), None);
            let count =
                inline.as_ref().map_or(usize::MAX, |strata| strata.iter().map(Vec::len).sum());
            let members = alike[&opening.allowed];
            match inline.filter(|_| count <= 1 || members.saturating_mul(count) < members + count) {
                Some(strata) => {
                    let numbered = strata.into_iter().zip(LOCAL + band..);
                    rules.extend(numbered.flat_map(|(rules, prio)| {
                        rules.into_iter().map(move |r| Rule { prio, ..r })
                    }));
                }
                None => {
                    let Some((action, origins)) = self.decided(port, &one, End::Destination) else {
                        return self.left_out(port, what, &from.egress);
                    };
                    let rule = hardware(
                        Role::Deny,
                        TableId::Row,
                        base.clone().to(opening.prefix),
                        action,
                        &origins,
                    );
                    rules.push(Rule { prio: LOCAL + band, ..rule });
                }
            }
        }
        if !from.egress.allows_all() {
            let Some((action, origins)) = self.decided(port, &from.egress, End::Destination) else {
                return self.left_out(port, what, &from.egress);
            };
            let rule = hardware(Role::Deny, TableId::Endpoint, base, action, &origins);
            rules.push(Rule { prio: OPENINGS + band, ..rule });
        }
        let origins = rules.iter().flat_map(|r| r.origins.as_slice()).cloned().collect();
        self.unit(port, what, rules, origins);
    }

    /// Openings to one address of a pod from outside.
    pub(super) fn reaching(
        &mut self,
        port: &Port,
        what: String,
        address: IpAddr,
        openings: &Openings,
    ) {
        let family = openings.family;
        let base = opening(family).to(host(address));
        if self.form != Form::Chained {
            return self.add(port, what, openings, base, End::Source);
        }
        if self.is_unable(port, &what, openings) {
            return;
        }
        let Some((action, origins)) = self.decided(port, openings, End::Source) else {
            return self.left_out(port, what, openings);
        };
        let rule = hardware(Role::Deny, TableId::Endpoint, base, action, &origins);
        let prio = OPENINGS + BAND * index(family) as u16;
        self.unit(port, what, vec![Rule { prio, ..rule }], origins);
    }

    /// What becomes of openings: all are dropped, all pass, or a chain decides.
    fn decided(
        &mut self,
        port: &Port,
        openings: &Openings,
        remote: End,
    ) -> Option<(Action, Origins)> {
        let origins = openings.parts().iter().flat_map(|p| p.origins.as_slice()).cloned().collect();
        match openings.parts() {
            [all] if all.allowed.is_empty() => return Some((Action::Drop, origins)),
            [all] if all.allowed.is_all() => return Some((Action::Pass, origins)),
            _ => {}
        }
        let place = Place { base: Pattern::of(openings.family), remote, can: self.can };
        let chains =
            self.chains.entry(port.clone()).or_insert_with(|| Chains::new(self.can.chains));
        Some((Action::Goto(place.chain(openings, chains)?), origins))
    }

    /// Adds filters for openings without chains: in order of prio or in any order.
    fn add(&mut self, port: &Port, what: String, openings: &Openings, base: Pattern, remote: End) {
        if openings.allows_all() || self.is_unable(port, &what, openings) {
            return;
        }
        match self.form {
            Form::Flat => self.drops(port, &what, openings, &base, remote),
            Form::Layered | Form::Chained => {
                let first = FIRST_PRIO + LAYERS * index(openings.family) as u16;
                let place = Place { base, remote, can: self.can };
                match place.strata(openings, None).and_then(|strata| layered(strata, first)) {
                    Some(rules) => {
                        let origins =
                            rules.iter().flat_map(|r| r.origins.as_slice()).cloned().collect();
                        self.unit(port, what, rules, origins);
                    }
                    None => self.left_out(port, what, openings),
                }
            }
        }
    }

    fn drops(&mut self, port: &Port, what: &str, openings: &Openings, base: &Pattern, remote: End) {
        let found = flat::drops(openings, self.can);
        for (count, reason) in [(found.unread, Reason::ZeroKey), (found.unmasked, Reason::Filters)]
        {
            if count > 0 {
                self.spill(port, what.to_owned(), reason, count, Origins::default());
            }
        }
        for drop in found.drops {
            let bits = match drop.ports {
                Some(Ports::Masked(m)) => m.mask.count_ones(),
                Some(Ports::Range { .. }) | None => 0,
            };
            let pattern = Pattern { destination_port: drop.ports, ..base.clone() };
            let pattern = match remote {
                End::Source => pattern.from(drop.prefix),
                End::Destination => pattern.to(drop.prefix),
            };
            let rule = hardware(Role::Deny, TableId::Row, pattern, Action::Drop, &drop.origins);
            let prio = FIRST_PRIO + index(openings.family) as u16;
            self.units.push(Unit {
                port: port.clone(),
                what: what.to_owned(),
                value: Value::Drop(u32::from(drop.prefix.prefix()) + bits),
                rules: vec![Rule { prio, ..rule }],
                origins: drop.origins,
            });
        }
    }

    fn unit(&mut self, port: &Port, what: String, rules: Vec<Rule>, origins: Origins) {
        self.units.push(Unit { port: port.clone(), what, value: Value::Drop(0), rules, origins });
    }

    /// Is there something that the NIC cannot match at all?
    fn is_unable(&mut self, port: &Port, what: &str, openings: &Openings) -> bool {
        let reason = match (self.can.tcp_flags, openings.family, self.can.ipv6) {
            (false, _, _) => Reason::TcpFlags,
            (true, Family::V6, false) => Reason::Ipv6,
            (true, _, _) => return false,
        };
        let origins = openings.parts().iter().flat_map(|p| p.origins.as_slice()).cloned().collect();
        self.spill(port, what.to_owned(), reason, openings.parts().len() as u32, origins);
        true
    }

    fn left_out(&mut self, port: &Port, what: String, openings: &Openings) {
        let origins = openings.parts().iter().flat_map(|p| p.origins.as_slice()).cloned().collect();
        self.spill(port, what, Reason::Filters, openings.parts().len() as u32, origins);
    }

    fn spill(&mut self, port: &Port, what: String, reason: Reason, filters: u32, origins: Origins) {
        self.spilled.push(Spilled { port: port.clone(), what, reason, filters, origins });
    }
}

/// Strata as prios of chain 0; None where a family has too many.
fn layered(strata: Strata, first: u16) -> Option<Vec<Rule>> {
    let numbered = strata.into_iter().enumerate().map(|(at, rules)| {
        let prio = u16::try_from(at).ok().filter(|at| *at < LAYERS)? + first;
        Some(rules.into_iter().map(move |rule| Rule { prio, ..rule }))
    });
    Some(numbered.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

/// What every opening of a family matches.
fn opening(family: Family) -> Pattern {
    Pattern { protocol: Some(6), tcp_flags: Some(OPENING), ..Pattern::of(family) }
}
