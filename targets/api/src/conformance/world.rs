//! The small world in which the packet cases play: two pods, a few remotes, and a policy for each
//! direction that can be changed by writing one endpoint word.
//!
//! | who | IPv4 | IPv6 | class | |
//! |---|---|---|---|---|
//! | pod A, endpoint 1 | 10.0.0.1 | fd00::1 | 2 | |
//! | pod B, endpoint 2 | 10.0.0.2 | fd00::2 | 1 | a friend |
//! | `friend` | 10.0.1.1 | fd00:1::1 | 1 | whom policies name |
//! | `stranger` | 10.0.9.9 | fd00:9::9 | 0 | whom nobody names |
//! | a network | 10.2.0.0/16 | fd00:2::/32 | 3 | named without ports |
//! | `service` | 10.96.0.1 | fd00:96::1 | 0 | a Service's with TCP 80, UDP 53 and SCTP 36412 |

use std::net::IpAddr;

use netpolc_table::{
    ActionId, Class, EndpointId, Entry, IfIndex, Incarnation, Key, PortClassId, Program, RowId,
    SetId, TableId, Write,
    schema::{self, Family, Mac, Word},
};

use crate::{
    frame::Packet,
    semantics::{HAS_PORTS, ip, tcp},
};

/// The interface by which packets from elsewhere come to the node.
pub const UPLINK: IfIndex = IfIndex::new(7);

/// A pod on the node: each case plays between two of them and remotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod's endpoint.
    pub endpoint: EndpointId,
    /// The host's end of the pod's interface.
    pub interface: IfIndex,
}

/// Endpoint 1.
pub const A: Pod = Pod { endpoint: EndpointId::new(1), interface: IfIndex::new(101) };
/// Endpoint 2, whose interface index aliases A's under small masks.
pub const B: Pod = Pod { endpoint: EndpointId::new(2), interface: IfIndex::new(101 + (1 << 20)) };

/// The policy of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Policy {
    /// The direction is not isolated.
    Open = 0,
    /// Nothing is permitted.
    Nothing = 1,
    /// Class 1 is permitted on TCP 80, UDP 53 and SCTP 36412, and class 3 everything.
    Some = 2,
    /// Classes 1 and 3 are permitted everything, protocols without ports included.
    Friends = 3,
    /// Class 1 is permitted every TCP port, by a rule with ports, and nothing else.
    Tcp = 4,
    /// Everyone is permitted everything.
    Everyone = 5,
}

impl Policy {
    const CLOSED: [Policy; 5] =
        [Policy::Nothing, Policy::Some, Policy::Friends, Policy::Tcp, Policy::Everyone];
}

/// The addresses of the world in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// The family that all addresses here belong to.
    pub family: Family,
    /// Pod A's address.
    pub a: IpAddr,
    /// Pod B's address.
    pub b: IpAddr,
    /// An address of class 1.
    pub friend: IpAddr,
    /// An address of class 0.
    pub stranger: IpAddr,
    /// An address of class 3.
    pub network: IpAddr,
    /// The address of a Service, where the case makes one.
    pub service: IpAddr,
}

impl Hosts {
    /// The addresses of this family.
    pub fn of(family: Family) -> Self {
        let [a, b, friend, stranger, network, service] = match family {
            Family::V4 => ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.9.9", "10.2.3.4", "10.96.0.1"],
            Family::V6 => {
                ["fd00::1", "fd00::2", "fd00:1::1", "fd00:9::9", "fd00:2:3::4", "fd00:96::1"]
            }
        }
        .map(|text| text.parse().expect("an address"));
        Hosts { family, a, b, friend, stranger, network, service }
    }

    /// The addresses of both families.
    pub fn both() -> [Self; 2] {
        Family::BOTH.map(Hosts::of)
    }
}

/// The ports of `service`, which also are those that [`Policy::Some`] names.
pub const SERVICE_PORTS: [(u8, u16); 3] = [(ip::TCP, 80), (ip::UDP, 53), (ip::SCTP, 36412)];

/// What leads into a tunnel: VXLAN, IPv4 and IPv6 in IP.
pub const TUNNELS: [(u8, u16); 3] = [(ip::UDP, 4789), (4, 0), (41, 0)];

/// The write that has A's egress policy [`Policy::Some`] permit the VXLAN port, and its neighbours,
/// to friends.
pub fn permit_tunnels() -> Write {
    let row = RowId::new(2 * (base(A, 10) + Policy::Some as u16));
    Write::put(
        TableId::Verdict,
        schema::verdict_key(row, PortClassId::new(6)),
        schema::plain(ActionId::Permit),
    )
}

/// The write that has the same policy permit protocols without ports to friends, as a rule for
/// everything does that is written out port by port.
pub fn permit_portless() -> Write {
    let row = RowId::new(2 * (base(A, 10) + Policy::Some as u16));
    Write::put(
        TableId::Verdict,
        schema::verdict_key(row, PortClassId::default()),
        schema::plain(ActionId::Permit),
    )
}

/// Has the tables tell echo requests of both families and protocol 50 apart, and has the rows of
/// [`Policy::Some`] permit some of that, of the four each another part.
pub fn tell_apart(program: &mut Program) {
    let mut put = |table: TableId, key, entry| program.table_mut(table).entries.insert(key, entry);
    let [echo, rest, other] = [10, 11, 12].map(PortClassId::new);
    for (protocol, request) in [(ip::ICMP, 0x800), (ip::ICMPV6, 0x8000)] {
        for (first, last, class) in [
            (0, request - 1, rest),
            (request, request + 0xff, echo),
            (request + 0x100, 0xffff, rest),
        ] {
            let key = schema::port_key(protocol, first, last);
            put(TableId::Port, key, schema::set_port_class(class));
        }
    }
    put(TableId::Port, schema::port_key(50, 0, 0xffff), schema::set_port_class(other));
    for (pod, offset, permitted) in [
        (A, 0, &[echo][..]),
        (A, 10, &[rest, other]),
        (B, 0, &[other]),
        (B, 10, &[PortClassId::default(), echo, rest, other]),
    ] {
        let row = RowId::new(2 * (base(pod, offset) + Policy::Some as u16));
        for class in permitted {
            let key = schema::verdict_key(row, *class);
            put(TableId::Verdict, key, schema::plain(ActionId::Permit));
        }
    }
}

/// The incarnation of `friend`.
pub const INCARNATION: Incarnation = Incarnation::new(0x1111);

/// The endpoint word of a pod; A's sets are odd, so that no two pods share one.
pub fn word(pod: Pod, ingress: Policy, egress: Policy) -> Word {
    let set = |policy: Policy, offset: u16| match policy {
        Policy::Open => SetId::default(),
        _ => SetId::new(base(pod, offset) + policy as u16),
    };
    let flag = |policy, flag| if policy == Policy::Open { 0 } else { flag };
    let flags = flag(ingress, Word::INGRESS) | flag(egress, Word::EGRESS) | Word::BRIDGED;
    Word {
        ingress_set: set(ingress, 0),
        egress_set: set(egress, 10),
        born_set: SetId::new(0),
        flags,
    }
}

/// The set by which a policy judges what is born on the node: that of what comes to the pod.
pub fn born_set(pod: Pod, policy: Policy) -> SetId {
    word(pod, policy, Policy::Open).ingress_set
}

fn base(pod: Pod, offset: u16) -> u16 {
    (pod.endpoint.get() - 1) * 20 + offset
}

/// The write that gives a pod these policies; all their sets are there already.
pub fn switch(pod: Pod, ingress: Policy, egress: Policy) -> Write {
    set_word(pod, word(pod, ingress, egress))
}

/// The write that gives a pod this word.
pub fn set_word(pod: Pod, word: Word) -> Write {
    Write::put(TableId::Endpoint, schema::endpoint_key(pod.endpoint), schema::set_policy(word))
}

/// The write that makes this a pod's hardware address; None: it has none that is known.
pub fn set_mac(pod: Pod, mac: Option<Mac>) -> Write {
    let key = schema::own_mac_key(pod.endpoint);
    match mac {
        Some(mac) => Write::put(TableId::OwnMac, key, schema::set_mac(mac)),
        None => Write::remove(TableId::OwnMac, key),
    }
}

/// The world with A's policies; B has none.
pub fn world(ingress: Policy, egress: Policy) -> Program {
    let mut program = Program::default();
    let mut put = |table, key: Key, entry: Entry| program.apply(&Write::put(table, key, entry));
    for (pod, word) in [(A, word(A, ingress, egress)), (B, word(B, Policy::Open, Policy::Open))] {
        put(
            TableId::Interface,
            schema::interface_key(pod.interface),
            schema::set_endpoint(pod.endpoint),
        );
        put(TableId::Endpoint, schema::endpoint_key(pod.endpoint), schema::set_policy(word));
        for hosts in Hosts::both() {
            let own = if pod == A { hosts.a } else { hosts.b };
            put(
                TableId::own(hosts.family),
                schema::own_key(pod.endpoint, own),
                schema::plain(ActionId::Own),
            );
        }
    }
    for hosts in Hosts::both() {
        let (host, net) = (hosts.family.bits(), if hosts.family == Family::V4 { 16 } else { 32 });
        let start: IpAddr = if hosts.family == Family::V4 { "10.2.0.0" } else { "fd00:2::" }
            .parse()
            .expect("an address");
        for (prefix, length, class, incarnation) in [
            (hosts.a, host, 2, Incarnation::new(0xaaaa)),
            (hosts.b, host, 1, Incarnation::new(0xbbbb)),
            (hosts.friend, host, 1, INCARNATION),
            (start, net, 3, Incarnation::default()),
        ] {
            let key = schema::remote_key(prefix, length);
            put(
                TableId::remote(hosts.family),
                key,
                schema::set_remote(Class::new(hosts.family, class), incarnation),
            );
        }
        for (protocol, port) in SERVICE_PORTS {
            let key = schema::service_key(hosts.service, protocol, port);
            put(TableId::service(hosts.family), key, schema::plain(ActionId::Defer));
        }
    }
    let link = schema::on_link_key("fd00::".parse().expect("an address"), 64);
    put(TableId::OnLinkV6, link, schema::plain(ActionId::OnLink));
    for (protocol, port) in TUNNELS {
        put(TableId::Tunnel, schema::tunnel_key(protocol, port), schema::plain(ActionId::Tunnel));
    }
    // Three intervals a protocol; classes 1-3 TCP, 4-6 UDP, 7-9 SCTP.
    for (i, (protocol, port)) in SERVICE_PORTS.into_iter().enumerate() {
        let class = |n: u16| schema::set_port_class(PortClassId::new(3 * i as u16 + n));
        put(TableId::Port, schema::port_key(protocol, 0, port - 1), class(1));
        put(TableId::Port, schema::port_key(protocol, port, port), class(2));
        put(TableId::Port, schema::port_key(protocol, port + 1, 0xffff), class(3));
    }
    for (pod, offset) in [(A, 0), (A, 10), (B, 0), (B, 10)] {
        for policy in Policy::CLOSED {
            let number = base(pod, offset) + policy as u16;
            // Rows belong to one set each: two a set.
            let (set, row) = (SetId::new(number), RowId::new(2 * number));
            for family in Family::BOTH {
                let action =
                    if policy == Policy::Everyone { ActionId::Permit } else { ActionId::Deny };
                put(TableId::Base, schema::base_key(set, family), schema::plain(action));
                let mut class = |n, entry| {
                    put(TableId::Row, schema::row_key(set, Class::new(family, n)), entry)
                };
                match policy {
                    Policy::Some | Policy::Tcp => class(1, schema::set_row(row)),
                    Policy::Friends => class(1, schema::plain(ActionId::Permit)),
                    _ => {}
                }
                if matches!(policy, Policy::Some | Policy::Friends) {
                    class(3, schema::plain(ActionId::Permit));
                }
            }
            let permitted: &[u16] = match policy {
                Policy::Some => &[2, 5, 8],
                Policy::Tcp => &[1, 2, 3],
                _ => &[],
            };
            for &class in permitted {
                put(
                    TableId::Verdict,
                    schema::verdict_key(row, PortClassId::new(class)),
                    schema::plain(ActionId::Permit),
                );
            }
        }
    }
    program
}

/// What a packet of a [`Talk`] is, above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A TCP packet with these flags.
    Tcp(u8),
    /// A UDP datagram.
    Udp,
    /// An SCTP packet whose first chunk has this type.
    Sctp(u8),
    /// An ICMP message of this type, with the local port as its identifier.
    Icmp(u8),
    /// A packet of this protocol, which has no ports.
    Other(u8),
}

/// A bare SYN, which opens a connection.
pub const SYN: Unit = Unit::Tcp(tcp::SYN);
/// The answer to [`SYN`].
pub const SYN_ACK: Unit = Unit::Tcp(tcp::SYN | tcp::ACK);
/// Data, or the end of a handshake.
pub const ACK: Unit = Unit::Tcp(tcp::ACK);
/// The end of one direction.
pub const FIN: Unit = Unit::Tcp(tcp::FIN | tcp::ACK);
/// The end of both directions.
pub const RST: Unit = Unit::Tcp(tcp::RST | tcp::ACK);

/// A conversation between a pod and a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talk {
    /// The pod's address and port.
    pub local: (IpAddr, u16),
    /// The remote's address and port.
    pub remote: (IpAddr, u16),
}

impl Talk {
    /// A conversation between these addresses and ports.
    pub fn new(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Self {
        Talk { local: (local, local_port), remote: (remote, remote_port) }
    }

    /// A packet from the pod.
    pub fn out(&self, unit: Unit) -> Vec<u8> {
        self.out_packet(unit).build()
    }

    /// A packet to the pod.
    pub fn back(&self, unit: Unit) -> Vec<u8> {
        self.back_packet(unit).build()
    }

    /// A packet from the pod, to be changed.
    pub fn out_packet(&self, unit: Unit) -> Packet {
        packet(self.local, self.remote, unit, self.local.1)
    }

    /// A packet to the pod, to be changed.
    pub fn back_packet(&self, unit: Unit) -> Packet {
        packet(self.remote, self.local, unit, self.local.1)
    }
}

fn packet(from: (IpAddr, u16), to: (IpAddr, u16), unit: Unit, id: u16) -> Packet {
    let packet = Packet::new(from.0, to.0);
    match unit {
        Unit::Tcp(flags) => packet.tcp(from.1, to.1, flags),
        Unit::Udp => packet.udp(from.1, to.1).payload(b"question"),
        Unit::Sctp(chunk) => packet.sctp(from.1, to.1, chunk).payload(&[0; 16]),
        Unit::Icmp(kind) => packet.icmp(kind, id).payload(b"ping"),
        Unit::Other(protocol) => {
            debug_assert!(!HAS_PORTS.contains(&protocol));
            packet.protocol(protocol).payload(&[0; 16])
        }
    }
}

/// The name of a case that is run for each family.
pub fn name(text: &str, hosts: &Hosts) -> String {
    format!("{text}, {:?}", hosts.family)
}

/// A opens to `friend`'s port 80.
pub fn web(hosts: &Hosts) -> Talk {
    Talk::new(hosts.a, 4000, hosts.friend, 80)
}

/// A opens to `friend`'s port 53.
pub fn dns(hosts: &Hosts) -> Talk {
    Talk::new(hosts.a, 4000, hosts.friend, 53)
}

/// `friend` opens to A's port 80.
pub fn served(hosts: &Hosts) -> Talk {
    Talk::new(hosts.a, 80, hosts.friend, 4000)
}
