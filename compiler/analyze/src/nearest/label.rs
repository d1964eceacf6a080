//! The label that was probably meant where no object has the one that is asked for.
//!
//! Not here: what keeps a rule from allowing one packet (`failure`).

use std::collections::BTreeSet;

use netpolc_policy::{Labels, Operator, Requirement};

use super::failure::distance;

/// What a requirement asks for, as people write it.
pub(crate) fn requirement(wanted: &Requirement) -> String {
    let key = &wanted.key;
    match &wanted.operator {
        Operator::In(values) => format!("{key}={}", values.join(" or ")),
        Operator::NotIn(values) => format!("{key} other than {}", values.join(", ")),
        Operator::Exists => format!("a label {key}"),
        Operator::DoesNotExist => format!("no label {key}"),
    }
}

/// The name among these that a letter or two, and not most of its letters, keep apart from
/// `wanted`.
pub fn closest<'n>(wanted: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let far = |name: &'n str| (distance(wanted, name), name);
    let near = |(far, name): &(usize, &str)| {
        *far <= 2 && *far < wanted.chars().count().min(name.chars().count())
    };
    names.into_iter().map(far).filter(near).min().map(|(_, name)| name)
}

/// How many values a sentence names.
const MOST: usize = 4;

/// Says that none of these objects meets the requirement, and what to write instead. `whose` is
/// what the objects are, such as `pod of namespace shop`.
pub(crate) fn nearest_labels(
    wanted: &Requirement,
    labels: &[&Labels],
    whose: &str,
) -> (String, String) {
    let key = &*wanted.key;
    let values: BTreeSet<&str> = labels.iter().filter_map(|l| l.get(key)).collect();
    let missing = match &wanted.operator {
        Operator::In(_) | Operator::Exists => format!("no {whose} has {}", requirement(wanted)),
        Operator::NotIn(values) => {
            format!("every {whose} has {key} with one of the values {}", values.join(", "))
        }
        Operator::DoesNotExist => format!("every {whose} has a label {key}"),
    };
    let asked: &[std::sync::Arc<str>] = match &wanted.operator {
        Operator::In(asked) => asked,
        Operator::Exists => &[],
        Operator::NotIn(_) | Operator::DoesNotExist => {
            return (missing, format!("Take out what is asked of {key}, or mean others."));
        }
    };
    if !values.is_empty() {
        let near = asked.iter().find_map(|asked| closest(asked, values.iter().copied()));
        let change = match near {
            Some(near) => format!("Write {key}={near}, which there is."),
            None => {
                let shown: Vec<&str> = values.iter().take(MOST).copied().collect();
                let more = if values.len() > MOST { " and others" } else { "" };
                format!("Write a value that there is, such as {}{more}.", shown.join(", "))
            }
        };
        return (missing, change);
    }
    // The value under another key says more than a key that merely looks alike.
    let pairs = labels.iter().flat_map(|l| l.iter());
    let under = pairs.filter(|(_, value)| asked.contains(value));
    if let Some((other, value)) = under.min() {
        return (missing, format!("Write {other}={value}, which there is."));
    }
    let keys: BTreeSet<&str> =
        labels.iter().flat_map(|l| l.iter()).map(|(key, _)| &**key).collect();
    let change = match closest(key, keys.iter().copied()) {
        Some(near) => format!("Write the key {near}, which there is, with one of its values."),
        None => format!("Give the label {key} to those that are meant, or ask for another one."),
    };
    (missing, change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(key: &str, operator: Operator) -> Requirement {
        Requirement { key: key.into(), operator }
    }

    #[test]
    fn the_label_that_was_meant_is_named() {
        let labels: Labels = [("app", "web"), ("tier", "front")].into_iter().collect();
        let is = |value: &str| Operator::In(vec![value.into()]);
        for (asked, missing, change) in [
            (wanted("app", is("wbe")), "no pod has app=wbe", "Write app=web,"),
            (wanted("app", is("checkout")), "no pod has app=checkout", "such as web."),
            (wanted("name", is("web")), "no pod has name=web", "Write app=web,"),
            (wanted("teir", is("x")), "no pod has teir=x", "Write the key tier,"),
            (wanted("zone", Operator::Exists), "no pod has a label zone", "Give the label zone"),
            (wanted("app", Operator::DoesNotExist), "every pod has a label app", "Take out"),
            (
                wanted("app", Operator::NotIn(vec!["web".into()])),
                "every pod has app with one of the values web",
                "Take out",
            ),
        ] {
            let (what, instead) = nearest_labels(&asked, &[&labels], "pod");
            assert_eq!(what, missing);
            assert!(instead.contains(change), "{instead}");
        }
    }
}
