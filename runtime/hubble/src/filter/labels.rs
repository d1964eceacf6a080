//! Selectors of labels, in the syntax of Kubernetes: `app=web,tier!=cache,env in (a, b),!old`.
//!
//! Hubble's labels have a source in front, such as `k8s:` or `reserved:`. A key without one is
//! that of any source. Not here: the selectors of policies (`netpolc-policy`).

/// Requirements that must all hold. The empty selector selects everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// The label's source; None for any.
    source: Option<String>,
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    /// The label is absent, too.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// It is not of the syntax; the message says where.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (requirement, behind) = requirement(rest)?;
            all.push(requirement);
            rest = match behind.strip_prefix(',') {
                Some(more) if !more.trim().is_empty() => more.trim_start(),
                None if behind.is_empty() => behind,
                _ => return Err(wrong(behind)),
            };
        }
        Ok(Self(all))
    }

    /// Does it select something with these labels, each as `source:key=value`?
    pub fn selects(&self, labels: &[String]) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &[String]) -> bool {
        let value = labels.iter().find_map(|label| {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            let (source, key) = name.split_once(':').unwrap_or(("", name));
            let fits = self.source.as_deref().is_none_or(|wanted| wanted == source);
            (fits && key == self.key).then_some(value)
        });
        let listed = |values: &[String]| value.is_some_and(|v| values.iter().any(|x| x == v));
        match &self.operator {
            Operator::In(values) => listed(values),
            Operator::NotIn(values) => !listed(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

fn wrong(at: &str) -> String {
    format!(
        "it cannot be understood at {at:?}; write key=value, key!=value, key in (a, b), key notin \
        (a, b), key or !key, joined by commas"
    )
}

/// The first requirement, and what follows.
fn requirement(text: &str) -> Result<(Requirement, &str), String> {
    let (negated, text) = match text.strip_prefix('!') {
        Some(text) => (true, text.trim_start()),
        None => (false, text),
    };
    let (name, behind) = word(text, |c| c == ':');
    let (source, key) = match name.split_once(':') {
        Some(("any", key)) => (None, key),
        Some((source, key)) => (Some(source.to_owned()), key),
        None => (None, name),
    };
    if key.is_empty() || key.contains(':') {
        return Err(wrong(text));
    }
    let behind = behind.trim_start();
    let (operator, behind) = match negated {
        true => (Operator::DoesNotExist, behind),
        false => operator(behind)?,
    };
    let key = key.to_owned();
    Ok((Requirement { source, key, operator }, behind.trim_start()))
}

fn operator(text: &str) -> Result<(Operator, &str), String> {
    for (sign, operator) in [
        ("!=", Operator::NotIn as fn(Vec<String>) -> Operator),
        ("==", Operator::In),
        ("=", Operator::In),
    ] {
        if let Some(value) = text.strip_prefix(sign) {
            let (value, behind) = word(value.trim_start(), |_| false);
            return Ok((operator(vec![value.to_owned()]), behind));
        }
    }
    let (name, behind) = word(text, |_| false);
    let operator = match name {
        "in" => Operator::In as fn(Vec<String>) -> Operator,
        "notin" => Operator::NotIn,
        "" => return Ok((Operator::Exists, text)),
        _ => return Err(wrong(text)),
    };
    let list = behind.trim_start().strip_prefix('(').and_then(|list| list.split_once(')'));
    let (list, behind) = list.ok_or_else(|| wrong(text))?;
    let value = |value: &str| match word(value.trim(), |_| false) {
        (value, "") => Ok(value.to_owned()),
        (_, behind) => Err(wrong(behind)),
    };
    Ok((operator(list.split(',').map(value).collect::<Result<_, _>>()?), behind))
}

/// The characters of a key or value, and of others that belong to it here; and what follows.
fn word(text: &str, also: impl Fn(char) -> bool) -> (&str, &str) {
    let belongs = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c) || also(c);
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_those_of_kubernetes_with_sources() {
        let labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "k8s:old="];
        let labels: Vec<String> = labels.map(str::to_owned).to_vec();
        for (text, selects) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web", true),
            ("app=api", false),
            ("app!=api", true),
            ("tier!=cache", true),
            ("k8s:app=web", true),
            ("any:app=web", true),
            ("reserved:app=web", false),
            ("app in (api, web)", true),
            ("app in (api)", false),
            ("app notin (api,db)", true),
            ("app notin (web)", false),
            ("tier notin (web)", true),
            ("k8s:app in (web),old", true),
            ("old", true),
            ("!old", false),
            ("! tier", true),
            ("!k8s:tier , app=web", true),
            ("old=", true),
            ("io.kubernetes.pod.namespace=shop,app=web", true),
            ("io.kubernetes.pod.namespace=shop,app=api", false),
        ] {
            let selector = Selector::read(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(selector.selects(&labels), selects, "{text}");
        }
        let world = ["reserved:world".to_owned()];
        assert!(Selector::read("reserved:world").unwrap().selects(&world));
        assert!(!Selector::read("reserved:host").unwrap().selects(&world));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [
            "=web",
            "app=web,",
            ",app",
            "app in web",
            "app in (web",
            "app near (web)",
            "app>3",
            "a:b:c=1",
            "app=web tier=x",
            "app=we b",
            "!",
            "app in (a b)",
            "app=\u{e9}",
        ] {
            assert!(Selector::read(text).unwrap_err().contains("write key=value"), "{text}");
        }
    }
}
