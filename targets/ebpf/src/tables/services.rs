//! The tables `service_v4` and `service_v6`: keys of one kernel hash. There is no ledger: [`read`]
//! asks the kernel, and the copy of the keys in [`Services`] only saves system calls.
//!
//! Not here: what a packet to a Service is judged by (`program::translated`).

use std::{collections::HashSet, net::IpAddr};

use netpolc_table::{
    ActionId, Entry, Key, Program, TableId,
    schema::{self, Family, ServiceKey},
};
use netpolc_target::{Error, semantics::HAS_PORTS};

use super::{Access, Room, Stop, invalid, with_action};
use crate::{
    layout::{SERVICE_KEY, service_key},
    maps::Maps,
    memory::map_error,
    sys::refused,
};

/// A checked change: the key of the hash, and whether it is put or removed.
pub type Change = ([u8; SERVICE_KEY], bool);

/// Checks a change of `service_v4` or `service_v6`.
pub fn check(table: TableId, key: &Key, entry: Option<&Entry>) -> Result<Change, Stop> {
    let family = if table == TableId::ServiceV4 { Family::V4 } else { Family::V6 };
    let ServiceKey { address, protocol, port } = ServiceKey::of(family, key);
    if !HAS_PORTS.contains(&protocol) {
        return Err(invalid(table, format!("protocol {protocol} has no ports")));
    }
    let put = with_action(table, ActionId::Defer, entry)?.is_some();
    Ok((service_key(address, protocol, port), put))
}

/// The keys that the hash holds, so that the kernel need not be asked before a write: reading all
/// keys for each write would take quadratic time with many Services.
#[derive(Debug, Default)]
pub struct Services {
    held: HashSet<[u8; SERVICE_KEY]>,
}

impl Services {
    /// Reads the keys. An observer keeps none, since another process changes them.
    pub fn open(maps: &Maps, access: Access) -> Result<Self, Error> {
        let mut held = HashSet::new();
        if access == Access::Write {
            for key in maps.service()?.keys() {
                held.insert(key.map_err(|e| refused("map service: read", map_error(e)))?);
            }
        }
        Ok(Self { held })
    }

    /// Makes all changes, removals first; none where there is no room.
    pub fn write(&mut self, maps: &Maps, table: TableId, changes: &[Change]) -> Result<(), Stop> {
        let (puts, removes): (Vec<_>, Vec<_>) = changes.iter().partition(|(_, put)| *put);
        let new: Vec<_> =
            puts.iter().map(|(key, _)| *key).filter(|key| !self.held.contains(key)).collect();
        let gone: Vec<_> =
            removes.iter().map(|(key, _)| *key).filter(|key| self.held.contains(key)).collect();
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let capacity = u64::from(maps.capacities.services);
        let need = (self.held.len() + new.len()) as u64;
        if need - gone.len() as u64 > capacity {
            return Err(Stop::Room { table, room: Room::Services, capacity, need });
        }
        let mut map = maps.service()?;
        for key in gone {
            map.remove(&key).map_err(|e| refused("map service: remove", map_error(e)))?;
            self.held.remove(&key);
        }
        for key in new {
            map.insert(key, 1, 0).map_err(|e| refused("map service: insert", map_error(e)))?;
            self.held.insert(key);
        }
        Ok(())
    }

    /// How many entries there are.
    pub fn used(&self) -> u64 {
        self.held.len() as u64
    }
}

/// Decodes both tables.
pub fn read(maps: &Maps, into: &mut Program) -> Result<(), Error> {
    for key in maps.service()?.keys() {
        let key = key.map_err(|e| refused("map service: read", map_error(e)))?;
        let bytes: [u8; 16] = key[..16].try_into().expect("16 bytes");
        let address = match key[19] {
            4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            6 => IpAddr::from(bytes),
            other => {
                return Err(Error::Installed(format!(
                    "map service: family {other} is neither 4 nor 6"
                )));
            }
        };
        let entry = schema::service_key(address, key[18], u16::from_be_bytes([key[16], key[17]]));
        let entries = &mut into.table_mut(TableId::service(Family::of(address))).entries;
        entries.insert(entry, schema::plain(ActionId::Defer));
    }
    Ok(())
}
