//! Label selectors with the four operators of the API (LabelSelectorRequirement).

use std::{collections::HashMap, sync::Arc};

use serde::Serialize;

use crate::Labels;

/// Requirements that must all hold. The empty selector selects everything (S1, S9); a selector that
/// cannot be understood is never represented by an empty one: see [`crate::Peer::Nothing`] and
/// `Policy::selector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Selector {
    /// Joined by AND. `matchLabels` pairs are `In` requirements with one value.
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Requirement {
    /// The key of the label that the requirement is about.
    pub key: Arc<str>,
    /// What must hold for it.
    pub operator: Operator,
}

/// Source: k8s.io/apimachinery meta/v1 LabelSelectorOperator. The negative operators match an
/// absent key (S10).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Operator {
    /// The key is present with one of these values.
    In(Vec<Arc<str>>),
    /// The key is absent, or present with another value.
    NotIn(Vec<Arc<str>>),
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

impl Selector {
    /// Does every requirement hold for `labels`?
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    /// Does this requirement hold for `labels`?
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |values: &[Arc<str>]| value.is_some_and(|v| values.iter().any(|x| **x == *v));
        match &self.operator {
            Operator::In(values) => listed(values),
            Operator::NotIn(values) => !listed(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// The requirements of one selector, ordered for asking it about many objects: an answer costs a
/// few comparisons for each label of the object, however many requirements and values the selector
/// has.
#[derive(Clone, Debug)]
pub struct Index {
    /// The indices of the requirements, sorted by their keys.
    by_key: Vec<u32>,
    /// The sorted values of each requirement that has many.
    values: HashMap<u32, Vec<Arc<str>>>,
    /// How many requirements hold only where their key is present.
    demands: usize,
}

/// Lists of values up to this long are simply walked.
const FEW: usize = 8;

impl Index {
    /// The index of `selector`, to be asked with that selector only.
    pub fn new(selector: &Selector) -> Self {
        let requirements = &selector.requirements;
        let mut by_key: Vec<u32> = (0..requirements.len() as u32).collect();
        by_key.sort_by(|a, b| requirements[*a as usize].key.cmp(&requirements[*b as usize].key));
        let mut values = HashMap::new();
        for (index, requirement) in requirements.iter().enumerate() {
            if let Operator::In(list) | Operator::NotIn(list) = &requirement.operator
                && list.len() > FEW
            {
                let mut list = list.clone();
                list.sort_unstable();
                values.insert(index as u32, list);
            }
        }
        let demands = requirements.iter().filter(|r| r.operator.demands_presence()).count();
        Self { by_key, values, demands }
    }

    /// Does the selector match these labels? Answers as [`Selector::matches`] of the selector that
    /// this is the index of.
    pub fn matches(&self, selector: &Selector, labels: &Labels) -> bool {
        let requirement = |index: u32| &selector.requirements[index as usize];
        let mut satisfied = 0;
        for (key, value) in labels.iter() {
            let from = self.by_key.partition_point(|index| requirement(*index).key < *key);
            let here =
                self.by_key[from..].iter().take_while(|index| requirement(**index).key == *key);
            for index in here {
                let operator = &requirement(*index).operator;
                let listed = |list: &[Arc<str>]| match self.values.get(index) {
                    Some(sorted) => sorted.binary_search(value).is_ok(),
                    None => list.contains(value),
                };
                let holds = match operator {
                    Operator::In(list) => listed(list),
                    Operator::NotIn(list) => !listed(list),
                    Operator::Exists => true,
                    Operator::DoesNotExist => false,
                };
                if !holds {
                    return false;
                }
                satisfied += usize::from(operator.demands_presence());
            }
        }
        satisfied == self.demands
    }
}

impl Operator {
    /// Does it hold only for objects that have the key?
    fn demands_presence(&self) -> bool {
        matches!(self, Operator::In(_) | Operator::Exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(operator: Operator) -> Requirement {
        Requirement { key: "app".into(), operator }
    }

    #[test]
    fn s10_negative_operators_match_an_absent_key() {
        let (none, db): (Labels, Labels) =
            (Labels::default(), [("app", "db")].into_iter().collect());
        for (operator, absent, present) in [
            (Operator::In(vec!["db".into()]), false, true),
            (Operator::NotIn(vec!["db".into()]), true, false),
            (Operator::Exists, false, true),
            (Operator::DoesNotExist, true, false),
        ] {
            let r = requirement(operator);
            assert_eq!((r.matches(&none), r.matches(&db)), (absent, present), "{r:?}");
        }
    }

    #[test]
    fn s10_an_index_answers_as_the_selector_does() {
        let many = |from: u32| {
            (from..from + 20).rev().map(|i| format!("v{i}").into()).collect::<Vec<Arc<str>>>()
        };
        let operators = [
            Operator::In(vec!["v3".into()]),
            Operator::In(many(0)),
            Operator::NotIn(vec!["v3".into()]),
            Operator::NotIn(many(10)),
            Operator::Exists,
            Operator::DoesNotExist,
        ];
        let objects: Vec<Labels> =
            [vec![], vec![("a", "v3")], vec![("a", "v15")], vec![("b", "v3")]]
                .into_iter()
                .chain([
                    vec![("a", "v15"), ("b", "v3")],
                    vec![("a", "v3"), ("b", "x"), ("c", "v3")],
                ])
                .map(|pairs| pairs.into_iter().collect())
                .collect();
        let requirement = |key: &str, operator: &Operator| Requirement {
            key: key.into(),
            operator: operator.clone(),
        };
        for first in &operators {
            for second in &operators {
                for keys in [["a", "b"], ["b", "a"], ["a", "a"]] {
                    let selector = Selector {
                        requirements: vec![
                            requirement(keys[0], first),
                            requirement(keys[1], second),
                        ],
                    };
                    let index = Index::new(&selector);
                    for labels in &objects {
                        assert_eq!(
                            index.matches(&selector, labels),
                            selector.matches(labels),
                            "{selector:?} {labels:?}"
                        );
                    }
                }
            }
        }
    }
}
