//! The tables in the maps: [`Tables`] carries a [`Write`] out as stores, and decodes everything
//! back.
//!
//! Each write is checked and its room reserved first. After that only the kernel can make it fail,
//! so that an error leaves every answer as it was. The order of stores inside each table is in its
//! module. There is one writer at a time. Not here: when to grow (`target/sizes`), and the state
//! that packets make (`state`).

pub(crate) mod endpoints;
mod exact;
mod ports;
mod rows;
mod services;
mod trie;
mod wire;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use netpolc_table::{
    ActionId, Class, EndpointId, Entry, Id, IfIndex, Incarnation, Key, Match, Program, TableId,
    Write,
    schema::{Family, Leaf, remote_key, set_remote},
};
use netpolc_target::Error;

use endpoints::Endpoints;
use exact::Exact;
use ports::Ports;
use services::Services;
use trie::{Prefix, Trie};

use crate::{
    layout::{self, Capacities},
    maps::Maps,
    settle::Grace,
};

/// What a process may do with the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write them, as the only process that does.
    Write,
    /// Read them, while another process may write.
    Look,
}

/// The tables of one generation.
#[derive(Debug)]
pub struct Tables {
    /// The maps that hold the tables.
    pub maps: Maps,
    remote_v4: Trie,
    remote_v6: Trie,
    exact: Exact,
    ports: Ports,
    endpoints: Endpoints,
    services: Services,
}

/// A capacity that may be too small for a write: a field of [`Capacities`], or a limit of the
/// layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// [`Capacities::interface_blocks`]
    InterfaceBlocks,
    /// [`Capacities::endpoints`]
    Endpoints,
    /// [`Capacities::sets`]
    Sets,
    /// [`Capacities::classes_v4`]
    ClassesV4,
    /// [`Capacities::classes_v6`]
    ClassesV6,
    /// [`Capacities::rows`]
    Rows,
    /// [`Capacities::port_words`], counted in port classes.
    PortClasses,
    /// [`Capacities::remote_v4_blocks`]
    RemoteV4Blocks,
    /// [`Capacities::remote_v6_blocks`]
    RemoteV6Blocks,
    /// [`Capacities::remote_v6_buckets`]
    RemoteV6Buckets,
    /// [`Capacities::remote_v6_leaves`]
    RemoteV6Leaves,
    /// [`Capacities::more_addresses`]
    MoreAddresses,
    /// [`Capacities::services`]
    Services,
    /// A limit of the layout that no generation exceeds, with the plural of what it limits.
    Never(&'static str),
}

impl Room {
    /// The field of the capacities, and how many units one of it holds; None for a limit of the
    /// layout.
    pub fn field(self, c: &mut Capacities) -> Option<(&mut u32, u64)> {
        match self {
            Room::InterfaceBlocks => Some((&mut c.interface_blocks, 1)),
            Room::Endpoints => Some((&mut c.endpoints, 1)),
            Room::Sets => Some((&mut c.sets, 1)),
            Room::ClassesV4 => Some((&mut c.classes_v4, 1)),
            Room::ClassesV6 => Some((&mut c.classes_v6, 1)),
            Room::Rows => Some((&mut c.rows, 1)),
            Room::PortClasses => Some((&mut c.port_words, 64)),
            Room::RemoteV4Blocks => Some((&mut c.remote_v4_blocks, 1)),
            Room::RemoteV6Blocks => Some((&mut c.remote_v6_blocks, 1)),
            Room::RemoteV6Buckets => Some((&mut c.remote_v6_buckets, 1)),
            Room::RemoteV6Leaves => Some((&mut c.remote_v6_leaves, 1)),
            Room::MoreAddresses => Some((&mut c.more_addresses, 1)),
            Room::Services => Some((&mut c.services, 1)),
            Room::Never(_) => None,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Room::InterfaceBlocks => "blocks of 256 interface indices",
            Room::Endpoints => "endpoints",
            Room::Sets => "policy sets",
            Room::ClassesV4 => "IPv4 classes",
            Room::ClassesV6 => "IPv6 classes",
            Room::Rows => "rows",
            Room::PortClasses => "port classes",
            Room::RemoteV4Blocks => "blocks of the IPv4 trie",
            Room::RemoteV6Blocks => "blocks of the IPv6 trie",
            Room::RemoteV6Buckets => "buckets of IPv6 addresses",
            Room::RemoteV6Leaves => "blocks of IPv6 addresses",
            Room::MoreAddresses => "further own addresses",
            Room::Services => "addresses and ports of Services",
            Room::Never(what) => what,
        }
    }
}

/// Why a write was not carried out. Nothing was changed.
#[derive(Debug)]
pub enum Stop {
    /// Some table is too small.
    Room {
        /// The table that is too small.
        table: TableId,
        /// The capacity that would have to be larger.
        room: Room,
        /// The present capacity.
        capacity: u64,
        /// The least capacity that would do.
        need: u64,
    },
    /// Anything else, which no larger generation would change.
    Other(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Other(error)
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Room { table, room, capacity, need } => {
                let what = format!("{need} {} needed", room.what());
                Error::Full { table, capacity, what }
            }
            Stop::Other(error) => error,
        }
    }
}

fn invalid(table: TableId, reason: String) -> Stop {
    Stop::Other(Error::Invalid { table, reason })
}

fn no_action(table: TableId, action: ActionId) -> Stop {
    invalid(table, format!("the table has no action {}", action.spec().name))
}

/// The entry, or None for a removal, where the table has the entry's action, which is its only one.
fn with_action(
    table: TableId,
    action: ActionId,
    entry: Option<&Entry>,
) -> Result<Option<&Entry>, Stop> {
    match entry {
        Some(entry) if entry.action != action => Err(no_action(table, entry.action)),
        entry => Ok(entry),
    }
}

/// The address of a prefix, left-aligned, where the prefix fits the family and its host bits are 0.
fn left_aligned(table: TableId, family: Family, bits: u128, length: u8) -> Result<u128, Stop> {
    let no_prefix =
        |why| invalid(table, format!("{bits:#x}/{length} is not a valid prefix: {why}"));
    let width = u32::from(family.bits());
    if length > family.bits() || bits.checked_shr(width).unwrap_or(0) != 0 {
        return Err(no_prefix("it is too long"));
    }
    let address = bits << (128 - width);
    if address & !trie::mask(length) != 0 {
        return Err(no_prefix("host bits are set"));
    }
    Ok(address)
}

/// The id, where its number is below `limit`; otherwise the lack of room.
fn below<I: Id>(table: TableId, room: Room, id: I, limit: u32) -> Result<I, Stop> {
    number(table, room, id.number().into(), limit).map(|_| id)
}

/// The number, where it is below `limit`; otherwise the lack of room.
fn number(table: TableId, room: Room, number: u32, limit: u32) -> Result<u32, Stop> {
    match number < limit {
        true => Ok(number),
        false => {
            Err(Stop::Room { table, room, capacity: limit.into(), need: u64::from(number) + 1 })
        }
    }
}

fn bit(words: &[AtomicU64], i: usize) -> bool {
    words[i / 64].load(Acquire) >> (i % 64) & 1 == 1
}

fn set_bit(words: &[AtomicU64], i: usize, on: bool) {
    let (word, bit) = (&words[i / 64], 1u64 << (i % 64));
    let before = word.load(Relaxed);
    let after = if on { before | bit } else { before & !bit };
    if after != before {
        word.store(after, Release);
    }
}

/// A checked change of a remote table.
struct RemoteChange {
    /// The prefix's address, left-aligned: an IPv4 address has 96 zeros after it.
    address: u128,
    length: u8,
    /// The leaf as [`packed`] makes it; None where the prefix is removed.
    value: Option<u32>,
}

/// A leaf as tries and buckets hold it: class | incarnation << 16.
fn packed(leaf: Leaf) -> u32 {
    u32::from(leaf.class.get()) | u32::from(leaf.incarnation.get()) << 16
}

fn unpacked(family: Family, value: u32) -> Leaf {
    Leaf {
        class: Class::new(family, value as u16),
        incarnation: Incarnation::new((value >> 16) as u16),
    }
}

impl Tables {
    /// Opens the tables as they are in the maps. A writer completes what a killed process began.
    ///
    /// # Errors
    /// [`Error::Installed`] where a table contradicts its ledger or itself, [`Error::System`] where
    /// a kernel hash cannot be read.
    pub fn open(maps: Maps, access: Access) -> Result<Self, Error> {
        if access == Access::Write {
            rows::open(&maps);
        }
        Ok(Self {
            remote_v4: Trie::open(Family::V4, &maps, access)?,
            remote_v6: Trie::open(Family::V6, &maps, access)?,
            exact: Exact::open(&maps, access)?,
            ports: Ports::open(&maps, access),
            endpoints: Endpoints::open(&maps, access)?,
            services: Services::open(&maps, access)?,
            maps,
        })
    }

    /// Learns anew what the maps hold, which somebody else has changed, as a writer does that has
    /// just been started. No packet may be under way that began before something was freed.
    ///
    /// # Errors
    /// As [`Tables::open`]; then nothing is learned.
    pub fn relearn(&mut self) -> Result<(), Error> {
        let (maps, access) = (&self.maps, Access::Write);
        rows::open(maps);
        let trie = |family| Trie::open(family, maps, access);
        let (remote_v4, remote_v6) = (trie(Family::V4)?, trie(Family::V6)?);
        let (exact, endpoints) = (Exact::open(maps, access)?, Endpoints::open(maps, access)?);
        (self.services, self.ports) = (Services::open(maps, access)?, Ports::open(maps, access));
        (self.remote_v4, self.remote_v6, self.exact) = (remote_v4, remote_v6, exact);
        self.endpoints = endpoints;
        Ok(())
    }

    /// Decodes the maps anew, without what was learned when they were opened, for maps that another
    /// process writes.
    ///
    /// # Errors
    /// As [`Tables::open`]; also where a write of the other process is half done.
    pub fn read_afresh(&self) -> Result<Program, Error> {
        let maps = &self.maps;
        let remote_v4 = Trie::open(Family::V4, maps, Access::Look)?;
        let remote_v6 = Trie::open(Family::V6, maps, Access::Look)?;
        let (exact, ports) = (Exact::open(maps, Access::Look)?, Ports::open(maps, Access::Look));
        read(maps, [&remote_v4, &remote_v6], &exact, &ports, &Endpoints::default())
    }

    /// Carries out one write, as [`netpolc_target::Target::write`] says.
    ///
    /// # Errors
    /// [`Stop::Room`] where a table is too small, [`Stop::Other`] where the write is invalid or the
    /// kernel refuses a change.
    pub fn write(&mut self, write: &Write, grace: &Grace) -> Result<(), Stop> {
        for key in write.put.iter().map(|(k, _)| k).chain(&write.remove) {
            check_shape(write.table, key)?;
        }
        for (_, entry) in &write.put {
            check_params(write.table, entry)?;
        }
        // A key that is both removed and put is not removed, and the last put of a key counts.
        let mut changes: BTreeMap<&Key, Option<&Entry>> =
            write.remove.iter().map(|k| (k, None)).collect();
        changes.extend(write.put.iter().map(|(k, e)| (k, Some(e))));
        // All changes are checked before the first store. A removal that fits nowhere is left out,
        // since an id beyond a capacity has no entry.
        macro_rules! checked {
            ($check:expr) => {{
                let mut list = vec![];
                for (&key, &entry) in &changes {
                    match $check(key, entry) {
                        Ok(change) => list.push(change),
                        Err(Stop::Room { .. }) if entry.is_none() => {}
                        Err(stop) => return Err(stop),
                    }
                }
                list
            }};
        }
        let maps = &self.maps;
        match write.table {
            TableId::Interface => {
                let list = checked!(|k, e| endpoints::check_interface(maps, k, e));
                let puts: Vec<IfIndex> =
                    list.iter().filter(|(_, id)| id.is_some()).map(|(i, _)| *i).collect();
                self.endpoints.reserve_interfaces(maps, &puts, grace)?;
                list.into_iter()
                    .for_each(|(ifindex, id)| self.endpoints.write_interface(maps, ifindex, id));
            }
            TableId::Endpoint => {
                let list = checked!(|k, e| endpoints::check_endpoint(maps, k, e));
                self.endpoints.prepare(maps, &list, grace)?;
                list.into_iter()
                    .for_each(|(id, word)| self.endpoints.write_endpoint(maps, id, word));
            }
            TableId::OwnV4 | TableId::OwnV6 => {
                let mut list = checked!(|k, e| endpoints::check_own(maps, write.table, k, e));
                let puts: Vec<_> = list
                    .iter()
                    .filter(|(.., put)| *put)
                    .map(|&(id, address, _)| (id, address))
                    .collect();
                self.endpoints.reserve_own(maps, write.table, &puts)?;
                list.sort_by_key(|(.., put)| *put);
                for (id, address, put) in list {
                    self.endpoints.write_own(maps, id, address, put)?;
                }
            }
            TableId::RemoteV4 => {
                let list = checked!(|k, e| check_remote(maps, Family::V4, k, e));
                let (removes, puts) = split(list.iter());
                self.remote_v4.reserve(maps, &puts, grace)?;
                self.remote_v4.write(maps, &removes, &puts)?;
            }
            TableId::RemoteV6 => {
                let list = checked!(|k, e| check_remote(maps, Family::V6, k, e));
                self.write_v6(list, grace)?;
            }
            TableId::Port => {
                let list = checked!(|k, e| ports::check(maps, k, e));
                let removes: Vec<_> =
                    list.iter().filter(|(_, c)| c.is_none()).map(|(i, _)| *i).collect();
                let puts: Vec<_> = list.iter().filter_map(|(i, c)| c.map(|c| (*i, c))).collect();
                self.ports.check_disjoint(&removes, &puts)?;
                self.ports.write(maps, &removes, &puts);
            }
            TableId::Base => {
                let list = checked!(|k, e| rows::check_base(maps, k, e));
                list.into_iter().for_each(|c| rows::write_base(maps, c));
            }
            TableId::Row => {
                let list = checked!(|k, e| rows::check_row(maps, k, e));
                list.into_iter().for_each(|c| rows::write_row(maps, c));
            }
            TableId::Verdict => {
                let list = checked!(|k, e| rows::check_verdict(maps, k, e));
                list.into_iter().for_each(|c| rows::write_verdict(maps, c));
            }
            TableId::Tried => {
                let list = checked!(|k, e| rows::check_tried(maps, k, e));
                for change in list {
                    rows::write_tried(maps, change)?;
                }
            }
            TableId::ServiceV4 | TableId::ServiceV6 => {
                let list = checked!(|k, e| services::check(write.table, k, e));
                self.services.write(maps, write.table, &list)?;
            }
            TableId::Tunnel => {
                let list = checked!(|k, e| wire::check_tunnel(k, e));
                list.into_iter().for_each(|(bit, put)| wire::write_tunnel(maps, bit, put));
            }
            TableId::OnLinkV6 => {
                let list = checked!(|k, e| wire::check_on_link(k, e));
                wire::write_on_link(maps, &list, grace)?;
            }
            TableId::OwnMac => {
                let list = checked!(|k, e| endpoints::check_mac(maps, k, e));
                list.into_iter()
                    .for_each(|(id, recorded)| endpoints::write_mac(maps, id, recorded));
            }
            TableId::Directory => {
                let list = checked!(|k, e| endpoints::check_directory(k, e));
                list.into_iter()
                    .for_each(|(place, value)| endpoints::write_directory(maps, place, value));
            }
        }
        Ok(())
    }

    /// Writes `remote_v6`. A /128 goes to the exact tables, which packets search first. Other
    /// prefixes go to the trie, and so do addresses whose buckets are full. New addresses come
    /// first, then prefixes, then addresses that are removed, so that each address has its old
    /// answer or its new one. A packet that searched the exact tables before a new address stood
    /// there must not see the prefixes change, hence the grace period.
    fn write_v6(&mut self, list: Vec<RemoteChange>, grace: &Grace) -> Result<(), Stop> {
        let (hosts, prefixes): (Vec<_>, Vec<_>) = list.into_iter().partition(|c| c.length == 128);
        let (mut removes, mut puts) = split(prefixes.iter());
        let mut host_puts: Vec<(Ipv6Addr, u32)> = vec![];
        let mut host_removes: Vec<Ipv6Addr> = vec![];
        for host in &hosts {
            let in_trie = self.remote_v6.get((host.address, 128)).is_some();
            match host.value {
                Some(value) if in_trie => puts.push(((host.address, 128), value)),
                Some(value) => host_puts.push((host.address.into(), value + 1)),
                None if in_trie => removes.push((host.address, 128)),
                None => host_removes.push(host.address.into()),
            }
        }
        let placed = self.exact.place(&self.maps, &host_puts, grace)?;
        let left = host_puts.iter().filter(|(address, _)| placed.left.contains(address));
        puts.extend(left.map(|(address, value)| ((address.to_bits(), 128), value - 1)));
        self.remote_v6.reserve(&self.maps, &puts, grace)?;
        self.exact.write(&self.maps, &[], &host_puts, &placed);
        if !host_puts.is_empty() && !puts.is_empty() | !removes.is_empty() {
            grace.wait()?;
        }
        self.remote_v6.write(&self.maps, &removes, &puts)?;
        self.exact.write(&self.maps, &host_removes, &[], &exact::Placed::default());
        Ok(())
    }

    /// To be called after a grace period: frees blocks, places and state that no packet can reach
    /// any more.
    ///
    /// # Errors
    /// [`Error::System`] where the state of a removed endpoint cannot be purged.
    pub fn release(&mut self) -> Result<(), Error> {
        self.remote_v4.release();
        self.remote_v6.release();
        self.exact.release(&self.maps);
        self.endpoints.release(&self.maps)
    }

    /// Decodes everything, and checks it against the ledger and against what this process wrote.
    ///
    /// # Errors
    /// [`Error::Installed`] where a table contradicts them, [`Error::System`] where a kernel hash
    /// cannot be read.
    pub fn read(&self) -> Result<Program, Error> {
        read(
            &self.maps,
            [&self.remote_v4, &self.remote_v6],
            &self.exact,
            &self.ports,
            &self.endpoints,
        )
    }

    /// Gives interfaces 0 to 255 a block and keeps it even while it is empty, so that
    /// [`Tables::lend_interface`] is one store.
    pub fn lend_low_interfaces(&mut self) {
        self.endpoints.lend_low(&self.maps);
    }

    /// Lets interface 1 stand for `ifindex` until [`Tables::return_interface`]. A test run needs an
    /// existing device, and `lo` always exists.
    pub fn lend_interface(&mut self, ifindex: IfIndex) {
        self.endpoints.lend(&self.maps, ifindex);
    }

    /// The endpoint of an interface; 0 where it has none.
    pub fn endpoint_of(&self, ifindex: IfIndex) -> EndpointId {
        endpoints::endpoint_of(&self.maps, ifindex)
    }

    /// Lets interface 1 stand for itself again.
    pub fn return_interface(&mut self) {
        self.endpoints.unlend(&self.maps);
    }

    /// How much of a map is in use, in its units: blocks of the tries, addresses, port intervals.
    /// None where that has no meaning.
    pub fn used(&self, map: &str) -> Option<u64> {
        match map {
            "remote_v4" => Some(self.remote_v4.blocks_used()),
            "remote_v6" => Some(self.remote_v6.blocks_used()),
            "remote_v6_exact" => Some(self.exact.used()),
            "remote_v6_leaf" => Some(self.exact.blocks_used()),
            "port" => Some(self.ports.used()),
            "service" => Some(self.services.used()),
            _ => None,
        }
    }
}

/// Decodes all tables, with what is known of each.
fn read(
    maps: &Maps,
    tries: [&Trie; 2],
    exact: &Exact,
    ports: &Ports,
    endpoints: &Endpoints,
) -> Result<Program, Error> {
    let mut program = Program::default();
    for (trie, family) in tries.into_iter().zip(Family::BOTH) {
        let entries = &mut program.table_mut(TableId::remote(family)).entries;
        for ((address, length), value) in trie.read(maps)? {
            let address: IpAddr = match family {
                Family::V4 => IpAddr::V4(((address >> 96) as u32).into()),
                Family::V6 => IpAddr::V6(address.into()),
            };
            let Leaf { class, incarnation } = unpacked(family, value);
            entries.insert(remote_key(address, length), set_remote(class, incarnation));
        }
    }
    let entries = &mut program.table_mut(TableId::RemoteV6).entries;
    for (address, value) in exact.read(maps)? {
        // A slot holds the class plus one: 0 is no entry.
        let class = Class::new(Family::V6, (value as u16).wrapping_sub(1));
        let Leaf { incarnation, .. } = unpacked(Family::V6, value);
        entries.insert(remote_key(address.into(), 128), set_remote(class, incarnation));
    }
    ports.read(maps, &mut program);
    rows::read(maps, &mut program)?;
    services::read(maps, &mut program)?;
    wire::read(maps, &mut program);
    endpoints.read(maps, &mut program)?;
    Ok(program)
}

/// Checks that the key's fields are of the kinds and widths that the table has.
fn check_shape(table: TableId, key: &Key) -> Result<(), Stop> {
    use netpolc_table::schema::MatchKind;
    let spec = table.spec().fields;
    let fits = |(field, part): (&netpolc_table::schema::FieldSpec, &Match)| match part {
        Match::Exact(v) => {
            field.kind == MatchKind::Exact && (field.width == 128 || v.get() >> field.width == 0)
        }
        Match::Lpm { .. } => field.kind == MatchKind::Lpm,
        Match::Range { .. } => field.kind == MatchKind::Range,
    };
    if key.fields().len() != spec.len() || !spec.iter().zip(key.fields()).all(fits) {
        return Err(invalid(table, format!("{key:?} is not a valid key of the table")));
    }
    Ok(())
}

/// Checks that each parameter fits the width that its action gives it.
fn check_params(table: TableId, entry: &Entry) -> Result<(), Stop> {
    for ((name, width, _), value) in entry.action.spec().params.iter().zip(entry.params()) {
        if value.checked_shr(u32::from(*width)).unwrap_or(0) != 0 {
            return Err(invalid(table, format!("{name} does not fit {width} bits")));
        }
    }
    Ok(())
}

fn check_remote(
    maps: &Maps,
    family: Family,
    key: &Key,
    entry: Option<&Entry>,
) -> Result<RemoteChange, Stop> {
    let table = TableId::remote(family);
    let (value, length) = key.prefix();
    let bits = value.get();
    let address = left_aligned(table, family, bits, length)?;
    let value = match with_action(table, ActionId::SetRemote, entry)? {
        None => None,
        Some(e) => {
            let (room, limit) = match family {
                Family::V4 => (Room::ClassesV4, maps.capacities.classes_v4),
                Family::V6 => {
                    (Room::ClassesV6, maps.capacities.classes_v6.min(layout::exact::CLASSES))
                }
            };
            let leaf = Leaf::of(family, e);
            number(table, room, leaf.class.get().into(), limit)?;
            if leaf.incarnation != Incarnation::default() && length != family.bits() {
                return Err(invalid(
                    table,
                    format!(
                        "{bits:#x}/{length} has an incarnation, which only a single address may \
                    have"
                    ),
                ));
            }
            Some(packed(leaf))
        }
    };
    Ok(RemoteChange { address, length, value })
}

fn split<'a>(changes: impl Iterator<Item = &'a RemoteChange>) -> (Vec<Prefix>, Vec<(Prefix, u32)>) {
    let (mut removes, mut puts) = (vec![], vec![]);
    for change in changes {
        let prefix = (change.address, change.length);
        match change.value {
            Some(value) => puts.push((prefix, value)),
            None => removes.push(prefix),
        }
    }
    (removes, puts)
}
