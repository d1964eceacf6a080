//! The adversary itself: where nothing is enforced it finds every kind of violation, so that its
//! silence means something.

use std::convert::Infallible;

use netpolc_policy::Cluster;
use netpolc_testbed::{
    adversary::{
        Campaign, Lab, Place, World,
        bytes::{self, Header, number},
        generate::Generator,
        judge::{Judge, Kind},
        parse::{self, Content, Event},
    },
    random::Rng,
};

#[test]
fn where_nothing_is_enforced_every_kind_of_violation_is_found() {
    let lab = Lab::up().expect("network namespaces (this needs root)");
    let campaign =
        Campaign { seed: 1, from: 0, frames: 32_000, round: 4_000, kinds: Kind::ALL.to_vec() };
    let report = campaign.run(&lab, |_| Ok::<_, Infallible>(())).expect("the lab works");
    println!("{} frames, {} arrivals in {:?}", report.sent, report.arrived, report.took);
    for kind in Kind::ALL {
        let found: usize =
            report.violations.iter().filter(|((k, _), _)| *k == kind).map(|(_, (n, _))| n).sum();
        assert!(found > 0, "no violation of kind {kind:?}: the adversary would not see one");
    }
    // Frames from forged hardware addresses lead the bridge astray, so some honest ones are lost.
    let missing: usize = report.missing.values().map(|(count, _)| count).sum();
    assert!(missing * 50 < report.wanted, "{report}");
}

#[test]
fn a_seed_gives_the_same_frames_twice() {
    let judge = || Judge::new(World::default(), World::default().cluster(&mut Rng::new(3)));
    let frames = |seed| {
        let mut generator = Generator::new(Rng::new(seed), World::default(), 0);
        let judge = judge();
        generator.turn(&judge);
        generator.cases(300, &judge).into_iter().map(|p| p.sent.bytes).collect::<Vec<_>>()
    };
    assert!(frames(1) == frames(1) && frames(1) != frames(2));
}

#[test]
fn what_is_written_is_read_again() {
    let world = World::default();
    for v6 in [false, true] {
        let at = usize::from(v6);
        let (a, b) = (world.pods[0].addresses[at], world.stranger[at]);
        let header = Header { hops: 7, ..Header::default() };
        let mut body = bytes::tcp(1000, 80, 2, b"mark");
        let mut protocol = number::TCP;
        if v6 {
            body = [bytes::fragment(number::TCP, 0, true, 9), body].concat();
            body = [bytes::extension(number::DESTINATION, number::FRAGMENT, 3), body].concat();
            protocol = number::DESTINATION;
        }
        let packet = bytes::ip(a, b, protocol, &header, &body);
        let tags = [(number::QINQ, 0), (number::VLAN, 5), (number::VLAN, 0)];
        let frame = bytes::ethernet([1; 6], [2; 6], &tags, bytes::ether_type(b), &packet);
        let Content::Ip(read) = parse::frame(&frame).expect("a frame").content else {
            panic!("no packet")
        };
        assert_eq!((read.source, read.destination, read.hops, read.sound), (a, b, 7, true));
        assert_eq!(read.fragment.map(|f| (f.offset, f.more, f.id)), v6.then_some((0, true, 9)));
        let (flow, event) = read.flow().expect("a whole one");
        assert_eq!((flow.source, flow.destination, event), ((a, 1000), (b, 80), Event::Opens));
    }
}

#[test]
fn without_policies_an_honest_packet_is_no_violation_and_a_forged_one_is() {
    let world = World::default();
    let mut judge = Judge::new(world.clone(), Cluster::default());
    let (a, b) = (world.pods[0].addresses[0], world.pods[4].addresses[0]);
    let mut verdict = |source| {
        let packet = bytes::ip(
            source,
            b,
            number::UDP,
            &Header { hops: 64, ..Header::default() },
            &bytes::udp(1, 2, b""),
        );
        let bytes = bytes::ethernet([1; 6], world.pods[0].mac, &[], number::IPV4, &packet);
        let sent = netpolc_testbed::adversary::judge::Sent {
            place: Place::Pod(0),
            case: 0,
            label: "test",
            bytes,
        };
        judge.hear(&sent);
        let frame = parse::frame(&sent.bytes).expect("a frame");
        judge.arrives(Place::Pod(4), &frame, &sent).map_err(|v| v.kind)
    };
    assert_eq!(verdict(a), Ok(()));
    assert_eq!(verdict(world.pods[1].addresses[0]), Err(Kind::ForgedSource));
}
