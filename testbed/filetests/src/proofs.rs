//! What must hold of every case at every step, whatever was blessed: golden files show what
//! changes, these say that it is still right.
//!
//! Not here: the proof of filters, which belongs to what is printed ([`crate::filters`]).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netpolc_lower::verify;
use netpolc_table::{
    Key, Program, TableId, check,
    eval::{self, Pipeline, Verdict},
    schema::{EndpointKey, Family, PortKey, SetEndpoint},
    text,
};

use crate::state::State;

/// Counterexamples that a message names.
const SHOWN: usize = 3;
/// ICMP, which stands for all protocols without ports.
const ICMP: u8 = 1;

/// Holds a case to what must be true of every case: the tables say what the oracle says, keep their
/// rules, print and parse, do not depend on the way to them, and no packet sees a mix on that way.
/// The error says which of these is broken, and where.
pub(crate) fn hold(state: &State) -> Result<(), String> {
    let program = state.compiler.program();
    // A pod may reach a tunnel's port only where its policy says so, which the oracle knows nothing
    // of.
    if state.wire.tunnels.is_empty() {
        let found = verify(&state.shares.cluster(state.cluster.clone()), &state.compiler, SHOWN);
        fail("the oracle contradicts the tables", found.iter().map(ToString::to_string))?;
    }
    let errors = check::check(program).into_iter().filter(|f| f.severity == check::Severity::Error);
    fail("the tables break their rules", errors.map(|f| f.to_string()))?;
    let printed = text::print(program);
    match text::parse(&printed) {
        Ok(parsed) if parsed == *program => {}
        Ok(_) => return Err("the text form parses to another program".into()),
        Err(error) => return Err(format!("the text form does not parse: {error}")),
    }
    let anew = state.anew()?;
    if anew.program().canonical() != program.canonical() {
        return Err(
            "what the events led to is not what compiling the same objects anew gives".into()
        );
    }
    let Some((before, plan)) = &state.update else { return Ok(()) };
    let (mut led, mut states) = (before.clone(), vec![before.clone()]);
    for (_, write) in &plan.steps {
        led.apply(write);
        states.push(led.clone());
    }
    if !same(&led, program) {
        return Err("the plan does not lead to the program".into());
    }
    no_mix(&states)
}

/// Where packets come from: an interface, or an endpoint that stays, for pods without an interface.
#[derive(Clone, Copy)]
enum Door<'a> {
    Interface(&'a Key),
    Endpoint(&'a Key),
}

impl Door<'_> {
    /// The verdict on a packet. None: the interface is not ours, so its packets pass.
    fn answer(self, program: &Program, packet: &Packet) -> Option<Verdict> {
        let endpoint = match self {
            Door::Interface(key) => SetEndpoint::of(program.get(TableId::Interface, key)?).endpoint,
            Door::Endpoint(key) => EndpointKey::of(key).endpoint,
        };
        let (pipeline, remote, (protocol, port)) = *packet;
        Some(eval::decide(program, pipeline, endpoint, remote, protocol, port).verdict)
    }

    fn name(self) -> String {
        match self {
            Door::Interface(key) => format!("interface {}", text::key(TableId::Interface, key)),
            Door::Endpoint(key) => format!("endpoint {}", text::key(TableId::Endpoint, key)),
        }
    }
}

/// Hook, remote, protocol with destination port.
type Packet = (Pipeline, IpAddr, (u8, Option<u16>));

/// Every packet is answered as before the update or as after it, and never as before again (S57).
/// The states are the programs between its writes, both ends included.
fn no_mix(states: &[Program]) -> Result<(), String> {
    let [first, .., last] = states else { return Ok(()) };
    let both = || [first, last].into_iter();
    let interfaces: BTreeSet<&Key> =
        both().flat_map(|p| p.table(TableId::Interface).entries.keys()).collect();
    let endpoints = first.table(TableId::Endpoint).entries.keys();
    let stay = endpoints.filter(|key| last.get(TableId::Endpoint, key).is_some());
    let doors: Vec<Door> =
        interfaces.into_iter().map(Door::Interface).chain(stay.map(Door::Endpoint)).collect();
    let remotes: BTreeSet<IpAddr> = both().flat_map(remotes).collect();
    let ports: BTreeSet<(u8, Option<u16>)> = both().flat_map(ports).chain([(ICMP, None)]).collect();
    for pipeline in Pipeline::ALL {
        for packet in remotes
            .iter()
            .flat_map(|remote| ports.iter().map(move |port| (pipeline, *remote, *port)))
        {
            for door in &doors {
                let (old, new) = (door.answer(first, &packet), door.answer(last, &packet));
                let mut switched = false;
                for (at, state) in states.iter().enumerate() {
                    let now = door.answer(state, &packet);
                    if now != new && (switched || now != old) {
                        let door = door.name();
                        return Err(format!(
                            "after write {at} of the plan {door} answers {now:?}, before it \
                             {old:?} and in the end {new:?}: {packet:?}"
                        ));
                    }
                    switched |= now != old;
                }
            }
        }
    }
    Ok(())
}

/// The first address of each prefix. What lies in a prefix and in none below it has one class.
fn remotes(program: &Program) -> impl Iterator<Item = IpAddr> {
    let of = |family: Family| {
        program.table(TableId::remote(family)).entries.keys().map(move |key| {
            let (value, _) = key.prefix();
            match family {
                Family::V4 => Ipv4Addr::from_bits(value.get() as u32).into(),
                Family::V6 => Ipv6Addr::from_bits(value.get()).into(),
            }
        })
    };
    of(Family::V4).chain(of(Family::V6))
}

/// The first port of each interval.
fn ports(program: &Program) -> impl Iterator<Item = (u8, Option<u16>)> {
    program.table(TableId::Port).entries.keys().map(|key| {
        let PortKey { protocol, port } = PortKey::of(key);
        (protocol, Some(port.low as u16))
    })
}

/// Up to origins, which a target need not keep.
fn same(one: &Program, other: &Program) -> bool {
    one.tables().zip(other.tables()).all(|(a, b)| {
        let equal =
            |((ka, a), (kb, b)): ((_, &netpolc_table::Entry), (_, _))| ka == kb && a.same_action(b);
        a.entries.len() == b.entries.len() && a.entries.iter().zip(&b.entries).all(equal)
    })
}

fn fail(what: &str, found: impl Iterator<Item = String>) -> Result<(), String> {
    let found: Vec<String> = found.collect();
    if found.is_empty() { Ok(()) } else { Err(format!("{what}: {}", found.join("; "))) }
}
