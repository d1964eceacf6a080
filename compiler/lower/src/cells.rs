//! What the rows of each namespace take as they turn out: a row for each combination of rules that some
//! address meets, with a verdict for each port class that they permit. Sizes alone do not tell, because
//! they do not tell which pods have which labels; so rows are counted while they are made.
//!
//! A namespace is counted by its own edges of port ranges: those of others split its rows too, and are
//! no fault of its own. Not here: what is set aside ([`crate::Shares::blame`]).

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    compiler::Compiler,
    distinct,
    ports::{self, Edge},
    rows::RowKey,
    sets::{Ports, Rule, What},
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
    /// Counts a row of a namespace; false where there is no room for it even while an update is under way.
    pub(crate) fn take(&mut self, namespace: &Arc<str>, cells: u64) -> bool {
        let taken = self.taken.entry(namespace.clone()).or_default();
        if *taken + cells > self.limit.saturating_mul(BOTH) {
            self.refused.insert(namespace.clone(), *taken + cells);
            return false;
        }
        *taken += cells;
        true
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
}

/// Ports at which some range of these rules begins or has just ended, in order.
pub(crate) fn edges(rules: &[Rule]) -> Vec<Edge> {
    let ranges = rules.iter().filter_map(|rule| match &*rule.ports {
        Ports::Any => None,
        Ports::Listed(ports) => Some(ports),
    });
    let ranges = ranges.flatten().filter_map(|(_, what)| match what {
        What::Range(protocol, first, last) => Some((*protocol, *first, *last)),
        What::Named(..) | What::Portless => None,
    });
    distinct(ranges.flat_map(ports::edges))
}

/// The verdicts of a row, where there are no edges but these.
pub(crate) fn of(row: &RowKey, edges: &[Edge]) -> u64 {
    row.iter().map(|grant| grant.range().map_or(1, |range| ports::pieces(edges, range))).sum()
}

impl Compiler {
    /// The same with so many verdicts for each namespace; more than that deny, until the namespace is set aside.
    pub fn bounded(mut self, cells: u64) -> Self {
        self.cells.limit = cells;
        self
    }

    /// The namespaces whose rows take more verdicts than they may, with what they take: after an update, each until
    /// their policies are set aside.
    pub fn take_excess(&mut self) -> BTreeMap<Arc<str>, u64> {
        let mut excess = std::mem::take(&mut self.cells.refused);
        for (namespace, &taken) in self.cells.taken.iter().filter(|(_, taken)| **taken > self.cells.limit) {
            excess.entry(namespace.clone()).or_insert(taken);
        }
        excess
    }
}
