//! Watching servers that do as they are told here: newer ones with streaming lists and `endPort`,
//! ones that break off, forget, answer nonsense or refuse. Objects and lists in the words of the
//! API server.
//!
//! Not here: a real server (`apiserver.rs`).

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use kube::{Client, client::Body};
use netpolc_kube_sync::{
    Change, Families, Resource,
    watch::{Access, Condition, Found, Lists, NodeStatus, Options, Reason, Update, Watch},
};
use netpolc_policy::{Cluster, Isolation, ObjectKey, Port, Ports, Protocol};
use serde_json::{Value, json};

/// What the server does with a request.
#[derive(Clone)]
enum Answer {
    /// Status and body; of a watch the lines, after which the connection ends.
    Says(u16, String),
    /// A watch on which nothing happens: its answer begins, and says nothing.
    Quiet,
    /// Nothing at all, for ever.
    Nothing,
}

/// Answers by collection, in order; when they have run out: an empty list, and silence on watches.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<BTreeMap<String, VecDeque<Answer>>>>,
    /// `path?query`, in order.
    asked: Arc<Mutex<Vec<String>>>,
    clients: Arc<Mutex<usize>>,
    minor: &'static str,
    families: Families,
}

impl Script {
    fn version(minor: &'static str) -> Self {
        Self { minor, ..Self::default() }
    }

    fn then(self, path: &str, answer: Answer) -> Self {
        self.answers.lock().unwrap().entry(path.into()).or_default().push_back(answer);
        self
    }

    fn answer(&self, path: &str, query: &str) -> Answer {
        self.asked.lock().unwrap().push(format!("{path}?{query}"));
        if path == "/version" {
            let info = json!({"major": "1", "minor": self.minor, "gitVersion": "", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
            return Answer::Says(200, info.to_string());
        }
        if let Some(answer) =
            self.answers.lock().unwrap().get_mut(path).and_then(VecDeque::pop_front)
        {
            return answer;
        }
        match (query.contains("sendInitialEvents=true"), query.contains("watch=true")) {
            (true, _) => Answer::Says(200, end_of_list("1")),
            (false, true) => Answer::Quiet,
            (false, false) => list(&[], "1", None),
        }
    }

    /// A watch on this server, on a thread of its own.
    fn watch(&self, lists: Lists) -> Follower {
        let script = self.clone();
        let make = move || {
            *script.clients.lock().unwrap() += 1;
            let script = script.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let uri = request.uri().clone();
                let answer = script.answer(uri.path(), uri.query().unwrap_or_default());
                async move {
                    match answer {
                        Answer::Says(status, body) => Ok::<_, tower::BoxError>(
                            Response::builder().status(status).body(Said(Some(body.into())))?,
                        ),
                        Answer::Quiet => Ok(Response::new(Said(None))),
                        Answer::Nothing => std::future::pending().await,
                    }
                }
            });
            Client::new(service, "default")
        };
        let options = Options {
            access: Access::With(Arc::new(make)),
            node: Some("n1".into()),
            lists,
            families: self.families,
        };
        Follower {
            watch: Watch::start(options).unwrap(),
            cluster: Cluster::default(),
            changes: vec![],
            first: false,
        }
    }

    fn asked(&self, part: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|a| a.contains(part)).cloned().collect()
    }
}

/// A body: what is said, and its end; or silence.
struct Said(Option<Bytes>);

impl HttpBody for Said {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            None => Poll::Pending,
            Some(said) if said.is_empty() => Poll::Ready(None),
            Some(said) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(said))))),
        }
    }
}

struct Follower {
    watch: Watch,
    cluster: Cluster,
    changes: Vec<(String, Option<()>)>,
    first: bool,
}

impl Follower {
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                match self.watch.next(&self.cluster).await {
                    Update::Ended => panic!("the watching thread is gone"),
                    Update::First(cluster) => (self.cluster, self.first) = (cluster, true),
                    Update::Changes(changes) => changes.into_iter().for_each(|change: Change| {
                        self.changes
                            .push((change.key.to_string(), change.object.as_ref().map(|_| ())));
                        change.apply(&mut self.cluster);
                    }),
                }
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(30), wait).await;
        let conditions: Vec<String> = self.watch.conditions().map(ToString::to_string).collect();
        assert!(outcome.is_ok(), "{what}: not within 30 s; conditions {conditions:?}");
    }

    fn condition(&self, resource: Resource) -> Option<&Condition> {
        self.watch.conditions().find(|c| c.resource == resource)
    }

    fn pods(&self) -> Vec<&str> {
        self.cluster.pods.keys().map(|key| &*key.name).collect()
    }
}

fn list(items: &[Value], version: &str, next: Option<&str>) -> Answer {
    let body = json!({"kind": "List", "apiVersion": "v1", "items": items,
        "metadata": {"resourceVersion": version, "continue": next.unwrap_or_default()}});
    Answer::Says(200, body.to_string())
}

fn event(kind: &str, object: &Value) -> String {
    // serde_json sorts names; servers send the type first.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn end_of_list(version: &str) -> String {
    let metadata =
        json!({"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}});
    event("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata}))
}

fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "metadata": {}});
    Answer::Says(code, body.to_string())
}

fn pod(name: &str, version: u32) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": version.to_string()},
        "spec": {"nodeName": "n1"}, "status": {"podIP": "10.0.0.1"}})
}

const PODS: &str = "/api/v1/pods";
const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// S27: what 1.20 does not know.
#[tokio::test]
async fn s27_newer_servers_stream_their_lists_and_have_end_ports() {
    let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 90}]}]});
    let policy = json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "spec": spec,
        "metadata": {"name": "p", "namespace": "d", "resourceVersion": "5"}});
    let first = event("ADDED", &policy) + &end_of_list("7");
    let script = Script::version("34").then(POLICIES, Answer::Says(200, first));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("first lists", |f| f.first).await;
    let Isolation::Isolated(rules) = &follower.cluster.policies.values().next().unwrap().ingress
    else {
        panic!()
    };
    let range = Port::Range { protocol: Protocol::Tcp, first: 80, last: 90 };
    assert_eq!(rules[0].ports, Ports::Listed(vec![range]));
    assert_eq!(script.asked("limit="), Vec::<String>::new(), "no pages");
    // The stream ended: it is resumed, without initial events, where the bookmark was.
    let resumed = script.asked(POLICIES);
    assert!(
        resumed.len() < 2
            || resumed[1].contains("resourceVersion=7")
                && !resumed[1].contains("sendInitialEvents=true")
    );
    assert!(
        script.asked("/api/v1/nodes").iter().all(|a| a.contains("metadata.name%3Dn1")),
        "only the own node"
    );
}

#[tokio::test]
async fn a_server_that_refuses_streams_is_asked_for_pages() {
    let refusal = status(
        422,
        "Invalid",
        "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch",
    );
    let script =
        Script::version("34").then(PODS, refusal).then(PODS, list(&[pod("a", 1)], "4", None));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("first lists", |f| f.first).await;
    assert_eq!(follower.pods(), ["a"]);
    assert!(script.asked(PODS)[1].contains("limit=2500"));
}

/// A list whose later page has expired begins again, and what only the first attempt saw is gone.
#[tokio::test]
async fn pages_that_expire_are_listed_again() {
    let script = Script::version("20")
        .then(PODS, list(&[pod("old", 1), pod("kept", 2)], "", Some("token")))
        .then(PODS, status(410, "Expired", "the provided continue parameter is too old"))
        .then(PODS, list(&[pod("kept", 2)], "", Some("other")))
        .then(PODS, list(&[pod("new", 3)], "9", None));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("first lists", |f| f.first).await;
    assert_eq!(follower.pods(), ["kept", "new"]);
    assert!(follower.changes.is_empty() && follower.condition(Resource::Pod).is_none());
    assert!(script.asked(PODS)[3].contains("continue=other"));
}

/// Dropped streams resume; an expired version, said in the stream or by the status, becomes a
/// difference.
#[tokio::test]
async fn streams_resume_and_expired_versions_become_differences() {
    let bookmark =
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "20"}});
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old \
        resource version"});
    let script = Script::version("20")
        .then(PODS, list(&[pod("a", 1), pod("b", 2)], "9", None))
        .then(
            PODS,
            Answer::Says(200, event("ADDED", &pod("c", 10)) + &event("BOOKMARK", &bookmark)),
        )
        .then(PODS, Answer::Says(200, event("ERROR", &gone)))
        .then(PODS, list(&[pod("a", 1), pod("d", 30)], "31", None))
        .then(PODS, status(410, "Gone", "too old"))
        .then(PODS, list(&[pod("d", 30)], "40", None));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("the last list", |f| f.first && f.pods() == ["d"]).await;
    let asked = script.asked(PODS);
    assert!(
        asked[1].contains("resourceVersion=9") && asked[2].contains("resourceVersion=20"),
        "{asked:?}"
    );
    // What stayed the same is not told of again.
    let told: Vec<(&str, bool)> =
        follower.changes.iter().map(|(key, put)| (&**key, put.is_some())).collect();
    assert!(told.iter().filter(|(key, _)| *key == "d/a").eq([&("d/a", false)]), "{told:?}");
    assert!(told.iter().filter(|(key, _)| *key == "d/d").eq([&("d/d", true)]), "{told:?}");
    assert!(told.contains(&("d/b", false)) && told.contains(&("d/c", false)), "{told:?}");
}

/// S61: nonsense on one kind's watch is a condition of that kind; nothing is lost and nothing else
/// waits.
#[tokio::test]
async fn s61_nonsense_is_named_and_followed_by_a_list() {
    let script = Script::version("20")
        .then(PODS, list(&[pod("a", 1)], "9", None))
        .then(PODS, Answer::Says(200, "{\"type\":\"ADDED\",\"object\":".to_owned() + "}\n"))
        .then(PODS, Answer::Says(200, "<html>".into()))
        .then(PODS, status(500, "InternalError", "etcdserver: no leader"))
        .then(PODS, list(&[pod("b", 11)], "12", None));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("a condition", |f| f.first && f.condition(Resource::Pod).is_some()).await;
    let condition = follower.condition(Resource::Pod).unwrap();
    assert_eq!(condition.reason, Reason::Broken, "{condition}");
    assert_eq!(follower.pods(), ["a"], "what is known stays");
    follower.until("the list", |f| f.pods() == ["b"] && f.condition(Resource::Pod).is_none()).await;
}

/// Credentials that are refused are read again.
#[tokio::test]
async fn refused_credentials_are_renewed() {
    let refusal = || status(401, "Unauthorized", "Unauthorized");
    let script =
        Script::version("20").then(PODS, refusal()).then(PODS, list(&[pod("a", 1)], "9", None));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("a condition", |f| f.condition(Resource::Pod).is_some()).await;
    assert_eq!(follower.condition(Resource::Pod).unwrap().reason, Reason::Unauthorized);
    follower.until("first lists", |f| f.first && f.condition(Resource::Pod).is_none()).await;
    // One is made to see whether any can be, one that all share, and another one.
    assert_eq!(*script.clients.lock().unwrap(), 3);
}

/// discovery.k8s.io/v1 came with 1.21; where neither version is served, the condition names the
/// kind.
#[tokio::test]
async fn older_versions_of_an_api_do_too() {
    let missing = || status(404, "NotFound", "the server could not find the requested resource");
    let script = Script::version("20").then(SLICES, missing());
    let mut follower = script.watch(Lists::Automatic);
    follower.until("first lists", |f| f.first).await;
    assert!(!script.asked("/apis/discovery.k8s.io/v1beta1/endpointslices").is_empty());
    let none = Script::version("20").then(POLICIES, missing());
    let mut follower = none.watch(Lists::Pages);
    follower.until("a condition", |f| f.condition(Resource::Policy).is_some()).await;
    assert_eq!(follower.condition(Resource::Policy).unwrap().reason, Reason::Missing);
    assert!(follower.watch.incomplete().contains(&Resource::Policy));
}

/// S61: an object that says nothing a pod must say is named; those beside it are there.
#[tokio::test]
async fn s61_one_bad_object_among_others() {
    let bad = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "bad", "namespace": "d", "labels": {"a": [1]},
        "resourceVersion": "3"}, "spec": {"nodeName": 7}});
    let nameless = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "3"}});
    let script = Script::version("20")
        .then(PODS, list(&[pod("a", 1), bad, nameless, Value::Null, pod("b", 2)], "9", None));
    let mut follower = script.watch(Lists::Automatic);
    follower.until("first lists", |f| f.first).await;
    assert_eq!(follower.pods(), ["a", "b", "bad"]);
    let problems: Vec<String> = follower.watch.problems().map(ToString::to_string).collect();
    assert!(
        problems.iter().any(|p| p.starts_with("kubernetes: Pod d/bad: metadata.labels.a")),
        "{problems:?}"
    );
}

/// One pod asked for by name: what there is, what is not, and a server that fails.
#[tokio::test]
async fn a_pod_can_be_fetched_beside_the_watch() {
    let found = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "ui", "namespace": "shop", "uid": "u1"},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}});
    let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound",
        "message": "pods \"gone\" not found"});
    let script = Script::version("20")
        .then("/api/v1/namespaces/shop/pods/ui", Answer::Says(200, found.to_string()))
        .then("/api/v1/namespaces/shop/pods/gone", Answer::Says(404, missing.to_string()))
        .then("/api/v1/namespaces/shop/pods/broken", Answer::Says(500, "?".into()))
        .then("/api/v1/namespaces/shop/pods/silent", Answer::Nothing);
    let follower = script.watch(Lists::Automatic);
    let mut fetcher = follower.watch.fetcher();
    for name in ["silent", "ui", "gone", "broken"] {
        fetcher.fetch(ObjectKey::new("shop", name)).unwrap();
    }
    let mut answers = BTreeMap::new();
    for _ in 0..4 {
        let fetched = tokio::time::timeout(Duration::from_secs(20), fetcher.next()).await.unwrap();
        answers.insert(fetched.key.name.to_string(), fetched.found);
    }
    let Found::Pod(pod) = &answers["ui"] else { panic!("{answers:?}") };
    assert_eq!((pod.uid.as_deref(), pod.node.as_deref()), (Some("u1"), Some("n1")));
    assert_eq!(answers["gone"], Found::Nothing);
    assert!(matches!(&answers["broken"], Found::Failed(_)), "{answers:?}");
    let Found::Failed(why) = &answers["silent"] else { panic!("{answers:?}") };
    assert!(why.contains("within"), "{why}");
}

/// The node's state goes out at its own pace, also where the resource is not there at first, and
/// never more often than each ten seconds.
#[tokio::test]
async fn a_status_waits_for_its_resource_and_is_coalesced() {
    const ALL: &str = "/apis/netpolc.dev/v1alpha1/nodepolicystatuses";
    let own = format!("{ALL}/n1/status");
    let object = json!({"apiVersion": "netpolc.dev/v1alpha1", "kind": "NodePolicyStatus", "metadata": {"name": "n1"}});
    let missing = || status(404, "NotFound", "the server could not find the requested resource");
    // Neither the object nor the resource; then the resource without the object; then both.
    let script = Script::version("20")
        .then(&own, missing())
        .then(ALL, missing())
        .then(&own, missing())
        .then(ALL, Answer::Says(201, object.to_string()))
        .then(&own, Answer::Says(200, object.to_string()))
        .then(&own, Answer::Says(200, object.to_string()));
    let follower = script.watch(Lists::Automatic);
    let began = std::time::Instant::now();
    let mut writes = Vec::new();
    while writes.len() < 4 {
        // Something new all the time.
        let pods = began.elapsed().as_millis() as usize;
        follower.watch.publish(NodeStatus { pods, ..NodeStatus::default() });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let asked = script.asked(&own).len();
        (writes.len()..asked).for_each(|_| writes.push(began.elapsed()));
        assert!(began.elapsed() < Duration::from_secs(60), "{writes:?}");
    }
    assert_eq!(script.asked(ALL).len(), 6, "{:?}", script.asked(ALL));
    assert!(writes[1] - writes[0] > Duration::from_secs(4), "{writes:?}");
    assert!(writes[3] - writes[2] > Duration::from_secs(9), "{writes:?}");
}
