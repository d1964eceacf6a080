//! Which namespaces isolate pods that no policy selects (S90).
//!
//! Not here: which pods policies select ([`crate::policies`]).

use std::{collections::HashMap, sync::Arc};

use netpolc_policy::{ByDefault, Unselected};

/// What holds by default, and what single namespaces say.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    by_default: ByDefault,
    namespaces: HashMap<Arc<str>, Unselected>,
}

impl Defaults {
    /// Whether something may be isolated by default from now on that was not, or no longer.
    pub(crate) fn set(&mut self, by_default: ByDefault) -> bool {
        let changed = self.by_default != by_default;
        self.by_default = by_default;
        changed
    }

    /// A namespace says this, or nothing. Whether its pods get another answer from now on.
    pub(crate) fn set_namespace(&mut self, name: &Arc<str>, says: Option<Unselected>) -> bool {
        let before = self.of(name);
        match says {
            Some(unselected) => drop(self.namespaces.insert(name.clone(), unselected)),
            None => drop(self.namespaces.remove(name)),
        }
        self.of(name) != before
    }

    /// What becomes of the pods of a namespace that no policy isolates.
    pub(crate) fn of(&self, namespace: &Arc<str>) -> Unselected {
        let exempt = self.by_default.except.contains(namespace);
        let rest = if exempt { Unselected::Open } else { self.by_default.unselected };
        self.namespaces.get(namespace).copied().unwrap_or(rest)
    }
}
