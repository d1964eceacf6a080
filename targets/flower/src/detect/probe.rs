//! What a NIC takes: one harmless filter for each ability, installed in hardware only and removed
//! at once, and the kernel's answer to each.
//!
//! The filters match documentation addresses (RFC 5737, RFC 3849) and a documentation hardware
//! address (RFC 7042), in a prio and a chain that nobody uses: no packet on a real network meets
//! them, also where a driver forgets about one of their other keys. Not here: what acceptance is
//! worth ([`super::verdict`]), the way to the kernel ([`super::nic`]).

use netpolc_table::IfIndex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpolc_host::netlink::Refusal;
use serde::{Serialize, Serializer};

use crate::filter::{
    Action, Cookie, Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side, ct, host,
};

/// The role in the cookies of filters that are there for probing only; no lowering gives it.
pub const ROLE: u8 = 0xfe;

/// An IPv4 address for documentation (RFC 5737, TEST-NET-1).
const REMOTE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// An IPv6 address for documentation (RFC 3849).
const REMOTE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// A hardware address for documentation (RFC 7042, section 2.1.1).
const MAC: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x53, 0x01];
/// SYN set, ACK clear: what the lowering drops.
const OPENING: Masked = Masked { value: 0x002, mask: 0x012 };
const TCP: u8 = 6;
const SCTP: u8 = 132;

/// Something that filters need of a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// Any filter at all: an IPv4 address, TCP and a port, `drop`.
    Flower,
    /// `action pass`, which exceptions from drops are made of.
    Pass,
    /// The key `tcp_flags`.
    TcpFlags,
    /// Keys that are IPv6 addresses.
    Ipv6,
    /// Ports under a mask.
    PortMasks,
    /// Ports as a range.
    PortRanges,
    /// Ports of SCTP.
    SctpPorts,
    /// Keys of value 0 under their mask.
    ZeroKeys,
    /// The filter with the lowest prio decides.
    Priority,
    /// The action `goto chain`.
    Chains,
    /// `mirred egress redirect`, with a hardware address.
    Redirect,
    /// The action `ct` and the key `ct_state`.
    Ct,
    /// The bit `rpl` of the key `ct_state`.
    CtReply,
}

impl Ability {
    /// All, in the order in which they are probed and shown.
    pub const ALL: [Ability; 13] = [
        Ability::Flower,
        Ability::Pass,
        Ability::TcpFlags,
        Ability::Ipv6,
        Ability::PortMasks,
        Ability::PortRanges,
        Ability::SctpPorts,
        Ability::ZeroKeys,
        Ability::Priority,
        Ability::Chains,
        Ability::Redirect,
        Ability::Ct,
        Ability::CtReply,
    ];

    /// The ability in words for people.
    pub fn describe(self) -> &'static str {
        match self {
            Ability::Flower => "filters (skip_sw)",
            Ability::Pass => "action pass",
            Ability::TcpFlags => "TCP flags",
            Ability::Ipv6 => "IPv6 addresses",
            Ability::PortMasks => "port masks",
            Ability::PortRanges => "port ranges",
            Ability::SctpPorts => "SCTP ports",
            Ability::ZeroKeys => "keys of value 0",
            Ability::Priority => "priority",
            Ability::Chains => "chains",
            Ability::Redirect => "redirect",
            Ability::Ct => "connection tracking",
            Ability::CtReply => "ct_state rpl",
        }
    }
}

/// How probing for one ability ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The driver took the filters.
    Accepted,
    /// The driver refused one of them.
    Refused(#[serde(serialize_with = "told")] Refusal),
    /// There was no place for it (ENOSPC, EBUSY, ENOMEM), which says nothing about the ability.
    Full(#[serde(serialize_with = "told")] Refusal),
    /// Nothing was tried, for this reason.
    NotAsked(&'static str),
}

/// What a refusal says: the kernel's error, and the driver's words where it gave some.
pub fn words(refusal: &Refusal) -> String {
    let error = std::io::Error::from_raw_os_error(refusal.errno).to_string();
    // The number adds nothing to its name.
    let error = error.split(" (os error").next().unwrap_or_default();
    refusal.text.as_ref().map_or(error.to_owned(), |text| format!("{error}: {text}"))
}

fn told<S: Serializer>(refusal: &Refusal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&words(refusal))
}

/// A NIC's port that filters are tried on; a value in tests.
pub trait Probe {
    /// Installs these in their order, and removes all of them again, the last one first, whatever
    /// came of it.
    ///
    /// # Errors
    /// The first refusal, by the driver or the kernel. The filters behind it are not tried.
    fn attempt(&mut self, filters: &[Filter]) -> Result<(), Refusal>;
}

/// Where on a port nobody has filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// A prio of chain 0 that has no filter.
    pub prio: u16,
    /// The number of a chain without filters, at least 1.
    pub chain: u32,
}

/// What a port answered to all probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The answer to each ability, in the order of [`Ability::ALL`].
    pub abilities: Vec<(Ability, Answer)>,
    /// The highest chain that it let filters go to, of those tried; 0: none.
    pub chains: u32,
}

/// Chains that were read in drivers as the last one that may be used (mlx5 en/tc.h,
/// FDB_TC_MAX_CHAIN); tried where the highest is refused.
const CHAINS: u32 = 3;

/// Asks for every ability. `sibling` is another port of the same device, `highest` the chain up to
/// which it is worth asking.
pub fn run(nic: &mut impl Probe, place: Place, sibling: Option<IfIndex>, highest: u32) -> Answers {
    let abilities = ask(nic, place, sibling);
    let is_taken = |answer: &Answer| matches!(answer, Answer::Accepted | Answer::Full(_));
    let goes =
        abilities.iter().any(|(ability, answer)| *ability == Ability::Chains && is_taken(answer));
    let mut tried = [highest, CHAINS]
        .into_iter()
        .filter(|chain| goes && *chain > place.chain && *chain <= highest);
    let further = tried.find(|chain| {
        let there = Place { chain: *chain, ..place };
        filters(Ability::Chains, there, sibling, Action::Drop)
            .is_ok_and(|f| is_taken(&answer(nic.attempt(&f))))
    });
    let chains = further.unwrap_or(if goes { place.chain.min(highest) } else { 0 });
    Answers { abilities, chains }
}

fn ask(nic: &mut impl Probe, place: Place, sibling: Option<IfIndex>) -> Vec<(Ability, Answer)> {
    let mut answers: Vec<(Ability, Answer)> = Vec::with_capacity(Ability::ALL.len());
    let taken = |answers: &[(Ability, Answer)], which| {
        answers.iter().any(|(a, b)| *a == which && *b == Answer::Accepted)
    };
    for ability in Ability::ALL {
        let end = match sibling {
            Some(port) if taken(&answers, Ability::Redirect) => Action::Redirect(port),
            _ if taken(&answers, Ability::Pass) => Action::Pass,
            _ => Action::Drop,
        };
        let answer = if answers
            .iter()
            .any(|(a, b)| *a == Ability::Flower && matches!(b, Answer::Refused(_)))
        {
            Answer::NotAsked("no filter was taken at all")
        } else {
            match filters(ability, place, sibling, end) {
                Ok(filters) => answer(nic.attempt(&filters)),
                Err(why) => Answer::NotAsked(why),
            }
        };
        answers.push((ability, answer));
    }
    answers
}

fn answer(outcome: Result<(), Refusal>) -> Answer {
    match outcome {
        Ok(()) => Answer::Accepted,
        Err(refusal) if [libc::ENOSPC, libc::EBUSY, libc::ENOMEM].contains(&refusal.errno) => {
            Answer::Full(refusal)
        }
        Err(refusal) => Answer::Refused(refusal),
    }
}

/// The filters that need `ability` and otherwise as little as possible, in the order in which they
/// are installed: a chain before what leads to it. `end` is how forwarding ends.
fn filters(
    ability: Ability,
    place: Place,
    sibling: Option<IfIndex>,
    end: Action,
) -> Result<Vec<Filter>, &'static str> {
    let filter = |chain, pattern, action| Filter {
        side: Side::Ingress,
        chain,
        prio: if chain == 0 { place.prio } else { 1 },
        matches: Match::Flower(pattern),
        action,
        copies: Copies::Hardware,
        cookie: Cookie::new(ROLE, ability as u8, 0),
    };
    let plain = || Pattern {
        ethertype: EtherType::Ipv4,
        protocol: Some(TCP),
        destination: Some(host(REMOTE_V4)),
        ..Pattern::default()
    };
    let port = Some(Ports::one(9));
    let tracked =
        |state, end| filter(place.chain, Pattern { ct_state: Some(state), ..plain() }, end);
    let established = ct::TRACKED | ct::ESTABLISHED;
    Ok(match ability {
        Ability::Flower => {
            vec![filter(0, Pattern { destination_port: port, ..plain() }, Action::Drop)]
        }
        Ability::Pass => vec![filter(0, plain(), Action::Pass)],
        Ability::TcpFlags => {
            vec![filter(0, Pattern { tcp_flags: Some(OPENING), ..plain() }, Action::Drop)]
        }
        Ability::Ipv6 => {
            let pattern = Pattern {
                ethertype: EtherType::Ipv6,
                destination: Some(host(REMOTE_V6)),
                ..plain()
            };
            vec![filter(0, pattern, Action::Drop)]
        }
        Ability::PortMasks => {
            let ports = Some(Ports::Masked(Masked::new(8, 0xfff8)));
            vec![filter(0, Pattern { destination_port: ports, ..plain() }, Action::Drop)]
        }
        Ability::PortRanges => {
            let ports = Some(Ports::Range { low: 9, high: 11 });
            vec![filter(0, Pattern { destination_port: ports, ..plain() }, Action::Drop)]
        }
        Ability::SctpPorts => {
            let pattern = Pattern { protocol: Some(SCTP), destination_port: port, ..plain() };
            vec![filter(0, pattern, Action::Drop)]
        }
        Ability::ZeroKeys => {
            let low_half = "0.0.0.0/1".parse().ok();
            vec![filter(0, Pattern { source: low_half, ..plain() }, Action::Drop)]
        }
        Ability::Priority => return Err("taking a prio is not honouring it"),
        Ability::Chains => {
            vec![
                filter(place.chain, plain(), Action::Drop),
                filter(0, plain(), Action::Goto(place.chain)),
            ]
        }
        Ability::Redirect => {
            let port = sibling.ok_or("there is no other port of this device")?;
            vec![filter(
                0,
                Pattern { destination_mac: Some(MAC), ..plain() },
                Action::Redirect(port),
            )]
        }
        Ability::Ct => {
            let state = Masked::new(established, established);
            vec![tracked(state, end), filter(0, plain(), Action::Track(place.chain))]
        }
        Ability::CtReply => {
            let mask = established | ct::REPLY;
            vec![
                tracked(Masked::new(established, mask), end.clone()),
                tracked(Masked::new(mask, mask), end),
                filter(0, plain(), Action::Track(place.chain)),
            ]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses everything, and remembers what it was asked.
    struct Deaf(Vec<Filter>);

    impl Probe for Deaf {
        fn attempt(&mut self, filters: &[Filter]) -> Result<(), Refusal> {
            self.0.extend_from_slice(filters);
            Err(Refusal { errno: libc::EOPNOTSUPP, text: Some("no".into()) })
        }
    }

    /// Takes every filter, and remembers it.
    struct Eager(Vec<Filter>);

    impl Probe for Eager {
        fn attempt(&mut self, filters: &[Filter]) -> Result<(), Refusal> {
            self.0.extend_from_slice(filters);
            Ok(())
        }
    }

    const PLACE: Place = Place { prio: 7, chain: 3 };

    #[test]
    fn a_port_that_refuses_the_first_filter_is_asked_no_more() {
        let mut nic = Deaf(Vec::new());
        let answers = run(&mut nic, PLACE, Some(IfIndex::new(4)), 9).abilities;
        assert_eq!(nic.0.len(), 1);
        assert!(
            matches!(&answers[0], (Ability::Flower, Answer::Refused(r)) if words(r) == "Operation \
                not supported: no")
        );
        assert!(answers[1..].iter().all(|(_, a)| matches!(a, Answer::NotAsked(_))), "{answers:?}");
    }

    #[test]
    fn every_filter_is_ours_in_hardware_only_and_meets_no_packet() {
        let mut nic = Eager(Vec::new());
        let answers = run(&mut nic, PLACE, Some(IfIndex::new(4)), 9).abilities;
        assert!(answers.iter().map(|(a, _)| *a).eq(Ability::ALL));
        for filter in &nic.0 {
            assert!(filter.cookie.is_ours() && filter.cookie.0[4] == ROLE);
            assert_eq!((filter.copies, filter.side), (Copies::Hardware, Side::Ingress));
            assert!(
                [(0, PLACE.prio), (PLACE.chain, 1), (9, 1)].contains(&(filter.chain, filter.prio)),
                "{filter:?}"
            );
            let Match::Flower(pattern) = &filter.matches else { panic!("{filter:?}") };
            assert!(
                [Some(host(REMOTE_V4)), Some(host(REMOTE_V6))].contains(&pattern.destination),
                "{filter:?}"
            );
        }
        // Connections end as the lowering ends them.
        assert!(
            nic.0.iter().any(|f| f.chain == 3 && f.action == Action::Redirect(IfIndex::new(4)))
        );
    }

    #[test]
    fn the_highest_chain_is_found_by_asking() {
        struct UpTo(u32);
        impl Probe for UpTo {
            fn attempt(&mut self, filters: &[Filter]) -> Result<(), Refusal> {
                let fine = filters.iter().all(|f| f.chain <= self.0);
                fine.then_some(()).ok_or(Refusal { errno: libc::EOPNOTSUPP, text: None })
            }
        }
        let place = Place { prio: 1, chain: 1 };
        let chains = |limit, highest| run(&mut UpTo(limit), place, None, highest).chains;
        assert_eq!(
            [chains(0, 9), chains(1, 9), chains(3, 9), chains(9, 9), chains(9, 0)],
            [0, 1, 3, 9, 0]
        );
    }

    #[test]
    fn without_another_port_redirect_is_not_asked() {
        let answers = run(&mut Eager(Vec::new()), PLACE, None, 0).abilities;
        assert!(answers.contains(&(
            Ability::Redirect,
            Answer::NotAsked("there is no other port of this device")
        )));
        assert!(answers.contains(&(Ability::Ct, Answer::Accepted)));
    }

    #[test]
    fn a_full_nic_says_nothing_about_what_it_can() {
        struct Full;
        impl Probe for Full {
            fn attempt(&mut self, _: &[Filter]) -> Result<(), Refusal> {
                Err(Refusal { errno: libc::ENOSPC, text: None })
            }
        }
        let answers = run(&mut Full, PLACE, Some(IfIndex::new(4)), 9).abilities;
        assert!(
            answers.iter().all(|(a, b)| *a == Ability::Priority || matches!(b, Answer::Full(_))),
            "{answers:?}"
        );
    }
}
