//! The two programs of an update, and what their ids answer. Only the new program and the changes
//! are at hand; the old program is seen through the changes.
//!
//! Everything is worked out when it is first asked for, and kept: a small event must not pay for
//! the size of the program.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use super::{Changes, reach::Reach};
use crate::{
    Class, Entry, Key, Match, PortClassId, Program, RowId, SetId, TableId,
    eval::{Pipeline, under},
    schema::{
        Answer, Family, Leaf, Named, PortKey, RowKey, Scalar, SetPortClass, VerdictKey, Word,
        base_key, directory_key, row_key,
    },
};

/// Which of the two programs: before the update, or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum When {
    Old,
    New,
}

/// The sets that words of isolated directions name, before and after.
pub(super) struct Sets {
    pub(super) old: BTreeSet<SetId>,
    pub(super) new: BTreeSet<SetId>,
}

/// Both programs.
pub(super) struct View<'a> {
    pub(super) new: &'a Program,
    pub(super) changes: &'a Changes,
    /// What packets can reach before and after. None where the compiler vouches that ids keep their
    /// meaning, and it need not be known.
    pub(super) reach: Option<(&'a Reach, &'a Reach)>,
    sets: OnceCell<Sets>,
    pairs: OnceCell<Vec<(PortClassId, PortClassId)>>,
    leaves: [OnceCell<(BTreeSet<Class>, BTreeSet<Class>)>; 2],
    functions: RefCell<ByRow>,
    /// All rows of a set; in use from [`View::list_sets`] on.
    listed: RefCell<HashMap<(When, SetId), Rc<Listed>>>,
    listing: Cell<bool>,
}

/// The verdicts of each row, a bit for each of [`View::pairs`].
type ByRow = HashMap<(When, RowId), Rc<[u64]>>;

/// A set's rows, sorted by class, and its bases by family.
struct Listed {
    rows: Vec<(Class, Answer)>,
    bases: [Answer; 2],
}

impl<'a> View<'a> {
    pub(super) fn new(
        new: &'a Program,
        changes: &'a Changes,
        reach: Option<(&'a Reach, &'a Reach)>,
    ) -> Self {
        Self {
            new,
            changes,
            reach,
            sets: OnceCell::new(),
            pairs: OnceCell::new(),
            leaves: [OnceCell::new(), OnceCell::new()],
            functions: RefCell::default(),
            listed: RefCell::default(),
            listing: Cell::new(false),
        }
    }

    /// The changes of one table, in key order.
    pub(super) fn changed(
        &self,
        table: TableId,
    ) -> impl DoubleEndedIterator<Item = (&'a Key, Option<&'a Entry>, Option<&'a Entry>)> {
        let least = (table, Key::new([]));
        self.changes
            .entries
            .range(least..)
            .take_while(move |((t, _), _)| *t == table)
            .map(|((_, k), (before, after))| (k, before.as_ref(), after.as_ref()))
            .collect::<Vec<_>>()
            .into_iter()
    }

    pub(super) fn get(&self, when: When, table: TableId, key: &Key) -> Option<&'a Entry> {
        if when == When::Old
            && let Some((before, _)) = self.changes.entries.get(&(table, key.clone()))
        {
            return before.as_ref();
        }
        self.new.get(table, key)
    }

    pub(super) fn base(&self, when: When, set: SetId, family: Family) -> Answer {
        Answer::of(self.get(when, TableId::Base, &base_key(set, family)))
    }

    /// From here on, reads all rows of a set when its first one is asked for. That pays where many
    /// classes of each set are asked for, and changes no answer.
    pub(super) fn list_sets(&self) {
        self.listing.set(true);
    }

    /// What a set answers a class: by its row for the class, else by its base.
    pub(super) fn act(&self, when: When, set: SetId, class: Class) -> Answer {
        if self.listing.get() {
            let listed = self.listed(when, set);
            let found = listed.rows.binary_search_by_key(&class, |(at, _)| *at);
            return found.map_or(listed.bases[class.family() as usize], |i| listed.rows[i].1);
        }
        match self.get(when, TableId::Row, &row_key(set, class)) {
            Some(entry) => Answer::of(Some(entry)),
            None => self.base(when, set, class.family()),
        }
    }

    fn listed(&self, when: When, set: SetId) -> Rc<Listed> {
        if let Some(known) = self.listed.borrow().get(&(when, set)) {
            return known.clone();
        }
        let rows = self.under(when, TableId::Row, set).into_iter();
        let rows = rows.map(|(k, e)| (RowKey::of(k).class, Answer::of(Some(e)))).collect();
        let listed = Rc::new(Listed { rows, bases: Family::BOTH.map(|f| self.base(when, set, f)) });
        self.listed.borrow_mut().insert((when, set), listed.clone());
        listed
    }

    /// The entries of a table whose keys begin with `first`, in key order.
    pub(super) fn under(
        &self,
        when: When,
        table: TableId,
        first: impl Scalar,
    ) -> BTreeMap<&'a Key, &'a Entry> {
        let mut entries: BTreeMap<_, _> = under(self.new.table(table), first).collect();
        if when == When::Old {
            let first = Match::Exact(first.value());
            let from = (table, Key::new([first]));
            let begins =
                |(t, key): &(TableId, Key)| *t == table && key.fields().first() == Some(&first);
            for ((_, key), (before, _)) in
                self.changes.entries.range(from..).take_while(|(k, _)| begins(k))
            {
                match before {
                    Some(entry) => entries.insert(key, entry),
                    None => entries.remove(key),
                };
            }
        }
        entries
    }

    /// The sets in use. Costs one pass over the endpoints, when it is first asked for.
    pub(super) fn sets(&self) -> &Sets {
        self.sets.get_or_init(|| {
            let mut sets = Sets { old: BTreeSet::new(), new: BTreeSet::new() };
            let named = |e: &Entry| {
                Pipeline::ALL.into_iter().filter_map(|p| p.set(Word::of(e))).collect::<Vec<_>>()
            };
            let changed: BTreeMap<_, _> =
                self.changed(TableId::Endpoint).map(|(k, b, a)| (k, (b, a))).collect();
            for (key, entry) in &self.new.table(TableId::Endpoint).entries {
                let named = named(entry);
                if !changed.contains_key(key) {
                    sets.old.extend(&named);
                }
                sets.new.extend(named);
            }
            for (before, _) in changed.values() {
                sets.old.extend(before.iter().flat_map(|e| named(e)));
            }
            sets
        })
    }

    /// Does any address belong to this class? Asked of the reachable classes where they are known,
    /// else of the directory, and where that does not name the class, of all leaves, which takes a
    /// pass over them.
    pub(super) fn class_in(&self, when: When, class: Class) -> bool {
        let family = class.family();
        if class == Class::unnamed(family) {
            return true;
        }
        if let Some((old, new)) = self.reach {
            let reach = if when == When::Old { old } else { new };
            return reach.classes.contains(&class);
        }
        let key = directory_key(Named::Class(class));
        let listed = |when| self.get(when, TableId::Directory, &key).is_some();
        if listed(When::Old) || listed(When::New) {
            return listed(when);
        }
        let (old, new) = self.leaves[family as usize].get_or_init(|| self.leaf_classes(family));
        if when == When::Old { old } else { new }.contains(&class)
    }

    fn leaf_classes(&self, family: Family) -> (BTreeSet<Class>, BTreeSet<Class>) {
        let table = TableId::remote(family);
        let changed: BTreeMap<_, _> = self.changed(table).map(|(k, b, _)| (k, b)).collect();
        let class = |e: &Entry| Leaf::of(family, e).class;
        let entries = &self.new.table(table).entries;
        let kept = entries.iter().filter(|(k, _)| !changed.contains_key(k)).map(|(_, e)| class(e));
        let old = kept.chain(changed.values().filter_map(|b| b.map(class))).collect();
        (old, entries.values().map(class).collect())
    }

    /// Every port interval of a protocol, key and entry, in ascending order.
    pub(super) fn intervals(&self, when: When, protocol: u8) -> Vec<(&'a Key, &'a Entry)> {
        self.under(when, TableId::Port, protocol).into_iter().collect()
    }

    /// The protocols that have a changed interval.
    pub(super) fn protocols(&self) -> BTreeSet<u8> {
        self.changed(TableId::Port).map(|(key, ..)| PortKey::of(key).protocol).collect()
    }

    /// All pairs (port class before, port class after) that some port has, and (0, 0), which is
    /// what protocols without ports have. Two answers agree on every port if they agree on every
    /// pair.
    pub(super) fn pairs(&self) -> &[(PortClassId, PortClassId)] {
        self.pairs.get_or_init(|| {
            let changing = self.protocols();
            let mut pairs = BTreeSet::from([Default::default()]);
            for (key, entry) in &self.new.table(TableId::Port).entries {
                if !changing.contains(&PortKey::of(key).protocol) {
                    let SetPortClass { port_class } = SetPortClass::of(entry);
                    pairs.insert((port_class, port_class));
                }
            }
            for protocol in changing {
                pairs.extend(
                    super::ports::regions(self, protocol).iter().map(|r| (r.before, r.after)),
                );
            }
            pairs.into_iter().collect()
        })
    }

    /// The port classes that a row permits.
    pub(super) fn permitted(&self, when: When, row: RowId) -> BTreeSet<PortClassId> {
        self.under(when, TableId::Verdict, row)
            .into_keys()
            .map(|k| VerdictKey::of(k).port_class)
            .collect()
    }

    /// A row's verdicts, a bit for each of [`View::pairs`]; None for an answer that is no row.
    fn function(&self, when: When, act: Answer) -> Option<Rc<[u64]>> {
        let Answer::Row(row) = act else { return None };
        if let Some(known) = self.functions.borrow().get(&(when, row)) {
            return Some(known.clone());
        }
        let permitted = self.permitted(when, row);
        let mut bits = vec![0u64; self.pairs().len().div_ceil(64)];
        for (i, (before, after)) in self.pairs().iter().enumerate() {
            if permitted.contains(if when == When::Old { before } else { after }) {
                bits[i / 64] |= 1 << (i % 64);
            }
        }
        let bits: Rc<[u64]> = bits.into();
        self.functions.borrow_mut().insert((when, row), bits.clone());
        Some(bits)
    }

    /// Is the verdict of `middle` on every port that of `a` or that of `b`? Then a question may
    /// have `middle` as its answer on its way from `a` to `b`. The port may have been read before
    /// or after its interval moved, so each answer is taken with the port classes of its own time.
    pub(super) fn between(
        &self,
        middle: (When, Answer),
        a: (When, Answer),
        b: (When, Answer),
    ) -> bool {
        if middle.1 == a.1 || middle.1 == b.1 {
            return true;
        }
        let [m, a, b] = [middle, a, b].map(|(when, act)| (act, self.function(when, act)));
        let word = |f: &(Answer, Option<Rc<[u64]>>), i: usize| match (f.0, &f.1) {
            (Answer::Permit, _) => u64::MAX,
            (_, Some(bits)) => bits[i],
            _ => 0,
        };
        // `middle` is wrong on a pair where it differs from both.
        let count = self.pairs().len();
        (0..count.div_ceil(64)).all(|i| {
            let valid = if (i + 1) * 64 <= count { u64::MAX } else { (1 << (count % 64)) - 1 };
            (word(&m, i) ^ word(&a, i)) & (word(&m, i) ^ word(&b, i)) & valid == 0
        })
    }
}
