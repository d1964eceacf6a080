//! The tables of a netpolc program, their keys and actions, and typed constructors for both.
//!
//! The pipelines that read them, once per packet and endpoint (`to_pod` at the egress hook of the
//! pod's host-side interface with the source as remote, `from_pod` at its ingress hook with the
//! destination as remote):
//!
//! ```text
//! endpoint = interface[ifindex]                    none: not ours, next
//! word     = endpoint[endpoint]                    {ingress set, egress set, flags}
//! own_mac[endpoint]                                on a bridge: the frame's source, or its unicast
//!                                                  destination, must be this address (S55)
//! from_pod, guard flag: own_v4/own_v6[endpoint, source] must hit (S55)
//!                        on_link_v6[destination], bridged flag: neighbour discovery goes no further (S36)
//!                        tunnel[protocol, destination port]: only where row and verdict permit it (S45)
//! direction not isolated: permit
//! class    = remote_v4/remote_v6[remote]           default class 0
//! pc       = port[protocol, destination port]      default 0: protocols without ports
//! row      = base[set, family]                     permit: done; default deny
//! row      = row[set, family, class]               overrides base on a hit
//! verdict[row, pc]                                 permit, or the default: deny
//! from_pod, denied: service_v4/service_v6[remote, protocol, destination port]
//!                                                  defer: on, to be judged after translation (S48)
//! ```
//!
//! A packet that was deferred is judged once more where it leaves the node or comes to a local pod: by the
//! sender's egress set, with the destination that it has by then as remote.
//!
//! Rows belong to one set each. Set, class, row and port-class ids mean nothing by themselves and
//! never change meaning while a live endpoint word can reach them (see [`crate::write`]).
//! IPv4 and IPv6 class ids are separate spaces. Class 0 is "an address no peer names".

use std::net::IpAddr;

use crate::{Entry, Key, Match};

/// How a field is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchKind {
    /// Equality.
    Exact,
    /// Longest prefix.
    Lpm,
    /// A closed interval; entries of one table never overlap, so no priority is needed.
    Range,
}

/// One key field of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// As printed.
    pub name: &'static str,
    /// Bits.
    pub width: u8,
    /// How it is matched.
    pub kind: MatchKind,
    /// How its values print.
    pub format: Format,
}

/// How a value prints and parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Decimal.
    Decimal,
    /// 0x...
    Hex,
    /// Dotted quad.
    Ipv4,
    /// RFC 5952.
    Ipv6,
    /// tcp, udp, sctp, or a number.
    Protocol,
}

/// An action with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionSpec {
    /// Its id.
    pub id: ActionId,
    /// As printed.
    pub name: &'static str,
    /// Name, bits and format of each parameter.
    pub params: &'static [(&'static str, u8, Format)],
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its id.
    pub id: TableId,
    /// As printed.
    pub name: &'static str,
    /// Its key.
    pub fields: &'static [FieldSpec],
    /// What entries may do.
    pub actions: &'static [ActionId],
    /// What a miss does, and with what parameters.
    pub default: (ActionId, [u64; 3]),
}

macro_rules! ids {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$item])* $variant),* }
        impl $name {
            /// All, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
        }
    };
}

ids! {
    /// The tables, in pipeline order.
    TableId {
        /// ifindex -> endpoint
        Interface,
        /// endpoint -> word
        Endpoint,
        /// endpoint, address -> its own
        OwnV4,
        /// endpoint, address -> its own
        OwnV6,
        /// address -> class, incarnation
        RemoteV4,
        /// address -> class, incarnation
        RemoteV6,
        /// protocol, destination port -> port class
        Port,
        /// set, family -> what holds for a class that `Row` does not list
        Base,
        /// set, family, class -> row
        Row,
        /// row, port class -> permit
        Verdict,
        /// address, protocol, port -> a Service's: judged after translation
        ServiceV4,
        /// address, protocol, port -> a Service's: judged after translation
        ServiceV6,
        /// protocol, destination port -> leads into a tunnel that ends on a node
        Tunnel,
        /// address -> on the link of this node's pods
        OnLinkV6,
        /// endpoint -> its hardware address, where it hangs on a bridge
        OwnMac,
        /// kind, id -> fingerprint of its meaning; no packet reads it
        Directory,
    }
}

ids! {
    /// The actions of all tables.
    ActionId {
        /// Nothing found; the packet is not ours (interface) or not its own (own).
        Miss,
        /// Sets the endpoint.
        SetEndpoint,
        /// Sets the word: ingress set, egress set, flags.
        SetPolicy,
        /// The address is the endpoint's own.
        Own,
        /// Sets remote class and incarnation.
        SetRemote,
        /// Sets the port class.
        SetPortClass,
        /// Sets the row.
        SetRow,
        /// Verdict.
        Permit,
        /// Verdict.
        Deny,
        /// What was denied goes on, marked, and is judged after Service translation.
        Defer,
        /// The packet leads into a tunnel.
        Tunnel,
        /// The address is on the pods' own link.
        OnLink,
        /// Sets the hardware address.
        SetMac,
        /// Names what an id means.
        Fingerprint,
    }
}

use ActionId as A;
use Format::{Decimal, Hex, Ipv4, Ipv6, Protocol};
use MatchKind::{Exact, Lpm, Range};

const fn field(name: &'static str, width: u8, kind: MatchKind, format: Format) -> FieldSpec {
    FieldSpec { name, width, kind, format }
}

impl TableId {
    /// The table's description.
    pub fn spec(self) -> &'static TableSpec {
        &TABLES[self as usize]
    }

    /// The remote table of a family.
    pub fn remote(family: Family) -> Self {
        match family {
            Family::V4 => TableId::RemoteV4,
            Family::V6 => TableId::RemoteV6,
        }
    }

    /// The own table of a family.
    pub fn own(family: Family) -> Self {
        match family {
            Family::V4 => TableId::OwnV4,
            Family::V6 => TableId::OwnV6,
        }
    }

    /// The service table of a family.
    pub fn service(family: Family) -> Self {
        match family {
            Family::V4 => TableId::ServiceV4,
            Family::V6 => TableId::ServiceV6,
        }
    }
}

impl ActionId {
    /// The action's description.
    pub fn spec(self) -> &'static ActionSpec {
        &ACTIONS[self as usize]
    }
}

/// In the order of [`TableId`].
static TABLES: [TableSpec; 16] = [
    TableSpec {
        id: TableId::Interface,
        name: "interface",
        fields: &[field("ifindex", 32, Exact, Decimal)],
        actions: &[A::SetEndpoint],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::Endpoint,
        name: "endpoint",
        fields: &[field("endpoint", 16, Exact, Decimal)],
        actions: &[A::SetPolicy],
        default: (A::SetPolicy, [0; 3]),
    },
    TableSpec {
        id: TableId::OwnV4,
        name: "own_v4",
        fields: &[field("endpoint", 16, Exact, Decimal), field("address", 32, Exact, Ipv4)],
        actions: &[A::Own],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::OwnV6,
        name: "own_v6",
        fields: &[field("endpoint", 16, Exact, Decimal), field("address", 128, Exact, Ipv6)],
        actions: &[A::Own],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::RemoteV4,
        name: "remote_v4",
        fields: &[field("address", 32, Lpm, Ipv4)],
        actions: &[A::SetRemote],
        default: (A::SetRemote, [0; 3]),
    },
    TableSpec {
        id: TableId::RemoteV6,
        name: "remote_v6",
        fields: &[field("address", 128, Lpm, Ipv6)],
        actions: &[A::SetRemote],
        default: (A::SetRemote, [0; 3]),
    },
    TableSpec {
        id: TableId::Port,
        name: "port",
        fields: &[field("protocol", 8, Exact, Protocol), field("port", 16, Range, Decimal)],
        actions: &[A::SetPortClass],
        default: (A::SetPortClass, [0; 3]),
    },
    TableSpec {
        id: TableId::Base,
        name: "base",
        fields: &[field("set", 16, Exact, Decimal), field("family", 8, Exact, Decimal)],
        actions: &[A::Permit, A::Deny, A::SetRow],
        default: (A::Deny, [0; 3]),
    },
    TableSpec {
        id: TableId::Row,
        name: "row",
        fields: &[
            field("set", 16, Exact, Decimal),
            field("family", 8, Exact, Decimal),
            field("class", 16, Exact, Decimal),
        ],
        actions: &[A::Permit, A::Deny, A::SetRow],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::Verdict,
        name: "verdict",
        fields: &[field("row", 16, Exact, Decimal), field("port_class", 16, Exact, Decimal)],
        actions: &[A::Permit],
        default: (A::Deny, [0; 3]),
    },
    TableSpec {
        id: TableId::ServiceV4,
        name: "service_v4",
        fields: &[
            field("address", 32, Exact, Ipv4),
            field("protocol", 8, Exact, Protocol),
            field("port", 16, Exact, Decimal),
        ],
        actions: &[A::Defer],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::ServiceV6,
        name: "service_v6",
        fields: &[
            field("address", 128, Exact, Ipv6),
            field("protocol", 8, Exact, Protocol),
            field("port", 16, Exact, Decimal),
        ],
        actions: &[A::Defer],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::Tunnel,
        name: "tunnel",
        fields: &[field("protocol", 8, Exact, Protocol), field("port", 16, Exact, Decimal)],
        actions: &[A::Tunnel],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::OnLinkV6,
        name: "on_link_v6",
        fields: &[field("address", 128, Lpm, Ipv6)],
        actions: &[A::OnLink],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::OwnMac,
        name: "own_mac",
        fields: &[field("endpoint", 16, Exact, Decimal)],
        actions: &[A::SetMac],
        default: (A::Miss, [0; 3]),
    },
    TableSpec {
        id: TableId::Directory,
        name: "directory",
        fields: &[field("kind", 8, Exact, Decimal), field("id", 32, Exact, Decimal)],
        actions: &[A::Fingerprint],
        default: (A::Miss, [0; 3]),
    },
];

/// In the order of [`ActionId`].
static ACTIONS: [ActionSpec; 14] = [
    ActionSpec { id: A::Miss, name: "miss", params: &[] },
    ActionSpec { id: A::SetEndpoint, name: "set_endpoint", params: &[("endpoint", 16, Decimal)] },
    ActionSpec {
        id: A::SetPolicy,
        name: "set_policy",
        params: &[("ingress_set", 16, Decimal), ("egress_set", 16, Decimal), ("flags", 8, Hex)],
    },
    ActionSpec { id: A::Own, name: "own", params: &[] },
    ActionSpec { id: A::SetRemote, name: "set_remote", params: &[("class", 16, Decimal), ("incarnation", 16, Hex)] },
    ActionSpec { id: A::SetPortClass, name: "set_port_class", params: &[("port_class", 16, Decimal)] },
    ActionSpec { id: A::SetRow, name: "set_row", params: &[("row", 16, Decimal)] },
    ActionSpec { id: A::Permit, name: "permit", params: &[] },
    ActionSpec { id: A::Deny, name: "deny", params: &[] },
    ActionSpec { id: A::Defer, name: "defer", params: &[] },
    ActionSpec { id: A::Tunnel, name: "tunnel", params: &[] },
    ActionSpec { id: A::OnLink, name: "on_link", params: &[] },
    ActionSpec { id: A::SetMac, name: "set_mac", params: &[("address", 48, Hex)] },
    ActionSpec { id: A::Fingerprint, name: "fingerprint", params: &[("value", 64, Hex)] },
];

/// A hardware address of Ethernet.
pub type Mac = [u8; 6];

/// The address family of a packet or class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: 4 in keys.
    V4,
    /// IPv6: 6 in keys. IPv4-mapped addresses are IPv6 (S23).
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }

    /// 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// The word of an endpoint; targets store it so that a packet reads it in one load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// 0: none.
    pub ingress_set: u16,
    /// 0: none.
    pub egress_set: u16,
    /// Bits below.
    pub flags: u8,
}

impl Word {
    /// Packets to the pod are judged by `ingress_set`.
    pub const INGRESS: u8 = 1;
    /// Packets from the pod are judged by `egress_set`.
    pub const EGRESS: u8 = 2;
    /// Opening packets make state although nothing is isolated (yet): adoption (S40).
    pub const RECORD: u8 = 4;
    /// The source of packets from the pod must be its own (S55).
    pub const GUARD: u8 = 8;
    /// The pod hangs on a bridge of the node: `on_link_v6` holds for it (S36).
    pub const BRIDGED: u8 = 16;
}

/// What the ids in the directory are ids of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IdKind {
    /// A pod: namespace, name, uid.
    Endpoint = 1,
    /// A policy set: direction, policies' rules, resolved ports.
    Set = 2,
    /// An IPv4 class: its peers.
    ClassV4 = 3,
    /// An IPv6 class: its peers.
    ClassV6 = 4,
}

/// Key of `interface`.
pub fn interface_key(ifindex: u32) -> Key {
    Key::new([Match::exact(ifindex)])
}
/// Key of `endpoint`.
pub fn endpoint_key(endpoint: u16) -> Key {
    Key::new([Match::exact(endpoint)])
}
/// Key of `own_v4` or `own_v6`.
pub fn own_key(endpoint: u16, address: IpAddr) -> Key {
    Key::new([Match::exact(endpoint), Match::exact(address)])
}
/// Key of `remote_v4` or `remote_v6`; host bits must be zero.
pub fn remote_key(prefix: IpAddr, length: u8) -> Key {
    Key::new([Match::Lpm { value: prefix.into(), length }])
}
/// Key of `port`.
pub fn port_key(protocol: u8, first: u16, last: u16) -> Key {
    Key::new([Match::exact(protocol), Match::Range { low: first.into(), high: last.into() }])
}
/// Key of `base`.
pub fn base_key(set: u16, family: Family) -> Key {
    Key::new([Match::exact(set), Match::exact(family.number())])
}
/// Key of `row`.
pub fn row_key(set: u16, family: Family, class: u16) -> Key {
    Key::new([Match::exact(set), Match::exact(family.number()), Match::exact(class)])
}
/// Key of `verdict`.
pub fn verdict_key(row: u16, port_class: u16) -> Key {
    Key::new([Match::exact(row), Match::exact(port_class)])
}
/// Key of `service_v4` or `service_v6`.
pub fn service_key(address: IpAddr, protocol: u8, port: u16) -> Key {
    Key::new([Match::exact(address), Match::exact(protocol), Match::exact(port)])
}
/// Key of `tunnel`; port 0 where the protocol has no ports.
pub fn tunnel_key(protocol: u8, port: u16) -> Key {
    Key::new([Match::exact(protocol), Match::exact(port)])
}
/// Key of `on_link_v6`; host bits must be zero.
pub fn on_link_key(prefix: std::net::Ipv6Addr, length: u8) -> Key {
    Key::new([Match::Lpm { value: IpAddr::from(prefix).into(), length }])
}
/// Key of `own_mac`.
pub fn own_mac_key(endpoint: u16) -> Key {
    Key::new([Match::exact(endpoint)])
}
/// Key of `directory`.
pub fn directory_key(kind: IdKind, id: u32) -> Key {
    Key::new([Match::exact(kind as u8), Match::exact(id)])
}

/// An entry with one parameter.
pub fn entry(action: ActionId, param: impl Into<u64>) -> Entry {
    Entry::new(action, [param.into(), 0, 0])
}
/// permit, deny, defer, own: an entry without parameters.
pub fn plain(action: ActionId) -> Entry {
    Entry::new(action, [0; 3])
}
/// Entry of `endpoint`.
pub fn set_policy(word: Word) -> Entry {
    Entry::new(A::SetPolicy, [word.ingress_set.into(), word.egress_set.into(), word.flags.into()])
}
/// Entry of a remote table. Incarnation 0: not one pod's address.
pub fn set_remote(class: u16, incarnation: u16) -> Entry {
    Entry::new(A::SetRemote, [class.into(), incarnation.into(), 0])
}
/// Entry of `own_mac`.
pub fn set_mac(mac: Mac) -> Entry {
    let [a, b, c, d, e, f] = mac;
    entry(A::SetMac, u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}
/// The address in an entry of `own_mac`.
pub fn mac_of(entry: &Entry) -> Mac {
    let [_, _, a, b, c, d, e, f] = entry.params[0].to_be_bytes();
    [a, b, c, d, e, f]
}
/// The word in an entry of `endpoint`.
pub fn word_of(entry: &Entry) -> Word {
    Word { ingress_set: entry.params[0] as u16, egress_set: entry.params[1] as u16, flags: entry.params[2] as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_stand_in_the_order_of_their_ids() {
        assert!(TableId::ALL.iter().all(|t| t.spec().id == *t));
        assert!(ActionId::ALL.iter().all(|a| a.spec().id == *a));
        assert_eq!((TableId::ALL.len(), ActionId::ALL.len()), (TABLES.len(), ACTIONS.len()));
    }
}
