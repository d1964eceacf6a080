//! Filters as text that reads like `tc filter show`, with where each comes from and where it runs:
//! `skip_sw` in hardware, `skip_hw` in software, neither in both.
//!
//! Not here: JSON ([`crate::json`]), counting ([`crate::totals`]).

use std::fmt::Write;

use netpolc_table::{IfIndex, Origins};

use crate::{
    filter::{Action, Copies, Filter, Match},
    lowered::{Lowered, Spilled},
    totals::{Counts, Totals},
};

pub use crate::names::{keys, placement, protocol, side};

/// All filters, a line each, then what has no filter, then totals. Lines of comment begin with `#`.
pub fn print(lowered: &Lowered) -> String {
    let mut text = String::new();
    let totals = Totals::of(lowered);
    let name =
        |index: IfIndex| lowered.ports.keys().find(|p| p.ifindex == index).map(|p| p.name.clone());
    for (port, placed) in &lowered.ports {
        let counts = totals.ports.get(&port.name).map(|t| t.counts).unwrap_or_default();
        _ = writeln!(text, "# {} (ifindex {}): {}", port.name, port.ifindex, count(counts));
        for placed in placed {
            _ = writeln!(
                text,
                "{}{}",
                line(&port.name, &placed.filter, name),
                comment(&placed.origins)
            );
        }
    }
    for spilled in &lowered.spilled {
        _ = writeln!(text, "# left: {}", self::spilled(spilled));
    }
    _ = write!(text, "# total: {}", count(totals.all));
    if totals.spilled > 0 {
        _ = write!(text, "; left: {} entries ({} filters)", totals.spilled, totals.spilled_filters);
    }
    text + "\n"
}

fn count(counts: Counts) -> String {
    let Counts { filters, chains, tables, masks, .. } = counts;
    format!("{filters} filters, {chains} chains, {tables} chains x prios, {masks} masks")
}

/// What has no filter and why, in one line.
pub fn spilled(spilled: &Spilled) -> String {
    let Spilled { port, what, reason, filters, origins } = spilled;
    let count = if *filters == 0 { String::new() } else { format!(" ({filters} filters)") };
    format!("{}: {what}: {}{count}{}", port.name, reason.describe(), comment(origins))
}

/// A list of origins as a comment at the end of a line; empty where there are none.
fn comment(origins: &Origins) -> String {
    let names: Vec<String> = origins.as_slice().iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!("  # {}", names.join(", ")) }
}

/// One filter. `name` gives a port's name by its index, where it is known.
pub fn line(device: &str, filter: &Filter, name: impl Fn(IfIndex) -> Option<String>) -> String {
    let (protocol, prio, chain) = (protocol(filter), filter.prio, filter.chain);
    let mut line = format!(
        "filter dev {device} {} protocol {protocol} pref {prio} chain {chain}",
        side(filter.side)
    );
    match &filter.matches {
        Match::Local => line += " basic match 'meta(sk_family gt 0)'",
        Match::Flower(pattern) => {
            line += match filter.copies {
                Copies::Software => " flower skip_hw",
                Copies::Hardware => " flower skip_sw",
                Copies::Both => " flower",
            };
            for (key, value) in keys(pattern) {
                _ = write!(line, " {key} {value}");
            }
        }
    }
    line + " " + &action(&filter.action, name)
}

/// An action as tc prints it.
pub fn action(action: &Action, name: impl Fn(IfIndex) -> Option<String>) -> String {
    match action {
        Action::Pass => "action pass".into(),
        Action::Drop => "action drop".into(),
        Action::Goto(chain) => format!("action goto chain {chain}"),
        Action::Track(chain) => format!("action ct zone 0 pipe action goto chain {chain}"),
        Action::Redirect(port) => {
            format!(
                "action mirred egress redirect dev {}",
                name(*port).unwrap_or_else(|| format!("if{port}"))
            )
        }
        Action::Continue => "action continue".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Cookie, Masked, Pattern, Ports, Side, ct};

    #[test]
    fn a_filter_reads_as_tc_shows_it() {
        let pattern = Pattern {
            protocol: Some(6),
            destination_port: Some(Ports::Masked(Masked::new(8000, 0xfff8))),
            tcp_flags: Some(Masked::new(2, 0x12)),
            ct_state: Some(Masked::new(
                ct::TRACKED | ct::ESTABLISHED,
                ct::TRACKED | ct::ESTABLISHED | ct::REPLY,
            )),
            ..Pattern::of(netpolc_table::schema::Family::V4).to("10.0.0.0/24".parse().unwrap())
        };
        let filter = Filter {
            side: Side::Ingress,
            chain: 7,
            prio: 10,
            matches: Match::Flower(pattern),
            action: Action::Redirect(IfIndex::new(5)),
            copies: Copies::Hardware,
            cookie: Cookie::new(1, 2, 3),
        };
        assert_eq!(
            line("simr0", &filter, |_| Some("simr1".into())),
            "filter dev simr0 ingress protocol ip pref 10 chain 7 flower skip_sw ip_proto tcp \
             dst_ip 10.0.0.0/24 dst_port 8000/0xfff8 tcp_flags 0x002/0x012 ct_state +trk+est-rpl \
             action mirred egress redirect dev simr1"
        );
        let local = Filter {
            matches: Match::Local,
            copies: Copies::Software,
            action: Action::Track(3),
            ..filter
        };
        assert_eq!(
            line("p", &local, |_| None),
            "filter dev p ingress protocol all pref 10 chain 7 basic match 'meta(sk_family gt 0)' \
             action ct zone 0 pipe action goto chain 3"
        );
    }
}
