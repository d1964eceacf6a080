//! How many packets would have another verdict if what is only tried were enforced (S85), by
//! policy.
//!
//! The target counts by row and port class, which mean something by the program that was enforced
//! then. So the counts are taken before an update gives these ids another meaning, and added up
//! under the names of policies. Not here: which packets are compared (`netpolc_target::semantics`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use netpolc_table::{
    Origin, Program, TableId,
    schema::{tried_key, verdict_key},
};
use netpolc_target::{Compared, Target};

/// What a policy that is only tried would do to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Would {
    /// Deny it, although it is permitted.
    Deny,
    /// Permit it, although it is denied.
    Permit,
}

impl Would {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Would::Deny => "deny",
            Would::Permit => "permit",
        }
    }
}

impl fmt::Display for Would {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Packets, by policy as users name it and by what it would do.
pub type Trials = BTreeMap<(Arc<str>, Would), u64>;

/// Adds up what a target counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What the target had counted when it was last asked.
    seen: Compared,
    /// What has not been taken yet.
    fresh: Trials,
}

impl Tally {
    /// Asks the target, which holds this program with these ids.
    ///
    /// # Errors
    /// The target's counters cannot be read.
    pub(crate) fn count(
        &mut self,
        target: &impl Target,
        program: &Program,
    ) -> Result<(), netpolc_target::Error> {
        let Some(now) = target.compared()? else { return Ok(()) };
        for (&(row, class), &count) in &now {
            let before = self.seen.get(&(row, class)).copied().unwrap_or_default();
            // An entry that was made anew counts from 0 again.
            let new = if count >= before { count - before } else { count };
            let entry = program.get(TableId::Tried, &tried_key(row, class));
            let Some(entry) = entry.filter(|_| new > 0) else { continue };
            let permitted = program.get(TableId::Verdict, &verdict_key(row, class)).is_some();
            let would = if permitted { Would::Deny } else { Would::Permit };
            for origin in entry.origins.as_slice() {
                if let Origin::Tried { policy } = origin {
                    *self.fresh.entry((policy.clone(), would)).or_default() += new;
                }
            }
        }
        self.seen = now;
        Ok(())
    }

    /// What was counted since the last call.
    pub(crate) fn take(&mut self) -> Trials {
        std::mem::take(&mut self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use netpolc_table::{ActionId, PortClassId, RowId, schema::plain};
    use netpolc_target::{Capabilities, Error};

    use super::*;

    struct Counter(Compared);

    impl Target for Counter {
        fn name(&self) -> &'static str {
            "counter"
        }

        fn capabilities(&self) -> &Capabilities {
            unreachable!("nobody asks")
        }

        fn read(&self) -> Result<Program, Error> {
            Ok(Program::default())
        }

        fn write(&mut self, _: &netpolc_table::Write) -> Result<(), Error> {
            Ok(())
        }

        fn compared(&self) -> Result<Option<Compared>, Error> {
            Ok(Some(self.0.clone()))
        }

        fn settle(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn s85_packets_count_for_the_policies_that_the_entry_named_then() {
        let (row, class) = (RowId::new(3), PortClassId::new(4));
        let mut program = Program::default();
        let entry = |names: &[&str]| {
            let origins = names.iter().map(|n| Origin::Tried { policy: (*n).into() });
            plain(ActionId::Differs).from(origins)
        };
        let tried = &mut program.table_mut(TableId::Tried).entries;
        tried.insert(tried_key(row, class), entry(&["shop/a", "shop/b"]));
        let (mut tally, mut target) = (Tally::default(), Counter([((row, class), 5)].into()));
        tally.count(&target, &program).unwrap();
        let count = |trials: &Trials, policy: &str, would| {
            trials.get(&(policy.into(), would)).copied().unwrap_or_default()
        };
        let trials = tally.take();
        assert_eq!(count(&trials, "shop/a", Would::Permit), 5);
        assert_eq!(count(&trials, "shop/b", Would::Permit), 5);
        // More of the same, which are permitted by now.
        let verdicts = &mut program.table_mut(TableId::Verdict).entries;
        verdicts.insert(verdict_key(row, class), plain(ActionId::Permit));
        target.0.insert((row, class), 7);
        tally.count(&target, &program).unwrap();
        assert_eq!(count(&tally.take(), "shop/a", Would::Deny), 2);
        // The entry went and came again, under another policy.
        target.0.insert((row, class), 3);
        let tried = &mut program.table_mut(TableId::Tried).entries;
        tried.insert(tried_key(row, class), entry(&["shop/c"]));
        tally.count(&target, &program).unwrap();
        let trials = tally.take();
        assert_eq!(count(&trials, "shop/c", Would::Deny), 3);
        assert_eq!(trials.len(), 1);
        assert_eq!(tally.take(), Trials::default());
    }
}
