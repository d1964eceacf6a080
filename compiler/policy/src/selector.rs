//! Label selectors with the four operators of the API (LabelSelectorRequirement).

use std::sync::Arc;

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
    /// The label key.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(operator: Operator) -> Requirement {
        Requirement { key: "app".into(), operator }
    }

    #[test]
    fn s10_negative_operators_match_an_absent_key() {
        let (none, db): (Labels, Labels) = (Labels::default(), [("app", "db")].into_iter().collect());
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
}
