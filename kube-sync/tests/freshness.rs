//! Is the view as new as the server's state? Outages, stalls, lost events and quiet kinds, with a
//! server in the process that does them on command (`netpolc_testbed::kube::fake`). What the CNI
//! gate makes of it: runtime's `kube_cni.rs`.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_kube_sync::{
    Families, Resource,
    watch::{Access, Lists, Options, Reason, Update, Watch},
};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_testbed::kube::fake::Fake;
use serde_json::{Value, json};

/// What the CNI plugin waits by default.
const USUAL: Duration = Duration::from_secs(5);

fn namespace(name: &str) -> Value {
    json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "uid": name}})
}

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"nodeName": "n1"}, "status": {"podIP": "10.0.0.1"}})
}

fn policy(name: &str) -> Value {
    json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"podSelector": {}}})
}

struct Follower {
    watch: Watch,
    cluster: Cluster,
    first: bool,
}

impl Follower {
    fn new(access: Access) -> Self {
        let options = Options {
            access,
            node: Some("n1".into()),
            lists: Lists::Automatic,
            families: Families::default(),
        };
        Self { watch: Watch::start(options).unwrap(), cluster: Cluster::default(), first: false }
    }

    async fn of(fake: &Arc<Fake>) -> Self {
        fake.put(&namespace("shop"));
        fake.put(&policy("old"));
        let mut follower = Self::new(fake.access());
        assert!(follower.within(Duration::from_secs(30), |f| f.first).await);
        follower
    }

    /// Follows until `holds`, or for so long.
    async fn within(&mut self, time: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let wait = async {
            while !holds(self) {
                match self.watch.next(&self.cluster).await {
                    Update::First(cluster) => (self.cluster, self.first) = (cluster, true),
                    Update::Changes(changes) => {
                        changes.into_iter().for_each(|change| change.apply(&mut self.cluster))
                    }
                    Update::Ended => panic!("the watching thread is gone"),
                }
            }
        };
        tokio::time::timeout(time, wait).await.is_ok()
    }

    /// Asks for a view as new as the server's; how long that took, if it came in the plugin's time.
    async fn freshen(&mut self) -> Option<Duration> {
        let asked = Instant::now();
        self.watch.fetcher().freshen(asked + USUAL).unwrap();
        let current = |f: &Self| f.watch.current().is_some_and(|current| current >= asked);
        self.within(USUAL, current).await.then(|| asked.elapsed())
    }

    fn knows(&self, policy: &str) -> bool {
        self.cluster.policies.contains_key(&ObjectKey::new("shop", policy))
    }

    fn condition(&self, resource: Resource) -> Option<Reason> {
        self.watch.conditions().find(|c| c.resource == resource).map(|c| c.reason)
    }
}

/// S56, S58: feeds that wait for their next attempt after an outage do not answer for a policy that
/// they have not seen.
#[tokio::test]
async fn s56_a_policy_made_right_after_an_outage_is_known_before_the_view_counts_as_current() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake).await;
    follower.freshen().await.expect("a server that is there");
    fake.go_away();
    let unreachable = |f: &Follower| f.watch.conditions().count() == Resource::ALL.len();
    assert!(follower.within(Duration::from_secs(10), unreachable).await);
    assert_eq!(follower.condition(Resource::Pod), Some(Reason::Unreachable));
    // Pauses grow meanwhile.
    follower.within(Duration::from_secs(6), |_| false).await;
    assert_eq!(follower.freshen().await, None, "nobody knows how new the view is");
    assert!(
        follower.watch.take_not_current().is_some_and(|why| why.contains("connection refused"))
    );
    assert!(follower.watch.states().all().all(|(_, contact)| !contact.up));
    fake.come_back();
    fake.put(&policy("new"));
    let took = follower.freshen().await.expect("the server is back");
    assert!(follower.knows("new"), "after {took:?}");
    // The others need no question: they hear that the server answers.
    assert!(follower.within(USUAL, |f| f.watch.conditions().count() == 0).await);
    assert!(follower.watch.states().all().all(|(_, contact)| contact.up));
}

/// S56, S58: a connection that carries nothing any more, and is not reset.
#[tokio::test]
async fn s56_connections_that_stall_are_left_before_the_view_counts_as_current() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake).await;
    // A client that has just been made is not suspected.
    follower.within(Duration::from_millis(5_500), |_| false).await;
    fake.stall();
    fake.put(&policy("new"));
    let took = follower.freshen().await.expect("new connections work");
    assert!(follower.knows("new"), "after {took:?}");
    // Every kind has moved on.
    fake.put(&pod("late"));
    let late = |f: &Follower| f.cluster.pods.contains_key(&ObjectKey::new("shop", "late"));
    assert!(follower.within(USUAL, late).await);
    assert_eq!(follower.condition(Resource::Pod), None);
}

/// Kinds on which nothing happens stay behind the version that all share; nothing is listed again
/// for that.
#[tokio::test]
async fn quiet_kinds_are_current_too() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake).await;
    for i in 0..5 {
        fake.put(&pod(&format!("p{i}")));
        follower.freshen().await.expect("pods move on, and nothing else");
        assert!(follower.cluster.pods.contains_key(&ObjectKey::new("shop", format!("p{i}"))));
    }
    let lists = fake.asked("limit=2500").len();
    assert_eq!(lists, Resource::ALL.len(), "{:?}", fake.asked("limit=2500"));
    assert_eq!(fake.clients(), 2, "one to see whether any can be made, and one for all");
    assert_eq!(fake.asked("/version").len(), 1);
}

/// An event that was lost on its way: the server has another number of policies than the watch has
/// told of.
#[tokio::test]
async fn s56_a_lost_policy_is_found_by_its_number() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake).await;
    fake.put_unheard(&policy("unheard"));
    follower.freshen().await.expect("it is found");
    assert!(follower.knows("unheard"));
}

/// A quiet cluster whose server sends no bookmarks is no alarm: the watch is opened anew beside the
/// old one, and what comes meanwhile comes once.
#[tokio::test]
async fn silence_is_no_alarm_where_another_watch_is_answered() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake).await;
    let told = |f: &Follower| f.watch.conditions().count() > 0;
    assert!(!follower.within(Duration::from_secs(23), told).await, "silence was told of");
    let watches = fake.asked("/networkpolicies?&watch=true").len();
    assert!((2..=3).contains(&watches), "{:?}", fake.asked("/networkpolicies?&watch=true"));
    fake.put(&policy("new"));
    assert!(follower.within(USUAL, |f| f.knows("new")).await);
    assert_eq!(fake.asked("limit=2500").len(), Resource::ALL.len(), "nothing is listed again");
}

/// After the server forgot the past the list is asked for as it is now, never from a cache that may
/// be older than what was seen.
#[tokio::test]
async fn lists_never_go_back_in_time() {
    let fake = Fake::new();
    let mut follower = Follower::of(&fake).await;
    fake.go_away();
    assert!(
        follower.within(Duration::from_secs(10), |f| f.condition(Resource::Policy).is_some()).await
    );
    fake.delete(&policy("old"));
    fake.forget();
    fake.come_back();
    assert!(follower.within(Duration::from_secs(30), |f| !f.knows("old")).await);
    let lists = fake.asked("/networkpolicies?&limit=2500");
    assert!(
        lists.len() >= 2 && lists.iter().all(|list| !list.contains("resourceVersion")),
        "{lists:?}"
    );
}

/// The own node loses the taint that kept pods away, and no other; also where others write the Node
/// meanwhile.
#[tokio::test]
async fn the_startup_taint_is_removed_and_no_other() {
    let fake = Fake::new();
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    let node = |name: &str, taints: Value| json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "uid": name}, "spec": {"taints": taints}});
    let both = json!([taint("netpolc.io/agent-not-ready"), taint("other")]);
    fake.put(&node("n1", both.clone()));
    fake.put(&node("n2", both.clone()));
    let mut follower = Follower::of(&fake).await;
    let taints = |name: &str| fake.get("Node", "", name).unwrap()["spec"]["taints"].clone();
    assert_eq!(taints("n1"), both, "not before the agent says so");
    follower.watch.remove_taint("netpolc.io/agent-not-ready");
    let began = Instant::now();
    while taints("n1") != json!([taint("other")]) {
        assert!(began.elapsed() < Duration::from_secs(10), "{}", taints("n1"));
        follower.within(Duration::from_millis(20), |_| false).await;
    }
    assert_eq!(taints("n2"), both);
}

/// The server's audit log says who asked.
#[tokio::test]
async fn requests_name_the_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = std::env::temp_dir().join(format!("netpolc-agent-name-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let kubeconfig = folder.join("kubeconfig");
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", listener.local_addr().unwrap())}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).unwrap();
        stream
            .write_all(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: \
                close\r\n\r\n",
            )
            .unwrap();
        String::from_utf8_lossy(&head[..read]).to_lowercase()
    });
    let _follower = Follower::new(Access::Kubeconfig(kubeconfig.into()));
    let head = tokio::task::spawn_blocking(|| asked.join().unwrap()).await.unwrap();
    assert!(head.contains(&format!("user-agent: netpolc/{}", env!("CARGO_PKG_VERSION"))), "{head}");
    std::fs::remove_dir_all(folder).unwrap();
}
