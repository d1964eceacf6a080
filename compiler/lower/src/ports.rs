//! Port classes: elementary intervals between the edges of live grants, per protocol. Splitting and
//! merging intervals keeps the answer of every row.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use netpolc_policy::Protocol;
use netpolc_table::{
    ActionId, Origin, PortClassId, RowId, TableId,
    schema::{self, port_key, set_port_class, verdict_key},
};

use crate::{
    Overflow,
    compiler::{Compiler, Numbered},
    ids::Ids,
};

#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) ids: Ids<PortClassId>,
    /// First port of each interval -> its class.
    intervals: BTreeMap<Protocol, BTreeMap<u16, PortClassId>>,
    /// How many grants begin or have just ended at a port.
    edges: BTreeMap<Protocol, BTreeMap<u16, usize>>,
    /// Rows with a permit for a class.
    pub(crate) rows: HashMap<PortClassId, BTreeSet<RowId>>,
}

/// A port, below 65536, before which something begins.
pub(crate) type Edge = (Protocol, u32);

/// Where a range begins and has just ended, as far as that is within the protocol's ports and not
/// before all of them.
pub(crate) fn edges((protocol, first, last): (Protocol, u16, u16)) -> impl Iterator<Item = Edge> + Clone {
    let edges = [u32::from(first), u32::from(last) + 1].into_iter();
    edges.filter(|edge| (1..=u32::from(u16::MAX)).contains(edge)).map(move |edge| (protocol, edge))
}

/// Into how many pieces a range is cut by these edges, which are in order.
pub(crate) fn pieces(edges: &[Edge], (protocol, first, last): (Protocol, u16, u16)) -> u64 {
    let before = |port: u16| edges.partition_point(|edge| *edge <= (protocol, port.into()));
    1 + (before(last) - before(first)) as u64
}

/// Seeds an interval's id by where it begins.
pub(crate) fn interval_fingerprint(protocol: u8, first: u16) -> u64 {
    u64::from(protocol) << 16 | u64::from(first)
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::PortClasses),
            intervals: BTreeMap::new(),
            edges: BTreeMap::new(),
            rows: HashMap::new(),
        }
    }

    /// The classes of the intervals that a grant consists of; its edges must have been added.
    pub(crate) fn classes(&self, protocol: Protocol, first: u16, last: u16) -> impl Iterator<Item = PortClassId> {
        self.intervals[&protocol].range(first..=last).map(|(_, pc)| *pc)
    }
}

impl Compiler {
    /// One interval for each protocol: the table always covers every port.
    pub(crate) fn cover_ports(&mut self) -> Result<(), Overflow> {
        for protocol in Protocol::ALL {
            let pc = self.ports.ids.take(Some(interval_fingerprint(protocol.number(), 0)))?;
            self.ports.intervals.entry(protocol).or_default().insert(0, pc);
            self.put(TableId::Port, port_key(protocol.number(), 0, u16::MAX), set_port_class(pc));
        }
        Ok(())
    }

    pub(crate) fn add_edges(&mut self, protocol: Protocol, first: u16, last: u16) -> Result<(), Overflow> {
        for edge in [Some(first), last.checked_add(1)].into_iter().flatten().filter(|e| *e > 0) {
            let count = self.ports.edges.entry(protocol).or_default().entry(edge).or_default();
            *count += 1;
            if *count == 1 {
                self.split(protocol, edge)?;
            }
        }
        Ok(())
    }

    pub(crate) fn drop_edges(&mut self, protocol: Protocol, first: u16, last: u16) {
        for edge in [Some(first), last.checked_add(1)].into_iter().flatten().filter(|e| *e > 0) {
            let edges = self.ports.edges.get_mut(&protocol).expect("added before");
            let count = edges.get_mut(&edge).expect("added before");
            *count -= 1;
            if *count == 0 {
                edges.remove(&edge);
                self.merge(protocol, edge);
            }
        }
    }

    /// First port, last port and class of the interval that `port` is in.
    fn interval(&self, protocol: Protocol, port: u16) -> (u16, u16, PortClassId) {
        let intervals = &self.ports.intervals[&protocol];
        let (&first, &pc) = intervals.range(..=port).next_back().expect("the table covers every port");
        let next = intervals.range((std::ops::Bound::Excluded(port), std::ops::Bound::Unbounded)).next();
        (first, next.map_or(u16::MAX, |(n, _)| n - 1), pc)
    }

    fn split(&mut self, protocol: Protocol, at: u16) -> Result<(), Overflow> {
        let number = protocol.number();
        let (first, last, left) = self.interval(protocol, at);
        let right = self.ports.ids.take(Some(interval_fingerprint(number, at)))?;
        self.ports.intervals.entry(protocol).or_default().insert(at, right);
        let rows = self.ports.rows.get(&left).cloned().unwrap_or_default();
        for &row in &rows {
            let entry = self.program.get(TableId::Verdict, &verdict_key(row, left)).expect("indexed").clone();
            self.put(TableId::Verdict, verdict_key(row, right), entry);
        }
        if !rows.is_empty() {
            self.ports.rows.insert(right, rows);
        }
        self.take(TableId::Port, port_key(number, first, last));
        self.put(TableId::Port, port_key(number, first, at - 1), set_port_class(left));
        self.put(TableId::Port, port_key(number, at, last), set_port_class(right));
        Ok(())
    }

    /// No grant has an edge here any more, so every row answers alike on both sides.
    fn merge(&mut self, protocol: Protocol, at: u16) {
        let number = protocol.number();
        let (_, last, right) = self.interval(protocol, at);
        let (first, _, left) = self.interval(protocol, at - 1);
        self.ports.intervals.get_mut(&protocol).expect("covered").remove(&at);
        for row in self.ports.rows.remove(&right).unwrap_or_default() {
            self.take(TableId::Verdict, verdict_key(row, right));
        }
        self.take(TableId::Port, port_key(number, first, at - 1));
        self.take(TableId::Port, port_key(number, at, last));
        self.put(TableId::Port, port_key(number, first, last), set_port_class(left));
        self.ports.ids.give_back(right);
    }

    /// Permits a port class in a row.
    pub(crate) fn permit(&mut self, row: RowId, pc: PortClassId, origins: Vec<Origin>) {
        self.ports.rows.entry(pc).or_default().insert(row);
        self.put(TableId::Verdict, verdict_key(row, pc), schema::plain(ActionId::Permit).from(origins));
    }
}
