//! Whether netpolc could take a ClusterNetworkPolicy, as the condition in the object's status says
//! it, and whether the condition that stands there has to be written again.
//!
//! The condition's type has netpolc's domain. The API groups define no type of their own, so
//! several implementations in one cluster would overwrite each other's `Accepted`.
//!
//! Not here: who writes the condition, and when ([`super::acceptance_writer`]).

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{convert::Item, raw::Raw, report::summary, status::seconds};
use crate::{Problem, Severity};

/// The type of the condition.
pub(crate) const KIND: &str = "netpolc.dev/Accepted";

/// How much of an object could be taken. It depends on the object alone, so every agent of one
/// version comes to the same result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// Everything in the object was understood.
    Whole,
    /// Some of its rules were not understood; the message says which.
    Part(String),
    /// It cannot be told which pods the object is about, or at which place it stands, so nothing of
    /// it permits anything; the message says why.
    Nothing(String),
}

/// Which differences make a condition outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// Only an older generation. Agents of two versions may disagree during an upgrade, and must
    /// not go on to correct each other.
    Generation,
    /// Any difference. The first list after an agent's start is looked at like this, so that an
    /// upgraded agent replaces what an older version said.
    Content,
}

impl Acceptance {
    /// The result for a converted object.
    pub fn of(item: &Item) -> Self {
        let Some(message) = summary(&item.problems) else { return Acceptance::Whole };
        let errors = item.problems.iter().filter(|p| p.severity == Severity::Error);
        match item.object.is_some() && errors.into_iter().all(is_about_a_part) {
            true => Acceptance::Part(message),
            false => Acceptance::Nothing(message),
        }
    }

    fn status(&self) -> &'static str {
        if *self == Acceptance::Whole { "True" } else { "False" }
    }

    fn reason(&self) -> &'static str {
        match self {
            Acceptance::Whole => "Accepted",
            Acceptance::Part(_) => "PartlyInvalid",
            Acceptance::Nothing(_) => "Invalid",
        }
    }

    fn message(&self) -> &str {
        match self {
            Acceptance::Whole => "netpolc understands the whole policy",
            Acceptance::Part(message) | Acceptance::Nothing(message) => message,
        }
    }
}

/// Whether the error leaves the rest of the policy as it is: one in a rule, or in the metadata.
fn is_about_a_part(problem: &Problem) -> bool {
    let field = problem.field.as_deref().unwrap_or_default();
    ["spec.ingress", "spec.egress", "metadata."].iter().any(|part| field.starts_with(part))
}

/// The conditions in an object's status, those of other writers included.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Conditions(Vec<Value>);

impl Conditions {
    /// The conditions of an object as it was received; none where there is no list.
    pub fn of(raw: &Raw) -> Self {
        #[derive(Deserialize)]
        struct Object {
            status: Option<Status>,
        }
        #[derive(Deserialize)]
        struct Status {
            conditions: Option<Vec<Value>>,
        }
        let object = serde_json::from_str::<Object>(raw.json.get()).ok();
        Self(object.and_then(|object| object.status?.conditions).unwrap_or_default())
    }

    fn own(&self) -> Option<&Value> {
        self.0.iter().find(|condition| condition["type"] == KIND)
    }

    /// Whether netpolc's condition has to be written for this generation of the object.
    pub fn lack(&self, wanted: &Acceptance, generation: i64, care: Care) -> bool {
        let Some(own) = self.own() else { return true };
        let observed = own["observedGeneration"].as_i64();
        match care {
            Care::Generation => observed.is_none_or(|observed| observed < generation),
            Care::Content => {
                observed != Some(generation)
                    || own["status"] != wanted.status()
                    || own["reason"] != wanted.reason()
                    || own["message"] != wanted.message()
            }
        }
    }

    /// The list with netpolc's condition in it. The time of the last transition stays where the
    /// status does.
    pub fn with(mut self, wanted: &Acceptance, generation: i64, now: Timestamp) -> Vec<Value> {
        let before = self.own().filter(|own| own["status"] == wanted.status());
        let since = before.map(|own| own["lastTransitionTime"].clone()).filter(Value::is_string);
        let since = since.unwrap_or_else(|| seconds(now).into());
        self.0.retain(|condition| condition["type"] != KIND);
        self.0.push(json!({"type": KIND, "status": wanted.status(), "reason": wanted.reason(),
            "message": wanted.message(), "observedGeneration": generation,
            "lastTransitionTime": since}));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::convert::Converter, *};
    use crate::Resource;

    fn raw(spec: &Value, status: &Value) -> Raw {
        let object = json!({"metadata": {"name": "a", "generation": 2}, "spec": spec,
            "status": status});
        serde_json::from_str(&object.to_string()).unwrap()
    }

    fn acceptance(spec: &Value) -> Acceptance {
        let version = "policy.networking.k8s.io/v1alpha2";
        let item = Converter::default().convert(Resource::Tier, version, &raw(spec, &Value::Null));
        Acceptance::of(&item)
    }

    /// S72, S74: a broken rule is a part of a policy; one whose place is not known is nothing.
    #[test]
    fn s72_s74_what_is_broken_decides_how_much_was_taken() {
        let deny = |to: Value| json!([{"action": "Deny", "to": to}]);
        let sound = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": deny(json!([{"namespaces": {}}]))});
        assert_eq!(acceptance(&sound), Acceptance::Whole);
        let mut partly = sound.clone();
        partly["egress"] = deny(json!([{"domainNames": ["example.com"]}]));
        let Acceptance::Part(message) = acceptance(&partly) else { panic!() };
        assert!(message.starts_with("spec.egress[0].to[0].domainNames: "), "{message}");
        let mut misplaced = partly;
        misplaced["priority"] = 2000.into();
        let Acceptance::Nothing(message) = acceptance(&misplaced) else { panic!() };
        assert!(message.starts_with("spec.priority: 2000 "), "{message}");
        assert!(message.ends_with("(and 1 more)"), "{message}");
    }

    #[test]
    fn a_condition_is_outdated_by_generation_and_for_a_new_agent_by_content() {
        let conditions = |own: Value| {
            let other = json!({"type": "Ready", "status": "True"});
            Conditions::of(&raw(&Value::Null, &json!({"conditions": [other, own]})))
        };
        let part = Acceptance::Part("spec.egress[0]: no".into());
        assert!(Conditions::default().lack(&part, 2, Care::Generation));
        let now = Timestamp::UNIX_EPOCH;
        let written = Conditions::default().with(&part, 2, now)[0].clone();
        assert_eq!(written["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let there = conditions(written);
        for care in [Care::Generation, Care::Content] {
            assert!(!there.lack(&part, 2, care));
            assert!(there.lack(&part, 3, care));
        }
        let newer = Acceptance::Part("spec.egress[0]: no; write yes".into());
        assert!(!there.lack(&newer, 2, Care::Generation), "agents of two versions may disagree");
        assert!(there.lack(&newer, 2, Care::Content));
        // The time of the last transition stays with the status, and what others wrote stays too.
        let later = Timestamp::from_second(60).unwrap();
        let kept = there.clone().with(&newer, 3, later);
        assert_eq!((kept.len(), &kept[0]["type"]), (2, &"Ready".into()));
        assert_eq!(kept[1]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(kept[1]["observedGeneration"], 3);
        let mended = there.with(&Acceptance::Whole, 3, later);
        assert_eq!(mended[1]["lastTransitionTime"], "1970-01-01T00:01:00Z");
    }
}
