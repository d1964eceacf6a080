//! The order of an update's writes: which phase each one belongs to, and what comes first within a
//! phase. The header of [`super`] has the invariant and why the phases keep it.
//!
//! Not here: which leaves and port intervals are written in between ([`remotes`], [`ports`]).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Exhausted, ports,
    reach::Reach,
    remotes::{self, Moves},
    view::{View, When},
};
use crate::{
    EndpointId, Entry, Key, Phase, Plan, SetId, TableId, Write,
    eval::Pipeline,
    schema::{
        BaseKey, EndpointKey, Family, OwnKey, RowKey, SetEndpoint, TriedKey, VerdictKey, Word,
        endpoint_key, word_of,
    },
};

/// Orders all changes of a view.
pub(super) fn arrange(view: &View<'_>) -> Result<Plan, Exhausted> {
    let words = Words::of(view);
    let ports = ports::plan(view)?;
    let remotes = remotes::plan(view, &words.moves)?;
    let mut extras: BTreeMap<(TableId, Key), Option<Entry>> = remotes.extras;
    extras.extend(ports.extras.into_iter().map(|(key, entry)| ((TableId::Verdict, key), entry)));

    let mut steps = Steps::default();
    entries(view, &words, &extras, &mut steps);
    // Behind the entries: a port interval leads to its class at once, so the verdicts of that class
    // must be there.
    steps.refine.extend(ports.early);

    let (early, late) =
        remotes.steps.into_iter().partition::<Vec<_>, _>(|(phase, _)| *phase == Phase::Switch);
    // Endpoints that go: first their packets, then their words. Where an interface becomes another
    // endpoint's, its packets go over when it is put, below, and the word stays until then: without
    // one they would pass.
    let interfaces: Vec<_> = view.changed(TableId::Interface).collect();
    for (key, _, after) in &interfaces {
        if after.is_none() {
            steps.switch.push(Write::remove(TableId::Interface, (*key).clone()));
        }
    }
    // The word of an endpoint that has no interface any more: no packet asks for it.
    steps
        .switch
        .extend(words.gone.iter().map(|&e| Write::remove(TableId::Endpoint, endpoint_key(e))));
    let guarded = own(view, &mut steps);
    services(view, &mut steps);
    wire(view, &mut steps);
    // Leaves that old words can bear change before the words, the others behind them and a grace
    // period: then no lookup carries an old word.
    steps.switch.extend(early.into_iter().map(|(_, write)| write));
    // An entry that old and new words both reach and that says something else: its write is the
    // switch of all who ask it.
    steps.switch.append(&mut steps.replaced);
    words.write(&remotes.copies, &mut steps);
    // In front of the second writes of words: the copy of a set is needed until the leaves are what
    // they shall be.
    steps.coarsen.splice(0..0, late.iter().map(|(_, write)| write.clone()));
    // A source that its guard denied before gets its new answer with this entry, so word and leaves
    // must be new by then: behind the last of them.
    if late.is_empty() {
        steps.switch.extend(guarded)
    } else {
        steps.coarsen.extend(guarded)
    }
    // Last, since packets of an interface are judged by its endpoint from here on: that endpoint's
    // word is there.
    for (key, _, after) in interfaces {
        if let Some(entry) = after {
            steps.switch.push(Write::put(TableId::Interface, key.clone(), entry.clone()));
        }
    }
    // An endpoint whose interface went over to another one keeps its word until the grace period
    // behind the switch is over: until then lookups are under way that were led to it, and without
    // a word they would permit.
    steps.coarsen.splice(
        0..0,
        words.replaced.iter().map(|&e| Write::remove(TableId::Endpoint, endpoint_key(e))),
    );
    steps.merge.extend(ports.late);
    Ok(steps.plan())
}

/// The writes of each phase, in order.
#[derive(Default)]
struct Steps {
    refine: Vec<Write>,
    switch: Vec<Write>,
    /// Entries that are reachable before and after, and yet different: one write each, as part of
    /// the switch. Kept apart until their place in it is known.
    replaced: Vec<Write>,
    coarsen: Vec<Write>,
    merge: Vec<Write>,
    remove: Vec<Write>,
}

impl Steps {
    fn plan(self) -> Plan {
        let parts = [
            (Phase::Refine, self.refine),
            (Phase::Switch, self.switch),
            (Phase::Coarsen, self.coarsen),
            (Phase::Merge, self.merge),
            (Phase::Remove, self.remove),
        ];
        let mut steps = Vec::with_capacity(parts.iter().map(|p| p.1.len()).sum());
        for (phase, writes) in parts {
            steps.extend(writes.into_iter().map(|write| (phase, write)));
        }
        Plan { steps }
    }
}

fn write(table: TableId, key: &Key, entry: Option<&Entry>) -> Write {
    match entry {
        Some(entry) => Write::put(table, key.clone(), entry.clone()),
        None => Write::remove(table, key.clone()),
    }
}

/// The words that change, and which endpoints move from one set to another by that.
struct Words<'a> {
    changed: Vec<(&'a Key, Option<&'a Entry>, Option<&'a Entry>)>,
    /// Endpoints that lose their word and their interface: no packet is theirs any more.
    gone: BTreeSet<EndpointId>,
    /// Endpoints that lose their word, and whose interface becomes another endpoint's: a pod that
    /// was made anew.
    replaced: BTreeSet<EndpointId>,
    moves: Moves,
}

impl<'a> Words<'a> {
    fn of(view: &View<'a>) -> Self {
        let mut words = Words {
            changed: Vec::new(),
            gone: BTreeSet::new(),
            replaced: BTreeSet::new(),
            moves: Moves::new(),
        };
        let endpoint_of = |entry: &Entry| SetEndpoint::of(entry).endpoint;
        // For each endpoint that loses an interface, the endpoints that its interfaces lead to now.
        let mut successors: BTreeMap<EndpointId, BTreeSet<EndpointId>> = BTreeMap::new();
        for (_, before, after) in view.changed(TableId::Interface) {
            if let Some(before) = before {
                successors.entry(endpoint_of(before)).or_default().extend(after.map(endpoint_of));
            }
        }
        for (key, before, after) in view.changed(TableId::Endpoint) {
            let EndpointKey { endpoint } = EndpointKey::of(key);
            if let (None, Some(successors)) = (after, successors.get(&endpoint)) {
                let goes =
                    if successors.is_empty() { &mut words.gone } else { &mut words.replaced };
                goes.insert(endpoint);
                // Its packets go from its sets to its successor's when the interface is put.
                for successor in successors {
                    let successor =
                        view.get(When::New, TableId::Endpoint, &endpoint_key(*successor));
                    for pipeline in Pipeline::ALL {
                        let [from, to] =
                            [before, successor].map(|e| e.and_then(|e| pipeline.set(word_of(e))));
                        if from != to {
                            words.moves.insert((from, to));
                        }
                    }
                }
                continue;
            }
            words.changed.push((key, before, after));
            let sets = |p: Pipeline| [before, after].map(|e| e.and_then(|e| p.set(Word::of(e))));
            for [from, to] in Pipeline::ALL.map(sets) {
                if from != to {
                    words.moves.insert((from, to));
                }
            }
            // A guard that comes or goes moves questions too: those about sources that are not the
            // pod's own. It denies them all, which is what the empty set 0 answers.
            let [from, to] = sets(Pipeline::FromPod);
            match [before, after].map(|e| e.is_some_and(|e| Word::of(e).flags & Word::GUARD != 0)) {
                [false, true] => words.moves.insert((from, Some(SetId::default()))),
                [true, false] => words.moves.insert((Some(SetId::default()), to)),
                _ => false,
            };
        }
        words
    }

    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty() && self.replaced.is_empty()
    }

    /// Writes each word once. A word that joins a set of which there is a copy names the copy
    /// first, and the set in coarsen. A word that had the set already keeps it: until coarsen the
    /// set gives the old answers, which are right for it.
    fn write(&self, copies: &BTreeMap<SetId, SetId>, steps: &mut Steps) {
        for &(key, before, after) in &self.changed {
            let mut first = after.cloned();
            if let Some(entry) = after {
                let (old, new) = (before.map(Word::of).unwrap_or_default(), Word::of(entry));
                let copy = |pipeline: Pipeline| {
                    let set = pipeline.set(new)?;
                    copies.get(&set).filter(|_| pipeline.set(old) != Some(set)).copied()
                };
                let word = Word {
                    ingress_set: copy(Pipeline::ToPod).unwrap_or(new.ingress_set),
                    egress_set: copy(Pipeline::FromPod).unwrap_or(new.egress_set),
                    born_set: copy(Pipeline::Born).unwrap_or(new.born_set),
                    flags: new.flags,
                };
                if word != new {
                    first = Some(word.entry());
                    steps.coarsen.push(write(TableId::Endpoint, key, after));
                }
            }
            steps.switch.push(write(TableId::Endpoint, key, first.as_ref()));
        }
    }
}

/// Own addresses. A source passes a guard only by an entry, so an entry is the switch of the
/// questions about its source where the guard holds before and after, and means nothing where there
/// is no guard. Hence
/// - an entry that comes while the guard is on comes behind the words (returned), so that its
///   source gets the new answer at once;
/// - an entry that goes while the guard goes too outlives the word, or its source would be denied
///   in between;
/// - all others come or go before the words: a guard that is yet to come finds its entries, and a
///   source that shall be denied is denied from there on.
fn own(view: &View<'_>, steps: &mut Steps) -> Vec<Write> {
    let mut later = Vec::new();
    for family in Family::BOTH {
        let table = TableId::own(family);
        for (key, _, after) in view.changed(table) {
            let endpoint = endpoint_key(OwnKey::of(family, key).endpoint);
            let guards = |when| {
                let word = view.get(when, TableId::Endpoint, &endpoint).map(Word::of);
                word.is_some_and(|w| w.flags & Word::GUARD != 0)
            };
            let write = write(table, key, after);
            match after {
                Some(_) if guards(When::Old) => later.push(write),
                None if !guards(When::New) => steps.remove.push(write),
                _ => steps.switch.push(write),
            }
        }
    }
    later
}

/// Services. The tables look for a Service's address where they deny a packet, so the entry comes
/// before they begin to deny it, and goes when no packet is under way that they denied: what was
/// permitted as an address becomes deferred in one step, and back. (Where policy and Services
/// change in one update, an address may be deferred in between: it is judged by the backend then,
/// by the old set or by the new one.)
fn services(view: &View<'_>, steps: &mut Steps) {
    for table in [TableId::ServiceV4, TableId::ServiceV6] {
        for (key, _, after) in view.changed(table) {
            let to = if after.is_some() { &mut steps.switch } else { &mut steps.remove };
            to.push(write(table, key, after));
        }
    }
}

/// Tunnel ports, on-link prefixes and the hardware addresses of pods: each entry is one answer of
/// its own, and no other table depends on it. So one write is one switch.
fn wire(view: &View<'_>, steps: &mut Steps) {
    for table in [TableId::Tunnel, TableId::OnLinkV6, TableId::OwnMac] {
        for (key, _, after) in view.changed(table) {
            steps.switch.push(write(table, key, after));
        }
    }
}

/// Base, row, verdict, tried and directory entries: what nothing reaches yet is written first, what
/// nothing reaches any more last; and the extra entries that hold in between. An extra entry stands
/// in for the old one from refine on, so the entry that belongs under its key is written in remove.
fn entries(
    view: &View<'_>,
    words: &Words<'_>,
    extras: &BTreeMap<(TableId, Key), Option<Entry>>,
    steps: &mut Steps,
) {
    let tables =
        [TableId::Directory, TableId::Verdict, TableId::Tried, TableId::Base, TableId::Row];
    for table in tables {
        for (key, before, after) in view.changed(table) {
            // An extra entry holds this key until the end.
            let lent = !extras.is_empty() && extras.contains_key(&(table, key.clone()));
            let to = match phase(view, words, table, key, before, after) {
                _ if lent => &mut steps.remove,
                Phase::Refine => &mut steps.refine,
                Phase::Switch => &mut steps.replaced,
                _ => &mut steps.remove,
            };
            to.push(write(table, key, after));
        }
    }
    for ((table, key), entry) in extras {
        let before = view.get(When::Old, *table, key);
        let same = match (before, entry) {
            (Some(a), Some(b)) => a.same_action(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if !same {
            steps.refine.push(write(*table, key, entry.as_ref()));
        }
        // A key that the update does not change otherwise gets back what it had.
        if !same && !view.changes.entries.contains_key(&(*table, key.clone())) {
            steps.remove.push(write(*table, key, before));
        }
    }
}

/// The phase in which a changed entry is written, by who may read it: nobody before the update
/// (refine), nobody after it (remove), or both (switch, unless it says the same). Without [`Reach`]
/// that is concluded from the changes alone, which works because ids keep their meaning.
fn phase(
    view: &View<'_>,
    words: &Words<'_>,
    table: TableId,
    key: &Key,
    before: Option<&Entry>,
    after: Option<&Entry>,
) -> Phase {
    if let (Some((old, new)), false) = (view.reach, table == TableId::Directory) {
        return match (old.meets(table, key), new.meets(table, key)) {
            // No old lookup reads it.
            (false, _) => Phase::Refine,
            (true, false) => Phase::Remove,
            // Both programs read it, and what means something else was renamed: so this is another
            // way to say the same, an entry instead of a default or the reverse.
            (true, true) if after.is_some() => Phase::Refine,
            (true, true) => Phase::Remove,
        };
    }
    let set = || if table == TableId::Base { BaseKey::of(key).set } else { RowKey::of(key).set };
    let by_set = matches!(table, TableId::Base | TableId::Row) && !words.is_empty();
    match (before, after) {
        // New under ids that keep their meaning: no old lookup could have met it, or it says what
        // the default said.
        (None, _) => Phase::Refine,
        // The set is joined in this update, so until the words switch nobody reads it.
        _ if by_set && !view.sets().old.contains(&set()) && view.sets().new.contains(&set()) => {
            Phase::Refine
        }
        (_, None) => Phase::Remove,
        // Only origins differ.
        (Some(a), Some(b)) if table != TableId::Directory && a.same_action(b) => Phase::Refine,
        // No packet reads the directory: it must name an old id as long as it is in use. A set that
        // no new word names is the old words' until they are gone.
        _ if table == TableId::Directory || (by_set && !view.sets().new.contains(&set())) => {
            Phase::Remove
        }
        _ => Phase::Switch,
    }
}

impl Reach {
    /// Does some packet's lookup depend on this entry's presence?
    fn meets(&self, table: TableId, key: &Key) -> bool {
        match table {
            TableId::Base => self.sets.contains(&BaseKey::of(key).set),
            TableId::Row => {
                let RowKey { set, class } = RowKey::of(key);
                self.sets.contains(&set) && self.classes.contains(&class)
            }
            TableId::Verdict => {
                let VerdictKey { row, port_class } = VerdictKey::of(key);
                self.rows.contains(&row) && self.port_classes.contains(&port_class)
            }
            // No answer depends on it: during an update a packet may be compared with a mixture.
            TableId::Tried => self.rows.contains(&TriedKey::of(key).row),
            _ => true,
        }
    }
}
