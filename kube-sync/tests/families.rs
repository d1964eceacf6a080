//! Watching kinds that a cluster need not have: they are missing without alarm, followed when they
//! appear, gone when they are removed; and what is watched only because another kind needs it.

use std::time::Duration;

use netpolc_kube_sync::{
    Families, Resource,
    watch::{Lists, Options, Reason, Update, Watch},
};
use netpolc_policy::{Cluster, ObjectKey, SecurityGroupId, Staged, TierApi, TierKey};
use netpolc_testbed::kube::fake::Fake;
use serde_json::{Value, json};

const ALL: Families = Families { tiers: true, groups: true, staged: true };

struct Follower {
    watch: Watch,
    cluster: Cluster,
    first: bool,
}

impl Follower {
    fn of(fake: &std::sync::Arc<Fake>, families: Families) -> Self {
        let node = Some("n1".into());
        let options = Options { access: fake.access(), node, lists: Lists::Automatic, families };
        let watch = Watch::start(options).unwrap();
        Self { watch, cluster: Cluster::default(), first: false }
    }

    /// Follows updates until `holds`; false where it does not within `limit`.
    async fn within(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let wait = async {
            while !holds(self) {
                match self.watch.next(&self.cluster).await {
                    Update::Ended => panic!("the watching thread is gone"),
                    Update::First(cluster) => (self.cluster, self.first) = (cluster, true),
                    Update::Changes(changes) => {
                        changes.into_iter().for_each(|change| change.apply(&mut self.cluster));
                    }
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    async fn first(&mut self) {
        assert!(self.within(USUAL, |f| f.first).await, "{:?}", self.watch.incomplete());
    }
}

const USUAL: Duration = Duration::from_secs(10);
/// Longer than it takes to look again.
const LONG: Duration = Duration::from_secs(45);

fn tier(name: &str, peers: Value) -> Value {
    let egress = json!([{"action": "Deny", "to": peers}]);
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": egress}})
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": "a"}},
        "status": {"addresses": []}})
}

fn key(name: &str) -> TierKey {
    TierKey { api: TierApi::Upstream, name: name.into() }
}

#[tokio::test]
async fn kinds_that_the_cluster_does_not_have_are_no_alarm() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake, ALL);
    follower.first().await;
    assert_eq!(follower.watch.conditions().count(), 0);
    // A feed is noted as up after its objects have been sent, which is when the first update can
    // come.
    let began = std::time::Instant::now();
    let states = loop {
        let states: Vec<(Resource, bool)> =
            follower.watch.states().all().map(|(kind, state)| (kind, state.up)).collect();
        if states.iter().all(|(_, up)| *up) {
            break states;
        }
        assert!(began.elapsed() < USUAL, "{states:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(states.len(), Resource::ALL.len() + Resource::OPTIONAL.len());
    assert_eq!(fake.asked("/serviceaccounts").len(), 0, "nothing depends on them");
    // Without the families nobody asks.
    let fake = Fake::new();
    let mut follower = Follower::of(&fake, Families::default());
    follower.first().await;
    assert_eq!(fake.asked("clusternetworkpolicies").len(), 0);
    assert_eq!(follower.watch.states().all().count(), Resource::ALL.len());
}

#[tokio::test]
async fn s62_a_kind_that_is_installed_later_is_followed_and_one_that_is_removed_is_gone() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake, ALL);
    follower.first().await;
    fake.install("ClusterNetworkPolicy");
    fake.put(&tier("a", json!([{"namespaces": {}}])));
    assert!(follower.within(LONG, |f| f.cluster.tiers.contains_key(&key("a"))).await);
    fake.put(&tier("b", json!([{"namespaces": {}}])));
    assert!(follower.within(USUAL, |f| f.cluster.tiers.len() == 2).await, "it is watched");
    fake.delete(&tier("a", json!([])));
    assert!(follower.within(USUAL, |f| f.cluster.tiers.len() == 1).await);
    fake.uninstall("ClusterNetworkPolicy");
    assert!(!follower.within(Duration::from_secs(2), |f| f.cluster.tiers.is_empty()).await);
    assert!(follower.within(LONG, |f| f.cluster.tiers.is_empty()).await, "it was asked again");
    assert_eq!(follower.watch.conditions().count(), 0);
}

/// The version that a cluster has is found, whichever of them it is.
#[tokio::test]
async fn s62_cluster_network_policies_are_followed_in_v1beta1_too() {
    let fake = Fake::new();
    fake.install("ClusterNetworkPolicy of v1beta1");
    let newer = |name: &str| {
        let mut object = tier(name, json!([{"namespaces": {}}]));
        object["apiVersion"] = "policy.networking.k8s.io/v1beta1".into();
        object
    };
    fake.put(&newer("a"));
    let mut follower = Follower::of(&fake, ALL);
    follower.first().await;
    assert!(follower.cluster.tiers.contains_key(&key("a")), "it is there from the first list on");
    fake.put(&newer("b"));
    assert!(follower.within(USUAL, |f| f.cluster.tiers.len() == 2).await, "it is watched");
    assert_eq!(follower.watch.conditions().count(), 0);
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let fake = Fake::new();
    fake.forbid("ClusterNetworkPolicy");
    let mut follower = Follower::of(&fake, ALL);
    let told = |f: &Follower| f.watch.conditions().count() > 0;
    assert!(follower.within(USUAL, told).await);
    let condition = follower.watch.conditions().next().unwrap();
    assert_eq!((condition.resource, condition.reason), (Resource::Tier, Reason::Forbidden));
    assert!(condition.to_string().contains("clusternetworkpolicies.policy.networking.k8s.io"));
    assert!(!follower.first, "what is enforced stays until the policies are known");
}

/// S75: ServiceAccounts are watched where SecurityGroupPolicies may select them.
#[tokio::test]
async fn s75_accounts_come_with_the_policies_that_select_them() {
    let fake = Fake::new();
    fake.install("SecurityGroupPolicy");
    fake.install("SecurityGroup");
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "labels": {"a": "b"}});
    fake.put(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("robot")}));
    fake.put(&json!({"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
        "metadata": meta("p"),
        "spec": {"serviceAccountSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}}));
    let group = json!({"apiVersion": "ec2.services.k8s.aws/v1alpha1", "kind": "SecurityGroup",
        "metadata": meta("g"), "spec": {"name": "web"}, "status": {"id": "sg-1"}});
    fake.put(&group);
    let mut follower = Follower::of(&fake, ALL);
    follower.first().await;
    let security = &follower.cluster.security;
    assert_eq!(security.accounts[&ObjectKey::new("shop", "robot")].get("a"), Some("b"));
    assert!(security.policies.contains_key(&ObjectKey::new("shop", "p")));
    assert!(security.groups.contains_key(&SecurityGroupId::from("sg-1")), "under the cloud's id");
    fake.delete(&group);
    assert!(follower.within(USUAL, |f| f.cluster.security.groups.is_empty()).await);
}

#[tokio::test]
async fn s84_staged_policies_are_watched() {
    let fake = Fake::new();
    fake.install("StagedKubernetesNetworkPolicy");
    fake.put(
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "StagedKubernetesNetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": {"stagedAction": "Delete"}}),
    );
    let mut follower = Follower::of(&fake, ALL);
    follower.first().await;
    assert_eq!(follower.cluster.staged[&ObjectKey::new("shop", "p")], Staged::Delete);
}

/// S71: the other Nodes are watched where a policy names nodes, and from the first update on.
#[tokio::test]
async fn s71_all_nodes_are_watched_where_a_policy_names_nodes() {
    let fake = Fake::new();
    fake.install("ClusterNetworkPolicy");
    fake.put(&tier("a", json!([{"namespaces": {}}])));
    fake.put(&node("n1"));
    fake.put(&node("n2"));
    let mut follower = Follower::of(&fake, ALL);
    follower.first().await;
    // The fake server knows no field selectors, so it is what is asked that counts.
    let own = |asked: &[String]| asked.iter().all(|a| a.contains("fieldSelector"));
    assert!(own(&fake.asked("/api/v1/nodes")), "{:?}", fake.asked("/api/v1/nodes"));
    fake.put(&tier("b", json!([{"nodes": {"matchLabels": {"zone": "a"}}}])));
    assert!(follower.within(USUAL, |f| f.cluster.tiers.len() == 2).await);
    let began = std::time::Instant::now();
    while own(&fake.asked("/api/v1/nodes")) {
        assert!(began.elapsed() < USUAL, "the others are not asked for");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut later = Follower::of(&fake, ALL);
    let before = fake.asked("/api/v1/nodes").len();
    later.first().await;
    let asked = fake.asked("/api/v1/nodes");
    assert!(asked[before..].iter().all(|a| !a.contains("fieldSelector")), "{asked:?}");
    assert_eq!(later.cluster.nodes[&std::sync::Arc::from("n2")].labels.get("zone"), Some("a"));
}

/// Policies of other engines are counted, each kind by one request, and whoever may not count them
/// is not alarmed.
#[tokio::test]
async fn policies_that_are_not_enforced_are_named_once_with_their_count() {
    let fake = Fake::new();
    let object = |kind: &str, version: &str, name: &str| {
        json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": name, "namespace": "shop"}, "spec": {}})
    };
    fake.install("CiliumNetworkPolicy");
    fake.install("AdminNetworkPolicy");
    for name in ["a", "b", "c"] {
        fake.put(&object("CiliumNetworkPolicy", "cilium.io/v2", name));
    }
    fake.put(&object("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1", "a"));
    fake.forbid("AdminNetworkPolicy");
    let mut follower = Follower::of(&fake, Families::default());
    follower.first().await;
    assert!(follower.within(USUAL, |f| !f.watch.foreign().is_empty()).await);
    let named: Vec<String> = follower.watch.foreign().iter().map(ToString::to_string).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].starts_with("3 CiliumNetworkPolicy (cilium.io/v2) in total: "), "{named:?}");
    assert!(follower.watch.take_news());
    // One request for the groups, and one for each kind that there may be.
    let counts = |kind: &str| fake.asked(kind).len();
    assert_eq!(fake.asked("/apis?").len(), 1);
    assert_eq!((counts("/ciliumnetworkpolicies"), counts("/adminnetworkpolicies")), (1, 1));
    assert_eq!(counts("globalnetworkpolicies"), 0, "there is no such group");
    assert!(fake.asked("ciliumnetworkpolicies")[0].contains("limit=1"));
    assert_eq!(follower.watch.conditions().count(), 0);
}
