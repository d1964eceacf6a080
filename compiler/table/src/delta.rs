//! What changed between two programs, and the order in which to change it.
//!
//! Here: [`Changes`], [`diff`], [`differences`] for people, and the two ways to a [`Plan`]:
//! [`order`] for changes whose ids keep their meaning (a compiler's own), [`plan`] for any two
//! programs.
//!
//! # The invariant
//!
//! A *question* is an endpoint, a direction, a remote address and a port. Both programs answer
//! every question. Between any two writes, each question has its old answer or its new one, and
//! never the old one again after the new one (S57). Nothing is said about two questions: they may
//! change in any order.
//!
//! A packet asks its question by a *lookup*, which reads the word, the remote's class, the port's
//! class, the row and the verdict, in this order. It is not atomic: a write may fall between two of
//! its reads. So it is not enough that the tables are right at each moment; a lookup that read its
//! word or its class before a write must find what belongs to it afterwards. That is why there are
//! grace periods ([`Phase::settles`](crate::Phase::settles)): after one, every lookup that began
//! before it is over.
//!
//! # Why each phase keeps it
//!
//! Call an entry *reachable* if some lookup may read it: its ids are named by a word, a leaf or a
//! port interval, now or since the last grace period.
//!
//! 1. **Refine** writes what is unreachable, and rewrites what is reachable only so that it says
//!    the same in other words (an origin, a port interval in two parts). No answer changes.
//! 2. **Switch** writes what lookups begin with: an interface, a word, an own address or a leaf.
//!    All that the new word or leaf leads to was written by refine, so each write moves the
//!    questions of one endpoint, or of one prefix, to their new answers. A question that depends on
//!    two such writes passes through a mixture of both; `remotes` sees to it that the mixture is
//!    one of its two answers.
//! 3. **Coarsen** begins after a grace period, so that no lookup carries an old word. Leaves whose
//!    mixture would have been wrong under old words change now, and words that had to use the copy
//!    of a set get the set itself.
//! 4. **Merge** begins after another one, so that no lookup carries an old row. Port intervals that
//!    only old rows told apart become one.
//! 5. **Remove** begins after the last one: what only old words, leaves, intervals and rows named
//!    is unreachable now.
//!
//! Any prefix of the plan leaves tables that answer every question by one of the two programs. So a
//! crash needs no undo: [`plan`] leads from whatever is installed to the new program.
//!
//! The parts: `arrange` puts all writes in order, `remotes` plans the leaves and `ports` the
//! port intervals, `view` shows both programs, `reach` knows what is reachable, and `rename`
//! gives ids to programs that do not share a compiler.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use self::{reach::Reach, view::View};
use crate::{Entry, Key, Plan, Program, TableId, text};

mod arrange;
mod ports;
mod reach;
mod remotes;
mod rename;
mod view;

/// The entries that differ between two programs, each as it was and as it is. Entries that differ
/// in their origins only are listed too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The entry before and after the change; None where there is none. Never (None, None).
    pub entries: BTreeMap<(TableId, Key), (Option<Entry>, Option<Entry>)>,
}

impl Changes {
    /// Notes that the entry under `key` was `before` and is `after`. Notes on one key add up: the
    /// first `before` and the last `after` count.
    pub fn note(&mut self, table: TableId, key: Key, before: Option<Entry>, after: Option<Entry>) {
        use std::collections::btree_map::Entry as Slot;
        match self.entries.entry((table, key)) {
            Slot::Vacant(slot) => {
                if before != after {
                    slot.insert((before, after));
                }
            }
            Slot::Occupied(mut slot) => {
                slot.get_mut().1 = after;
                if slot.get().0 == slot.get().1 {
                    slot.remove();
                }
            }
        }
    }

    /// Adds changes that were made after these ones.
    pub fn add(&mut self, later: Changes) {
        for ((table, key), (before, after)) in later.entries {
            self.note(table, key, before, after);
        }
    }

    /// True where the two programs have the same entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// No id is free for the entries that must hold between the old answers and the new ones. Nothing
/// was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no {what} id is left for the update: all 65535 are in use; apply the change in smaller parts"
)]
pub struct Exhausted {
    /// The kind of id as messages name it: `set`, `row`, `class` or `port class`.
    pub what: &'static str,
}

/// The entries that differ between two programs, origins included; sizes do not count.
pub fn diff(old: &Program, new: &Program) -> Changes {
    let pairs = pairs(old, new).filter(|pair| pair.before != pair.after);
    let owned = |pair: Difference<'_>| {
        ((pair.table, pair.key.clone()), (pair.before.cloned(), pair.after.cloned()))
    };
    let entries: Vec<_> = pairs.map(owned).collect();
    Changes { entries: entries.into_iter().collect() }
}

/// The entries that do not do the same in what is held and in what is wanted, in order; origins and
/// sizes do not count.
pub fn differences<'p>(
    held: &'p Program,
    wanted: &'p Program,
) -> impl Iterator<Item = Difference<'p>> {
    pairs(held, wanted).filter(|pair| match (pair.before, pair.after) {
        (Some(before), Some(after)) => !before.same_action(after),
        _ => true,
    })
}

/// What two programs have under one key. As text it says what is wrong with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'p> {
    /// The table that has the key.
    pub table: TableId,
    /// The key.
    pub key: &'p Key,
    /// The entry in the first program; None where it has none.
    pub before: Option<&'p Entry>,
    /// The entry in the second program; None where it has none. Never both.
    pub after: Option<&'p Entry>,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |entry| text::entry(self.table, self.key, entry);
        write!(f, "table {}: ", self.table.spec().name)?;
        match (self.before, self.after) {
            (Some(before), Some(after)) => {
                write!(f, "{} is there instead of {}", line(&before.bare()), line(after))
            }
            (Some(before), None) => write!(f, "{} should not be there", line(&before.bare())),
            (None, Some(after)) => write!(f, "{} is missing", line(after)),
            (None, None) => f.write_str("nothing"),
        }
    }
}

/// All keys of two programs with the entries of both, in order, tables that they share left out.
fn pairs<'p>(old: &'p Program, new: &'p Program) -> impl Iterator<Item = Difference<'p>> {
    let tables =
        TableId::ALL.iter().filter(|table| !std::ptr::eq(old.table(**table), new.table(**table)));
    tables.flat_map(|&table| {
        let mut before = old.table(table).entries.iter().peekable();
        let mut after = new.table(table).entries.iter().peekable();
        std::iter::from_fn(move || {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let b = if order.is_le() { before.next() } else { None };
            let a = if order.is_ge() { after.next() } else { None };
            let (key, _) = b.or(a)?;
            let (before, after) = (b.map(|(_, e)| e), a.map(|(_, e)| e));
            Some(Difference { table, key, before, after })
        })
    })
}

impl Program {
    /// Puts or removes one entry and notes it in `changes`.
    pub fn set(&mut self, changes: &mut Changes, table: TableId, key: Key, after: Option<Entry>) {
        let entries = &mut self.table_mut(table).entries;
        let before = match &after {
            Some(entry) => entries.insert(key.clone(), entry.clone()),
            None => entries.remove(&key),
        };
        changes.note(table, key, before, after);
    }
}

/// Orders the changes that led to `new` so that no packet sees a mix (S57): between any two writes
/// each endpoint gets, for each remote address and port, the old program's answer or the new one's,
/// and never the old one again after the new one.
///
/// Ids must keep their meaning: what an id of a set, row, class or port class stands for is the
/// same in both programs where it is in use in both; an id that comes free must not be given
/// another meaning by the same update. Words must name sets, leaves classes and port intervals port
/// classes whose entries are complete in `new`. Works in time proportional to the changes; only
/// updates that move endpoints between sets while addresses change class look further.
///
/// # Errors
/// [`Exhausted`] where the update needs an id for its own use and none is free.
pub fn order(new: &Program, changes: &Changes) -> Result<Plan, Exhausted> {
    arrange::arrange(&View::new(new, changes, None))
}

/// The way from any program to any other, in the order of [`order`]: also from one that an
/// interrupted update left behind. Returns `new` with those rows and sets renamed that mean
/// something else in `old`, and the plan that leads to it.
///
/// # Errors
/// [`Exhausted`] where the update needs an id, for itself or for a new name, and none is free.
pub fn plan(old: &Program, new: &Program) -> Result<(Program, Plan), Exhausted> {
    let before = Reach::of(old);
    let renamed = rename::rename(old, new, (&before, &Reach::of(new)))?;
    let after = Reach::of(&renamed);
    let changes = diff(old, &renamed);
    let plan = arrange::arrange(&View::new(&renamed, &changes, Some((&before, &after))))?;
    Ok((renamed, plan))
}
