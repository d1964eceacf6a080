//! The tables `tunnel` and `on_link_v6`, which describe the node's own devices. For both there is
//! no ledger.
//!
//! Not here: how the agent finds out about devices.

use std::{
    net::Ipv6Addr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use netpolc_table::{
    ActionId, Entry, Key, Program, TableId,
    schema::{self, Family, OnLinkKey, Prefix, TunnelKey},
};
use netpolc_target::semantics::ip;

use super::{Room, Stop, bit, invalid, left_aligned, set_bit, trie::mask, with_action};
use crate::{
    layout::{MapId, on_link, tunnel_port, tunnel_protocol},
    maps::Maps,
    settle::Grace,
};

/// Checks a change of `tunnel`. Returns the number of the bit, and whether it is set or cleared.
pub fn check_tunnel(key: &Key, entry: Option<&Entry>) -> Result<(usize, bool), Stop> {
    let TunnelKey { protocol, port } = TunnelKey::of(key);
    let place = match (protocol, port) {
        (ip::UDP, port) => tunnel_port(port),
        (_, 0) => tunnel_protocol(protocol),
        _ => {
            return Err(invalid(
                TableId::Tunnel,
                format!("protocol {protocol} has a port: tunnels have ports in UDP only"),
            ));
        }
    };
    let put = with_action(TableId::Tunnel, ActionId::Tunnel, entry)?.is_some();
    Ok((place, put))
}

/// Sets or clears a bit of `tunnel`.
pub fn write_tunnel(maps: &Maps, place: usize, put: bool) {
    set_bit(maps.words::<AtomicU64>(MapId::Tunnel), place, put);
}

/// A checked change of `on_link_v6`: the prefix and its length, and whether it is put or removed.
pub type Change = ((u128, u8), bool);

/// Checks a change of `on_link_v6`.
pub fn check_on_link(key: &Key, entry: Option<&Entry>) -> Result<Change, Stop> {
    let table = TableId::OnLinkV6;
    let Prefix { address, length } = OnLinkKey::of(key).address;
    let bits = left_aligned(table, Family::V6, address.to_bits(), length)?;
    let put = with_action(table, ActionId::OnLink, entry)?.is_some();
    Ok(((bits, length), put))
}

fn places(maps: &Maps) -> impl Iterator<Item = &[AtomicU64]> {
    maps.words::<AtomicU64>(MapId::OnLink).chunks_exact(on_link::SIZE / 8)
}

/// The prefix in a place; None where the place does not count.
fn prefix(place: &[AtomicU64]) -> Option<(u128, u8)> {
    let length = place[on_link::LENGTH / 8].load(Acquire).checked_sub(1)?;
    let half = |i: usize| place[on_link::PREFIX / 8 + i].load(Acquire).to_le_bytes();
    let bytes: [u8; 16] = [half(0), half(1)].concat().try_into().expect("16 bytes");
    Some((u128::from_be_bytes(bytes), length as u8))
}

/// Makes all changes; none where there is no room.
pub fn write_on_link(maps: &Maps, changes: &[Change], grace: &Grace) -> Result<(), Stop> {
    let there: Vec<_> = places(maps).map(prefix).collect();
    let gone: Vec<_> = changes.iter().filter(|(_, put)| !put).map(|(p, _)| *p).collect();
    let new = changes.iter().filter(|(p, put)| *put && !there.contains(&Some(*p))).map(|(p, _)| *p);
    let new: Vec<_> = new.collect();
    let kept = there.iter().flatten().filter(|p| !gone.contains(p)).count();
    if kept + new.len() > on_link::PLACES {
        let (capacity, need) = (on_link::PLACES as u64, (kept + new.len()) as u64);
        return Err(Stop::Room {
            table: TableId::OnLinkV6,
            room: Room::Never("on-link prefixes"),
            capacity,
            need,
        });
    }
    for place in places(maps).filter(|place| prefix(place).is_some_and(|p| gone.contains(&p))) {
        place[on_link::LENGTH / 8].store(0, Release);
    }
    if !new.is_empty() && !gone.is_empty() {
        // A place that has just been emptied may be filled, and packets may still be reading it.
        grace.wait()?;
    }
    for (place, (bits, length)) in places(maps).filter(|p| prefix(p).is_none()).zip(new) {
        for (at, value) in [(on_link::PREFIX, bits), (on_link::MASK, mask(length))] {
            for (half, word) in value.to_be_bytes().chunks_exact(8).zip(&place[at / 8..]) {
                word.store(u64::from_le_bytes(half.try_into().expect("8 bytes")), Release);
            }
        }
        place[on_link::LENGTH / 8].store(u64::from(length) + 1, Release);
    }
    Ok(())
}

/// Decodes both tables.
pub fn read(maps: &Maps, into: &mut Program) {
    let bits = maps.words::<AtomicU64>(MapId::Tunnel);
    let ports =
        (0..=u16::MAX).filter(|port| bit(bits, tunnel_port(*port))).map(|port| (ip::UDP, port));
    let protocols = (0..=u8::MAX).filter(|p| bit(bits, tunnel_protocol(*p))).map(|p| (p, 0));
    for (protocol, port) in ports.chain(protocols) {
        let key = schema::tunnel_key(protocol, port);
        into.table_mut(TableId::Tunnel).entries.insert(key, schema::plain(ActionId::Tunnel));
    }
    for (bits, length) in places(maps).filter_map(prefix) {
        let key = schema::on_link_key(Ipv6Addr::from(bits), length);
        into.table_mut(TableId::OnLinkV6).entries.insert(key, schema::plain(ActionId::OnLink));
    }
}
