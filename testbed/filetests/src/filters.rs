//! Filters of one port as text: chains in the order in which packets come to them, and under names
//! that do not change with what is in them.
//!
//! ```text
//! ingress chain 0
//!   pref 2 ip dst_ip 10.0.1.1/32: goto chain A
//! ingress chain A
//!   pref 2 ip ip_proto tcp dst_port 5432: pass  # shop/db rule[0]
//! ```
//!
//! A filter in hardware alone, or in both, says so in brackets; the others run in software.

use std::{collections::BTreeMap, fmt::Write as _};

use netpolc_table::IfIndex;
use netpolc_target_flower::{
    capability::Capabilities,
    filter::{Copies, Match, Side},
    json,
    lower::lower,
    lowered::{Lowered, Mode, Placed, Spilled},
    quirks, sound, text,
    topology::{Port, Topology},
};

use crate::{layout, state::State};

/// Counterexamples that a message names.
const SHOWN: usize = 3;

/// What the words behind a mode ask for.
struct Wanted<'a> {
    can: Capabilities,
    port: &'a str,
    /// The hook to print; None is both.
    side: Option<Side>,
}

impl<'a> Wanted<'a> {
    /// `[DRIVER] PORT [HOOK]`; a port is a pod or `uplink`.
    fn parse(words: &[&'a str]) -> Result<Self, String> {
        let (words, side) = match words {
            [rest @ .., "ingress"] => (rest, Some(Side::Ingress)),
            [rest @ .., "egress"] => (rest, Some(Side::Egress)),
            _ => (words, None),
        };
        match words {
            [port] => Ok(Self { can: Capabilities::software(), port, side }),
            [driver, port] => Ok(Self { can: capabilities(driver)?, port, side }),
            _ => Err("the mode must be followed by [DRIVER] PORT [ingress|egress]".into()),
        }
    }

    /// What is wanted of the lowered program.
    fn part(&self, mut lowered: Lowered) -> Lowered {
        lowered.ports.retain(|port, _| port.name == self.port);
        lowered.spilled.retain(|spilled| spilled.port.name == self.port);
        let wanted = |placed: &Placed| self.side.is_none_or(|side| placed.filter.side == side);
        lowered.ports.values_mut().for_each(|placed| placed.retain(wanted));
        lowered
    }
}

/// The filters of one port, and what has none.
pub(crate) fn text(state: &State, mode: &str, words: &[&str]) -> Result<String, String> {
    let wanted = Wanted::parse(words)?;
    let (topology, lowered) = lowered(state, mode, &wanted.can)?;
    let lowered = wanted.part(lowered);
    let mut out: String = lowered.ports.values().map(|placed| chains(placed, &topology)).collect();
    out.extend(lowered.spilled.iter().map(leave));
    Ok(if out.is_empty() { "no filters\n".into() } else { out })
}

/// What of all ports has no filter.
pub(crate) fn left(state: &State, mode: &str, words: &[&str]) -> Result<String, String> {
    let can = match words {
        [] => Capabilities::software(),
        [driver] => capabilities(driver)?,
        _ => return Err("the mode must be followed by [DRIVER]".into()),
    };
    let (_, lowered) = lowered(state, mode, &can)?;
    let left: String = lowered.spilled.iter().map(leave).collect();
    Ok(if left.is_empty() { "nothing\n".into() } else { left })
}

/// The same as [`text()`] as JSON.
pub(crate) fn json(state: &State, mode: &str, words: &[&str]) -> Result<String, String> {
    let wanted = Wanted::parse(words)?;
    let (_, lowered) = lowered(state, mode, &wanted.can)?;
    Ok(layout::json(&json::lowered(&wanted.part(lowered))))
}

fn capabilities(driver: &str) -> Result<Capabilities, String> {
    match quirks::quirks(driver) {
        Some(_) => Ok(quirks::capabilities(driver)),
        None => Err(format!("{driver} is not a known driver")),
    }
}

fn lowered(state: &State, mode: &str, can: &Capabilities) -> Result<(Topology, Lowered), String> {
    let mode = match mode {
        "software" => Mode::Software,
        "representor" => Mode::Representor,
        "prefilter" => Mode::Prefilter,
        _ => return Err(format!("{mode} is not one of software, representor, prefilter")),
    };
    let (program, topology) = (state.compiler.program(), state.topology());
    let lowered = lower(program, &topology, mode, can).map_err(|e| e.to_string())?;
    let wrong = sound::check(program, &topology, &lowered, can, SHOWN);
    match wrong.first() {
        Some(wrong) => Err(format!("these filters are not sound: {wrong}")),
        None => Ok((topology, lowered)),
    }
}

/// Filters by hook and chain; a chain comes behind those that lead to it.
fn chains(placed: &[Placed], topology: &Topology) -> String {
    let mut of_chain = BTreeMap::<(Side, u32), Vec<&Placed>>::new();
    for placed in placed {
        of_chain.entry((placed.filter.side, placed.filter.chain)).or_default().push(placed);
    }
    let ports: Vec<&Port> =
        topology.pods.values().map(|pod| &pod.port).chain(&topology.uplinks).collect();
    let port = |index: IfIndex| ports.iter().find(|p| p.ifindex == index).map(|p| p.name.clone());
    let action = |placed: &Placed| text::action(&placed.filter.action, port);
    let mut out = String::new();
    for side in [Side::Ingress, Side::Egress] {
        // The second list grows while the first is walked: chains that were led to, in that order.
        let mut order = vec![0];
        let mut at = 0;
        while at < order.len() {
            for placed in of_chain.get(&(side, order[at])).into_iter().flatten() {
                order.extend(leads_to(&action(placed)).filter(|chain| !order.contains(chain)));
            }
            at += 1;
        }
        let unreached = of_chain.keys().filter(|(of, chain)| *of == side && !order.contains(chain));
        let unreached: Vec<u32> = unreached.map(|(_, chain)| *chain).collect();
        order.extend(unreached);
        let name = |chain: u32| match order.iter().position(|c| *c == chain) {
            Some(0) | None => chain.to_string(),
            Some(at) => letters(at),
        };
        for &chain in &order {
            let Some(filters) = of_chain.get(&(side, chain)) else { continue };
            let _ = writeln!(out, "{} chain {}", text::side(side), name(chain));
            for placed in filters {
                let action = action(placed);
                let action = match leads_to(&action) {
                    Some(to) => action.replace(&to.to_string(), &name(to)),
                    None => action,
                };
                line(&mut out, placed, action.trim_start_matches("action "));
            }
        }
    }
    out
}

/// The chain that an action goes on with, as its text says it.
fn leads_to(action: &str) -> Option<u32> {
    let (_, rest) = action.rsplit_once("chain ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A, B, ... Z, A1, ...
fn letters(at: usize) -> String {
    let letter = char::from(b'A' + ((at - 1) % 26) as u8);
    match (at - 1) / 26 {
        0 => letter.to_string(),
        round => format!("{letter}{round}"),
    }
}

fn line(out: &mut String, placed: &Placed, action: &str) {
    let filter = &placed.filter;
    let _ = write!(out, "  pref {} {}", filter.prio, text::protocol(filter));
    match &filter.matches {
        Match::Local => out.push_str(" sk_family gt 0"),
        Match::Flower(pattern) => {
            for (key, value) in text::keys(pattern) {
                let _ = write!(out, " {key} {value}");
            }
        }
    }
    let _ = write!(out, ": {action}");
    out.push_str(match filter.copies {
        Copies::Software => "",
        Copies::Hardware => "  [hardware]",
        Copies::Both => "  [both]",
    });
    let origins: Vec<String> = placed.origins.as_slice().iter().map(ToString::to_string).collect();
    if !origins.is_empty() {
        let _ = write!(out, "  # {}", origins.join(", "));
    }
    out.push('\n');
}

fn leave(spilled: &Spilled) -> String {
    format!("left: {}\n", text::spilled(spilled))
}
