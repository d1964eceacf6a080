//! Messages of all feeds to batches: waits for every first list, finds what a later list left out,
//! merges what has arrived. No clock, no network.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

use netpolc_policy::{Cluster, ObjectKey};

use super::{condition::Condition, convert::Item};
use crate::{Change, Object, Problem, Resource, change};

/// What a feed says.
#[derive(Debug)]
pub(crate) enum Message {
    /// A list begins; what it does not name by its end is gone.
    Begin(Resource),
    /// An object, as a list or a watch has it.
    Put(Resource, Item),
    /// A watch saw it go.
    Gone(Resource, ObjectKey),
    /// The list is complete.
    Complete(Resource),
    /// The feed works (again), or why it does not.
    State(Resource, Option<Condition>),
    /// What was sent before is all that the server had at this moment.
    Current(Instant),
    /// That could not be found out, and why.
    NotCurrent(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// All first lists are complete: the whole cluster.
    First(Cluster),
    /// What differs from the cluster known before, in a fixed order; together one update. Empty where only
    /// conditions or problems changed.
    Changes(Vec<Change>),
    /// The watching thread is gone, by a fault of netpolc's: nothing comes any more, and what is known grows old.
    Ended,
}

/// A list under way.
#[derive(Debug, Default)]
struct Listing {
    seen: HashSet<ObjectKey>,
    /// What differs from before: applied when the list is complete, so that an address which went from one pod to
    /// another is not seen at both.
    differs: BTreeMap<ObjectKey, Option<Object>>,
    /// Of policies.
    generations: BTreeMap<ObjectKey, i64>,
}

#[derive(Debug)]
pub(crate) struct Collector {
    /// Until every first list is complete.
    first: Option<Cluster>,
    incomplete: BTreeSet<Resource>,
    listings: BTreeMap<Resource, Listing>,
    pending: BTreeMap<(Resource, ObjectKey), Option<Object>>,
    problems: BTreeMap<(Resource, ObjectKey), Vec<Problem>>,
    conditions: BTreeMap<Resource, Condition>,
    /// Of policies.
    generations: BTreeMap<ObjectKey, i64>,
    /// Lists after the first ones that nobody asked about yet.
    resyncs: BTreeMap<Resource, u64>,
    current: Option<Instant>,
    not_current: Option<String>,
    /// Somebody waits for the answer about that.
    answer: Told,
    /// Problems or conditions changed since the last update.
    told: Told,
    /// And since they were last asked for.
    news: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    All,
    NotYet,
}

impl Collector {
    pub fn new() -> Self {
        Self {
            first: Some(Cluster::default()),
            incomplete: Resource::ALL.into(),
            listings: BTreeMap::new(),
            pending: BTreeMap::new(),
            problems: BTreeMap::new(),
            conditions: BTreeMap::new(),
            generations: BTreeMap::new(),
            resyncs: BTreeMap::new(),
            current: None,
            not_current: None,
            answer: Told::All,
            told: Told::All,
            news: Told::NotYet,
        }
    }

    pub fn incomplete(&self) -> &BTreeSet<Resource> {
        &self.incomplete
    }

    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    pub fn conditions(&self) -> &BTreeMap<Resource, Condition> {
        &self.conditions
    }

    pub fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.news, Told::All) == Told::NotYet
    }

    pub fn generation(&self, policy: &ObjectKey) -> Option<i64> {
        self.generations.get(policy).copied()
    }

    pub fn take_resyncs(&mut self) -> BTreeMap<Resource, u64> {
        std::mem::take(&mut self.resyncs)
    }

    pub fn current(&self) -> Option<Instant> {
        self.current
    }

    pub fn take_not_current(&mut self) -> Option<String> {
        self.not_current.take()
    }

    /// Takes one message. `known` is the cluster as of the last update.
    pub fn take(&mut self, message: Message, known: &Cluster) {
        match message {
            Message::Begin(resource) => drop(self.listings.insert(resource, Listing::default())),
            Message::Put(resource, item) => self.put(resource, item, known),
            Message::Gone(resource, key) => self.gone(resource, key),
            Message::Complete(resource) => self.complete(resource, known),
            Message::State(resource, condition) => {
                let before = match condition.clone() {
                    Some(condition) => self.conditions.insert(resource, condition),
                    None => self.conditions.remove(&resource),
                };
                if before != condition {
                    self.told = Told::NotYet;
                }
            }
            Message::Current(moment) => {
                (self.current, self.not_current) = (Some(moment), None);
                self.answer = Told::NotYet;
            }
            Message::NotCurrent(why) => {
                self.not_current = Some(why);
                self.answer = Told::NotYet;
            }
        }
    }

    /// What there is to tell; None where that is nothing.
    pub fn update(&mut self, known: &Cluster) -> Option<Update> {
        let told = std::mem::replace(&mut self.told, Told::All);
        if told == Told::NotYet {
            self.news = Told::NotYet;
        }
        if self.incomplete.is_empty()
            && let Some(first) = self.first.take()
        {
            return Some(Update::First(first));
        }
        let pending = std::mem::take(&mut self.pending).into_iter();
        let changes = pending.map(|((resource, key), object)| Change { resource, key, object });
        let changes: Vec<Change> = changes.filter(|change| !change.is_known(known)).collect();
        let answer = std::mem::replace(&mut self.answer, Told::All);
        (told == Told::NotYet || answer == Told::NotYet || !changes.is_empty()).then_some(Update::Changes(changes))
    }

    fn put(&mut self, resource: Resource, item: Item, known: &Cluster) {
        let Item { key, object, problems, generation } = item;
        self.note_problems(resource, &key, problems);
        let listing = self.listings.get_mut(&resource);
        let Some(object) = object else {
            // What was there before under this name stays (S61).
            if let Some(listing) = listing {
                listing.seen.insert(key);
            }
            return;
        };
        // A name that no API server lets through is made legible: then this is the one that counts.
        let key = change::key(&object);
        if resource == Resource::Policy
            && let Some(generation) = generation
        {
            match self.listings.get_mut(&resource) {
                Some(listing) => {
                    listing.generations.insert(key.clone(), generation);
                }
                None => self.note_generation(key.clone(), generation),
            }
        }
        let listing = self.listings.get_mut(&resource);
        match (listing, &mut self.first) {
            (Some(listing), Some(first)) => {
                change::put(first, object);
                listing.seen.insert(key);
            }
            (Some(listing), None) => {
                // A change that was not told of yet is taken back by the list or confirmed by it.
                let pending = self.pending.contains_key(&(resource, key.clone()));
                if pending || !change::knows(known, &object) {
                    listing.differs.insert(key.clone(), Some(object));
                }
                listing.seen.insert(key);
            }
            (None, Some(first)) => change::put(first, object),
            (None, None) => drop(self.pending.insert((resource, key), Some(object))),
        }
    }

    fn gone(&mut self, resource: Resource, key: ObjectKey) {
        self.note_problems(resource, &key, vec![]);
        if resource == Resource::Policy {
            self.generations.remove(&key);
        }
        match &mut self.first {
            Some(first) => change::remove(first, resource, &key),
            None => drop(self.pending.insert((resource, key), None)),
        }
    }

    fn complete(&mut self, resource: Resource, known: &Cluster) {
        let Some(listing) = self.listings.remove(&resource) else { return };
        let seen = listing.seen;
        if resource == Resource::Policy {
            self.generations.retain(|key, _| seen.contains(key));
            listing.generations.into_iter().for_each(|(key, generation)| self.note_generation(key, generation));
        }
        let before = self.problems.len();
        self.problems.retain(|(kind, key), _| *kind != resource || seen.contains(key));
        if self.problems.len() != before {
            self.told = Told::NotYet;
        }
        match self.incomplete.remove(&resource) {
            true => self.told = Told::NotYet,
            false => *self.resyncs.entry(resource).or_default() += 1,
        }
        if let Some(first) = &mut self.first {
            // An earlier attempt may have seen what is gone by now.
            let gone: Vec<ObjectKey> = change::keys(first, resource).filter(|key| !seen.contains(key)).collect();
            gone.iter().for_each(|key| change::remove(first, resource, key));
            return;
        }
        let pending: Vec<ObjectKey> =
            self.pending.keys().filter(|(kind, _)| *kind == resource).map(|(_, key)| key.clone()).collect();
        let gone = change::keys(known, resource).chain(pending).filter(|key| !seen.contains(key));
        let gone: Vec<ObjectKey> = gone.collect();
        self.pending.extend(gone.into_iter().map(|key| ((resource, key), None)));
        self.pending.extend(listing.differs.into_iter().map(|(key, object)| ((resource, key), object)));
    }

    fn note_generation(&mut self, policy: ObjectKey, generation: i64) {
        // Also where nothing that policy says has changed.
        if self.generations.insert(policy, generation) != Some(generation) {
            self.told = Told::NotYet;
        }
    }

    fn note_problems(&mut self, resource: Resource, key: &ObjectKey, problems: Vec<Problem>) {
        if problems.is_empty() && self.problems.is_empty() {
            return;
        }
        let key = (resource, key.clone());
        let before = match problems.is_empty() {
            true => self.problems.remove(&key),
            false => self.problems.insert(key.clone(), problems),
        };
        if before.as_ref() != self.problems.get(&key) {
            self.told = Told::NotYet;
        }
    }
}
