//! The tables of a netpolc program: their keys and actions, declared once.
//!
//! From the two declarations below come the descriptions that text form, JSON and checks read
//! ([`TableId::spec`], [`ActionId::spec`]), and typed views of keys and entries with their
//! constructors (`RowKey::of`, [`row_key`]; `SetRow::of`, [`set_row`]). Nothing else knows at which
//! place of a key or entry an id stands. A view's doc is that of its table or action; its fields
//! are those of the declaration.
//!
//! ```
//! use netpolc_table::{ClassId, SetId, id::V4, schema::{RowKey, row_key}, text, TableId};
//!
//! let key = row_key(SetId::new(7), ClassId::<V4>::new(3));
//! assert_eq!(RowKey::of(&key).set, SetId::new(7));
//! assert_eq!(text::key(TableId::Row, &key), "7, 4, 3");
//! ```
//!
//! The pipelines that read them, once per packet and endpoint (`to_pod` at the egress hook of the
//! pod's host-side interface with the source as remote, `from_pod` at its ingress hook with the
//! destination as remote):
//!
//! ```text
//! endpoint = interface[ifindex]                    none: not ours, next
//! word     = endpoint[endpoint]                    {ingress set, egress set, born set, flags}
//! own_mac[endpoint]                                on a bridge: the frame's source, or its unicast
//!                                                  destination, must be this address (S55)
//! from_pod, guard flag: own_v4/own_v6[endpoint, source] must hit (S55)
//!                        on_link_v6[destination], bridged flag: neighbour discovery goes no further (S36)
//!                        tunnel[protocol, destination port]: only where row and verdict permit the
//!                        port, and never where the protocol has none (S45)
//! direction not isolated: permit
//! to_pod, born on the node (S44): permit, where the word has a born set: as that set says (S82)
//! class    = remote_v4/remote_v6[remote]           default class 0
//! pc       = port[protocol, destination port]      default 0: protocols without ports
//!                                                  (ICMP: type << 8 | code; other protocols: 0)
//! row      = base[set, family]                     permit: done; default deny
//! row      = row[set, family, class]               overrides base on a hit
//! verdict[row, pc]                                 permit, or the default: deny
//! tried flag of the direction: tried[row, pc]      a hit: what is only tried would answer otherwise
//! from_pod, denied: service_v4/service_v6[remote, protocol, destination port]
//!                                                  defer: on, to be judged after translation (S48)
//! ```
//!
//! A packet that was deferred is judged once more where it leaves the node or comes to a local pod:
//! by the sender's egress set, with the destination that it has by then as remote.
//!
//! Rows belong to one set each. Set, class, row and port-class ids mean nothing by themselves and
//! never change meaning while a live endpoint word can reach them (see [`crate::write`]).
//! IPv4 and IPv6 class ids are separate spaces. Class 0 is "an address no peer names".

mod declare;
mod part;
mod spec;
mod view;

pub use self::{
    part::{Named, Part, PortRange, Prefix, Scalar},
    spec::{ActionSpec, FieldSpec, Format, MatchKind, TableSpec},
    view::{
        Answer, Family, Leaf, Mac, OwnKey, ServiceKey, family_number, on_link_key, own_key, plain,
        port_key, remote_key, row_key, service_key, set_policy, set_remote, word_of,
    },
};
use std::net::{Ipv4Addr, Ipv6Addr};

use self::declare::{actions, tables};
use crate::{
    Class, ClassId, EndpointId, Entry, IfIndex, Incarnation, Key, PortClassId, RowId, SetId, Value,
    id::{Ip, V4},
};

tables! {
    /// ifindex -> endpoint
    Interface "interface" InterfaceKey { ifindex: IfIndex } fn interface_key
        => SetEndpoint; else Miss

    /// endpoint -> word
    Endpoint "endpoint" EndpointKey { endpoint: EndpointId } fn endpoint_key
        => SetPolicy; else SetPolicy

    /// endpoint, address -> its own
    OwnV4 "own_v4" OwnV4Key { endpoint: EndpointId, address: Ipv4Addr }
        => Own; else Miss

    /// endpoint, address -> its own
    OwnV6 "own_v6" OwnV6Key { endpoint: EndpointId, address: Ipv6Addr }
        => Own; else Miss

    /// address -> class, incarnation
    RemoteV4 "remote_v4" RemoteV4Key { address: Prefix<Ipv4Addr> }
        => SetRemote; else SetRemote

    /// address -> class, incarnation
    RemoteV6 "remote_v6" RemoteV6Key { address: Prefix<Ipv6Addr> }
        => SetRemote; else SetRemote

    /// protocol, destination port -> port class; a protocol without ports is here only where it is
    /// told apart, ICMP over IPv4 and ICMPv6 over IPv6 by type << 8 | code, any other as 0-65535
    Port "port" PortKey { protocol: u8 as Protocol, port: PortRange }
        => SetPortClass; else SetPortClass

    /// set, family -> what holds for a class that `Row` does not list
    Base "base" BaseKey { set: SetId, family: Family } fn base_key
        => Permit | Deny | SetRow; else Deny

    /// set, family, class -> row
    Row "row" RowKey { set: SetId, class: Class }
        => Permit | Deny | SetRow; else Miss

    /// row, port class -> permit
    Verdict "verdict" VerdictKey { row: RowId, port_class: PortClassId } fn verdict_key
        => Permit; else Deny

    /// row, port class -> what is only tried would answer otherwise (S85); no verdict depends on it
    Tried "tried" TriedKey { row: RowId, port_class: PortClassId } fn tried_key
        => Differs; else Miss

    /// address, protocol, port -> a Service's: judged after translation
    ServiceV4 "service_v4" ServiceV4Key { address: Ipv4Addr, protocol: u8 as Protocol, port: u16 }
        => Defer; else Miss

    /// address, protocol, port -> a Service's: judged after translation
    ServiceV6 "service_v6" ServiceV6Key { address: Ipv6Addr, protocol: u8 as Protocol, port: u16 }
        => Defer; else Miss

    /// protocol, destination port -> leads into a tunnel that ends on a node; port 0 where the
    /// protocol has no ports
    Tunnel "tunnel" TunnelKey { protocol: u8 as Protocol, port: u16 } fn tunnel_key
        => Tunnel; else Miss

    /// address -> on the link of this node's pods
    OnLinkV6 "on_link_v6" OnLinkKey { address: Prefix<Ipv6Addr> }
        => OnLink; else Miss

    /// endpoint -> its hardware address, where it hangs on a bridge
    OwnMac "own_mac" OwnMacKey { endpoint: EndpointId } fn own_mac_key
        => SetMac; else Miss

    /// kind, id -> fingerprint of its meaning; no packet reads it
    Directory "directory" DirectoryKey { named: Named } fn directory_key
        => Fingerprint; else Miss
}

actions! {
    /// Nothing found; the packet is not ours (interface) or not its own (own).
    Miss "miss";

    /// Sets the endpoint.
    SetEndpoint "set_endpoint" SetEndpoint { endpoint: EndpointId } fn set_endpoint;

    /// Sets the word: ingress set, egress set, set of what is born on the node, flags.
    SetPolicy "set_policy"
    /// The word of an endpoint; targets store it so that a packet reads it in one load.
    Word {
        /// Judges packets to the pod where [`Word::INGRESS`] is set, and tries to where
        /// [`Word::TRIED_INGRESS`] is. 0: none.
        ingress_set: SetId,
        /// The same of packets from the pod. 0: none.
        egress_set: SetId,
        /// Judges packets to the pod that are born on the node, in place of `ingress_set` where
        /// [`Word::INGRESS`] is set (S82). 0: these pass (S44).
        born_set: SetId,
        /// [`Word::INGRESS`] and what follows it.
        flags: u8 as Hex
    };

    /// The address is the endpoint's own.
    Own "own";

    /// Sets remote class and incarnation.
    SetRemote "set_remote" SetRemote<F> { class: ClassId<F>, incarnation: Incarnation };

    /// Sets the port class.
    SetPortClass "set_port_class" SetPortClass { port_class: PortClassId } fn set_port_class;

    /// Sets the row.
    SetRow "set_row" SetRow { row: RowId } fn set_row;

    /// Verdict.
    Permit "permit";

    /// Verdict.
    Deny "deny";

    /// The shadow verdict is the other one.
    Differs "differs";

    /// What was denied goes on, marked, and is judged after Service translation.
    Defer "defer";

    /// The packet leads into a tunnel.
    Tunnel "tunnel";

    /// The address is on the pods' own link.
    OnLink "on_link";

    /// Sets the hardware address.
    SetMac "set_mac" SetMac { address: Mac } fn set_mac;

    /// Names what an id means.
    Fingerprint "fingerprint" Fingerprint { value: u64 as Hex } fn fingerprint;
}

impl TableId {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_stand_in_the_order_of_their_ids() {
        assert!(TableId::ALL.iter().all(|t| t.spec().id == *t));
        assert!(ActionId::ALL.iter().all(|a| a.spec().id == *a));
        assert_eq!((TableId::ALL.len(), ActionId::ALL.len()), (17, 15));
    }

    #[test]
    fn what_is_written_reads_back() {
        let key = row_key(SetId::new(7), ClassId::<V4>::new(9));
        assert_eq!(
            RowKey::of(&key),
            RowKey { set: SetId::new(7), class: Class::V4(ClassId::new(9)) }
        );
        assert_eq!(RowKey::of(&key).key(), key);
        for named in
            [Named::Endpoint(EndpointId::new(3)), Named::Class(Class::new(Family::V6, 65535))]
        {
            assert_eq!(DirectoryKey::of(&directory_key(named)).named, named);
        }
        let word = Word {
            egress_set: SetId::new(2),
            born_set: SetId::new(3),
            ..Word::flagged(Word::GUARD)
        };
        assert_eq!(Word::of(&word.entry()), word);
        let mac = [2, 0, 0, 0, 0xfe, 0xff];
        assert_eq!(SetMac::of(&set_mac(mac)).address, mac);
    }
}
