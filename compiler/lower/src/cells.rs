//! How many verdicts the rows of each namespace take, counted as they turn out: a row for each
//! combination of rules that some address meets, with a verdict for each port class that they
//! permit. Sizes alone do not tell, because they do not tell which pods have which labels; so rows
//! are counted while they are made.
//!
//! A namespace is counted by its own edges of port ranges: those of others split its rows too, and
//! are no fault of its own. Not here: what is set aside ([`crate::Shares::blame`]).

use std::{collections::BTreeMap, mem::take, sync::Arc};

use crate::{
    content::distinct,
    interval::{self, Edge, PortRange},
    rules::{Rule, What},
};

/// An update makes new rows before it takes old ones back, so that both are there for a moment.
const BOTH: u64 = 2;

/// Verdicts by namespace.
#[derive(Debug)]
pub(crate) struct Cells {
    limit: u64,
    taken: BTreeMap<Arc<str>, u64>,
    /// Rows of these were not made: how many verdicts there would have been until then.
    refused: BTreeMap<Arc<str>, u64>,
}

impl Default for Cells {
    fn default() -> Self {
        Self { limit: u64::MAX, taken: BTreeMap::new(), refused: BTreeMap::new() }
    }
}

impl Cells {
    /// Each namespace may take so many.
    pub(crate) fn limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Counts a row of a namespace; false where there is no room for it even while an update is
    /// under way.
    pub(crate) fn take(&mut self, namespace: &Arc<str>, cells: u64) -> bool {
        let taken = self.taken.entry(namespace.clone()).or_default();
        if *taken + cells > self.limit.saturating_mul(BOTH) {
            self.refused.insert(namespace.clone(), *taken + cells);
            return false;
        }
        *taken += cells;
        true
    }

    /// Counts a row, only where there is room for it. Nobody is named for want of it.
    pub(crate) fn try_take(&mut self, namespace: &Arc<str>, cells: u64) -> bool {
        let taken = self.taken.get(namespace).copied().unwrap_or_default();
        let fits = taken.saturating_add(cells) <= self.limit;
        if fits && cells > 0 {
            self.taken.insert(namespace.clone(), taken + cells);
        }
        fits
    }

    /// Counts one row less.
    pub(crate) fn give_back(&mut self, namespace: &Arc<str>, cells: u64) {
        if let Some(taken) = self.taken.get_mut(namespace) {
            *taken -= cells;
            if *taken == 0 {
                self.taken.remove(namespace);
            }
        }
    }

    /// Was there no room for a row of this namespace since it was last named?
    pub(crate) fn has_refused(&self, namespace: &Arc<str>) -> bool {
        self.refused.contains_key(namespace)
    }

    /// The namespaces that take more than they may, with what they take, or would have taken where
    /// rows were refused; those are named once.
    pub(crate) fn take_excess(&mut self) -> BTreeMap<Arc<str>, u64> {
        let mut excess = take(&mut self.refused);
        for (namespace, &taken) in self.taken.iter().filter(|(_, taken)| **taken > self.limit) {
            excess.entry(namespace.clone()).or_insert(taken);
        }
        excess
    }
}

/// Ports at which some range of these rules begins or has just ended, in order.
pub(crate) fn edges<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<Edge> {
    let ranges = rules.flat_map(Rule::listed).filter_map(|(_, what)| match what {
        What::Range(range) => Some(*range),
        What::Named(_) | What::Apart(_) | What::Portless => None,
    });
    distinct(ranges.flat_map(interval::edges))
}

/// The verdicts of these ranges of a row, where there are no edges but these; no range is what has
/// no ports.
pub(crate) fn of(row: impl Iterator<Item = Option<PortRange>>, edges: &[Edge]) -> u64 {
    row.map(|range| range.map_or(1, |range| interval::pieces(edges, range))).sum()
}
