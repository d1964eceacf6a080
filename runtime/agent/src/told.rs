//! What the log says of policies: each that came, changed or went, the pods of this node that it
//! selects, which of their directions the update has isolated or opened, and how long it took.
//!
//! Policies that select no pod of this node are told of at the level `debug`, since a cluster has
//! many of them. Not here: the warning about each pod that is open again (`enforce`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use netpolc_lower::Event;
use netpolc_policy::{Cluster, Direction, ObjectKey, Pod, Policy, Staged};
use netpolc_table::schema::Word;

use crate::adopt;

/// How many pods a line names at most.
const NAMED: usize = 8;
/// How many lines one update logs at most.
const LINES: usize = 64;

/// What became of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Came,
    Changed,
    Went,
}

impl Fate {
    /// What becomes of an object that was `before` and is `now`; None where it stays as it was.
    fn between<T: PartialEq>(before: Option<&T>, now: Option<&T>) -> Option<Self> {
        match (before, now) {
            (None, Some(_)) => Some(Fate::Came),
            (Some(before), Some(now)) if before != now => Some(Fate::Changed),
            (Some(_), None) => Some(Fate::Went),
            _ => None,
        }
    }

    /// What has become of it in two steps; None where it is as before.
    fn then(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Fate::Came, Fate::Went) => None,
            (Fate::Came, _) => Some(Fate::Came),
            (Fate::Went, Fate::Came) => Some(Fate::Changed),
            (_, next) => Some(next),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fate::Came => "has come",
            Fate::Changed => "has changed",
            Fate::Went => "has gone",
        }
    }
}

/// What is to be told of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    fate: Fate,
    /// The pods of this node that it selects or has selected; None for kinds that select by more
    /// than a pod's labels.
    pods: Option<BTreeSet<ObjectKey>>,
}

/// What is to be told once it is enforced, by kind and name. What waits for an update that fails
/// again and again is told of once.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<(&'static str, String), Item>);

impl Told {
    /// An object is about to change, which `cluster` does not know yet.
    pub fn note(&mut self, event: &Event, cluster: &Cluster, local: &BTreeSet<ObjectKey>) {
        let here = || local.iter().filter_map(|key| cluster.pods.get(key));
        let (kind, name, fate, pods) = match event {
            Event::Policy { key, policy } => {
                let both = [cluster.policies.get(key), policy.as_ref()];
                let fate = Fate::between(both[0], both[1]);
                ("NetworkPolicy", key.to_string(), fate, fate.map(|_| selected(here(), both)))
            }
            Event::Staged { key, staged } => {
                let both = [cluster.staged.get(key), staged.as_ref()];
                let fate = Fate::between(both[0], both[1]);
                let policies = both.map(|staged| match staged {
                    Some(Staged::Set(policy)) => Some(policy),
                    Some(Staged::Delete) | None => None,
                });
                let pods = fate.map(|_| selected(here(), policies));
                ("StagedKubernetesNetworkPolicy", key.to_string(), fate, pods)
            }
            Event::Tier { key, policy } => {
                let fate = Fate::between(cluster.tiers.get(key), policy.as_ref());
                ("ClusterNetworkPolicy", key.to_string(), fate, None)
            }
            Event::SecurityGroupPolicy { key, policy } => {
                let fate = Fate::between(cluster.security.policies.get(key), policy.as_ref());
                ("SecurityGroupPolicy", key.to_string(), fate, None)
            }
            Event::SecurityGroup { id, group } => {
                let fate = Fate::between(cluster.security.groups.get(id), group.as_ref());
                ("SecurityGroup", id.to_string(), fate, None)
            }
            _ => return,
        };
        if let Some(fate) = fate {
            self.add((kind, name), Item { fate, pods });
        }
    }

    fn add(&mut self, which: (&'static str, String), mut item: Item) {
        if let Some(earlier) = self.0.remove(&which) {
            let Some(fate) = earlier.fate.then(item.fate) else { return };
            item.fate = fate;
            item.pods
                .iter_mut()
                .for_each(|pods| pods.extend(earlier.pods.iter().flatten().cloned()));
        }
        self.0.insert(which, item);
    }

    /// Is there nothing to tell?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was noted is enforced now, and took so long. `before` and `now` are the isolated pods
    /// with their words.
    pub fn log(
        &mut self,
        before: &BTreeMap<ObjectKey, Word>,
        now: &BTreeMap<ObjectKey, Word>,
        took: Duration,
    ) {
        let items = std::mem::take(&mut self.0);
        let took_ms = took.as_secs_f64() * 1000.0;
        let mut lines = 0;
        for ((kind, name), Item { fate, pods }) in &items {
            let fate = fate.name();
            let Some(pods) = pods.as_ref().filter(|pods| !pods.is_empty()) else {
                match pods {
                    None => tracing::info!(%kind, %name, took_ms, "{kind} {name} {fate}; it is \
                        enforced"),
                    Some(_) => tracing::debug!(%kind, %name, "{kind} {name} {fate}; it selects no \
                        pod of this node"),
                }
                continue;
            };
            lines += 1;
            if lines > LINES {
                continue;
            }
            let effects = Effects::of(pods, before, now);
            tracing::info!(%kind, %name, pods = pods.len(), took_ms, "{kind} {name} {fate}; it \
                selects {}{effects}; it is enforced", Names(pods.iter()));
        }
        if lines > LINES {
            let more = lines - LINES;
            tracing::info!(
                more,
                took_ms,
                "{more} more policies that select pods of this node came, \
                changed or went with them; they are enforced"
            );
        }
    }
}

/// The pods that one of these policies selects.
fn selected<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    policies: [Option<&Policy>; 2],
) -> BTreeSet<ObjectKey> {
    let selects = |policy: &Policy, pod: &Pod| {
        policy.key.namespace == pod.key.namespace && policy.selector.matches(&pod.labels)
    };
    let of_one = |pod: &&Pod| policies.iter().flatten().any(|policy| selects(policy, pod));
    pods.filter(of_one).map(|pod| pod.key.clone()).collect()
}

/// Which directions of which pods an update has isolated, and which it has opened.
struct Effects<'a> {
    isolated: BTreeMap<Direction, Vec<&'a ObjectKey>>,
    opened: BTreeMap<Direction, Vec<&'a ObjectKey>>,
}

impl<'a> Effects<'a> {
    fn of(
        pods: &'a BTreeSet<ObjectKey>,
        before: &BTreeMap<ObjectKey, Word>,
        now: &BTreeMap<ObjectKey, Word>,
    ) -> Self {
        let mut effects = Self { isolated: BTreeMap::new(), opened: BTreeMap::new() };
        let word = |words: &BTreeMap<ObjectKey, Word>, pod| words.get(pod).copied();
        for pod in pods {
            let both = [before, now].map(|words| word(words, pod).unwrap_or_default());
            for direction in Direction::BOTH {
                let into = match both.map(|word| adopt::isolates_in(word, direction)) {
                    [false, true] => &mut effects.isolated,
                    [true, false] => &mut effects.opened,
                    _ => continue,
                };
                into.entry(direction).or_default().push(pod);
            }
        }
        effects
    }
}

impl fmt::Display for Effects<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verb, all) in [("isolates", &self.isolated), ("opens", &self.opened)] {
            for (direction, pods) in all {
                write!(f, "; {verb} {direction} of {}", Names(pods.iter().copied()))?;
            }
        }
        Ok(())
    }
}

/// The names of pods, as far as there is room.
struct Names<I>(I);

impl<'a, I: Iterator<Item = &'a ObjectKey> + Clone> fmt::Display for Names<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.clone().take(NAMED).map(ToString::to_string).collect();
        f.write_str(&names.join(", "))?;
        match self.0.clone().count().saturating_sub(NAMED) {
            0 => Ok(()),
            1 => f.write_str(" and 1 more pod"),
            more => write!(f, " and {more} more pods"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_told_of_once() {
        let mut told = Told::default();
        let pods = |name: &str| Some(BTreeSet::from([ObjectKey::new("shop", name)]));
        let which = || ("NetworkPolicy", "shop/db".to_owned());
        told.add(which(), Item { fate: Fate::Changed, pods: pods("a") });
        told.add(which(), Item { fate: Fate::Went, pods: pods("b") });
        let both = [pods("a"), pods("b")].into_iter().flatten().flatten().collect();
        assert_eq!(told.0[&which()], Item { fate: Fate::Went, pods: Some(both) });
        told.add(which(), Item { fate: Fate::Came, pods: pods("a") });
        assert_eq!(told.0[&which()].fate, Fate::Changed);
        let new = ("NetworkPolicy", "shop/new".to_owned());
        told.add(new.clone(), Item { fate: Fate::Came, pods: None });
        told.add(new.clone(), Item { fate: Fate::Went, pods: None });
        assert!(!told.0.contains_key(&new));
        assert_eq!(Fate::between(Some(&1), Some(&1)), None);
    }

    fn word(flags: u8) -> Word {
        Word { flags, ..Word::default() }
    }

    #[test]
    fn a_line_names_pods_and_what_becomes_of_them() {
        let keys: BTreeSet<ObjectKey> =
            (0..10).map(|n| ObjectKey::new("shop", format!("p{n}"))).collect();
        let [before, now] = [word(Word::EGRESS), word(Word::INGRESS)];
        let [before, now] =
            [before, now].map(|word| keys.iter().take(1).map(|k| (k.clone(), word)).collect());
        assert_eq!(
            Effects::of(&keys, &before, &now).to_string(),
            "; isolates ingress of shop/p0; opens egress of shop/p0"
        );
        let names = Names(keys.iter()).to_string();
        assert!(names.starts_with("shop/p0, shop/p1, ") && names.ends_with(" and 2 more pods"));
        assert_eq!(Names(keys.iter().take(2)).to_string(), "shop/p0, shop/p1");
    }
}
