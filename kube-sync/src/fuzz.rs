//! The fuzz target of the decoder, which its smoke test shares: what must hold for any bytes.

use netpolc_policy::Isolation;

use crate::{Absent, Input, Object, ObjectId, ObjectKind, Severity, convert, load, survey};

/// Decodes `bytes` and checks what must hold whatever they are: nothing panics, and a policy whose
/// spec has an error isolates at least one direction, or both where the error may concern the
/// choice of direction. Whoever asks questions reads every policy that is enforced, and knows the
/// line of each.
pub fn fuzz_decode(bytes: &[u8]) {
    let converted = convert("fuzz", bytes);
    let loaded = load([Input::bytes("fuzz", bytes)]);
    assert_eq!(converted.lost, !loaded.incomplete.is_empty());
    let asked = survey([Input::bytes("fuzz", bytes)], Absent::MadeUp);
    for (key, policy) in &loaded.cluster.policies {
        assert_eq!(asked.loaded.cluster.policies.get(key), Some(policy));
    }
    for key in asked.loaded.cluster.policies.keys() {
        let id = ObjectId { kind: ObjectKind::Policy, key: key.clone() };
        assert!(asked.lines.object(&id).is_some(), "{id}");
        assert!(asked.lines.field(&id, "spec.ingress[0].from[0]").is_some(), "{id}");
    }
    for object in &converted.objects {
        let Object::Policy(policy) = object else { continue };
        let name = policy.key.to_string();
        let errors = converted.problems.iter().filter(|p| {
            p.severity == Severity::Error && p.object.as_ref().is_some_and(|o| *o.name == *name)
        });
        let fields: Vec<&str> = errors.filter_map(|p| p.field.as_deref()).collect();
        let unsure =
            fields.iter().any(|f| *f == "spec.policyTypes" || f.starts_with("spec.policyTypes["));
        let open = [&policy.ingress, &policy.egress]
            .into_iter()
            .filter(|i| **i == Isolation::Open)
            .count();
        assert!(open < 2, "{name} isolates nothing: {:?}", converted.problems);
        // Messages name an object, so two objects of one name share theirs.
        let alone = converted
            .objects
            .iter()
            .filter(|o| matches!(o, Object::Policy(p) if p.key == policy.key))
            .count();
        assert!(!unsure || open == 0 || alone > 1, "{name}: {:?}", converted.problems);
    }
}
