//! Connection state from user space: adopted connections, what packets make, what goes with an
//! endpoint.

mod common;

use std::{net::IpAddr, time::Duration};

use netpolc_table::{EndpointId, Incarnation, TableId, Write, schema};
use netpolc_target::{
    Arrival, Datapath as _, DropReason, Frame, Hook, Mark, Target as _, Verdict,
    conformance::{
        self,
        world::{A, ACK, Hosts, INCARNATION, Policy, RST, SYN, Talk, UPLINK, Unit, switch, world},
    },
    semantics::{Phase, ip},
};
use netpolc_target_ebpf::{Amendment, Config, Connection, Ebpf, Inserted};

fn judge(ebpf: &mut Ebpf, hook: Hook, bytes: Vec<u8>) -> Verdict {
    let arrival = Arrival::At(if hook == Hook::ToPod { UPLINK } else { A.interface });
    ebpf.packet(hook, &Frame { interface: A.interface, arrival, mark: Mark::Clear, bytes }).unwrap()
}

fn connection(talk: &Talk, opener: Hook, incarnation: Incarnation) -> Connection {
    Connection {
        endpoint: A.endpoint,
        remote: talk.remote.0,
        local: talk.local.0,
        remote_port: talk.remote.1,
        local_port: talk.local.1,
        protocol: ip::TCP,
        opener,
        born: false,
        phase: Phase::Established,
        incarnation,
    }
}

fn start(ingress: Policy, egress: Policy) -> Ebpf {
    let mut ebpf = Ebpf::private(Config::asked()).expect("needs root and BPF");
    conformance::fill(&mut ebpf, &world(ingress, egress)).unwrap();
    ebpf
}

#[test]
fn s40_an_adopted_connection_is_judged_by_who_opened_it() {
    let mut ebpf = start(Policy::Nothing, Policy::Some);
    for hosts in Hosts::both() {
        let (out, inwards) = (
            Talk::new(hosts.a, 4000, hosts.friend, 80),
            Talk::new(hosts.a, 80, hosts.friend, 5000),
        );
        assert_eq!(
            judge(&mut ebpf, Hook::ToPod, out.back(ACK)),
            Verdict::Drop,
            "unknown is judged as new"
        );
        assert_eq!(ebpf.explain_last(), Some(DropReason::Policy));
        let opened = connection(&out, Hook::FromPod, INCARNATION);
        assert_eq!(ebpf.insert(&opened).unwrap(), Inserted::New);
        // What is known now corrects what is there, both ways.
        assert_eq!(
            ebpf.insert(&Connection { opener: Hook::ToPod, ..opened }).unwrap(),
            Inserted::Corrected
        );
        assert_eq!(
            judge(&mut ebpf, Hook::ToPod, out.back(ACK)),
            Verdict::Drop,
            "ingress denies its opener"
        );
        assert_eq!(ebpf.insert(&opened).unwrap(), Inserted::Corrected);
        assert_eq!(ebpf.insert(&opened).unwrap(), Inserted::Kept);
        assert_eq!(
            judge(&mut ebpf, Hook::ToPod, out.back(ACK)),
            Verdict::Next,
            "a reply to what egress permits"
        );
        let reached = connection(&inwards, Hook::ToPod, INCARNATION);
        assert_eq!(ebpf.insert(&reached).unwrap(), Inserted::New);
        assert_eq!(
            judge(&mut ebpf, Hook::ToPod, inwards.back(ACK)),
            Verdict::Drop,
            "ingress denies its opener"
        );
        let other = connection(
            &Talk::new(hosts.a, 4001, hosts.friend, 80),
            Hook::FromPod,
            Incarnation::new(INCARNATION.get() + 1),
        );
        assert_eq!(ebpf.insert(&other).unwrap(), Inserted::New);
        let reply = Talk::new(hosts.a, 4001, hosts.friend, 80).back(ACK);
        assert_eq!(
            judge(&mut ebpf, Hook::ToPod, reply),
            Verdict::Drop,
            "S43: it was another pod's"
        );
    }
    assert_eq!(ebpf.occupancy(A.endpoint).unwrap(), (3, 3));
    let hosts = Hosts::both()[0];
    let wrong = Connection {
        remote: "::1".parse::<IpAddr>().unwrap(),
        ..connection(&Talk::new(hosts.a, 1, hosts.friend, 2), Hook::ToPod, Incarnation::new(0))
    };
    assert!(
        ebpf.insert(&wrong).is_err()
            && ebpf.insert(&Connection { endpoint: EndpointId::new(0), ..wrong }).is_err()
    );
}

/// S40: an entry gets the opener that it is told, or goes; others stay.
#[test]
fn s40_entries_are_amended_one_by_one() {
    let mut ebpf = start(Policy::Nothing, Policy::Some);
    let hosts = Hosts::both()[0];
    let talk = |port| Talk::new(hosts.a, port, hosts.friend, 80);
    for port in [4000, 4001, 4002] {
        let opened = connection(&talk(port), Hook::FromPod, INCARNATION);
        assert_eq!(ebpf.insert(&opened).unwrap(), Inserted::New);
    }
    let amended = ebpf.amend(A.endpoint, |c| match c.local_port {
        4000 => Amendment::Keep,
        4001 => Amendment::Opener(Hook::ToPod),
        _ => Amendment::Forget,
    });
    assert_eq!(amended.unwrap(), 2);
    let left = ebpf.connections(A.endpoint).unwrap();
    let left: Vec<_> =
        left.iter().map(|l| (l.connection.local_port, l.connection.opener)).collect();
    assert_eq!(left, [(4000, Hook::FromPod), (4001, Hook::ToPod)]);
    let passes = |port| judge(&mut ebpf, Hook::ToPod, talk(port).back(ACK));
    assert_eq!([4000, 4001, 4002].map(passes), [Verdict::Next, Verdict::Drop, Verdict::Drop]);
}

#[test]
fn what_packets_make_is_seen_and_ages() {
    let mut ebpf = start(Policy::Nothing, Policy::Some);
    for hosts in Hosts::both() {
        let talk = Talk::new(hosts.a, 4000, hosts.friend, 80);
        assert_eq!(judge(&mut ebpf, Hook::FromPod, talk.out(SYN)), Verdict::Next);
        let list = ebpf.connections(A.endpoint).unwrap();
        let live = list.iter().find(|l| l.connection.remote == hosts.friend).unwrap();
        let expected =
            Connection { phase: Phase::Opening, ..connection(&talk, Hook::FromPod, INCARNATION) };
        assert_eq!(live.connection, expected);
        assert!((118..=120).contains(&live.seconds), "{} s", live.seconds);
        assert_eq!(judge(&mut ebpf, Hook::ToPod, talk.back(RST)), Verdict::Next);
        let list = ebpf.connections(A.endpoint).unwrap();
        let live = list.iter().find(|l| l.connection.remote == hosts.friend).unwrap();
        assert_eq!(live.connection.phase, Phase::Reset);
        assert!((118..=120).contains(&live.seconds), "{} s", live.seconds);
    }
    ebpf.advance(Duration::from_secs(121)).unwrap();
    assert_eq!(ebpf.connections(A.endpoint).unwrap(), []);
}

#[test]
fn s43_an_endpoint_that_went_takes_its_state_along() {
    let mut ebpf = start(Policy::Nothing, Policy::Some);
    let talk = |hosts: &Hosts| Talk::new(hosts.a, 4000, hosts.friend, 53);
    for hosts in Hosts::both() {
        assert_eq!(judge(&mut ebpf, Hook::FromPod, talk(&hosts).out(Unit::Udp)), Verdict::Next);
        assert_eq!(judge(&mut ebpf, Hook::ToPod, talk(&hosts).back(Unit::Udp)), Verdict::Next);
        assert_eq!(
            judge(&mut ebpf, Hook::ToPod, Talk::new(hosts.a, 9, hosts.friend, 9).back(SYN)),
            Verdict::Drop
        );
    }
    assert_eq!(ebpf.drops(A.endpoint).unwrap(), [(Hook::ToPod, DropReason::Policy, 2)]);
    ebpf.write(&Write::remove(TableId::Endpoint, schema::endpoint_key(A.endpoint))).unwrap();
    ebpf.write(&switch(A, Policy::Nothing, Policy::Some)).unwrap();
    assert_eq!(ebpf.occupancy(A.endpoint).unwrap(), (0, 0));
    assert_eq!(ebpf.drops(A.endpoint).unwrap(), []);
    for hosts in Hosts::both() {
        assert_eq!(judge(&mut ebpf, Hook::ToPod, talk(&hosts).back(Unit::Udp)), Verdict::Drop);
    }
}

#[test]
fn s40_a_full_quota_refuses_adoption_and_says_so() {
    let mut ebpf = start(Policy::Nothing, Policy::Some);
    let hosts = Hosts::both()[0];
    let results: Vec<Inserted> = (0..2000u16)
        .map(|i| {
            let talk = Talk::new(hosts.a, 10_000 + i, hosts.friend, 80);
            ebpf.insert(&connection(&talk, Hook::FromPod, INCARNATION)).unwrap()
        })
        .collect();
    let new = results.iter().filter(|r| **r == Inserted::New).count() as u32;
    assert!(results.contains(&Inserted::NoRoom));
    assert!(new >= ebpf.capabilities().connections, "{new} adopted");
    assert_eq!(ebpf.occupancy(A.endpoint).unwrap(), (new, 0));
}

#[test]
fn maps_and_code_can_be_shown() {
    let ebpf = start(Policy::Nothing, Policy::Some);
    let maps = ebpf.maps();
    let used = |name: &str| maps.iter().find(|m| m.name == name).unwrap().used;
    assert!(used("remote_v4") > Some(256) && used("port") > Some(0), "{maps:?}");
    assert!(maps.iter().all(|m| m.bytes() > 0), "{maps:?}");
    for (hook, text) in ebpf.disassembly().unwrap() {
        assert!(text.contains("remote_v4") && text.contains("rows_v6"), "{hook:?}");
    }
}
