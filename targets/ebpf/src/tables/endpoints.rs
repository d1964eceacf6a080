//! The tables `interface`, `endpoint`, `own_v4`, `own_v6`, `own_mac` and `directory`.
//!
//! An endpoint's word is one aligned store. The first own address of each family stands in the
//! endpoint's record, further ones in a kernel hash; for both there is no ledger. A byte of the
//! ledger says for each endpoint whether the table `endpoint` has an entry, or whether its
//! connection state has to go before the id is used again (S43).
//!
//! Not here: connection state itself (`state`, `pool`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{
        AtomicU8, AtomicU16, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use netpolc_table::{
    ActionId, EndpointId, Entry, IfIndex, Key, Program, SetId, TableId,
    schema::{
        self, DirectoryKey, EndpointKey, Family, Fingerprint, InterfaceKey, Mac, Named, OwnKey,
        OwnMacKey, SetEndpoint, SetMac, Word, endpoint_key, interface_key, own_key, set_endpoint,
        set_policy,
    },
};
use netpolc_target::Error;

use super::{Access, Grace, Room, Stop, below, invalid, number, with_action};
use crate::{
    layout::{MapId, endpoint, own_more_key},
    ledger::LedgerId,
    maps::Maps,
    memory::map_error,
    state,
    sys::refused,
};

/// A byte of the ledger: the endpoint has no entry and no state.
const ABSENT: u8 = 0;
/// A byte of the ledger: the endpoint has an entry.
const PRESENT: u8 = 1;
/// A byte of the ledger: the entry was removed, but state is left that must be purged before the id
/// is used again.
const USED: u8 = 2;

/// The indices of interfaces are below this: what the directory of blocks can hold.
pub const INTERFACES: u32 = 1 << 24;

/// What user space knows of these tables besides the maps.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// How many interfaces each block holds.
    uses: Vec<u32>,
    /// Blocks that may be used.
    free: Vec<u16>,
    /// Blocks that were given up since the last grace period.
    quarantine: Vec<u16>,
    /// The addresses in `own_more`, by endpoint.
    more: BTreeMap<EndpointId, BTreeSet<IpAddr>>,
    /// How many addresses `own_more` holds.
    more_count: u32,
    /// The endpoints whose record lost its IPv6 address since the last grace period. Packets may
    /// still read it, so that another one must not be written over it.
    stale_v6: HashSet<EndpointId>,
    /// The slot of interface 1, where it is kept for [`super::Tables::lend_interface`].
    low: Option<usize>,
    /// The endpoint of interface 1 itself, while the slot is lent.
    lent: Option<EndpointId>,
}

fn record(maps: &Maps, id: EndpointId) -> &[AtomicU64] {
    &maps.words(MapId::Endpoint)[usize::from(id.get()) * (endpoint::SIZE / 8)..]
        [..endpoint::SIZE / 8]
}
fn record32(maps: &Maps, id: EndpointId, at: usize) -> &AtomicU32 {
    &maps.words(MapId::Endpoint)[usize::from(id.get()) * (endpoint::SIZE / 4) + at / 4]
}
fn presence(maps: &Maps, id: EndpointId) -> &AtomicU8 {
    &maps.ledger(LedgerId::Endpoint)[usize::from(id.get())]
}

/// Checks that the maps have a place for the endpoint, and that it is not 0.
fn known(maps: &Maps, table: TableId, id: EndpointId) -> Result<EndpointId, Stop> {
    match below(table, Room::Endpoints, id, maps.capacities.endpoints)? {
        id if id == EndpointId::default() => {
            Err(invalid(table, "endpoint 0 stands for none".into()))
        }
        id => Ok(id),
    }
}

/// Checks a change of `interface`.
pub fn check_interface(
    maps: &Maps,
    key: &Key,
    entry: Option<&Entry>,
) -> Result<(IfIndex, Option<EndpointId>), Stop> {
    let table = TableId::Interface;
    let InterfaceKey { ifindex } = InterfaceKey::of(key);
    number(table, Room::Never("interface indices"), ifindex.get(), INTERFACES)?;
    let entry = with_action(table, ActionId::SetEndpoint, entry)?;
    let id = entry.map(|e| known(maps, table, SetEndpoint::of(e).endpoint)).transpose()?;
    Ok((ifindex, id))
}

/// Checks a change of `endpoint`.
pub fn check_endpoint(
    maps: &Maps,
    key: &Key,
    entry: Option<&Entry>,
) -> Result<(EndpointId, Option<Word>), Stop> {
    let table = TableId::Endpoint;
    let id = known(maps, table, EndpointKey::of(key).endpoint)?;
    let Some(entry) = with_action(table, ActionId::SetPolicy, entry)? else {
        return Ok((id, None));
    };
    let word = Word::of(entry);
    for set in word.sets() {
        below(table, Room::Sets, set, maps.capacities.sets)?;
    }
    Ok((id, Some(word)))
}

/// Checks a change of `own_v4` or `own_v6`.
pub fn check_own(
    maps: &Maps,
    table: TableId,
    key: &Key,
    entry: Option<&Entry>,
) -> Result<(EndpointId, IpAddr, bool), Stop> {
    let family = if table == TableId::OwnV4 { Family::V4 } else { Family::V6 };
    let OwnKey { endpoint, address } = OwnKey::of(family, key);
    let id = known(maps, table, endpoint)?;
    if address == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        return Err(invalid(table, "0.0.0.0 cannot be a pod's own address".into()));
    }
    let put = with_action(table, ActionId::Own, entry)?.is_some();
    Ok((id, address, put))
}

/// Checks a change of `own_mac`. Returns the endpoint, and the address as the endpoint's record
/// holds it; 0 where it is removed.
pub fn check_mac(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<(EndpointId, u64), Stop> {
    let table = TableId::OwnMac;
    let id = known(maps, table, OwnMacKey::of(key).endpoint)?;
    match with_action(table, ActionId::SetMac, entry)?.map(|e| SetMac::of(e).address) {
        None => Ok((id, 0)),
        Some(address) if address == Mac::default() => {
            Err(invalid(table, "address 0 stands for none".into()))
        }
        Some(address) => Ok((id, recorded(address))),
    }
}

/// A hardware address as an endpoint's record holds it.
fn recorded([a, b, c, d, e, f]: Mac) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}
/// The opposite of [`recorded`].
fn mac(recorded: u64) -> Mac {
    let [a, b, c, d, e, f, ..] = recorded.to_le_bytes();
    [a, b, c, d, e, f]
}

/// Changes an endpoint's hardware address: one aligned store.
pub fn write_mac(maps: &Maps, id: EndpointId, recorded: u64) {
    record(maps, id)[endpoint::OWN_MAC / 8].store(recorded, Release);
}

/// Checks a change of `directory`. Returns the place in the map, and the value; 0 where it is
/// removed.
pub fn check_directory(key: &Key, entry: Option<&Entry>) -> Result<(usize, u64), Stop> {
    let table = TableId::Directory;
    let (kind, id) = DirectoryKey::of(key).named.numbers();
    number(table, Room::Never("kinds"), kind.into(), u32::from(Named::LAST_KIND) + 1)?;
    let kind = kind.checked_sub(1).ok_or_else(|| invalid(table, "there is no kind 0".into()))?;
    let place = usize::from(kind) << 16 | number(table, Room::Never("ids"), id, 65536)? as usize;
    match with_action(table, ActionId::Fingerprint, entry)?.map(|e| Fingerprint::of(e).value) {
        None => Ok((place, 0)),
        Some(0) => Err(invalid(table, "fingerprint 0 stands for none".into())),
        Some(value) => Ok((place, value)),
    }
}

/// Every id that an endpoint can have with these capacities.
fn endpoints(maps: &Maps) -> impl Iterator<Item = EndpointId> + use<> {
    (1..=(maps.capacities.endpoints - 1) as u16).map(EndpointId::new)
}

/// The word of an endpoint in a value of the map.
pub(crate) fn word_of(value: u64) -> Word {
    Word {
        ingress_set: SetId::new(value as u16),
        egress_set: SetId::new((value >> 16) as u16),
        born_set: SetId::new((value >> endpoint::BORN_SHIFT) as u16),
        flags: (value >> endpoint::FLAGS_SHIFT) as u8,
    }
}

impl Endpoints {
    /// Finds what is in the maps. A writer completes what a killed process began.
    pub fn open(maps: &Maps, access: Access) -> Result<Self, Error> {
        let blocks = maps.capacities.interface_blocks;
        let mut this = Endpoints { uses: vec![0; blocks as usize], ..Endpoints::default() };
        let slots = maps.words::<AtomicU16>(MapId::InterfaceBlock);
        let mut linked = HashSet::new();
        for dir in maps.words::<AtomicU16>(MapId::InterfaceDir) {
            let block = dir.load(Acquire);
            if block == 0 {
                continue;
            }
            if u32::from(block) >= blocks || !linked.insert(block) {
                return Err(Error::Installed(format!(
                    "table interface: block {block} is not one of {blocks}, or is linked twice"
                )));
            }
            let used = slots[usize::from(block) * 256..][..256]
                .iter()
                .filter(|s| s.load(Acquire) != 0)
                .count();
            this.uses[usize::from(block)] = used as u32;
            if used == 0 && access == Access::Write {
                dir.store(0, Release);
                this.quarantine.push(block);
            }
        }
        this.free = (1..blocks).rev().map(|b| b as u16).filter(|b| !linked.contains(b)).collect();
        for key in maps.own_more()?.keys() {
            let key = key.map_err(|e| refused("map own_more: read", map_error(e)))?;
            let id = EndpointId::new(u16::from_le_bytes([key[0], key[1]]));
            let bytes: [u8; 16] = key[4..].try_into().expect("16 bytes");
            let address = if key[2] == 4 {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                IpAddr::from(bytes)
            };
            this.more.entry(id).or_default().insert(address);
            this.more_count += 1;
        }
        // A process may have been killed between the insertion into the hash and the flag that
        // makes packets look there.
        for &id in this.more.keys().filter(|_| access == Access::Write) {
            record32(maps, id, endpoint::OWN_FLAGS).fetch_or(endpoint::HAS_MORE, Release);
        }
        Ok(this)
    }

    /// Checks that there are blocks for these interfaces. Waits for a grace period where only
    /// blocks in quarantine are left.
    pub fn reserve_interfaces(
        &mut self,
        maps: &Maps,
        puts: &[IfIndex],
        grace: &Grace,
    ) -> Result<(), Stop> {
        let dir = maps.words::<AtomicU16>(MapId::InterfaceDir);
        let new: HashSet<u32> = puts
            .iter()
            .map(|i| i.get() >> 8)
            .filter(|&d| dir[d as usize].load(Relaxed) == 0)
            .collect();
        if new.len() > self.free.len() && !self.quarantine.is_empty() {
            grace.wait()?;
            self.free.append(&mut self.quarantine);
        }
        if new.len() > self.free.len() {
            let capacity = u64::from(maps.capacities.interface_blocks);
            let need = capacity + (new.len() - self.free.len()) as u64;
            return Err(Stop::Room {
                table: TableId::Interface,
                room: Room::InterfaceBlocks,
                capacity,
                need,
            });
        }
        Ok(())
    }

    /// Changes the endpoint of one interface.
    pub fn write_interface(&mut self, maps: &Maps, ifindex: IfIndex, id: Option<EndpointId>) {
        let ifindex = ifindex.get();
        let dir = &maps.words::<AtomicU16>(MapId::InterfaceDir)[(ifindex >> 8) as usize];
        let slots = maps.words::<AtomicU16>(MapId::InterfaceBlock);
        let mut block = dir.load(Relaxed);
        if block == 0 {
            if id.is_none() {
                return;
            }
            block = self.free.pop().expect("reserved");
            // Zeroed before it is linked, so that none of its interfaces has an endpoint by
            // accident.
            for slot in &slots[usize::from(block) * 256..][..256] {
                slot.store(0, Relaxed);
            }
            dir.store(block, Release);
        }
        let slot = &slots[usize::from(block) * 256 + (ifindex & 255) as usize];
        let uses = &mut self.uses[usize::from(block)];
        match (slot.load(Relaxed) != 0, id.is_some()) {
            (false, true) => *uses += 1,
            (true, false) => *uses -= 1,
            _ => {}
        }
        slot.store(id.unwrap_or_default().get(), Release);
        if *uses == 0 {
            dir.store(0, Release);
            self.quarantine.push(block);
        }
    }

    /// See [`super::Tables::lend_low_interfaces`].
    pub fn lend_low(&mut self, maps: &Maps) {
        let dir = &maps.words::<AtomicU16>(MapId::InterfaceDir)[0];
        if dir.load(Relaxed) == 0 {
            let Some(block) = self.free.pop() else { return };
            dir.store(block, Release);
        }
        let block = usize::from(dir.load(Relaxed));
        self.uses[block] += 1;
        self.low = Some(block * 256 + 1);
    }

    /// See [`super::Tables::lend_interface`].
    pub fn lend(&mut self, maps: &Maps, ifindex: IfIndex) {
        let endpoint = endpoint_of(maps, ifindex);
        if let Some(low) = self.low {
            let slots = maps.words::<AtomicU16>(MapId::InterfaceBlock);
            self.lent = Some(EndpointId::new(slots[low].load(Relaxed)));
            slots[low].store(endpoint.get(), Release);
        }
    }

    /// See [`super::Tables::return_interface`].
    pub fn unlend(&mut self, maps: &Maps) {
        if let (Some(low), Some(own)) = (self.low, self.lent.take()) {
            maps.words::<AtomicU16>(MapId::InterfaceBlock)[low].store(own.get(), Release);
        }
    }

    /// Prepares endpoints for their new words: purges the state that is left of an earlier use of
    /// the id, and gives tables of connections to those that keep state and have none.
    pub fn prepare(
        &self,
        maps: &Maps,
        list: &[(EndpointId, Option<Word>)],
        grace: &Grace,
    ) -> Result<(), Error> {
        let back = list
            .iter()
            .filter(|(id, word)| word.is_some() && presence(maps, *id).load(Acquire) == USED);
        let back: Vec<EndpointId> = back.map(|(id, _)| *id).collect();
        // Packets of the endpoint that went may still be under way, and write the state that is
        // about to be purged.
        if !back.is_empty() {
            grace.wait()?;
        }
        for id in back {
            state::purge(maps, id)?;
            presence(maps, id).store(ABSENT, Release);
        }
        let keeping = Word::INGRESS | Word::EGRESS | Word::RECORD | Word::TRIED;
        let keeps = |word: &Word| word.flags & keeping != 0;
        let keeping =
            list.iter().filter(|(_, word)| word.as_ref().is_some_and(keeps)).map(|(id, _)| *id);
        maps.shared().pool().provide(&keeping.collect())
    }

    /// Changes an endpoint's word. The ledger says that there is an entry for as long as packets
    /// may see the word.
    pub fn write_endpoint(&mut self, maps: &Maps, id: EndpointId, word: Option<Word>) {
        let (record, presence) = (record(maps, id), presence(maps, id));
        if let Some(word) = word {
            presence.store(PRESENT, Release);
            let value = u64::from(word.ingress_set.get())
                | u64::from(word.egress_set.get()) << 16
                | u64::from(word.flags) << endpoint::FLAGS_SHIFT
                | u64::from(word.born_set.get()) << endpoint::BORN_SHIFT;
            record[endpoint::WORD / 8].store(value, Release);
        } else if presence.load(Acquire) == PRESENT {
            record[endpoint::WORD / 8].store(0, Release);
            presence.store(USED, Release);
        }
    }

    /// Checks that these own addresses find room.
    pub fn reserve_own(
        &self,
        maps: &Maps,
        table: TableId,
        puts: &[(EndpointId, IpAddr)],
    ) -> Result<(), Stop> {
        if self.more_count as usize + puts.len() <= maps.capacities.more_addresses as usize {
            return Ok(());
        }
        let into_more = puts.iter().filter(|(id, address)| !self.has(maps, *id, *address)).count();
        if self.more_count as usize + into_more > maps.capacities.more_addresses as usize {
            let (capacity, need) =
                (maps.capacities.more_addresses.into(), self.more_count as u64 + into_more as u64);
            return Err(Stop::Room { table, room: Room::MoreAddresses, capacity, need });
        }
        Ok(())
    }

    /// The own address in the endpoint's record, where it has one.
    fn first(&self, maps: &Maps, id: EndpointId, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => {
                let word = record32(maps, id, endpoint::OWN_V4).load(Acquire);
                let address = Ipv4Addr::from(word.to_le_bytes());
                (!address.is_unspecified()).then_some(address.into())
            }
            Family::V6 => {
                let flags = record32(maps, id, endpoint::OWN_FLAGS).load(Acquire);
                if flags & endpoint::HAS_V6 == 0 {
                    return None;
                }
                let halves = &record(maps, id)[endpoint::OWN_V6 / 8..][..2];
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&halves[0].load(Acquire).to_le_bytes());
                bytes[8..].copy_from_slice(&halves[1].load(Acquire).to_le_bytes());
                Some(Ipv6Addr::from(bytes).into())
            }
        }
    }

    /// Whether the address is one of the endpoint's own.
    fn has(&self, maps: &Maps, id: EndpointId, address: IpAddr) -> bool {
        self.first(maps, id, Family::of(address)) == Some(address)
            || self.more.get(&id).is_some_and(|m| m.contains(&address))
    }

    /// Adds or removes one own address.
    pub fn write_own(
        &mut self,
        maps: &Maps,
        id: EndpointId,
        address: IpAddr,
        put: bool,
    ) -> Result<(), Error> {
        let known = self.has(maps, id, address);
        if known == put {
            return Ok(());
        }
        let flags = record32(maps, id, endpoint::OWN_FLAGS);
        let first = self.first(maps, id, Family::of(address));
        if put {
            match address {
                IpAddr::V4(a) if first.is_none() => {
                    record32(maps, id, endpoint::OWN_V4)
                        .store(u32::from_le_bytes(a.octets()), Release);
                }
                // An IPv6 address takes two stores. The flag makes it valid, after both.
                IpAddr::V6(a) if first.is_none() && !self.stale_v6.contains(&id) => {
                    for (half, word) in
                        a.octets().chunks_exact(8).zip(&record(maps, id)[endpoint::OWN_V6 / 8..])
                    {
                        word.store(u64::from_le_bytes(half.try_into().expect("8 bytes")), Relaxed);
                    }
                    flags.fetch_or(endpoint::HAS_V6, Release);
                }
                _ => {
                    let done = maps.own_more()?.insert(own_more_key(id, address), 1, 0);
                    done.map_err(|e| {
                        refused(format!("map own_more: insert {address}"), map_error(e))
                    })?;
                    flags.fetch_or(endpoint::HAS_MORE, Release);
                    self.more.entry(id).or_default().insert(address);
                    self.more_count += 1;
                }
            }
        } else if first == Some(address) {
            if address.is_ipv4() {
                record32(maps, id, endpoint::OWN_V4).store(0, Release);
            } else {
                flags.fetch_and(!endpoint::HAS_V6, Release);
                self.stale_v6.insert(id);
            }
        } else {
            let done = maps.own_more()?.remove(&own_more_key(id, address));
            done.map_err(|e| refused(format!("map own_more: remove {address}"), map_error(e)))?;
            self.more_count -= 1;
            let more = self.more.entry(id).or_default();
            more.remove(&address);
            if more.is_empty() {
                self.more.remove(&id);
                flags.fetch_and(!endpoint::HAS_MORE, Release);
            }
        }
        Ok(())
    }

    /// To be called after a grace period: frees blocks, and purges the state of endpoints that are
    /// gone.
    pub fn release(&mut self, maps: &Maps) -> Result<(), Error> {
        self.free.append(&mut self.quarantine);
        self.stale_v6.clear();
        for id in endpoints(maps) {
            if presence(maps, id).load(Acquire) == USED {
                state::purge(maps, id)?;
                presence(maps, id).store(ABSENT, Release);
            }
        }
        Ok(())
    }

    /// Decodes the tables of this module.
    pub fn read(&self, maps: &Maps, into: &mut Program) -> Result<(), Error> {
        for (ifindex, endpoint) in interfaces(maps) {
            let entry = set_endpoint(endpoint);
            into.table_mut(TableId::Interface).entries.insert(interface_key(ifindex), entry);
        }
        let own = |into: &mut Program, id: EndpointId, address: IpAddr| {
            into.table_mut(TableId::own(Family::of(address)))
                .entries
                .insert(own_key(id, address), schema::plain(ActionId::Own));
        };
        for id in endpoints(maps) {
            let value = record(maps, id)[endpoint::WORD / 8].load(Acquire);
            let word = word_of(value);
            match presence(maps, id).load(Acquire) {
                PRESENT => drop(
                    into.table_mut(TableId::Endpoint)
                        .entries
                        .insert(endpoint_key(id), set_policy(word)),
                ),
                _ if value != 0 => {
                    // A process was killed between the word and its note. The word counts, since
                    // packets see it.
                    into.table_mut(TableId::Endpoint)
                        .entries
                        .insert(endpoint_key(id), set_policy(word));
                }
                _ => {}
            }
            for address in Family::BOTH.into_iter().filter_map(|f| self.first(maps, id, f)) {
                own(into, id, address);
            }
            let recorded = record(maps, id)[endpoint::OWN_MAC / 8].load(Acquire);
            if recorded != 0 {
                let entry = schema::set_mac(mac(recorded));
                into.table_mut(TableId::OwnMac).entries.insert(schema::own_mac_key(id), entry);
            }
        }
        for key in maps.own_more()?.keys() {
            let key = key.map_err(|e| refused("map own_more: read", map_error(e)))?;
            let bytes: [u8; 16] = key[4..].try_into().expect("16 bytes");
            let v4 = IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let id = EndpointId::new(u16::from_le_bytes([key[0], key[1]]));
            own(into, id, if key[2] == 4 { v4 } else { bytes.into() });
        }
        for (i, word) in maps.words::<AtomicU64>(MapId::Directory).iter().enumerate() {
            let (value, kind) = (word.load(Acquire), (i >> 16) as u8 + 1);
            if value == 0 {
                continue;
            }
            let named = Named::new(kind, i as u32 & 0xffff);
            if let Named::Unknown { .. } = named {
                return Err(Error::Installed(format!(
                    "table directory: {kind} is not a valid kind of id"
                )));
            }
            let entries = &mut into.table_mut(TableId::Directory).entries;
            entries.insert(schema::directory_key(named), schema::fingerprint(value));
        }
        Ok(())
    }
}

/// The endpoint of an interface; 0 where it has none.
pub fn endpoint_of(maps: &Maps, ifindex: IfIndex) -> EndpointId {
    let ifindex = ifindex.get();
    let dir = maps.words::<AtomicU16>(MapId::InterfaceDir);
    let block = dir.get((ifindex >> 8) as usize).map_or(0, |d| d.load(Relaxed));
    let slots = maps.words::<AtomicU16>(MapId::InterfaceBlock);
    EndpointId::new(slots[usize::from(block) * 256 + (ifindex & 255) as usize].load(Relaxed))
}

/// Every interface that has an endpoint, with it.
fn interfaces(maps: &Maps) -> BTreeMap<IfIndex, EndpointId> {
    let slots = maps.words::<AtomicU16>(MapId::InterfaceBlock);
    let mut list = BTreeMap::new();
    for (high, dir) in maps.words::<AtomicU16>(MapId::InterfaceDir).iter().enumerate() {
        let block = usize::from(dir.load(Acquire));
        if block != 0 && (block + 1) * 256 <= slots.len() {
            for (low, slot) in slots[block * 256..][..256].iter().enumerate() {
                let endpoint = EndpointId::new(slot.load(Acquire));
                if endpoint != EndpointId::default() {
                    list.insert(IfIndex::new((high << 8 | low) as u32), endpoint);
                }
            }
        }
    }
    list
}

/// Stores a fingerprint in the directory; 0 removes it.
pub fn write_directory(maps: &Maps, place: usize, value: u64) {
    maps.words::<AtomicU64>(MapId::Directory)[place].store(value, Release);
}
