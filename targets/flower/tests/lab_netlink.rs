//! Filters in a kernel that has flower: what is sent is what is found, changes are atomic, others
//! are left alone. Runs in the lab.

use netpolc_table::IfIndex;
use std::process::Command;

use netpolc_target_flower::{
    Flower,
    filter::{Action, Cookie, Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side, ct},
    kernel::{Change, Kernel},
    lowered::{Lowered, Mode, Placed},
    netlink::{Found, Way},
    topology::Port,
};
use netpolc_testbed::lab;

fn sh(line: &str) -> String {
    let output = Command::new("bash").args(["-c", line]).output().expect("bash");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{line}: {text}");
    text
}

fn device(name: &str) -> Port {
    sh(&format!("ip link add {name} type dummy && ip link set {name} up"));
    let ifindex = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    Port { ifindex, name: name.into() }
}

fn filter(side: Side, chain: u32, prio: u16, matches: Match, action: Action) -> Filter {
    let cookie = Cookie::new(3, 4, u64::from(prio) << 32 | u64::from(chain));
    Filter { side, chain, prio, matches, action, copies: Copies::Software, cookie }
}

/// One filter for every key, match and action that there is.
fn everything(redirect: IfIndex) -> Vec<Filter> {
    let v4 = || Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
    let v6 = || Pattern { ethertype: EtherType::Ipv6, ..Pattern::default() };
    let established =
        Masked::new(ct::TRACKED | ct::ESTABLISHED, ct::TRACKED | ct::ESTABLISHED | ct::REPLY);
    let patterns = [
        (
            v4().from("10.1.0.0/16".parse().unwrap()).to("10.2.3.4/32".parse().unwrap()),
            Action::Drop,
        ),
        (
            v6().from("fd00:1::/32".parse().unwrap()).to("fd00::7/128".parse().unwrap()),
            Action::Pass,
        ),
        (
            Pattern { protocol: Some(6), tcp_flags: Some(Masked::new(2, 0x12)), ..v4() },
            Action::Goto(77),
        ),
        (
            Pattern {
                protocol: Some(6),
                destination_port: Some(Ports::Range { low: 80, high: 90 }),
                ..v6()
            },
            Action::Drop,
        ),
        (Pattern { protocol: Some(17), source_port: Some(Ports::one(53)), ..v4() }, Action::Pass),
        (
            Pattern {
                protocol: Some(132),
                destination_port: Some(Ports::Masked(Masked::new(0x100, 0xff00))),
                ..v4()
            },
            Action::Continue,
        ),
        (
            Pattern { protocol: Some(58), icmp_type: Some(135), hop_limit: Some(255), ..v6() },
            Action::Pass,
        ),
        (Pattern { protocol: Some(1), icmp_type: Some(3), ..v4() }, Action::Pass),
        (Pattern { ethertype: EtherType::Arp, ..Pattern::default() }, Action::Pass),
        (v4(), Action::Track(5)),
        (Pattern { ct_state: Some(established), ..v4() }, Action::Drop),
        (Pattern { destination_mac: Some([2, 0, 0, 0, 0, 9]), ..v6() }, Action::Redirect(redirect)),
        (
            Pattern {
                protocol: Some(6),
                source_port: Some(Ports::Range { low: 1, high: 65535 }),
                ..v4()
            },
            Action::Drop,
        ),
        (Pattern::default(), Action::Drop),
    ];
    // A chain that nothing leads to would not be there.
    let all = || Match::Flower(Pattern::default());
    let mut filters = vec![
        filter(Side::Egress, 0, 1, Match::Local, Action::Goto(9)),
        filter(Side::Egress, 0, 2, all(), Action::Goto(12345)),
        filter(Side::Ingress, 0, 2, all(), Action::Goto((1 << 28) - 2)),
    ];
    for (i, (pattern, action)) in patterns.into_iter().enumerate() {
        for (side, chain) in
            [(Side::Ingress, 0), (Side::Egress, 12345), (Side::Ingress, (1 << 28) - 2)]
        {
            filters.push(filter(
                side,
                chain,
                10 + i as u16,
                Match::Flower(pattern.clone()),
                action.clone(),
            ));
        }
    }
    filters.sort();
    filters
}

fn lowered(port: &Port, filters: &[Filter]) -> Lowered {
    let placed =
        filters.iter().map(|f| Placed { filter: f.clone(), origins: Default::default() }).collect();
    Lowered { mode: Mode::Software, ports: [(port.clone(), placed)].into(), spilled: vec![] }
}

fn found(port: &Port) -> Vec<Filter> {
    let dump = Kernel::open().unwrap().dump(port.ifindex).unwrap();
    let mut list: Vec<Filter> = dump
        .into_iter()
        .filter_map(|d| match d.found {
            Found::Ours(filter) => Some(filter),
            Found::Foreign => None,
            Found::Changed { .. } => panic!("{d:?}"),
        })
        .collect();
    list.sort();
    list
}

#[test]
fn what_is_sent_is_what_is_found() {
    if lab::outside(what_is_sent_is_what_is_found) {
        return;
    }
    let (port, other) = (device("d0"), device("d1"));
    let filters = everything(other.ifindex);
    let mut flower = Flower::new().unwrap();
    let report = flower.sync(&lowered(&port, &filters)).unwrap();
    assert_eq!((report.added, &report.refused[..]), (filters.len(), &[][..]));
    assert_eq!(found(&port), filters);
    // tc sees what we say.
    let text = sh("tc filter show dev d0 ingress");
    for words in [
        "dst_port 80-90",
        "tcp_flags 0x2/12",
        "ct_state +trk+est-rpl",
        "goto chain 77",
        "(Egress Redirect to device d1)",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert!(sh("tc filter show dev d0 egress").contains("sk_family"));
    // A second agent changes nothing.
    let again = Flower::new().unwrap().sync(&lowered(&port, &filters)).unwrap();
    assert_eq!((again.added, again.replaced, again.removed, again.kept), (0, 0, 0, filters.len()));
    let gone = Flower::new().unwrap().remove_all().unwrap();
    assert_eq!((gone.removed, found(&port)), (filters.len(), vec![]));
    assert!(!sh("tc qdisc show dev d0").contains("clsact"), "an empty qdisc stays");
}

#[test]
fn others_filters_are_never_touched() {
    if lab::outside(others_filters_are_never_touched) {
        return;
    }
    let port = device("d0");
    sh("tc qdisc add dev d0 clsact");
    for line in [
        "ingress protocol ip pref 10 flower skip_hw ip_proto tcp dst_port 80 action drop",
        "ingress protocol ip pref 10 flower skip_hw ip_proto tcp dst_port 81 action pass cookie \
         6e706302000000000000000000000000",
        "egress protocol all pref 7 matchall action pass",
    ] {
        sh(&format!("tc filter add dev d0 {line}"));
    }
    let before = sh("tc filter show dev d0 ingress; tc filter show dev d0 egress");
    let ours = filter(
        Side::Ingress,
        0,
        10,
        Match::Flower(Pattern {
            ethertype: EtherType::Ipv4,
            protocol: Some(17),
            ..Pattern::default()
        }),
        Action::Drop,
    );
    let mut flower = Flower::new().unwrap();
    let report = flower.sync(&lowered(&port, std::slice::from_ref(&ours))).unwrap();
    assert_eq!((report.added, report.refused.len()), (1, 0));
    assert_eq!(found(&port), std::slice::from_ref(&ours));
    // Our own prio 7 is theirs: refused with the kernel's words, and in software what was enforced
    // stays.
    let clash = filter(Side::Egress, 0, 7, Match::Flower(Pattern::default()), Action::Drop);
    let report = flower.sync(&lowered(&port, &[clash])).unwrap();
    assert_eq!(report.refused.len(), 1, "{report:?}");
    assert!(
        report.refused[0].why.contains("does not match existing one"),
        "{}",
        report.refused[0].why
    );
    assert_eq!(found(&port), [ours]);
    flower.remove_all().unwrap();
    assert_eq!(sh("tc filter show dev d0 ingress; tc filter show dev d0 egress"), before);
}

#[test]
fn a_refused_chain_is_not_led_to() {
    if lab::outside(a_refused_chain_is_not_led_to) {
        return;
    }
    let port = device("d0");
    let v4 = || Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
    let tcp = |port| Pattern { protocol: Some(6), destination_port: Some(port), ..v4() };
    let old = [
        filter(Side::Ingress, 0, 1, Match::Flower(v4()), Action::Goto(5)),
        filter(Side::Ingress, 5, 1, Match::Flower(tcp(Ports::one(80))), Action::Pass),
        filter(Side::Ingress, 5, 2, Match::Flower(v4()), Action::Drop),
    ];
    let mut flower = Flower::new().unwrap();
    assert_eq!(flower.sync(&lowered(&port, &old)).unwrap().refused, []);
    // min above max is refused by the kernel.
    let new = [
        filter(Side::Ingress, 0, 1, Match::Flower(v4()), Action::Goto(6)),
        filter(
            Side::Ingress,
            6,
            1,
            Match::Flower(tcp(Ports::Range { low: 90, high: 80 })),
            Action::Pass,
        ),
        filter(Side::Ingress, 6, 2, Match::Flower(v4()), Action::Drop),
    ];
    let report = flower.sync(&lowered(&port, &new)).unwrap();
    // The range, what is left of its chain, and what leads there.
    assert_eq!(report.refused.len(), 3, "{report:?}");
    assert_eq!(found(&port), old, "what was enforced is not what is there");
    // And the way on is still found.
    let mut good = new.to_vec();
    good[1].matches = Match::Flower(tcp(Ports::Range { low: 80, high: 90 }));
    let report = flower.sync(&lowered(&port, &good)).unwrap();
    assert_eq!((report.added, report.replaced, report.removed), (2, 1, 2), "{report:?}");
    assert_eq!(found(&port), good);
}

/// A flood against a filter that is replaced all the time: not one packet gets through between the
/// old and the new.
#[test]
fn a_replacement_has_no_gap() {
    if lab::outside(a_replacement_has_no_gap) {
        return;
    }
    sh("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up");
    let ifindex =
        std::fs::read_to_string("/sys/class/net/v0/ifindex").unwrap().trim().parse().unwrap();
    let port = Port { ifindex, name: "v0".into() };
    let all = || Match::Flower(Pattern::default());
    // A drop by itself, then a chain, then another one.
    let ways = |turn: u32| {
        let other = Pattern {
            ethertype: EtherType::Ipv4,
            hop_limit: Some(turn as u8),
            ..Pattern::default()
        };
        match turn % 3 {
            0 => vec![filter(Side::Ingress, 0, 1, all(), Action::Drop)],
            _ => vec![
                filter(Side::Ingress, 0, 1, all(), Action::Goto(turn)),
                filter(Side::Ingress, turn, 1, Match::Flower(other), Action::Drop),
                filter(Side::Ingress, turn, 9, all(), Action::Drop),
            ],
        }
    };
    let mut flower = Flower::new().unwrap();
    flower.sync(&lowered(&port, &ways(0))).unwrap();
    // What is not dropped reaches this one, behind it.
    sh("tc filter add dev v0 ingress prio 60000 protocol all matchall action pass");
    let done = std::sync::atomic::AtomicBool::new(false);
    let (sent, reports) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let wire = lab::wire::Wire::open("v1").unwrap();
            let mut frame = [0xff; 60];
            frame[12..14].copy_from_slice(&0x88b5u16.to_be_bytes());
            let mut sent = 0u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                wire.send(&frame).unwrap();
                sent += 1;
            }
            sent
        });
        let reports: Vec<_> =
            (1..=500).map(|turn| flower.sync(&lowered(&port, &ways(turn)))).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (flood.join().unwrap(), reports)
    });
    for report in reports {
        let report = report.unwrap();
        assert_eq!((report.replaced, report.refused.len()), (1, 0), "{report:?}");
    }
    let text = sh("tc -s filter show dev v0 ingress prio 60000");
    println!("{sent} packets during 500 changes");
    assert!(sent > 500, "only {sent} packets");
    assert!(text.contains("Sent 0 bytes 0 pkt"), "some came through:\n{text}");
}

#[test]
fn ten_thousand_filters_are_found_again() {
    if lab::outside(ten_thousand_filters_are_found_again) {
        return;
    }
    let port = device("d0");
    let one = |i: u32| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | i);
        let pattern =
            Pattern { ethertype: EtherType::Ipv4, protocol: Some(6), ..Pattern::default() };
        filter(
            Side::Ingress,
            0,
            10,
            Match::Flower(pattern.to(std::net::IpAddr::from(address).into())),
            Action::Drop,
        )
    };
    let filters: Vec<Filter> = (0..10_000).map(one).collect();
    let began = std::time::Instant::now();
    let report = Flower::new().unwrap().sync(&lowered(&port, &filters)).unwrap();
    assert_eq!((report.added, report.refused.len()), (filters.len(), 0));
    println!("10,000 filters in {:?}", began.elapsed());
    // Another agent wants a hundred others instead of the first hundred, and the first of all
    // again.
    let mut wanted = filters[100..].to_vec();
    wanted.extend((20_000..20_100).map(one));
    let began = std::time::Instant::now();
    let report = Flower::new().unwrap().sync(&lowered(&port, &wanted)).unwrap();
    println!("found again and 200 changes in {:?}", began.elapsed());
    assert_eq!((report.added, report.replaced, report.removed, report.kept), (100, 0, 100, 9_900));
    wanted.sort();
    assert_eq!(found(&port), wanted);
}

#[test]
fn a_bad_message_does_not_stop_the_others() {
    if lab::outside(a_bad_message_does_not_stop_the_others) {
        return;
    }
    let port = device("d0");
    let mut kernel = Kernel::open().unwrap();
    kernel.ensure_qdisc(port.ifindex).unwrap();
    let tcp = |port| Pattern {
        ethertype: EtherType::Ipv4,
        protocol: Some(6),
        destination_port: Some(port),
        ..Pattern::default()
    };
    let filters: Vec<Filter> = (1..=100u16)
        .map(|i| {
            let ports = if i % 10 == 0 { Ports::Range { low: 9, high: 3 } } else { Ports::one(i) };
            filter(Side::Ingress, 0, 10, Match::Flower(tcp(ports)), Action::Drop)
        })
        .collect();
    let changes: Vec<Change<'_>> = (1..)
        .zip(&filters)
        .map(|(handle, filter)| Change { way: Way::Add, ifindex: port.ifindex, filter, handle })
        .collect();
    let answers = kernel.apply(&changes).unwrap();
    let refused: Vec<usize> =
        answers.iter().enumerate().filter(|(_, a)| a.is_err()).map(|(i, _)| i + 1).collect();
    assert_eq!(refused, (1..=10).map(|i| i * 10).collect::<Vec<_>>());
    let words = answers[9].as_ref().unwrap_err().to_string();
    assert!(words.contains("min should be less than max") || words.contains("Invalid"), "{words}");
    assert_eq!(found(&port).len(), 90);
}
