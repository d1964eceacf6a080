//! Collects the messages of all feeds into batches: waits until every first list is complete, finds
//! which objects a later list no longer has, and merges what has arrived. This has neither a clock
//! nor a network. Not here: lists and watches ([`super::feed`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

use netpolc_policy::{Cluster, ObjectKey};

use super::{condition::Condition, convert::Item, foreign::Foreign};
use crate::{Change, Families, Object, Problem, Resource, Severity, change};

/// A message of a feed, of [`super::freshness`] or of [`super::foreign`].
#[derive(Debug)]
pub(crate) enum Message {
    /// A list begins; objects that it has not named by its end no longer exist.
    Begin(Resource),
    /// An object, as a list or a watch has reported it.
    Put(Resource, Box<Item>),
    /// A watch has reported that the object was deleted.
    Gone(Resource, ObjectKey),
    /// The list is complete.
    Complete(Resource),
    /// The feed's condition; None where it works (again).
    State(Resource, Option<Condition>),
    /// The messages sent so far reflect everything that the server held at this moment.
    Current(Instant),
    /// Why it could not be found out whether the view is current.
    NotCurrent(String),
    /// The policies of other engines that the cluster has.
    Foreign(Vec<Foreign>),
}

/// What [`super::Watch`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Update {
    /// All first lists are complete: the whole cluster.
    First(Cluster),
    /// The changes to the cluster known before, in a fixed order; together they are one update.
    /// Empty where only conditions or problems have changed.
    Changes(Vec<Change>),
    /// The watching thread has died, through a bug in netpolc: no further updates come, and the
    /// view grows stale.
    Ended,
}

/// A list that is being received.
#[derive(Debug, Default)]
struct Listing {
    /// The objects that the list has named.
    seen: HashSet<ObjectKey>,
    /// The objects that differ from the known ones. They are applied only when the list is
    /// complete, so that an address which moved from one pod to another is not seen at both.
    differs: BTreeMap<ObjectKey, Option<Object>>,
    /// The metadata.generation of each policy in the list, as far as [`has_generation`].
    generations: BTreeMap<ObjectKey, i64>,
}

/// Merges messages into updates.
#[derive(Debug)]
pub(crate) struct Collector {
    /// The cluster so far, until every first list is complete.
    first: Option<Cluster>,
    /// The kinds whose first list is not complete.
    incomplete: BTreeSet<Resource>,
    listings: BTreeMap<Resource, Listing>,
    /// The changes since the last update; None stands for an object that was deleted.
    pending: BTreeMap<(Resource, ObjectKey), Option<Object>>,
    problems: BTreeMap<(Resource, ObjectKey), Vec<Problem>>,
    conditions: BTreeMap<Resource, Condition>,
    /// The policies of other engines, as of the last look.
    foreign: Vec<Foreign>,
    /// The metadata.generation of each policy, as far as [`has_generation`].
    generations: BTreeMap<(Resource, ObjectKey), i64>,
    /// How many lists after the first one each kind had since [`Collector::take_resyncs`].
    resyncs: BTreeMap<Resource, u64>,
    /// The latest moment whose state the view is known to reflect.
    current: Option<Instant>,
    /// Why the last question about that could not be answered.
    not_current: Option<String>,
    /// Whether there is an answer to such a question that no update has announced.
    freshness: Notice,
    /// Whether problems, conditions, generations or the policies of other engines have changed
    /// since the last update.
    status: Notice,
    /// Whether they have changed since [`Collector::take_news`].
    news: Notice,
}

/// Whether something has yet to be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Sent,
    Due,
}

/// Whether a node reports which generation of such an object it enforces.
fn has_generation(resource: Resource) -> bool {
    matches!(resource, Resource::Policy | Resource::Tier | Resource::AwsTier)
}

impl Collector {
    pub fn new(families: Families) -> Self {
        Self {
            first: Some(Cluster::default()),
            incomplete: families.watched().collect(),
            listings: BTreeMap::new(),
            pending: BTreeMap::new(),
            problems: BTreeMap::new(),
            conditions: BTreeMap::new(),
            foreign: Vec::new(),
            generations: BTreeMap::new(),
            resyncs: BTreeMap::new(),
            current: None,
            not_current: None,
            freshness: Notice::Sent,
            status: Notice::Sent,
            news: Notice::Due,
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

    pub fn foreign(&self) -> &[Foreign] {
        &self.foreign
    }

    pub fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.news, Notice::Sent) == Notice::Due
    }

    pub fn generation(&self, resource: Resource, policy: &ObjectKey) -> Option<i64> {
        self.generations.get(&(resource, policy.clone())).copied()
    }

    pub fn errors(&self, resource: Resource, object: &ObjectKey) -> usize {
        let problems = self.problems.get(&(resource, object.clone())).into_iter().flatten();
        problems.filter(|problem| problem.severity == Severity::Error).count()
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

    /// Takes in one message. `known` is the cluster as of the last update.
    pub fn take(&mut self, message: Message, known: &Cluster) {
        match message {
            Message::Begin(resource) => drop(self.listings.insert(resource, Listing::default())),
            Message::Put(resource, item) => self.put(resource, *item, known),
            Message::Gone(resource, key) => self.gone(resource, key),
            Message::Complete(resource) => self.complete(resource, known),
            Message::State(resource, condition) => {
                let before = match condition.clone() {
                    Some(condition) => self.conditions.insert(resource, condition),
                    None => self.conditions.remove(&resource),
                };
                if before != condition {
                    self.status = Notice::Due;
                }
            }
            Message::Current(moment) => {
                (self.current, self.not_current) = (Some(moment), None);
                self.freshness = Notice::Due;
            }
            Message::NotCurrent(why) => {
                self.not_current = Some(why);
                self.freshness = Notice::Due;
            }
            Message::Foreign(found) => {
                if self.foreign != found {
                    self.status = Notice::Due;
                }
                self.foreign = found;
            }
        }
    }

    /// The next update; None where nothing has changed.
    pub fn update(&mut self, known: &Cluster) -> Option<Update> {
        let status = std::mem::replace(&mut self.status, Notice::Sent);
        if status == Notice::Due {
            self.news = Notice::Due;
        }
        if self.incomplete.is_empty()
            && let Some(first) = self.first.take()
        {
            return Some(Update::First(first));
        }
        // An object may have changed and changed back since the last update. Comparing with what is
        // known drops such changes.
        let pending = std::mem::take(&mut self.pending).into_iter();
        let changes = pending.map(|((resource, key), object)| Change { resource, key, object });
        let changes: Vec<Change> = changes.filter(|change| !change.is_known(known)).collect();
        let freshness = std::mem::replace(&mut self.freshness, Notice::Sent);
        (status == Notice::Due || freshness == Notice::Due || !changes.is_empty())
            .then_some(Update::Changes(changes))
    }

    fn put(&mut self, resource: Resource, item: Item, known: &Cluster) {
        let Item { key, object, problems, generation } = item;
        self.note_problems(resource, &key, problems);
        let listing = self.listings.get_mut(&resource);
        let Some(object) = object else {
            // The new version is unreadable, so the last known one stays (S61). For that the list
            // must count as having named the object.
            if let Some(listing) = listing {
                listing.seen.insert(key);
            }
            return;
        };
        // The converter makes a name legible that an API server should have rejected; then the
        // legible one is the key.
        let key = change::key(&object);
        if has_generation(resource)
            && let Some(generation) = generation
        {
            // Generations of a list count once the list is complete, like its objects.
            match self.listings.get_mut(&resource) {
                Some(listing) => {
                    listing.generations.insert(key.clone(), generation);
                }
                None => self.note_generation(resource, key.clone(), generation),
            }
        }
        let listing = self.listings.get_mut(&resource);
        match (listing, &mut self.first) {
            // Part of a first list: nobody has been told of the cluster yet, so it can change at
            // once.
            (Some(listing), Some(first)) => {
                change::put(first, object);
                listing.seen.insert(key);
            }
            (Some(listing), None) => {
                // Part of a later list. An object with a pending change is noted even if it equals
                // the known one: the list then reverts that change.
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
        self.generations.remove(&(resource, key.clone()));
        match &mut self.first {
            Some(first) => change::remove(first, resource, &key),
            None => drop(self.pending.insert((resource, key), None)),
        }
    }

    fn complete(&mut self, resource: Resource, known: &Cluster) {
        let Some(listing) = self.listings.remove(&resource) else { return };
        let seen = listing.seen;
        self.generations.retain(|(kind, key), _| *kind != resource || seen.contains(key));
        for (key, generation) in listing.generations {
            self.note_generation(resource, key, generation);
        }
        let before = self.problems.len();
        self.problems.retain(|(kind, key), _| *kind != resource || seen.contains(key));
        if self.problems.len() != before {
            self.status = Notice::Due;
        }
        match self.incomplete.remove(&resource) {
            true => self.status = Notice::Due,
            false => *self.resyncs.entry(resource).or_default() += 1,
        }
        if let Some(first) = &mut self.first {
            // An earlier attempt at the first list may have seen objects that no longer exist.
            let gone: Vec<ObjectKey> =
                change::keys(first, resource).filter(|key| !seen.contains(key)).collect();
            gone.iter().for_each(|key| change::remove(first, resource, key));
            return;
        }
        // What the list did not name is gone, whether it was known or only pending.
        let pending: Vec<ObjectKey> = self
            .pending
            .keys()
            .filter(|(kind, _)| *kind == resource)
            .map(|(_, key)| key.clone())
            .collect();
        let gone = change::keys(known, resource).chain(pending).filter(|key| !seen.contains(key));
        let gone: Vec<ObjectKey> = gone.collect();
        self.pending.extend(gone.into_iter().map(|key| ((resource, key), None)));
        self.pending
            .extend(listing.differs.into_iter().map(|(key, object)| ((resource, key), object)));
    }

    fn note_generation(&mut self, resource: Resource, policy: ObjectKey, generation: i64) {
        // The generation is part of the status, so a change matters even where the policy means the
        // same.
        if self.generations.insert((resource, policy), generation) != Some(generation) {
            self.status = Notice::Due;
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
            self.status = Notice::Due;
        }
    }
}
