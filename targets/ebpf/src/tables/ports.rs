//! The table `port`: intervals stored in 65,536 slots for each of TCP, UDP, SCTP and the two ICMPs,
//! and one slot for each protocol beside them.
//!
//! A packet reads one slot. The slots are the truth. The ledger's flags say which of them belong to
//! an interval and where one begins, since two neighbours may share a class. A process that is
//! killed meanwhile leaves an interval in two pieces.
//!
//! Not here: what a port class permits (`rows`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{
        AtomicU8, AtomicU16, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use netpolc_table::{
    ActionId, Entry, Key, PortClassId, Program, TableId,
    schema::{PortKey, SetPortClass, port_key, set_port_class},
    text,
};
use netpolc_target::semantics::ip;

use super::{Access, Room, Stop, below, invalid, set_bit, with_action};
use crate::{
    layout::{MapId, config::asked},
    ledger::{COVERED, FIRST, LedgerId},
    maps::Maps,
};

/// The rows of the map, by the protocol that each is about. One is about several: it has the slots
/// of all other protocols, at their numbers.
const ROWS: [Option<u8>; asked::ROWS as usize] =
    [Some(ip::TCP), Some(ip::UDP), Some(ip::SCTP), Some(ip::ICMP), None, Some(ip::ICMPV6)];

/// The row of the map, the first slot and the last slot.
pub type Interval = (u8, u16, u16);

/// Where the map has an interval of a protocol.
fn place(number: u8, low: u16, high: u16) -> Option<Interval> {
    match ROWS.iter().position(|row| *row == Some(number)) {
        Some(row) => Some((row as u8, low, high)),
        None => {
            ((low, high) == (0, u16::MAX)).then_some((asked::OTHER, number.into(), number.into()))
        }
    }
}

/// The keys of an interval in the map. It is one, unless a process was killed between two slots of
/// other protocols.
fn keys((row, low, high): Interval) -> impl Iterator<Item = Key> {
    let several = ROWS[usize::from(row)].is_none();
    let slots = if several { low..=high } else { low..=low };
    slots.filter_map(move |slot| match ROWS[usize::from(row)] {
        Some(number) => Some(port_key(number, low, high)),
        None => Some(port_key(u8::try_from(slot).ok()?, 0, u16::MAX)),
    })
}

/// The intervals as user space knows them.
#[derive(Debug, Default)]
pub struct Ports(Intervals);

/// (row, first slot) -> (last slot, port class).
type Intervals = BTreeMap<(u8, u16), (u16, PortClassId)>;

fn slots(maps: &Maps, protocol: u8) -> &[AtomicU16] {
    &maps.words(MapId::Port)[usize::from(protocol) << 16..][..65536]
}
fn flags(maps: &Maps, protocol: u8) -> &[AtomicU8] {
    &maps.ledger(LedgerId::Port)[usize::from(protocol) << 16..][..65536]
}

/// Checks that the rows have a bit for the class.
pub fn check_class(maps: &Maps, table: TableId, class: PortClassId) -> Result<PortClassId, Stop> {
    below(table, Room::PortClasses, class, maps.capacities.port_words * 64)
}

/// Checks a change of `port`. Returns the interval, and its class; None where the entry is removed.
pub fn check(
    maps: &Maps,
    key: &Key,
    entry: Option<&Entry>,
) -> Result<(Interval, Option<PortClassId>), Stop> {
    let table = TableId::Port;
    let PortKey { protocol: number, port } = PortKey::of(key);
    let (low, high) = (port.low, port.high);
    if low > high || high > 65535 {
        return Err(invalid(table, format!("{low}-{high} is not a valid range of ports")));
    }
    let Some(interval) = place(number, low as u16, high as u16) else {
        return Err(invalid(table, format!("protocol {number} has no ports")));
    };
    let class = with_action(table, ActionId::SetPortClass, entry)?
        .map(|e| check_class(maps, table, SetPortClass::of(e).port_class))
        .transpose()?;
    Ok((interval, class))
}

impl Ports {
    /// Finds the intervals in the map.
    pub fn open(maps: &Maps, access: Access) -> Self {
        let this = Ports(decode(maps));
        if access == Access::Write {
            this.classes(maps);
        }
        this
    }

    /// Checks that the intervals would be disjoint after a write. Otherwise one packet would have
    /// two answers.
    pub fn check_disjoint(
        &self,
        removes: &[Interval],
        puts: &[(Interval, PortClassId)],
    ) -> Result<(), Stop> {
        let gone: HashSet<Interval> =
            removes.iter().copied().chain(puts.iter().map(|(i, _)| *i)).collect();
        let clash = |a: Interval, b: Interval| {
            let of = |interval| keys(interval).map(|key| text::key(TableId::Port, &key)).next();
            let what =
                format!("{} overlaps {}", of(a).unwrap_or_default(), of(b).unwrap_or_default());
            Err(invalid(TableId::Port, what))
        };
        let mut sorted: Vec<Interval> = puts.iter().map(|(i, _)| *i).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|w| w[0].0 == w[1].0 && w[1].1 <= w[0].2) {
            return clash(pair[1], pair[0]);
        }
        for &(protocol, low, high) in &sorted {
            let below = self.0.range(..=(protocol, high)).rev();
            for (&(p, l), &(h, _)) in
                below.take_while(|((p, _), (h, _))| *p == protocol && *h >= low)
            {
                if !gone.contains(&(p, l, h)) {
                    return clash((protocol, low, high), (p, l, h));
                }
            }
        }
        Ok(())
    }

    /// Removes intervals and puts others, which must have been checked.
    pub fn write(&mut self, maps: &Maps, removes: &[Interval], puts: &[(Interval, PortClassId)]) {
        for &(protocol, low, high) in removes {
            if self.0.get(&(protocol, low)).is_some_and(|&(h, _)| h == high) {
                self.0.remove(&(protocol, low));
            }
        }
        for &((protocol, low, high), class) in puts {
            self.0.insert((protocol, low), (high, class));
        }
        // Later fragments ask which classes a protocol's ports have. While slots change, the old
        // and the new classes all count, so that such a fragment is rather dropped than let
        // through.
        for &((protocol, ..), class) in puts {
            set_bit(classes_of(maps, protocol), usize::from(class.get()), true);
        }
        for protocol in 0..asked::ROWS {
            set_bit(classes_of(maps, protocol), 0, true);
        }
        for &(protocol, low, high) in removes.iter().chain(puts.iter().map(|(i, _)| i)) {
            self.paint(maps, protocol, low, high);
        }
        self.classes(maps);
    }

    /// Stores what the slots from `low` to `high` must hold, interval by interval and gap by gap.
    fn paint(&self, maps: &Maps, protocol: u8, low: u16, high: u16) {
        let (slots, flags) = (slots(maps, protocol), flags(maps, protocol));
        let mut port = u32::from(low);
        while port <= u32::from(high) {
            let key = (protocol, port as u16);
            let inside = self
                .0
                .range(..=key)
                .next_back()
                .filter(|((p, _), (h, _))| *p == protocol && u32::from(*h) >= port);
            let (class, covered, first, last) = match inside {
                Some((&(_, l), &(h, class))) => (class, COVERED, Some(l), u32::from(h)),
                None => {
                    let next = self.0.range(key..).next().filter(|((p, _), _)| *p == protocol);
                    (
                        PortClassId::default(),
                        0,
                        None,
                        next.map_or(65535, |((_, l), _)| u32::from(*l) - 1),
                    )
                }
            };
            for port in port..=last.min(high.into()) {
                slots[port as usize].store(class.get(), Release);
                let begins = if first.map(u32::from) == Some(port) { FIRST } else { 0 };
                flags[port as usize].store(covered | begins, Relaxed);
            }
            port = last + 1;
        }
    }

    /// Makes `port_classes` name exactly the classes that occur. Class 0 occurs where a port has no
    /// interval.
    fn classes(&self, maps: &Maps) {
        for protocol in 0..asked::ROWS {
            let words = classes_of(maps, protocol);
            let mut wanted = vec![0u64; words.len()];
            let mut next = 0u32;
            for (&(_, low), &(high, class)) in self.0.range((protocol, 0)..=(protocol, u16::MAX)) {
                if u32::from(low) > next {
                    wanted[0] |= 1;
                }
                wanted[usize::from(class.get()) / 64] |= 1 << (class.get() % 64);
                next = u32::from(high) + 1;
            }
            if next < 65536 {
                wanted[0] |= 1;
            }
            for (word, wanted) in words.iter().zip(wanted) {
                if word.load(Relaxed) != wanted {
                    word.store(wanted, Release);
                }
            }
        }
    }

    /// Decodes the table.
    pub fn read(&self, maps: &Maps, into: &mut Program) {
        for ((protocol, low), (high, class)) in decode(maps) {
            for key in keys((protocol, low, high)) {
                into.table_mut(TableId::Port).entries.insert(key, set_port_class(class));
            }
        }
    }

    /// How many intervals there are.
    pub fn used(&self) -> u64 {
        self.0.len() as u64
    }
}

fn classes_of(maps: &Maps, protocol: u8) -> &[AtomicU64] {
    let width = maps.capacities.port_words as usize;
    &maps.words(MapId::PortClasses)[usize::from(protocol) * width..][..width]
}

fn decode(maps: &Maps) -> Intervals {
    let mut intervals = Intervals::new();
    for protocol in 0..asked::ROWS {
        let mut open: Option<(u16, PortClassId)> = None;
        for (port, (slot, flag)) in
            slots(maps, protocol).iter().zip(flags(maps, protocol)).enumerate()
        {
            let (port, class, flag) =
                (port as u16, PortClassId::new(slot.load(Acquire)), flag.load(Acquire));
            let covered = class != PortClassId::default() || flag & COVERED != 0;
            if !covered {
                open = None;
                continue;
            }
            if let Some((first, c)) = open.filter(|&(_, c)| c == class && flag & FIRST == 0) {
                intervals.insert((protocol, first), (port, c));
            } else {
                open = Some((port, class));
                intervals.insert((protocol, port), (port, class));
            }
        }
    }
    intervals
}
