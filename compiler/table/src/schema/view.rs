//! Views and constructors that span tables: where the family is known only from an address, and
//! where entries of different actions answer one question.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    ActionId, OnLinkKey, OwnV4Key, OwnV6Key, PortKey, PortRange, Prefix, RemoteV4Key, RemoteV6Key,
    RowKey, ServiceV4Key, ServiceV6Key, SetRemote, SetRow, TableId, Word,
};
use crate::{
    Class, EndpointId, Entry, Incarnation, Key, RowId, SetId,
    id::{Ip, V4, V6},
};

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
    /// Both families, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The number that stands for the family in keys: 4 or 6.
    pub const fn number(self) -> u8 {
        match self {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }

    /// The length of an address in bits: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
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
    /// Something is only tried about packets to the pod: rows of `ingress_set` say in the table
    /// `tried` where its verdict would differ, whether the direction is isolated or not (S85).
    pub const TRIED_INGRESS: u8 = 32;
    /// The same about packets from the pod.
    pub const TRIED_EGRESS: u8 = 64;
    /// Something is only tried in some direction.
    pub const TRIED: u8 = Word::TRIED_INGRESS | Word::TRIED_EGRESS;

    /// The sets that the word names, 0 where it names none.
    pub const fn sets(self) -> [SetId; 3] {
        [self.ingress_set, self.egress_set, self.born_set]
    }

    /// A word that names no set.
    pub const fn flagged(flags: u8) -> Self {
        let none = SetId::new(0);
        Word { ingress_set: none, egress_set: none, born_set: none, flags }
    }
}

/// What an entry of `base` or `row` answers a class with. Anything that is neither permits nor
/// leads to a row denies, and so does a missing base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Every port of every protocol is permitted.
    Permit,
    /// No port is permitted.
    Deny,
    /// The port classes that the row lists are permitted.
    Row(RowId),
}

impl Answer {
    /// What an entry of `base` or `row` says; None: there is no base.
    pub fn of(entry: Option<&Entry>) -> Answer {
        match entry {
            Some(e) if e.action == ActionId::Permit => Answer::Permit,
            Some(e) if e.action == ActionId::SetRow => Answer::Row(SetRow::of(e).row),
            _ => Answer::Deny,
        }
    }

    /// The row, where it depends on the port.
    pub fn row(self) -> Option<RowId> {
        match self {
            Answer::Row(row) => Some(row),
            Answer::Permit | Answer::Deny => None,
        }
    }

    /// The entry that says this.
    pub fn entry(self) -> Entry {
        match self {
            Answer::Permit => plain(ActionId::Permit),
            Answer::Deny => plain(ActionId::Deny),
            Answer::Row(row) => super::set_row(row),
        }
    }
}

/// What a remote table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leaf {
    /// The class of the addresses; its family is the table's.
    pub class: Class,
    /// 0: not one pod's address.
    pub incarnation: Incarnation,
}

impl Leaf {
    /// What holds for an address that no prefix covers: class 0, and not one pod's address.
    pub const fn unnamed(family: Family) -> Self {
        Leaf { class: Class::unnamed(family), incarnation: Incarnation::new(0) }
    }

    /// What an entry of this family's remote table says.
    pub fn of(family: Family, entry: &Entry) -> Self {
        fn of<F: Ip>(entry: &Entry) -> Leaf {
            let SetRemote { class, incarnation } = SetRemote::<F>::of(entry);
            Leaf { class: F::class(class), incarnation }
        }
        match family {
            Family::V4 => of::<V4>(entry),
            Family::V6 => of::<V6>(entry),
        }
    }
}

/// The key of an own table, of whichever family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnKey {
    /// The endpoint that owns the address.
    pub endpoint: EndpointId,
    /// A source that it may have.
    pub address: IpAddr,
}

impl OwnKey {
    /// A key of this family's own table.
    pub fn of(family: Family, key: &Key) -> Self {
        match family {
            Family::V4 => {
                let OwnV4Key { endpoint, address } = OwnV4Key::of(key);
                OwnKey { endpoint, address: address.into() }
            }
            Family::V6 => {
                let OwnV6Key { endpoint, address } = OwnV6Key::of(key);
                OwnKey { endpoint, address: address.into() }
            }
        }
    }
}

/// The key of a service table, of whichever family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The cluster IP, external IP or load balancer address of the Service.
    pub address: IpAddr,
    /// The IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port on which the Service is offered, not that of its backends.
    pub port: u16,
}

impl ServiceKey {
    /// A key of this family's service table.
    pub fn of(family: Family, key: &Key) -> Self {
        match family {
            Family::V4 => {
                let ServiceV4Key { address, protocol, port } = ServiceV4Key::of(key);
                ServiceKey { address: address.into(), protocol, port }
            }
            Family::V6 => {
                let ServiceV6Key { address, protocol, port } = ServiceV6Key::of(key);
                ServiceKey { address: address.into(), protocol, port }
            }
        }
    }
}

impl Prefix<IpAddr> {
    /// A key of this family's remote table.
    pub fn of(family: Family, key: &Key) -> Self {
        match family {
            Family::V4 => {
                let Prefix { address, length } = RemoteV4Key::of(key).address;
                Prefix { address: address.into(), length }
            }
            Family::V6 => {
                let Prefix { address, length } = RemoteV6Key::of(key).address;
                Prefix { address: address.into(), length }
            }
        }
    }
}

/// The number in the field `family` of a key that has one: 4, 6, or something that breaks the
/// table's rules and that views read as 6.
pub fn family_number(table: TableId, key: &Key) -> Option<u64> {
    let mut fields = table.spec().fields.iter().zip(key.fields());
    fields.find(|(spec, _)| spec.name == "family").map(|(_, field)| field.value().low())
}

/// Key of `own_v4` or `own_v6`.
pub fn own_key(endpoint: EndpointId, address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => OwnV4Key { endpoint, address }.key(),
        IpAddr::V6(address) => OwnV6Key { endpoint, address }.key(),
    }
}

/// Key of `remote_v4` or `remote_v6`; host bits must be zero.
pub fn remote_key(prefix: IpAddr, length: u8) -> Key {
    match prefix {
        IpAddr::V4(address) => RemoteV4Key { address: Prefix { address, length } }.key(),
        IpAddr::V6(address) => RemoteV6Key { address: Prefix { address, length } }.key(),
    }
}

/// Key of `port`.
pub fn port_key(protocol: u8, first: u16, last: u16) -> Key {
    PortKey { protocol, port: PortRange { low: first.into(), high: last.into() } }.key()
}

/// Key of `row`.
pub fn row_key(set: SetId, class: impl Into<Class>) -> Key {
    RowKey { set, class: class.into() }.key()
}

/// Key of `service_v4` or `service_v6`.
pub fn service_key(address: IpAddr, protocol: u8, port: u16) -> Key {
    match address {
        IpAddr::V4(address) => ServiceV4Key { address, protocol, port }.key(),
        IpAddr::V6(address) => ServiceV6Key { address, protocol, port }.key(),
    }
}

/// Key of `on_link_v6`; host bits must be zero.
pub fn on_link_key(prefix: Ipv6Addr, length: u8) -> Key {
    OnLinkKey { address: Prefix { address: prefix, length } }.key()
}

/// permit, deny, defer, own: an entry without parameters.
pub fn plain(action: ActionId) -> Entry {
    Entry::new(action, [0; 4])
}

/// Entry of `endpoint`.
pub fn set_policy(word: Word) -> Entry {
    word.entry()
}

/// The word in an entry of `endpoint`.
pub fn word_of(entry: &Entry) -> Word {
    Word::of(entry)
}

/// Entry of the remote table of the class's family.
pub fn set_remote(class: impl Into<Class>, incarnation: Incarnation) -> Entry {
    match class.into() {
        Class::V4(class) => SetRemote { class, incarnation }.entry(),
        Class::V6(class) => SetRemote { class, incarnation }.entry(),
    }
}
