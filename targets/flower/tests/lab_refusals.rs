//! What a sync makes of a NIC's refusals: the driver's words reach the report, and hardware never
//! decides what was not wanted. On the simulated NIC, in the lab. Which order of steps is right is
//! shown without one (`sync::job`).

use netpolc_target_flower::{
    Flower,
    filter::{Action, Cookie, Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side},
    flower::Report,
    lowered::{Lowered, Mode, Placed},
    netlink::Found,
    topology::Port,
};
use netpolc_testbed::lab;

fn tcp() -> Pattern {
    let flags = Some(Masked::new(2, 0x12));
    Pattern {
        ethertype: EtherType::Ipv4,
        protocol: Some(6),
        tcp_flags: flags,
        ..Pattern::default()
    }
}

fn host(number: u8) -> Pattern {
    tcp().to(netpolc_target_flower::filter::host([10, 0, 0, number].into()))
}

fn filter(chain: u32, prio: u16, pattern: Pattern, action: Action) -> Filter {
    let (side, matches) = (Side::Ingress, Match::Flower(pattern));
    let cookie = Cookie::new(9, 9, prio.into());
    Filter { side, chain, prio, matches, action, copies: Copies::Hardware, cookie }
}

struct Nic {
    simnic: lab::Simnic,
    port: Port,
    flower: Flower,
}

impl Nic {
    fn load(driver: &str, knobs: &[(&str, &str)]) -> Self {
        let simnic = lab::simnic(driver, 1, knobs);
        lab::shell("ip link set simr0 up; ip link set simv0 up");
        let ifindex = std::fs::read_to_string("/sys/class/net/simr0/ifindex")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        Nic { simnic, port: Port { ifindex, name: "simr0".into() }, flower: Flower::new().unwrap() }
    }

    fn sync(&mut self, filters: &[Filter]) -> Report {
        let placed = filters
            .iter()
            .map(|f| Placed { filter: f.clone(), origins: Default::default() })
            .collect();
        let ports = [(self.port.clone(), placed)].into();
        self.flower.sync(&Lowered { mode: Mode::Representor, ports, spilled: vec![] }).unwrap()
    }

    /// As the kernel has it, all of it in hardware.
    fn found(&mut self) -> Vec<Filter> {
        let mut installed = self.flower.installed().unwrap();
        let list = installed.remove(&self.port.ifindex).unwrap_or_default();
        assert_eq!(self.simnic.counter("nic.rules"), list.len() as u64);
        let mut list: Vec<Filter> = list
            .into_iter()
            .map(|d| match d.found {
                Found::Ours(filter) if d.in_hardware == 1 => filter,
                other => panic!("{other:?}, in {} NICs", d.in_hardware),
            })
            .collect();
        list.sort();
        list
    }
}

/// Drivers take no ranges of ports. Without this exception the drop behind it would be too wide.
#[test]
fn nothing_stands_behind_a_refused_exception() {
    if lab::outside(nothing_stands_behind_a_refused_exception) {
        return;
    }
    let mut nic = Nic::load("mlx5_core", &[]);
    let range = Pattern { destination_port: Some(Ports::Range { low: 80, high: 90 }), ..tcp() };
    let other = filter(0, 1, Pattern { ethertype: EtherType::Ipv6, ..tcp() }, Action::Drop);
    let drop = filter(0, 3, tcp(), Action::Drop);
    // It is there before the exception is wanted, and goes; what the exception has nothing to do
    // with stays.
    assert_eq!(nic.sync(&[other.clone(), drop.clone()]).refused, []);
    let wanted = [other.clone(), filter(0, 2, range, Action::Pass), drop.clone()];
    let report = nic.sync(&wanted);
    assert_eq!(report.refused.len(), 2, "{report:?}");
    assert!(
        report.refused[0].why.contains("mlx5_core: Unsupported key"),
        "{}",
        report.refused[0].why
    );
    assert_eq!(nic.found(), std::slice::from_ref(&other));
    // With an exception that the driver knows it comes back.
    let exact = Pattern { destination_port: Some(Ports::one(80)), ..tcp() };
    let wanted = [other, filter(0, 2, exact, Action::Pass), drop];
    let report = nic.sync(&wanted);
    assert_eq!((report.added, report.kept, report.refused.len()), (2, 1, 0));
    assert_eq!(nic.found(), wanted);
}

/// ice has no connection tracking. The kernel takes such a filter for software all the same; it
/// must not stay.
#[test]
fn what_only_software_took_does_not_stay() {
    if lab::outside(what_only_software_took_does_not_stay) {
        return;
    }
    let both = |f: Filter| Filter { copies: Copies::Both, ..f };
    let v4 = || Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
    let wanted = [
        both(filter(0, 5, v4(), Action::Track(7))),
        both(filter(7, 1, Pattern { ct_state: Some(Masked::new(0xa, 0xa)), ..v4() }, Action::Pass)),
        both(filter(7, 2, v4(), Action::Pass)),
    ];
    let mut nic = Nic::load("mlx5_core", &[]);
    assert_eq!(nic.sync(&wanted).refused, []);
    assert_eq!(nic.found(), wanted);
    nic.flower.remove_all().unwrap();
    nic.simnic.unload();
    let mut nic = Nic::load("ice", &[]);
    let report = nic.sync(&wanted);
    assert_eq!(report.refused.len(), 3, "{report:?}");
    let words: Vec<&String> = report.refused.iter().map(|r| &r.why).collect();
    assert!(words.iter().any(|w| w.starts_with("not taken by hardware: ice: ")), "{words:?}");
    assert_eq!(nic.found(), []);
}

/// A NIC that has no room for the old and the new together takes the new all the same; what is too
/// much is said.
#[test]
fn a_full_nic_follows() {
    if lab::outside(a_full_nic_follows) {
        return;
    }
    let mut nic = Nic::load("simnic", &[("rules", "4")]);
    let drops = |hosts: std::ops::Range<u8>| -> Vec<Filter> {
        hosts.map(|number| filter(0, 1, host(number), Action::Drop)).collect()
    };
    assert_eq!(nic.sync(&drops(0..4)).refused, []);
    assert_eq!(nic.sync(&drops(4..8)).refused, []);
    assert_eq!(nic.found(), drops(4..8));
    let report = nic.sync(&drops(10..16));
    assert_eq!(report.refused.len(), 2, "{report:?}");
    assert_eq!(nic.found(), drops(10..14));
    lab::assert_kernel_is_quiet();
}
