//! A node in the lab: pods behind veth pairs, routed by the kernel with connection tracking as
//! kube-proxy has it, an uplink, and raw sockets at the other ends. No pod has a stack of its own,
//! so every packet is one that a test sent.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    cell::RefCell, collections::BTreeMap, fmt::Write, net::IpAddr, process::Command, time::Duration,
};

use netpolc_table::IfIndex;
use netpolc_target_flower::{Flower, lowered::Lowered};
use netpolc_testbed::{
    lab::{
        self, Simnic,
        wire::{Counted, Qdiscs, Wire, send_born_here},
    },
    netns::{Namespace, interface_index},
};

/// Every interface of the node; frames to be routed carry it as destination.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Every other end.
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// How long a packet may take from one end to another.
const TIMEOUT: Duration = Duration::from_millis(40);

/// A pod's place on the node.
pub struct Place {
    /// The name of the host-side interface, and of its other end.
    pub name: String,
    /// The index of the host-side interface.
    pub ifindex: IfIndex,
    /// The addresses that are routed to it.
    pub addresses: Vec<IpAddr>,
}

/// A node in its own network namespace, whose pods and uplink are wires that the test holds.
pub struct Node {
    /// Host-side interface -> the pod's end.
    pub pods: BTreeMap<IfIndex, Wire>,
    /// Host-side interface -> itself, for what no stack would send.
    pub hosts: BTreeMap<IfIndex, Wire>,
    /// The uplink's other end.
    pub uplink: Wire,
    /// Address -> host-side interface.
    pub routes: BTreeMap<IpAddr, IfIndex>,
    /// What installs filters on the interfaces.
    pub flower: Flower,
    qdiscs: RefCell<Qdiscs>,
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
        let mut script = setup();
        let mut pair = |name: &str, index: &str| {
            let (node, far) = (mac(NODE_MAC), mac(FAR_MAC));
            writeln!(
                script,
                "ip link add dev {name} {index} address {node} type veth peer name {name} netns \
                 ends address {far}
                ip link set dev {name} addrgenmode none; ip link set dev {name} up; ip -n ends \
                 link set dev {name} up"
            )
            .expect("a string");
        };
        pair("uplink", "");
        places.iter().for_each(|p| pair(&p.name, &format!("index {}", p.ifindex)));
        lab::shell(&script);
        let ends = |place: &Place| (place.ifindex, place.name.clone(), place.name.clone());
        Self::wired(places, &places.iter().map(ends).collect::<Vec<_>>(), ("uplink", "uplink"))
    }

    /// The same behind the representors of a simulated NIC: `simr0`... with its personality, the
    /// uplink is `simp0`.
    pub fn on_nic(driver: &str, pods: usize) -> (Self, Simnic, Vec<IfIndex>) {
        let nic = lab::simnic(driver, pods, &[]);
        let mut script = setup();
        let (node, far) = (mac(NODE_MAC), mac(FAR_MAC));
        let pairs: Vec<(String, String)> =
            (0..pods).map(|i| (format!("simr{i}"), format!("simv{i}"))).collect();
        for (host, end) in pairs.iter().map(|(h, e)| (&**h, &**e)).chain([("simp0", "simw0")]) {
            writeln!(
                script,
                "ip link set dev {host} address {node} addrgenmode none; ip link set dev {host} up
                ip link set dev {end} netns ends; ip -n ends link set dev {end} address {far} up"
            )
            .expect("a string");
        }
        lab::shell(&script);
        let index = |name: &str| IfIndex::new(interface_index(name).expect("just made"));
        let ends: Vec<_> = pairs.into_iter().map(|(host, end)| (index(&host), host, end)).collect();
        let ports = ends.iter().map(|(ifindex, ..)| *ifindex).collect();
        (Self::wired(&[], &ends, ("simp0", "simw0")), nic, ports)
    }

    fn wired(places: &[Place], ends: &[(IfIndex, String, String)], uplink: (&str, &str)) -> Self {
        let (far, dev) = (mac(FAR_MAC), uplink.0);
        let mut lines = format!(
            "-4 route replace default via 169.254.0.1 dev {dev} onlink\n-6 route replace default \
             via fe80::ff dev {dev}\n\
             -4 neigh replace 169.254.0.1 lladdr {far} dev {dev} nud permanent\n-6 neigh replace \
             fe80::ff lladdr {far} dev {dev} nud permanent\n"
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
        let space = Namespace::open("ends").expect("just made");
        let far = |name: &str| Wire::open_in(&space, name).expect("just made");
        Self {
            pods: ends.iter().map(|(ifindex, _, end)| (*ifindex, far(end))).collect(),
            hosts: ends
                .iter()
                .map(|(ifindex, host, _)| (*ifindex, Wire::open(host).expect("just made")))
                .collect(),
            uplink: far(uplink.1),
            routes,
            flower: Flower::new().expect("rtnetlink"),
            qdiscs: Qdiscs::open().expect("rtnetlink").into(),
        }
    }

    /// Installs filters; none may be refused.
    pub fn install(&mut self, lowered: &Lowered) {
        let report = self.flower.sync(lowered).expect("filters");
        assert!(report.refused.is_empty(), "{:?}", report.refusals());
    }

    /// A packet from a pod, at the ingress hook of its interface. Passing is to pass the hook.
    pub fn pod_sends(&self, ifindex: IfIndex, frame: &[u8]) -> Seen {
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
    pub fn pod_sends_beyond(&self, ifindex: IfIndex, frame: &[u8]) -> Seen {
        match self.pod_sends(ifindex, frame) {
            Seen::Passed if !self.comes_out() => Seen::NotCarried,
            seen => seen,
        }
    }

    /// A packet to a pod, at the egress hook of its interface: routed where the stack would route
    /// it there, else put to the hook. Passing is to arrive.
    pub fn to_pod(&self, ifindex: IfIndex, frame: &[u8], destination: Option<IpAddr>) -> Seen {
        let before = self.counted(ifindex);
        self.drain();
        let routed = destination.is_some_and(|d| self.routes.get(&d) == Some(&ifindex));
        let wire = if routed { &self.uplink } else { &self.hosts[&ifindex] };
        let _ = wire.send(frame);
        self.arrived(ifindex, before)
    }

    /// A packet to a pod that the node itself makes.
    pub fn born(&self, ifindex: IfIndex, packet: &[u8], destination: IpAddr) -> Seen {
        let before = self.counted(ifindex);
        self.drain();
        send_born_here(packet, destination).expect("the host sends it");
        self.arrived(ifindex, before)
    }

    fn arrived(&self, ifindex: IfIndex, before: Counted) -> Seen {
        match self.judge(ifindex, before) {
            Seen::Dropped => Seen::Dropped,
            _ if self.pods[&ifindex].wait(TIMEOUT, |_| true).is_some() => Seen::Passed,
            _ => Seen::NotCarried,
        }
    }

    /// Forgets what has come out.
    pub fn drain(&self) {
        self.pods.values().chain([&self.uplink]).for_each(Wire::drain);
    }

    fn comes_out(&self) -> bool {
        let out = || self.pods.values().chain([&self.uplink]).any(|wire| wire.peek());
        out() || {
            std::thread::sleep(TIMEOUT);
            out()
        }
    }

    /// What the counters say; without filters they say nothing.
    fn judge(&self, ifindex: IfIndex, before: Counted) -> Seen {
        for _ in 0..3 {
            let now = self.counted(ifindex);
            if now.drops > before.drops {
                return Seen::Dropped;
            }
            if now.packets > before.packets {
                return Seen::Passed;
            }
            std::thread::sleep(TIMEOUT / 40);
        }
        Seen::NotCarried
    }

    fn counted(&self, ifindex: IfIndex) -> Counted {
        self.qdiscs.borrow_mut().counted(ifindex.get()).expect("rtnetlink")
    }
}

/// A node that routes and tracks, and a namespace for the other ends.
fn setup() -> String {
    String::from(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
             net.ipv4.conf.all.rp_filter=0
            sysctl -qw net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.accept_dad=0 \
             net.ipv6.conf.default.accept_dad=0
            sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
            ip netns add ends; ip netns exec ends sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
             net.ipv6.conf.default.disable_ipv6=1
            nft 'table inet track { chain forward { type filter hook forward priority 0; ct state \
             new accept; }; }'
            sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1 \
             net.netfilter.nf_conntrack_tcp_loose=0\n",
    )
}

/// Lines for `ip -batch` that lead an address to an interface.
pub fn route(address: IpAddr, interface: &str) -> String {
    let (family, length) = if address.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
    let far = mac(FAR_MAC);
    format!(
        "{family} route replace {address}/{length} dev {interface}\n{family} neigh replace \
         {address} lladdr {far} dev {interface} nud permanent\n"
    )
}

/// The line that takes an address's route away.
pub fn unroute(address: IpAddr) -> String {
    let (family, length) = if address.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
    format!("{family} route del {address}/{length}\n")
}

/// Runs lines of `ip -batch`, each after its family (`-4`, `-6`); any that fails ends the test.
pub fn ip_batch(lines: &str) {
    let file = "/run/ip-batch";
    // One family a batch: its option is one of the whole command.
    for family in ["-4", "-6"] {
        let chosen = lines.lines().filter_map(|line| line.strip_prefix(family));
        let text: Vec<&str> = chosen.map(str::trim_start).collect();
        if text.is_empty() {
            continue;
        }
        std::fs::write(file, text.join("\n") + "\n").expect("a file");
        let output = Command::new("ip").args([family, "-batch", file]).output().expect("ip");
        assert!(output.status.success(), "{}\n{lines}", String::from_utf8_lossy(&output.stderr));
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
