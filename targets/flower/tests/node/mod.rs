//! A node in the lab: pods behind veth pairs, routed by the kernel with connection tracking as kube-proxy has it, an
//! uplink, and raw sockets at the other ends. No pod has a stack of its own, so every packet is one that a test sent.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, time::Duration};

use netpolc_target_flower::{Flower, lowered::Lowered};
use netpolc_testbed::{
    lab::{
        self,
        wire::{Counted, Qdiscs, Wire, send_born_here},
    },
    netns::Namespace,
};

/// Every interface of the node; frames to be routed carry it as destination.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Every other end.
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// How long a packet may take from one end to another.
const PATIENCE: Duration = Duration::from_millis(40);

/// A pod's place on the node.
pub struct Place {
    /// Name of the host-side interface, and of its other end.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Addresses that are routed to it.
    pub addresses: Vec<IpAddr>,
}

/// The node.
pub struct Node {
    /// Host-side interface -> the pod's end.
    pub pods: BTreeMap<u32, Wire>,
    /// Host-side interface -> itself, for what no stack would send.
    pub hosts: BTreeMap<u32, Wire>,
    /// The uplink's other end.
    pub uplink: Wire,
    /// Address -> host-side interface.
    pub routes: BTreeMap<IpAddr, u32>,
    /// The filters.
    pub flower: Flower,
    qdiscs: Qdiscs,
}

/// What became of a packet at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Through, and out at the other end.
    Passed,
    /// A filter dropped it.
    Dropped,
    /// The kernel's own stack did not carry it to the hook, or not beyond.
    NotCarried,
}

impl Node {
    /// Makes it in the lab's own namespace; the other ends are in the namespace `ends`.
    pub fn up(places: &[Place]) -> Self {
        let mut script = String::from(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0
            sysctl -qw net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
            sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
            ip netns add ends; ip netns exec ends sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
            nft 'table inet track { chain forward { type filter hook forward priority 0; ct state new accept; }; }'
            sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1 net.netfilter.nf_conntrack_tcp_loose=0\n",
        );
        let mut pair = |name: &str, index: &str| {
            let (node, far) = (mac(NODE_MAC), mac(FAR_MAC));
            writeln!(
                script,
                "ip link add dev {name} {index} address {node} type veth peer name {name} netns ends address {far}
                ip link set dev {name} addrgenmode none; ip link set dev {name} up; ip -n ends link set dev {name} up"
            )
            .expect("a string");
        };
        pair("uplink", "");
        places.iter().for_each(|p| pair(&p.name, &format!("index {}", p.ifindex)));
        lab::shell(&script);
        let far = mac(FAR_MAC);
        let mut lines = format!(
            "-4 route replace default via 169.254.0.1 dev uplink onlink\n-6 route replace default via fe80::ff dev uplink\n\
             -4 neigh replace 169.254.0.1 lladdr {far} dev uplink nud permanent\n-6 neigh replace fe80::ff lladdr {far} dev uplink nud permanent\n"
        );
        let mut routes = BTreeMap::new();
        for place in places {
            for address in &place.addresses {
                lines += &route(*address, &place.name);
                routes.insert(*address, place.ifindex);
            }
        }
        ip_batch(&lines);
        // Reports of multicast membership, which would be counted too.
        std::thread::sleep(Duration::from_millis(1500));
        let ends = Namespace::open("ends").expect("just made");
        let far = |name: &str| Wire::open_in(&ends, name).expect("just made");
        Self {
            pods: places.iter().map(|p| (p.ifindex, far(&p.name))).collect(),
            hosts: places.iter().map(|p| (p.ifindex, Wire::open(&p.name).expect("just made"))).collect(),
            uplink: far("uplink"),
            routes,
            flower: Flower::new().expect("rtnetlink"),
            qdiscs: Qdiscs::open().expect("rtnetlink"),
        }
    }

    /// Installs filters; none may be refused.
    pub fn install(&mut self, lowered: &Lowered) {
        let report = self.flower.sync(lowered).expect("filters");
        assert!(report.refused.is_empty(), "{:?}", report.refusals());
    }

    /// A packet from a pod, at the ingress hook of its interface. Passing is to pass the hook.
    pub fn from_pod(&self, ifindex: u32, frame: &[u8]) -> Seen {
        let before = self.counted(ifindex);
        self.drain();
        let _ = self.pods[&ifindex].send(frame);
        match self.judge(ifindex, before) {
            // A hook without filters counts nothing.
            Seen::NotCarried if self.comes_out() => Seen::Passed,
            seen => seen,
        }
    }

    /// The same; passing is to come out of another interface.
    pub fn from_pod_beyond(&self, ifindex: u32, frame: &[u8]) -> Seen {
        match self.from_pod(ifindex, frame) {
            Seen::Passed if !self.comes_out() => Seen::NotCarried,
            seen => seen,
        }
    }

    /// A packet to a pod, at the egress hook of its interface: routed where the stack would route it there, else put to
    /// the hook. Passing is to arrive.
    pub fn to_pod(&self, ifindex: u32, frame: &[u8], destination: Option<IpAddr>) -> Seen {
        let before = self.counted(ifindex);
        self.drain();
        let routed = destination.is_some_and(|d| self.routes.get(&d) == Some(&ifindex));
        let wire = if routed { &self.uplink } else { &self.hosts[&ifindex] };
        let _ = wire.send(frame);
        self.arrived(ifindex, before)
    }

    /// A packet to a pod that the node itself makes.
    pub fn born(&self, ifindex: u32, packet: &[u8], destination: IpAddr) -> Seen {
        let before = self.counted(ifindex);
        self.drain();
        send_born_here(packet, destination).expect("the host sends it");
        self.arrived(ifindex, before)
    }

    fn arrived(&self, ifindex: u32, before: Counted) -> Seen {
        match self.judge(ifindex, before) {
            Seen::Dropped => Seen::Dropped,
            _ if self.pods[&ifindex].wait(PATIENCE, |_| true).is_some() => Seen::Passed,
            _ => Seen::NotCarried,
        }
    }

    fn drain(&self) {
        self.pods.values().chain([&self.uplink]).for_each(Wire::drain);
    }

    fn comes_out(&self) -> bool {
        let out = || self.pods.values().chain([&self.uplink]).any(|wire| wire.peek());
        out() || {
            std::thread::sleep(PATIENCE);
            out()
        }
    }

    /// What the counters say; without filters they say nothing.
    fn judge(&self, ifindex: u32, before: Counted) -> Seen {
        for _ in 0..3 {
            let now = self.counted(ifindex);
            if now.drops > before.drops {
                return Seen::Dropped;
            }
            if now.packets > before.packets {
                return Seen::Passed;
            }
            std::thread::sleep(PATIENCE / 40);
        }
        Seen::NotCarried
    }

    fn counted(&self, ifindex: u32) -> Counted {
        self.qdiscs.counted(ifindex).expect("rtnetlink")
    }
}

/// Lines for `ip -batch` that lead an address to an interface.
pub fn route(address: IpAddr, interface: &str) -> String {
    let (family, length) = if address.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
    let far = mac(FAR_MAC);
    format!(
        "{family} route replace {address}/{length} dev {interface}\n{family} neigh replace {address} lladdr {far} dev {interface} nud permanent\n"
    )
}

/// Runs lines of `ip -batch`, each after its family (`-4`, `-6`); any that fails ends the test.
pub fn ip_batch(lines: &str) {
    let file = "/run/ip-batch";
    // One family a batch: its option is one of the whole command.
    for family in ["-4", "-6"] {
        let chosen = lines.lines().filter_map(|line| line.strip_prefix(family));
        let text: Vec<&str> = chosen.map(str::trim_start).collect();
        std::fs::write(file, text.join("\n") + "\n").expect("a file");
        lab::shell(&format!("ip {family} -batch {file}"));
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

/// The destination address of an untagged IP frame.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    match (frame.get(12..14)?, frame.get(14)? >> 4) {
        ([8, 0], 4) => Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?)),
        ([0x86, 0xdd], 6) => Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?)),
        _ => None,
    }
}
