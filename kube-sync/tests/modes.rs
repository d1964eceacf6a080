//! Policies that are only tried (the annotation, and Calico's staged policies), and policies that
//! other engines enforce.

use netpolc_kube_sync::{Input, Loaded, Severity, load};
use netpolc_policy::{Isolation, Mode, ObjectKey, Staged};

fn text(text: impl Into<Vec<u8>>) -> Loaded {
    load([Input::bytes("f.yaml", text)])
}

fn with_mode(object: &str, annotations: &str) -> Loaded {
    text(
        object
            .replace("NAME", &format!("{{name: p, namespace: shop, annotations: {annotations}}}")),
    )
}

const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: NAME\n\
    spec: {podSelector: {}}\n";
const TIER: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
    metadata: NAME\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n";

#[test]
fn s84_the_annotation_makes_a_policy_audited_and_nothing_else_does() {
    for object in [POLICY, TIER] {
        let mode = |loaded: &Loaded| {
            let of_policies = loaded.cluster.policies.values().map(|p| p.mode);
            of_policies.chain(loaded.cluster.tiers.values().map(|p| p.mode)).next().unwrap()
        };
        for (annotations, expected) in [
            ("{netpolc.io/mode: audit}", Mode::Audited),
            ("{a: b}", Mode::Enforced),
            ("null", Mode::Enforced),
        ] {
            let loaded = with_mode(object, annotations);
            assert_eq!(loaded.problems, [], "{annotations}");
            assert_eq!(mode(&loaded), expected, "{annotations}");
        }
        for (annotations, message) in [
            ("{netpolc.io/mode: Audit}", "`Audit` is not a mode, so the policy is enforced"),
            ("{netpolc.io/mode: enforce}", "write `audit` to try it only, or remove"),
            ("{netpolc.io/mode: ''}", "is not a mode"),
            ("{netpolc.io/mode: null}", "is not a mode"),
            ("{netpolc.io/mode: audit, netpolc.io/mode: null}", "given twice"),
            ("{netpolc.io/mode: audit}, annotations: {team: shop}", "given twice"),
            ("{netpolc.io/mode: audit}, annotations: null", "given twice"),
            ("{netpolc.io/mode: audit}, annotations: []", "given twice"),
            ("{netpolc.io/mode: true}", "must be a string"),
            ("{netpolc.io/mode: audit, netpolc.io/mode: x}", "given twice"),
            ("{netpolc.io/mode: x, netpolc.io/mode: audit}", "given twice"),
            ("[netpolc.io/mode]", "must be an object"),
        ] {
            let loaded = with_mode(object, annotations);
            let messages: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
            assert!(loaded.has_errors() && messages[0].contains(message), "{messages:?}");
            assert!(messages[0].contains("metadata.annotations"), "{messages:?}");
            assert_eq!(mode(&loaded), Mode::Enforced, "{annotations}");
        }
    }
}

/// The first of two policies counts, but the second isolates, although it would only be tried.
#[test]
fn s84_a_contradicting_audited_policy_isolates() {
    let first = POLICY.replace("NAME", "{name: p, namespace: shop}");
    let second = POLICY
        .replace("NAME", "{name: p, namespace: shop, annotations: {netpolc.io/mode: audit}}")
        .replace("{podSelector: {}}", "{podSelector: {}, policyTypes: [Egress]}");
    let loaded = text(format!("{first}---\n{second}"));
    let twin = &loaded.cluster.policies[&ObjectKey::new("shop", "p.given-2")];
    assert_eq!((twin.mode, &twin.egress), (Mode::Enforced, &Isolation::Isolated(vec![])));
}

/// Where both are only tried, neither decides anything.
#[test]
fn s84_two_audited_policies_that_contradict_each_other_decide_nothing() {
    for object in [POLICY, TIER] {
        let name = "{name: p, namespace: shop, annotations: {netpolc.io/mode: audit}}";
        let first = object.replace("NAME", name);
        let second = first.replace("podSelector: {}}", "podSelector: {}, policyTypes: [Egress]}");
        let second = second.replace("priority: 1", "priority: 2");
        let loaded = text(format!("{first}---\n{second}"));
        assert!(loaded.has_errors());
        let of_policies = loaded.cluster.policies.values().map(|p| p.mode);
        let modes: Vec<Mode> =
            of_policies.chain(loaded.cluster.tiers.values().map(|p| p.mode)).collect();
        assert_eq!(modes, [Mode::Audited; 2], "{object}");
    }
}

fn staged(version: &str, spec: &str) -> Loaded {
    text(format!(
        "apiVersion: {version}\nkind: StagedKubernetesNetworkPolicy\nmetadata: {{name: p, \
         namespace: shop}}\nspec: {spec}\n"
    ))
}

#[test]
fn s84_s85_staged_policies_are_read_as_policies_are() {
    let rule = "podSelector: {}, ingress: [{from: [{podSelector: {}}]}]";
    for version in ["projectcalico.org/v3", "crd.projectcalico.org/v1"] {
        for action in ["stagedAction: Set, ", "", "stagedAction: null, "] {
            let loaded = staged(version, &format!("{{{action}{rule}}}"));
            assert_eq!(loaded.problems, [], "{action}");
            let Staged::Set(policy) = &loaded.cluster.staged[&ObjectKey::new("shop", "p")] else {
                panic!("{loaded:?}")
            };
            let enforced = text(format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, \
                 namespace: shop}}\nspec: {{{rule}}}\n"
            ));
            assert_eq!(policy, &enforced.cluster.policies[&ObjectKey::new("shop", "p")]);
        }
        let loaded = staged(version, "{stagedAction: Delete, podSelector: {}}");
        assert_eq!(loaded.problems, []);
        assert_eq!(loaded.cluster.staged[&ObjectKey::new("shop", "p")], Staged::Delete);
    }
    for (spec, message) in [
        ("{stagedAction: Learn, podSelector: {}}", "`Learn` cannot be tried, so the object is"),
        ("{stagedAction: Ignore, podSelector: {}}", "write Set or Delete"),
        ("{stagedAction: 5, podSelector: {}}", "spec.stagedAction: must be a string"),
    ] {
        let loaded = staged("projectcalico.org/v3", spec);
        let messages: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        assert!(messages[0].contains(message), "{messages:?}");
        assert!(loaded.has_errors() && loaded.cluster.staged.is_empty());
        assert!(loaded.incomplete.is_empty(), "nothing that was read before stays for it");
    }
    let loaded = staged("projectcalico.org/v3", "{podSelector: {}, egres: []}");
    assert!(loaded.problems[0].to_string().contains("spec.egres: unknown field"));
}

/// A policy that is only staged is no policy.
#[test]
fn s84_a_staged_policy_isolates_nothing() {
    let loaded = staged("projectcalico.org/v3", "{podSelector: {}}");
    assert!(loaded.cluster.policies.is_empty() && loaded.cluster.staged.len() == 1);
}

/// Policies that nobody here enforces are named once for each kind.
#[test]
fn policies_of_other_engines_are_counted() {
    let object = |version: &str, kind: &str, name: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\n")
    };
    for (version, kind) in [
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("projectcalico.org/v3", "GlobalNetworkPolicy"),
        ("projectcalico.org/v3", "StagedNetworkPolicy"),
        ("projectcalico.org/v3", "StagedGlobalNetworkPolicy"),
        ("projectcalico.org/v3", "Tier"),
        ("k8s.cni.cncf.io/v1beta1", "MultiNetworkPolicy"),
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
        ("crd.antrea.io/v1beta1", "NetworkPolicy"),
        ("crd.antrea.io/v1beta1", "Tier"),
        ("networking.k8s.aws/v1alpha1", "ApplicationNetworkPolicy"),
    ] {
        let two = [object(version, kind, "a"), object(version, kind, "b")].join("---\n");
        let loaded = text(two);
        let messages: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 1, "{kind}: {messages:?}");
        assert!(messages[0].contains(&format!("2 {kind} ({version}) in total")), "{messages:?}");
        assert_eq!(loaded.problems[0].severity, Severity::Warning);
        assert!(loaded.incomplete.is_empty() && loaded.cluster == Default::default());
    }
    // Policies of a service mesh judge requests and not packets.
    let loaded = text(object("security.istio.io/v1", "AuthorizationPolicy", "a"));
    assert_eq!(loaded.problems, []);
}
