//! From facts and answers to what may be relied on: abilities that the driver took when probed and
//! that it is known to honour, and the mode that follows.
//!
//! Taking a filter is not the same as doing what it says: several drivers pass over keys that they
//! do not know. So an ability counts only where the probe and the table of drivers
//! ([`crate::quirks`]) agree. Not here: asking ([`super::probe`], [`super::facts`]).

use serde::Serialize;

use super::{
    facts::{Eswitch, Facts, HwTc},
    probe::{Ability, Answer, Answers, words},
};
use crate::{capability::Capabilities, lower::common::FEWEST_CHAINS, lowered::Mode};

/// What is known of one ability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Evidence {
    /// The ability in question.
    pub ability: Ability,
    /// May it be relied on?
    pub able: bool,
    /// How the driver answered when it was probed.
    pub probe: Answer,
    /// What the table of drivers says: does it honour this? No, for a driver that is not in it.
    pub honoured: bool,
}

impl Evidence {
    /// How it was found, in words.
    pub fn describe(&self, driver_is_known: Known) -> String {
        let table = match (driver_is_known, self.honoured) {
            (Known::Driver, true) => "driver table: honoured",
            (Known::Driver, false) => "driver table: not honoured",
            (Known::Unknown, _) => "unknown driver: not relied on",
        };
        match &self.probe {
            Answer::Accepted => format!("probe: accepted; {table}"),
            Answer::Refused(refusal) => format!("probe: refused: {}", words(refusal)),
            Answer::Full(refusal) => format!("probe: no room: {}; {table}", words(refusal)),
            Answer::NotAsked(why) => format!("not probed: {why}; {table}"),
        }
    }
}

/// Is the driver in the table?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// The driver is in the table.
    Driver,
    /// It is not: nothing that it takes is relied on.
    Unknown,
}

/// Do these capabilities include the ability?
fn has(of: &Capabilities, ability: Ability) -> bool {
    match ability {
        Ability::Flower => of.filters > 0,
        Ability::TcpFlags => of.tcp_flags,
        Ability::Ipv6 => of.ipv6,
        Ability::PortMasks => of.port_masks,
        Ability::PortRanges => of.port_ranges,
        Ability::SctpPorts => of.sctp_ports,
        Ability::ZeroKeys => of.zero_keys,
        // Exceptions are filters that pass, before ones that drop: one is of no use without the
        // other.
        Ability::Pass | Ability::Priority => of.priority,
        Ability::Chains => of.chains > 0,
        Ability::Redirect => of.redirect,
        Ability::Ct => of.ct,
        Ability::CtReply => of.ct_reply,
    }
}

fn lose(of: &mut Capabilities, ability: Ability) {
    match ability {
        Ability::Flower => of.filters = 0,
        Ability::Pass | Ability::Priority => of.priority = false,
        Ability::TcpFlags => of.tcp_flags = false,
        Ability::Ipv6 => of.ipv6 = false,
        Ability::PortMasks => of.port_masks = false,
        Ability::PortRanges => of.port_ranges = false,
        Ability::SctpPorts => of.sctp_ports = false,
        Ability::ZeroKeys => of.zero_keys = false,
        Ability::Chains => of.chains = 0,
        Ability::Redirect => of.redirect = false,
        Ability::Ct => (of.ct, of.ct_reply) = (false, false),
        Ability::CtReply => of.ct_reply = false,
    }
}

/// What may be relied on. `known` is what the table of drivers says.
pub fn judge(known: &Capabilities, answers: Answers) -> (Capabilities, Vec<Evidence>) {
    let mut can = known.clone();
    can.chains = can.chains.min(answers.chains);
    for (ability, answer) in &answers.abilities {
        let kept = match answer {
            Answer::Accepted | Answer::Full(_) => true,
            Answer::Refused(_) => false,
            // It cannot be probed.
            Answer::NotAsked(_) => *ability == Ability::Priority,
        };
        if !kept {
            lose(&mut can, *ability);
        }
    }
    if can.filters == 0 {
        can = nothing(&known.driver);
    }
    let evidence = answers.abilities.into_iter().map(|(ability, probe)| Evidence {
        able: has(&can, ability),
        honoured: has(known, ability),
        ability,
        probe,
    });
    let evidence = evidence.collect();
    (can, evidence)
}

/// A NIC that does nothing.
pub fn nothing(driver: &str) -> Capabilities {
    Capabilities {
        driver: driver.to_owned(),
        port_ranges: false,
        port_masks: false,
        sctp_ports: false,
        tcp_flags: false,
        zero_keys: false,
        priority: false,
        chains: 0,
        tables: 0,
        ct: false,
        ct_reply: false,
        redirect: false,
        ipv6: false,
        filters: 0,
        masks: 0,
    }
}

/// The mode for an interface, none for eBPF alone, and why it is not more.
pub fn choose(
    facts: &Facts,
    known: Known,
    can: &Capabilities,
    evidence: &[Evidence],
) -> (Option<Mode>, Vec<String>) {
    let name = &facts.interface;
    let driver = facts.driver.as_deref().unwrap_or("the driver");
    match &facts.hw_tc_offload {
        HwTc::On => {}
        HwTc::Off => {
            return (
                None,
                vec![format!(
                    "hw-tc-offload is off; to use it: ethtool -K {name} hw-tc-offload on"
                )],
            );
        }
        HwTc::Missing => return (None, vec![format!("{driver} has no hw-tc-offload")]),
        HwTc::Unknown(why) => return (None, vec![format!("hw-tc-offload cannot be read: {why}")]),
    }
    if can.filters == 0 {
        let why = evidence.iter().find(|e| e.ability == Ability::Flower).map(|e| match &e.probe {
            Answer::Refused(refusal) => format!("the first filter was refused: {}", words(refusal)),
            Answer::NotAsked(why) => (*why).to_owned(),
            Answer::Accepted | Answer::Full(_) => match known {
                Known::Driver => {
                    format!("{driver} takes filters, but is known not to drop by them")
                }
                Known::Unknown => format!(
                    "{driver} is not in the table of drivers: what it takes is not relied on"
                ),
            },
        });
        let mut reasons: Vec<String> = why.into_iter().collect();
        // Some drivers take filters in switchdev mode only.
        reasons.extend(switchdev_command(facts));
        return (None, reasons);
    }
    // What lower/forward.rs asks for.
    let forwards = can.ct && can.chains > 0 && can.redirect && can.priority && can.zero_keys;
    let representor = facts.is_switchdev_port();
    let mut reasons = Vec::new();
    let drops = can.tcp_flags;
    if !(drops || representor && forwards) {
        reasons.push(consequence(Ability::TcpFlags).to_owned());
        return (None, reasons);
    }
    if !representor {
        reasons.push(match (&facts.switch_id, &facts.eswitch) {
            (_, Eswitch::Legacy) => "no switchdev: the eswitch is in legacy mode".to_owned(),
            (_, Eswitch::Absent(why)) => format!("no switchdev: {why}"),
            (None, Eswitch::Switchdev) => {
                "the device is in switchdev mode, but this is not a port of its switch".to_owned()
            }
            (Some(_), Eswitch::Switchdev) => String::new(),
        });
        reasons.extend(switchdev_command(facts));
    }
    for ability in
        [Ability::TcpFlags, Ability::Ipv6, Ability::Priority, Ability::ZeroKeys, Ability::PortMasks]
    {
        if !has(can, ability) {
            reasons.push(consequence(ability).to_owned());
        }
    }
    if representor && !forwards {
        let first =
            [Ability::Chains, Ability::Redirect, Ability::Ct].into_iter().find(|a| !has(can, *a));
        reasons.extend(first.map(|ability| consequence(ability).to_owned()));
    }
    if representor && (1..FEWEST_CHAINS).contains(&can.chains) {
        let chains = can.chains;
        reasons.push(format!(
            "{chains} chains are too few for one for each set: openings are judged in chain 0 alone"
        ));
    }
    if representor && forwards && !can.ct_reply {
        reasons.push(consequence(Ability::CtReply).to_owned());
    }
    reasons.retain(|r| !r.is_empty());
    (Some(if representor { Mode::Representor } else { Mode::Prefilter }), reasons)
}

fn switchdev_command(facts: &Facts) -> Option<String> {
    let device = facts.device.as_ref().filter(|_| facts.eswitch == Eswitch::Legacy)?;
    Some(format!(
        "for switchdev mode: devlink dev eswitch set {device} mode switchdev (its virtual \
         functions are reset)"
    ))
}

/// What a missing ability costs.
fn consequence(ability: Ability) -> &'static str {
    match ability {
        Ability::Flower => "the NIC takes no filters",
        Ability::Pass | Ability::Priority => {
            "no priority: drops that need exceptions, and established connections, stay with eBPF"
        }
        Ability::TcpFlags => {
            "no TCP flags: an opening cannot be told from a reply, so the NIC may drop nothing"
        }
        Ability::Ipv6 => "no IPv6 addresses: IPv6 stays with eBPF",
        Ability::PortMasks => "no port masks: a range takes one filter for each port",
        Ability::PortRanges => "no port ranges: they become prefixes",
        Ability::SctpPorts => "no SCTP ports: SCTP stays with eBPF",
        Ability::ZeroKeys => {
            "keys of value 0 are not honoured: such filters are split or stay with eBPF"
        }
        Ability::Chains => "no chains: established connections stay with eBPF",
        Ability::Redirect => "no redirect: established connections stay with eBPF",
        Ability::Ct => "no connection tracking: established connections stay with eBPF",
        Ability::CtReply => {
            "no ct_state rpl: who opened a connection is not known, so established ones stay with \
             eBPF"
        }
    }
}
