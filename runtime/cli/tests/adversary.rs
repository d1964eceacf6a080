//! The agent against an adversary: real frames of every kind that got past an enforcer before, on a
//! node with routed and with bridged pods, conntrack on and off, random policies. Needs root, `ip`
//! and `nft`.
//!
//! What it sends: 0 to 8 tags of both kinds, LLC, PPPoE, MPLS; IPv4 options, extension headers,
//! source routes that the node follows; fragments in every order, overlapping, tiny, with
//! unfragmentable parts of up to 1,024 bytes, put together and cut anew by conntrack; every TCP
//! flag, SCTP, ICMP of every type, errors about connections that are and that never were; ARP and
//! neighbour discovery in anybody's name; VXLAN, IPIP, GRE and 6in4 to this node and the other;
//! forged sources of all sorts, by pods and from outside; damaged and truncated headers; replies
//! that nobody asked for. What it sees: [`Kind`] names each violation.
//!
//! `NETPOLC_FRAMES=1000000 cargo test --release -p netpolc --test adversary` sends a million frames
//! instead of some ten thousand, `NETPOLC_SEED` chooses others, and `NETPOLC_ROUND` begins at that
//! round of the seed: a violation names all three.

mod common;

use common::stage::Enforced;
use netpolc_target_ebpf::{Capacities, Config, Connections};
use netpolc_testbed::adversary::{Campaign, Lab, Report, judge::Kind};

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number"))
    })
}

fn run(campaign: &Campaign) -> Report {
    let lab = Lab::up().expect("network namespaces (this needs root)");
    let work = || {
        // Room for all that the adversary opens: no honest frame is to fail by a full table.
        let config = Config {
            capacities: Capacities { endpoints: 16, ..Capacities::default() },
            connections: Connections::fixed(14),
            ..Config::default()
        };
        let mut enforced = Enforced::open("node1", config);
        campaign
            .run(&lab, |cluster| enforced.agent.update(cluster.clone()).map(drop))
            .expect("the lab works")
    };
    lab.node().run(work).expect("the node's namespace")
}

/// S35-S38, S44-S55 with frames that nobody honest sends.
#[test]
fn s55_nothing_arrives_against_the_oracle() {
    let campaign = Campaign {
        seed: number("NETPOLC_SEED", 1),
        from: number("NETPOLC_ROUND", 0),
        frames: number("NETPOLC_FRAMES", 20_000) as usize,
        round: 4_000,
        kinds: Kind::ALL.into(),
    };
    let report = run(&campaign);
    println!("{report}");
    assert!(report.violations.is_empty(), "frames arrived that must not, see above");
    let missing: usize = report.missing.values().map(|(count, _)| count).sum();
    assert!(report.wanted > report.sent / 10, "only {} honest frames", report.wanted);
    // A busy machine may lose a datagram in pieces.
    assert!(
        missing * 1000 <= report.wanted,
        "{missing} of {} honest frames did not arrive",
        report.wanted
    );
}
