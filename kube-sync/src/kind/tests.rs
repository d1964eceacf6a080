//! Which kind is what.

use super::*;

#[test]
fn s61_a_policy_in_a_wrong_version_is_still_one() {
    for version in
        ["v1", "networking.k8s.io", "networking.k8s.io/V1", "networking/v1", "k8s.io/v1", "apps/v1"]
    {
        let (kind, complaint) = classify("NetworkPolicy", Some(version));
        assert_eq!(
            (kind, complaint.unwrap().severity),
            (Kind::Policy, Severity::Error),
            "{version}"
        );
    }
    for version in [
        "networking.k8s.io/v2",
        "networking.k8s.io/v1 ",
        "networking.k8s.oi/v1",
        "example.com/v1",
        "",
    ] {
        assert!(
            matches!(classify("NetworkPolicy", Some(version)), (Kind::Policy, Some(_))),
            "{version}"
        );
    }
    for version in ["projectcalico.org/v3", "crd.projectcalico.org/v1", "crd.antrea.io/v1beta1"] {
        assert_eq!(classify("NetworkPolicy", Some(version)), (Kind::Foreign, None), "{version}");
    }
}

#[test]
fn s61_misspelt_kinds_are_told_and_read() {
    for kind in
        ["NetworkPolicies", "networkpolicies", "netpol", "NetPol", "NetworkPolcy", "networkPolicy"]
    {
        for version in [Some("networking.k8s.io/v1"), Some("v1"), None] {
            assert!(
                matches!(classify(kind, version), (Kind::Policy, Some(_))),
                "{kind} {version:?}"
            );
        }
    }
    for (kind, known) in
        [("Pods", Kind::Pod), ("pod", Kind::Pod), ("Serivce", Kind::Service), ("Lst", Kind::List)]
    {
        let (found, complaint) = classify(kind, Some("v1"));
        assert_eq!((found, complaint.is_some()), (known, true), "{kind}");
    }
    for (kind, version) in
        [("Policy", Some("networking.k8s.io/v1")), ("Status", Some("v1")), ("Foo", None)]
    {
        assert!(matches!(classify(kind, version), (Kind::Unknown, Some(_))), "{kind}");
    }
}

#[test]
fn other_kinds_are_none_of_our_business() {
    for (kind, version) in [
        ("Ingress", "networking.k8s.io/v1"),
        ("IngressClassList", "networking.k8s.io/v1"),
        ("ServiceCIDR", "networking.k8s.io/v1beta1"),
        ("IPAddressList", "networking.k8s.io/v1"),
        ("Deployment", "apps/v1"),
        ("DeploymentList", "apps/v1"),
        ("ConfigMap", "v1"),
        ("SecretList", "v1"),
        ("Service", "serving.knative.dev/v1"),
        ("Node", "longhorn.io/v1beta2"),
        ("AllowList", "example.com/v1"),
        ("PodMetricsList", "metrics.k8s.io/v1beta1"),
        ("PodDisruptionBudget", "policy/v1"),
        ("NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1"),
    ] {
        assert_eq!(classify(kind, Some(version)), (Kind::Ignored, None), "{kind} {version}");
    }
}

#[test]
fn policies_of_other_engines_are_known() {
    for (kind, version) in [
        ("CiliumNetworkPolicy", "cilium.io/v2"),
        ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
        ("GlobalNetworkPolicy", "crd.projectcalico.org/v1"),
        ("Template", "template.openshift.io/v1"),
        ("MultiNetworkPolicy", "k8s.cni.cncf.io/v1beta1"),
    ] {
        assert_eq!(classify(kind, Some(version)), (Kind::Foreign, None), "{kind} {version}");
    }
}
