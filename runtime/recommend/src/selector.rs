//! The labels by which a policy selects the pods of a workload, and nobody else's: as few as tell
//! them apart, and such as stay when the workload is rolled out again.
//!
//! Not here: which pods belong to a workload ([`crate::world`]).

use std::{collections::BTreeSet, sync::Arc};

use netpolc_kube_sync::{is_label_key, is_label_value};
use netpolc_policy::{Labels, Operator, Requirement, Selector};

/// Labels that controllers and tools give, and that are others with each rollout or pod.
const UNSTABLE: [&str; 15] = [
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "chart",
    "controller-revision-hash",
    "controller-uid",
    "helm.sh/chart",
    "heritage",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// The labels that most often say what a pod is, those that do so best first.
const TELLING: [&str; 10] = [
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "name",
    "component",
    "role",
    "tier",
    "service",
];

/// How many labels a search for the fewest ones considers.
const MAX_CANDIDATES: usize = 12;

/// A label: its key and its value.
type Label = (Arc<str>, Arc<str>);

/// Labels that pods must have, and keys that they must not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chosen {
    pub labels: Vec<Label>,
    pub absent: Vec<Arc<str>>,
}

impl Chosen {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.absent.iter().all(|key| labels.get(key).is_none())
    }

    /// As policies have it.
    pub fn selector(&self) -> Selector {
        let equal = self.labels.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        });
        let absent = self
            .absent
            .iter()
            .map(|key| Requirement { key: key.clone(), operator: Operator::DoesNotExist });
        Selector { requirements: equal.chain(absent).collect() }
    }
}

/// Which pods are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// All pods of the cluster.
    Whole,
    /// Those that flows name.
    Flows,
}

/// What was found for some pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It selects these pods and no others that are known.
    Exact(Chosen),
    /// No labels tell these others apart from them.
    Shared(BTreeSet<usize>),
}

/// Finds labels that all of `own` have, and that none of `others` has, who are numbered.
pub(crate) fn choose(own: &[&Labels], others: &[(usize, &Labels)], sight: Sight) -> Found {
    let common = common(own);
    let tells = |labels: &[Label]| {
        let chosen = Chosen { labels: labels.to_vec(), absent: Vec::new() };
        !others.iter().any(|(_, other)| chosen.matches(other))
    };
    if sight == Sight::Whole {
        let some = &common[..common.len().min(MAX_CANDIDATES)];
        if let Some(found) = fewest(some, &tells) {
            return Found::Exact(Chosen { labels: found, absent: Vec::new() });
        }
    }
    let mut chosen = Chosen { labels: common, absent: Vec::new() };
    chosen.labels.sort();
    // What others have and these have not tells them apart as well.
    loop {
        let left: Vec<&(usize, &Labels)> =
            others.iter().filter(|(_, labels)| chosen.matches(labels)).collect();
        if left.is_empty() {
            return Found::Exact(chosen);
        }
        let keys = left.iter().flat_map(|(_, labels)| labels.iter().map(|(key, _)| key));
        let foreign = keys.filter(|key| {
            is_stable(key) && is_label_key(key) && own.iter().all(|own| own.get(key).is_none())
        });
        match foreign.min() {
            Some(key) => chosen.absent.push(key.clone()),
            None => return Found::Shared(left.iter().map(|(index, _)| *index).collect()),
        }
    }
}

/// The first of the fewest of these labels, one to three, that tell.
fn fewest(labels: &[Label], tells: &dyn Fn(&[Label]) -> bool) -> Option<Vec<Label>> {
    for size in 1..=3.min(labels.len()) {
        let mut indices: Vec<usize> = (0..size).collect();
        loop {
            let mut picked: Vec<_> = indices.iter().map(|index| labels[*index].clone()).collect();
            if tells(&picked) {
                picked.sort();
                return Some(picked);
            }
            // The next combination, in the order of the labels.
            let movable = (0..size).rev().find(|at| indices[*at] < labels.len() - size + at);
            let Some(at) = movable else { break };
            indices[at] += 1;
            (at + 1..size).for_each(|next| indices[next] = indices[next - 1] + 1);
        }
    }
    None
}

/// The labels that all of these have, those that tell best first.
fn common(all: &[&Labels]) -> Vec<Label> {
    let Some((first, rest)) = all.split_first() else { return Vec::new() };
    let shared = first.iter().filter(|(key, value)| {
        is_stable(key)
            && is_label_key(key)
            && is_label_value(value)
            && rest.iter().all(|labels| labels.get(key) == Some(value))
    });
    let mut shared: Vec<Label> = shared.map(|(key, value)| (key.clone(), value.clone())).collect();
    shared.sort_by_key(|(key, _)| rank(key));
    shared
}

fn rank(key: &str) -> usize {
    let telling = TELLING.iter().position(|known| *known == key);
    telling.unwrap_or(match key {
        "version" | "track" | "release" => TELLING.len() + 1,
        _ => TELLING.len(),
    })
}

fn is_stable(key: &str) -> bool {
    !UNSTABLE.contains(&key) && !key.ends_with("pod-template-hash")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace().filter_map(|pair| pair.split_once('=')).collect()
    }

    fn chosen(own: &[&str], others: &[&str], sight: Sight) -> Result<String, BTreeSet<usize>> {
        let own: Vec<Labels> = own.iter().map(|text| labels(text)).collect();
        let others: Vec<Labels> = others.iter().map(|text| labels(text)).collect();
        let own: Vec<&Labels> = own.iter().collect();
        let others: Vec<(usize, &Labels)> = others.iter().enumerate().collect();
        match choose(&own, &others, sight) {
            Found::Exact(Chosen { labels, absent }) => {
                let equal = labels.iter().map(|(key, value)| format!("{key}={value}"));
                let absent = absent.iter().map(|key| format!("!{key}"));
                Ok(equal.chain(absent).collect::<Vec<_>>().join(" "))
            }
            Found::Shared(others) => Err(others),
        }
    }

    #[test]
    fn the_fewest_labels_that_stay_are_chosen() {
        let web = ["app=web tier=front pod-template-hash=1", "app=web tier=front chart=2"];
        let text = |found: &str| Ok(found.to_owned());
        assert_eq!(chosen(&web, &["app=db"], Sight::Whole), text("app=web"));
        assert_eq!(
            chosen(&web, &["app=web tier=back", "app=x tier=front"], Sight::Whole),
            text("app=web tier=front")
        );
        assert_eq!(
            chosen(&["a=1 b=1 c=1"], &["a=1 b=1", "a=1 c=1", "b=1 c=1"], Sight::Whole),
            text("a=1 b=1 c=1")
        );
        // Who is not known may have some of the labels, so all of them are asked for.
        assert_eq!(chosen(&web, &["app=db"], Sight::Flows), text("app=web tier=front"));
    }

    #[test]
    fn what_others_have_besides_tells_them_apart() {
        let other = ["app=web track=canary", "app=web debug=1 track=canary"];
        assert_eq!(chosen(&["app=web"], &other[..1], Sight::Whole), Ok("app=web !track".into()));
        assert_eq!(chosen(&[""], &["app=a", "b=1"], Sight::Whole), Ok("!app !b".into()));
        // Of a label that is invalid nothing can be written.
        assert_eq!(chosen(&["app=web"], &["app=web \n=1"], Sight::Whole), Err([0].into()));
        assert_eq!(
            chosen(&["app=web"], &["app=db", "app=web pod-template-hash=3"], Sight::Whole),
            Err([1].into())
        );
    }
}
