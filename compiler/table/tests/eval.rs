//! Lookups against their plain definitions, and decisions with their reasons.

mod common;

use std::net::IpAddr;

use common::{Random, mutate, questions};
use netpolc_table::{
    Class, EndpointId, Incarnation, Match, Origin, PortClassId, Program, TableId,
    eval::{self, Pipeline, Verdict},
    schema::*,
};

/// The only endpoint of the example.
const POD: EndpointId = EndpointId::new(1);

/// An address around few bits, so that prefixes nest.
fn address(random: &mut Random) -> IpAddr {
    let bits = random.next() as u32 & random.next() as u32 & 0x00ff_0707;
    if random.chance(50) {
        IpAddr::V4((0x0a00_0000 | bits).into())
    } else {
        IpAddr::V6((0xfd_u128 << 120 | u128::from(bits) << random.pick(&[0, 40, 64])).into())
    }
}

#[test]
fn s21_the_longest_prefix_wins_as_a_scan_of_all_entries_says() {
    let mut random = Random::new(3);
    for _ in 0..20 {
        let mut program = Program::default();
        for class in 0..random.below(300) {
            let address = address(&mut random);
            let family = Family::of(address);
            let length = if random.chance(50) {
                family.bits()
            } else {
                random.below(usize::from(family.bits()) + 1) as u8
            };
            let width = u32::from(family.bits());
            let mask = u128::MAX.checked_shl(width - u32::from(length)).unwrap_or(0);
            let value =
                netpolc_table::Value::from(netpolc_table::Value::from(address).get() & mask);
            let key = netpolc_table::Key::new([Match::Lpm { value, length }]);
            program.table_mut(TableId::remote(family)).entries.insert(
                key,
                set_remote(Class::new(family, class as u16 + 1), Incarnation::default()),
            );
        }
        for _ in 0..500 {
            let address = address(&mut random);
            let table = program.table(TableId::remote(Family::of(address)));
            let width = u32::from(Family::of(address).bits());
            let value = netpolc_table::Value::from(address).get();
            let covers = |m: &Match| match *m {
                Match::Lpm { value: v, length: 0 } => v.get() == 0,
                Match::Lpm { value: v, length } => {
                    (v.get() ^ value) >> (width - u32::from(length)) == 0
                }
                _ => false,
            };
            let length = |m: &Match| if let Match::Lpm { length, .. } = m { *length } else { 0 };
            let hits = table.entries.iter().filter(|(k, _)| covers(&k.fields()[0]));
            let expected = hits.max_by_key(|(k, _)| length(&k.fields()[0]));
            assert_eq!(eval::lookup(table, &[address.into()]), expected, "{address}");
        }
    }
}

#[test]
fn the_quick_verdict_is_the_explained_one() {
    let mut random = Random::new(4);
    for _ in 0..60 {
        let mut program = Program::default();
        mutate(&mut random, &mut program, 70);
        for (endpoint, pipeline, remote, (protocol, port)) in questions() {
            let decision = eval::decide(&program, pipeline, endpoint, remote, protocol, port);
            assert_eq!(
                decision.verdict,
                eval::verdict(&program, pipeline, endpoint, remote, protocol, port)
            );
            assert!(decision.steps.iter().any(|s| s.table == decision.table));
        }
    }
}

fn rule(port: Option<u32>) -> Origin {
    Origin::Rule { policy: "ns/allow".into(), rule: 0, peer: Some(1), port }
}

/// Endpoint 1: ingress allows class 1 on TCP 80, everything from class 2; egress is open.
fn shop() -> Program {
    let text = "
table endpoint size 9 key endpoint/16:exact default set_policy(ingress_set 0, egress_set 0, \
        born_set 0, flags 0x0) {
  1 -> set_policy(ingress_set 4, egress_set 0, born_set 0, flags 0x1)
}
table remote_v4 size 9 key address/32:lpm default set_remote(class 0, incarnation 0x0) {
  10.0.0.0/24 -> set_remote(class 1, incarnation 0x0)
  10.0.0.9/32 -> set_remote(class 2, incarnation 0x7)
}
table port size 9 key protocol/8:exact, port/16:range default set_port_class(port_class 0) {
  tcp, 0-79 -> set_port_class(port_class 1)
  tcp, 80-80 -> set_port_class(port_class 2)
  tcp, 81-65535 -> set_port_class(port_class 3)
  udp, 0-65535 -> set_port_class(port_class 4)
  sctp, 0-65535 -> set_port_class(port_class 5)
}
table base size 9 key set/16:exact, family/8:exact default deny {
  4, 4 -> deny  # isolates ns/allow; isolates ns/none
  4, 6 -> deny  # isolates ns/allow
}
table row size 9 key set/16:exact, family/8:exact, class/16:exact default miss {
  4, 4, 1 -> set_row(row 6)  # ns/allow rule[0] peer[1]
  4, 4, 2 -> permit  # ns/allow rule[2] peer[0]
}
table verdict size 9 key row/16:exact, port_class/16:exact default deny {
  6, 2 -> permit  # ns/allow rule[0] peer[1] port[0]
}";
    netpolc_table::text::parse(text).unwrap()
}

fn ask(remote: &str, protocol: u8, port: Option<u16>) -> (Verdict, TableId, Vec<Origin>) {
    let decision =
        eval::decide(&shop(), Pipeline::ToPod, POD, remote.parse().unwrap(), protocol, port);
    (decision.verdict, decision.table, decision.origins.as_slice().to_vec())
}

#[test]
fn a_permission_names_its_rule_and_a_denial_the_policies_that_isolate() {
    let isolates = |p: &str| Origin::Isolates { policy: p.into() };
    let both = vec![isolates("ns/allow"), isolates("ns/none")];
    assert_eq!(
        ask("10.0.0.1", 6, Some(80)),
        (Verdict::Permit, TableId::Verdict, vec![rule(None), rule(Some(0))])
    );
    assert_eq!(ask("10.0.0.1", 6, Some(81)), (Verdict::Deny, TableId::Verdict, both.clone()));
    assert_eq!(ask("10.9.9.9", 6, Some(80)), (Verdict::Deny, TableId::Base, both.clone()));
    assert_eq!(ask("::1", 6, Some(80)), (Verdict::Deny, TableId::Base, vec![isolates("ns/allow")]));
    let all = Origin::Rule { policy: "ns/allow".into(), rule: 2, peer: Some(0), port: None };
    assert_eq!(ask("10.0.0.9", 1, None), (Verdict::Permit, TableId::Row, vec![all]));
    let open =
        eval::decide(&shop(), Pipeline::FromPod, POD, "10.9.9.9".parse().unwrap(), 6, Some(1));
    assert_eq!(
        (open.verdict, open.table, open.origins.as_slice().len()),
        (Verdict::Permit, TableId::Endpoint, 0)
    );
}

#[test]
fn s34_a_protocol_without_ports_is_not_allowed_by_a_rule_with_ports() {
    assert_eq!(ask("10.0.0.1", 1, None).0, Verdict::Deny);
    assert_eq!(ask("10.0.0.1", 47, None).0, Verdict::Deny);
}

#[test]
fn s50_policy_answers_alike_for_all_ports_or_it_depends() {
    let alike = |remote: &str, protocol| {
        eval::alike(&shop(), Pipeline::ToPod, POD, remote.parse().unwrap(), protocol)
    };
    assert_eq!(alike("10.0.0.1", 6), None);
    assert_eq!(alike("10.0.0.1", 17), Some(Verdict::Deny));
    assert_eq!(alike("10.0.0.1", 1), Some(Verdict::Deny));
    assert_eq!(alike("10.0.0.9", 6), Some(Verdict::Permit));
    assert_eq!(alike("10.1.0.0", 6), Some(Verdict::Deny));
    assert_eq!(
        eval::alike(&shop(), Pipeline::FromPod, POD, "10.0.0.1".parse().unwrap(), 6),
        Some(Verdict::Permit)
    );
}

#[test]
fn s53_a_value_that_no_entry_has_is_a_miss() {
    let program = shop();
    assert_eq!(eval::lookup(program.table(TableId::Port), &[1u8.into(), 80u16.into()]), None);
    assert_eq!(eval::lookup(program.table(TableId::RemoteV4), &[0u32.into()]), None);
    assert_eq!(eval::lookup(program.table(TableId::Interface), &[1u32.into()]), None);
    let entry = set_port_class(PortClassId::new(1));
    let mut gap = Program::default();
    gap.table_mut(TableId::Port).entries.insert(port_key(6, 10, 20), entry);
    let hit =
        |port: u16| eval::lookup(gap.table(TableId::Port), &[6u8.into(), port.into()]).is_some();
    assert_eq!([9, 10, 20, 21].map(hit), [false, true, true, false]);
}
