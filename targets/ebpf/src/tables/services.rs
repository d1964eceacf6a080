//! `service_v4`, `service_v6`: keys of one kernel hash, which is its own record.

use std::net::IpAddr;

use netpolc_table::{
    ActionId, Entry, Key, Program, TableId,
    schema::{self, Family},
};
use netpolc_target::{Error, semantics::HAS_PORTS};

use super::{Room, Stop, invalid};
use crate::{
    layout::{SERVICE_KEY, service_key},
    maps::Maps,
    memory::map_error,
    sys::refused,
};

/// A checked change: the hash's key, and whether it is put.
pub type Change = ([u8; SERVICE_KEY], bool);

/// Checks a change.
pub fn check(table: TableId, key: &Key, entry: Option<&Entry>) -> Result<Change, Stop> {
    let value = key.value(0).get();
    let address: IpAddr = match table {
        TableId::ServiceV4 => IpAddr::V4((value as u32).into()),
        _ => IpAddr::V6(value.into()),
    };
    let (protocol, port) = (key.value(1).low() as u8, key.value(2).low() as u16);
    if !HAS_PORTS.contains(&protocol) {
        return Err(invalid(table, format!("protocol {protocol} has no ports")));
    }
    match entry.map(|e| e.action) {
        None | Some(ActionId::Defer) => Ok((service_key(address, protocol, port), entry.is_some())),
        Some(other) => Err(invalid(table, format!("no action {}", other.spec().name))),
    }
}

/// Makes all changes: removals first, and none where there is no room.
pub fn write(maps: &Maps, table: TableId, changes: &[Change]) -> Result<(), Stop> {
    let mut map = maps.service()?;
    let (puts, removes): (Vec<_>, Vec<_>) = changes.iter().partition(|(_, put)| *put);
    let there = |key: &[u8; SERVICE_KEY]| map.get(key, 0).is_ok();
    let new: Vec<_> = puts.iter().map(|(key, _)| *key).filter(|key| !there(key)).collect();
    let gone: Vec<_> = removes.iter().map(|(key, _)| *key).filter(there).collect();
    if !new.is_empty() {
        let capacity = u64::from(maps.capacities.services);
        let need = map.keys().count() as u64 + new.len() as u64;
        if need - gone.len() as u64 > capacity {
            return Err(Stop::Room { table, room: Room::Services, capacity, need });
        }
    }
    for key in gone {
        map.remove(&key).map_err(|e| refused("map service: remove", map_error(e)))?;
    }
    for key in new {
        map.insert(key, 1, 0).map_err(|e| refused("map service: insert", map_error(e)))?;
    }
    Ok(())
}

/// Decodes both tables.
pub fn read(maps: &Maps, into: &mut Program) -> Result<(), Error> {
    for key in maps.service()?.keys() {
        let key = key.map_err(|e| refused("map service: read", map_error(e)))?;
        let bytes: [u8; 16] = key[..16].try_into().expect("16 bytes");
        let address = match key[19] {
            4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            6 => IpAddr::from(bytes),
            other => return Err(Error::Installed(format!("map service: family {other}"))),
        };
        let entry = schema::service_key(address, key[18], u16::from_be_bytes([key[16], key[17]]));
        let entries = &mut into.table_mut(TableId::service(Family::of(address))).entries;
        entries.insert(entry, schema::plain(ActionId::Defer));
    }
    Ok(())
}
