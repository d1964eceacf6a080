//! The table of drivers against the simulated NIC's personalities: what the table says that a
//! driver cannot do, its personality refuses or does wrongly; what it says that it can do, works.

use std::{net::IpAddr, process::Command};

use netpolc_target::{frame::Packet, semantics::tcp};
use netpolc_target_flower::{
    capability::Capabilities,
    quirks::{DRIVERS, capabilities},
};
use netpolc_testbed::lab::{self, Simnic, wire::Wire};

/// What a personality made of an ability.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// The filter works.
    Works,
    /// It is refused, in these words.
    Refused(String),
    /// It is taken, and does something else.
    Misread,
}

struct Nic {
    simnic: Simnic,
    wire: Wire,
}

impl Nic {
    fn load(driver: &str) -> Self {
        let simnic = lab::simnic(driver, 2, &[]);
        for port in ["simr0", "simv0", "simr1", "simv1"] {
            lab::shell(&format!("ip link set {port} up"));
        }
        lab::shell("tc qdisc add dev simr0 clsact");
        Self { simnic, wire: Wire::open("simv0").expect("a port") }
    }

    /// Adds filters in order; the first refusal ends that.
    fn add(&self, filters: &[&str]) -> Result<(), String> {
        for filter in filters {
            let output = Command::new("sh")
                .args(["-c", &format!("tc filter add dev simr0 ingress {filter}")])
                .output()
                .expect("a shell");
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
        }
        Ok(())
    }

    fn clear(&self) {
        lab::shell("tc qdisc del dev simr0 clsact; tc qdisc add dev simr0 clsact");
        assert_eq!(self.simnic.counter("nic.rules"), 0);
    }

    /// Does hardware drop this packet?
    fn drops(&self, packet: &Packet) -> bool {
        let before = self.simnic.counter("simr0.hw_drop");
        self.wire.send(&packet.build()).expect("a packet");
        self.simnic.counter("simr0.hw_drop") > before
    }

    /// With these filters `dropped` is dropped and `spared` is not.
    fn show(&self, filters: &[&str], dropped: Option<&Packet>, spared: Option<&Packet>) -> Shown {
        let shown = match self.add(filters) {
            Err(words) => Shown::Refused(words),
            Ok(())
                if dropped.is_some_and(|p| !self.drops(p))
                    || spared.is_some_and(|p| self.drops(p)) =>
            {
                Shown::Misread
            }
            Ok(()) => Shown::Works,
        };
        self.clear();
        shown
    }

    /// How many of `filters` find a place.
    fn places(&self, filters: impl Iterator<Item = String>) -> u32 {
        let mut batch: Vec<String> =
            filters.map(|f| format!("filter add dev simr0 ingress {f}")).collect();
        batch.push(String::new());
        std::fs::write("/run/filters", batch.join("\n")).expect("a file");
        // Ends at the first refusal.
        let output = Command::new("tc").args(["-batch", "/run/filters"]).output().expect("tc");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("no place in the flow tables"), "{said}");
        let places = self.simnic.counter("nic.rules");
        self.clear();
        places.try_into().expect("a few")
    }
}

fn to(destination: &str) -> Packet {
    let destination: IpAddr = destination.parse().expect("an address");
    let source = if destination.is_ipv4() { "10.0.0.7" } else { "fd00::7" };
    Packet::new(source.parse::<IpAddr>().expect("an address"), destination)
}

fn syn(port: u16) -> Packet {
    to("10.0.0.1").tcp(4000, port, tcp::SYN)
}

/// Each ability: is it there, and what its personality shows.
fn abilities(nic: &Nic, can: &Capabilities) -> Vec<(&'static str, bool, Shown)> {
    let drop = |filter: &str| format!("protocol ip pref 1 flower skip_sw {filter} action drop");
    let show = |filter: &str, dropped: Packet, spared: Packet| {
        nic.show(&[&drop(filter)], Some(&dropped), Some(&spared))
    };
    let answer = to("10.0.0.1").tcp(4000, 80, tcp::SYN | tcp::ACK);
    let first = match can.redirect {
        true => "action mirred egress redirect dev simr1",
        false => "action pass",
    };
    let first = format!(
        "protocol ip pref 1 flower skip_sw ip_proto tcp dst_ip 10.0.0.1 dst_port 80 {first}"
    );
    let second = "protocol ip pref 2 flower skip_sw ip_proto tcp dst_port 80 action drop";
    let six =
        "protocol ipv6 pref 1 flower skip_sw ip_proto tcp dst_ip fd00::1 dst_port 80 action drop";
    let v6 = |port| to("fd00::1").tcp(4000, port, tcp::SYN);
    let redirect =
        "protocol ip pref 1 flower skip_sw dst_ip 10.0.0.1 action mirred egress redirect dev simr1";
    let chain = "protocol ip pref 1 chain 1 flower skip_sw ip_proto tcp dst_port 80 action drop";
    vec![
        ("port_ranges", can.port_ranges, show("ip_proto tcp dst_port 80-90", syn(85), syn(200))),
        ("port_masks", can.port_masks, show("ip_proto tcp dst_port 80/0xfff0", syn(85), syn(200))),
        (
            "sctp_ports",
            can.sctp_ports,
            show(
                "ip_proto sctp dst_port 80",
                to("10.0.0.1").sctp(1, 80, 1),
                to("10.0.0.1").sctp(1, 81, 1),
            ),
        ),
        (
            "tcp_flags",
            can.tcp_flags,
            show("ip_proto tcp tcp_flags 0x2/0x12 dst_port 80", syn(80), answer),
        ),
        (
            "zero_keys",
            can.zero_keys,
            show(
                "ip_proto tcp dst_ip 0.0.0.0/1 dst_port 80",
                syn(80),
                to("200.0.0.1").tcp(4000, 80, tcp::SYN),
            ),
        ),
        ("priority", can.priority, nic.show(&[&first, second], None, Some(&syn(80)))),
        ("chains", can.chains > 0, nic.show(&[chain], None, None)),
        (
            "ct",
            can.ct,
            nic.show(&[&drop("ip_proto tcp ct_state +trk+est dst_port 80")], None, Some(&syn(80))),
        ),
        ("redirect", can.redirect, nic.show(&[redirect], None, None)),
        ("ipv6", can.ipv6, nic.show(&[six], Some(&v6(80)), Some(&v6(81)))),
    ]
}

#[test]
fn personalities_do_what_the_table_of_drivers_says() {
    if lab::outside(personalities_do_what_the_table_of_drivers_says) {
        return;
    }
    let mut wrong = vec![];
    for driver in DRIVERS.iter().map(|q| q.driver) {
        let can = capabilities(driver);
        let nic = Nic::load(driver);
        for (ability, there, shown) in abilities(&nic, &can) {
            println!(
                "{driver:10} {ability:12} {:7} {shown:?}",
                if there { "granted" } else { "denied" }
            );
            if there != (shown == Shown::Works) {
                wrong.push(format!(
                    "{driver}: {ability} is {there} in the table, the personality: {shown:?}"
                ));
            }
        }
        nic.simnic.unload();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    lab::assert_kernel_is_quiet();
}

#[test]
fn personalities_have_the_limits_of_the_table() {
    if lab::outside(personalities_have_the_limits_of_the_table) {
        return;
    }
    for driver in DRIVERS.iter().map(|q| q.driver).filter(|d| *d != "i40e") {
        let can = capabilities(driver);
        let nic = Nic::load(driver);
        if can.filters != u32::MAX {
            let one = |i: u32| {
                let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + i);
                format!("protocol ip pref 1 flower skip_sw dst_ip {address} action drop")
            };
            assert_eq!(
                nic.places((1..=can.filters + 3).map(one)),
                can.filters,
                "{driver}: filters"
            );
        }
        if can.masks != u32::MAX {
            let one = |i: u32| {
                let (source, destination) = (1 + i / 32, 1 + i % 32);
                format!(
                    "protocol ip pref 1 flower skip_sw src_ip 192.0.0.0/{source} dst_ip \
                     192.0.0.0/{destination} action drop"
                )
            };
            assert_eq!(nic.places((0..can.masks + 3).map(one)), can.masks, "{driver}: masks");
        }
        if can.tables != u32::MAX {
            let one = |i: u32| {
                format!("protocol ip pref {i} flower skip_sw dst_ip 192.0.0.1 action drop")
            };
            assert_eq!(nic.places((1..=can.tables + 3).map(one)), can.tables, "{driver}: tables");
        }
        nic.simnic.unload();
    }
    lab::assert_kernel_is_quiet();
}
