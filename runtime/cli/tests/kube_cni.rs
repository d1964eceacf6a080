//! The agent's loop and a CNI plugin's requests on a node of network namespaces, with real packets
//! and programs: new pods are confirmed when, and only when, their first packet is judged. The API
//! server is one that says what the test wants, when it wants it. Needs root. Requests one by one,
//! without a kernel: `sandboxes.rs`.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{sandbox, watching::Watching};
use http::{Request as HttpRequest, Response};
use kube::{Client, client::Body};
use netpolc_agent::serve::{metrics::Metrics, record::Record};
use netpolc_cni::{
    ask,
    protocol::{Reply, Request},
};
use netpolc_kube_sync::watch::Access;
use netpolc_policy::{ObjectKey, PodNetwork};
use netpolc_target_ebpf::Ebpf;
use netpolc_testbed::{
    netns::{Namespace, Net, NodeSpec, PodSpec, Site, Spec},
    probe::{Ask, PATIENCE, Question, Servers, ask as probe},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

const REDIS: Ask = Ask::Tcp(6379);
const PODS: &str = "/api/v1/pods";
/// What the plugin waits by default.
const USUAL: Duration = Duration::from_secs(5);

/// An API server: lists that only the test changes, watches that show what they are told to, and
/// pods by name.
#[derive(Default)]
struct Server {
    lists: Mutex<BTreeMap<&'static str, Vec<Value>>>,
    /// Pods by URL, as a get finds them.
    stored: Mutex<BTreeMap<String, Value>>,
    /// How often pods were asked for by name.
    gets: Mutex<usize>,
    /// What the watch of pods shows next.
    shows: Mutex<VecDeque<String>>,
    shown: Notify,
    /// Lists of pods and single pods are not answered.
    silent: AtomicBool,
}

impl Server {
    async fn answer(&self, path: &str, query: &str) -> (u16, String) {
        let about_pods = path == PODS || path.contains("/pods/");
        while about_pods && !query.contains("watch=true") && self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if path == "/version" {
            let keys = [
                "major",
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
            ];
            let mut info: BTreeMap<&str, &str> = keys.into_iter().map(|key| (key, "")).collect();
            info.extend([("minor", "20"), ("platform", "")]);
            return (200, json!(info).to_string());
        }
        if path.contains("/pods/") {
            *self.gets.lock().unwrap() += 1;
            let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "no such pod"});
            return match self.stored.lock().unwrap().get(path) {
                Some(pod) => (200, pod.to_string()),
                None => (404, missing.to_string()),
            };
        }
        if query.contains("watch=true") {
            loop {
                let next = self.shown.notified();
                let lines: String = match path {
                    PODS => self.shows.lock().unwrap().drain(..).collect(),
                    _ => String::new(),
                };
                if !lines.is_empty() {
                    return (200, lines);
                }
                next.await;
            }
        }
        let items = self.lists.lock().unwrap().get(path).cloned().unwrap_or_default();
        let list = json!({"kind": "List", "apiVersion": "v1", "items": items, "metadata": {"resourceVersion": "10"}});
        (200, list.to_string())
    }

    fn access(self: &Arc<Self>) -> Access {
        let server = self.clone();
        Access::With(Arc::new(move || {
            let server = server.clone();
            let service = tower::service_fn(move |request: HttpRequest<Body>| {
                let (server, uri) = (server.clone(), request.uri().clone());
                async move {
                    let (status, text) =
                        server.answer(uri.path(), uri.query().unwrap_or_default()).await;
                    let response =
                        Response::builder().status(status).body(Body::from(text.into_bytes()));
                    Ok::<_, tower::BoxError>(response?)
                }
            });
            Client::new(service, "default")
        }))
    }

    fn store(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        self.stored
            .lock()
            .unwrap()
            .insert(format!("/api/v1/namespaces/shop/pods/{name}"), pod.clone());
    }

    /// The watch shows something.
    fn show(&self, kind: &str, pod: &Value) {
        self.shows.lock().unwrap().push_back(format!("{{\"type\":\"{kind}\",\"object\":{pod}}}\n"));
        self.shown.notify_waiters();
        self.shown.notify_one();
    }
}

fn pod(name: &str, uid: &str, role: &str, addresses: &[&str]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|a| json!({"ip": a})).collect();
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "11", "labels": {"role": role}},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Pending", "podIPs": ips}})
}

/// Only `client` may reach the pods with role `server`.
fn policy() -> Value {
    json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "server", "namespace": "shop", "uid": "p", "resourceVersion": "1"},
        "spec": {"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"], "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"role": "client"}}}], "ports": [{"port": 6379}]}]}})
}

/// A node with two pods, `client` and `other`, and an agent.
struct Node {
    net: Net,
    server: Arc<Server>,
    folder: PathBuf,
    pins: PathBuf,
    agent: Option<Watching>,
    servers: Vec<Servers>,
}

impl Node {
    fn up(name: &str, silent: bool) -> Self {
        let folder =
            std::env::temp_dir().join(format!("netpolc-kube-cni-{name}-{}", std::process::id()));
        let pins =
            Path::new("/sys/fs/bpf").join(format!("netpolc-test-{name}-{}", std::process::id()));
        let (client, other) = (
            pod("client", "c", "client", &["10.8.0.1"]),
            pod("other", "o", "other", &["10.8.0.2"]),
        );
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "shop", "uid": "n"}});
        let lists = BTreeMap::from([
            (PODS, vec![client, other]),
            ("/api/v1/namespaces", vec![namespace]),
            ("/apis/networking.k8s.io/v1/networkpolicies", vec![policy()]),
        ]);
        let lists = Mutex::new(lists);
        let server = Arc::new(Server { lists, silent: silent.into(), ..Server::default() });
        let nodes = vec![NodeSpec { name: "n1".into(), addresses: vec![[192, 168, 8, 1].into()] }];
        let mut net = Net::up(&Spec { nodes, ..Spec::default() })
            .expect("network namespaces (this needs root)");
        net.add_pods(&[spec("client", "10.8.0.1"), spec("other", "10.8.0.2")]).unwrap();
        let mut node = Node { net, server, folder, pins, agent: None, servers: vec![] };
        node.start();
        // Programs are loaded, and where the server answers the cluster is known.
        let began = Instant::now();
        while !node.socket().exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "the agent does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        if !silent {
            let known = Request::Check(sandbox("client", "c", &["10.8.0.1"]));
            assert_eq!(node.ask(&known, Duration::from_secs(30)), Reply::Enforced);
        }
        node
    }

    fn start(&mut self) {
        self.agent = Some(Watching::start(
            self.net.node("n1").unwrap().clone(),
            self.server.access(),
            self.pins.clone(),
            self.socket(),
            Metrics::new(self.pins.clone()),
        ));
    }

    fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop();
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("cni.sock")
    }

    /// What the plugins before netpolc do: the pod's namespace and interface, with somebody
    /// listening inside.
    fn wire(&mut self, pods: &[(&str, &str)]) {
        let specs: Vec<PodSpec> = pods.iter().map(|(name, address)| spec(name, address)).collect();
        self.net.add_pods(&specs).unwrap();
        let sites: Vec<&Site> = pods.iter().map(|(name, _)| self.pod(name)).collect();
        let servers = Servers::start(sites.into_iter().map(|site| (site, [REDIS]))).unwrap();
        self.servers.push(servers);
    }

    fn pod(&self, name: &str) -> &Site {
        self.net.pod(&ObjectKey::new("shop", name)).unwrap()
    }

    fn ask(&self, request: &Request, patience: Duration) -> Reply {
        ask::ask(&self.socket(), request, patience).unwrap()
    }

    fn add(&self, name: &str, uid: &str, address: &str) -> Reply {
        self.ask(&Request::Add(sandbox(name, uid, &[address])), USUAL)
    }

    fn passes(&self, from: &str, to: &str) -> bool {
        let to: IpAddr = to.parse().unwrap();
        probe(&[Question::new(self.pod(from), to, REDIS)], PATIENCE).unwrap()[0].passed()
    }

    /// Does the pod have an interface, by the agent's record?
    fn until_bound(&self, name: &str, bound: bool) {
        let began = Instant::now();
        let name = format!("shop/{name}");
        loop {
            let record = Record::read(&self.pins).unwrap_or_default();
            if record.pods.iter().any(|p| p.pod == name && p.ifindex.is_some()) == bound {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{name}: {record:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
        drop(Ebpf::remove(&self.pins));
        drop(Record::remove(&self.pins));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spec(name: &str, address: &str) -> PodSpec {
    let addresses = vec![address.parse().unwrap()];
    PodSpec {
        key: ObjectKey::new("shop", name),
        node: "n1".into(),
        addresses,
        network: PodNetwork::Own,
    }
}

fn refused(reply: Reply, part: &str) {
    let Reply::Refused { why } = reply else { panic!("not refused: {part}") };
    assert!(why.contains(part), "{why}");
}

/// S24, S56: confirmed before the API server reports an address, judged from the first packet on,
/// and through all that the watch shows later.
#[test]
fn s56_a_confirmed_pod_is_judged_from_its_first_packet_on() {
    let mut node = Node::up("first", false);
    node.wire(&[("db", "10.8.0.9"), ("db2", "10.8.0.10"), ("db3", "10.8.0.11")]);
    assert!(node.passes("other", "10.8.0.9"), "nobody has been asked yet");
    node.server.show("ADDED", &pod("db", "1", "server", &[]));
    node.server.store(&pod("db", "1", "server", &[]));
    assert_eq!(node.add("db", "1", "10.8.0.9"), Reply::Enforced);
    assert!(!node.passes("other", "10.8.0.9"));
    assert!(node.passes("client", "10.8.0.9"));
    assert_eq!(
        node.ask(&Request::Check(sandbox("db", "1", &["10.8.0.9"])), USUAL),
        Reply::Enforced
    );

    // The watch still knows no address, then the one that CNI gave.
    for addresses in [&[][..], &["10.8.0.9"]] {
        let mut later = pod("db", "1", "server", addresses);
        later["metadata"]["labels"]["more"] = addresses.len().to_string().into();
        node.server.show("MODIFIED", &later);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!node.passes("other", "10.8.0.9") && node.passes("client", "10.8.0.9"));
        node.until_bound("db", true);
    }

    // Another agent takes over before the API server has reported an address.
    node.server.show("ADDED", &pod("db3", "3", "server", &[]));
    node.server.store(&pod("db3", "3", "server", &[]));
    assert_eq!(node.add("db3", "3", "10.8.0.11"), Reply::Enforced);
    assert!(!node.passes("other", "10.8.0.11"));
    node.stop();
    let more = [pod("db", "1", "server", &["10.8.0.9"]), pod("db3", "3", "server", &[])];
    node.server.lists.lock().unwrap().get_mut(PODS).unwrap().extend(more);
    node.start();
    node.until_bound("db3", true);
    let db3 = Request::Check(sandbox("db3", "3", &["10.8.0.11"]));
    assert_eq!(node.ask(&db3, Duration::from_secs(30)), Reply::Enforced);
    assert!(!node.passes("other", "10.8.0.11") && node.passes("client", "10.8.0.11"));

    // A sandbox that ends before the API server has reported anything of it.
    node.server.show("ADDED", &pod("db2", "2", "server", &[]));
    node.server.store(&pod("db2", "2", "server", &[]));
    assert_eq!(node.add("db2", "2", "10.8.0.10"), Reply::Enforced);
    node.until_bound("db2", true);
    assert!(!node.passes("other", "10.8.0.10"));
    assert_eq!(node.ask(&Request::Del { container: "db2-2".into() }, USUAL), Reply::Enforced);
    node.until_bound("db2", false);
    // A deleted pod.
    node.server.show("DELETED", &pod("db", "1", "server", &["10.8.0.9"]));
    node.until_bound("db", false);
}

/// S43, S56: what the watch has not shown is fetched, by UID; what cannot be programmed is refused,
/// with the reason, in time.
#[test]
fn s43_pods_are_fetched_and_what_does_not_hold_is_not_confirmed() {
    let mut node = Node::up("fetch", true);
    node.wire(&[("db", "10.8.0.9")]);
    // No list of pods yet.
    let began = Instant::now();
    let request = Request::Add(sandbox("db", "1", &["10.8.0.9"]));
    refused(node.ask(&request, Duration::from_millis(700)), "waiting for the first list of");
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
    // And one that waits until it is there.
    node.server.store(&pod("db", "1", "open", &[]));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| node.add("db", "1", "10.8.0.9"));
        std::thread::sleep(Duration::from_millis(300));
        node.server.silent.store(false, Ordering::Relaxed);
        assert_eq!(waits.join().unwrap(), Reply::Enforced);
    });
    assert_eq!(*node.server.gets.lock().unwrap(), 1);
    assert!(node.passes("other", "10.8.0.9"), "no policy selects it");

    // Made anew with other labels, which the watch has not shown.
    node.server.show("ADDED", &pod("db", "1", "open", &[]));
    node.server.store(&pod("db", "2", "server", &[]));
    assert_eq!(node.add("db", "2", "10.8.0.9"), Reply::Enforced);
    assert!(!node.passes("other", "10.8.0.9") && node.passes("client", "10.8.0.9"));
    // What it shows late does not bring the old one back.
    node.server.show("MODIFIED", &pod("db", "1", "open", &["10.8.0.9"]));
    node.server.show("DELETED", &pod("db", "1", "open", &["10.8.0.9"]));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!node.passes("other", "10.8.0.9") && node.passes("client", "10.8.0.9"));

    refused(node.add("db", "1", "10.8.0.9"), "another one");
    refused(node.add("nobody", "1", "10.8.0.9"), "no such pod");
    // Selected, and nothing leads to it: not within the time. A pod that no policy selects has
    // nothing to wait for.
    let began = Instant::now();
    for (name, role) in [("far", "server"), ("free", "open")] {
        node.server.store(&pod(name, "1", role, &[]));
    }
    let nowhere = Request::Add(sandbox("far", "1", &["10.8.0.77"]));
    refused(node.ask(&nowhere, Duration::from_secs(1)), "no interface on the host");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(node.add("free", "1", "10.8.0.78"), Reply::Enforced);
    // The API server hangs.
    node.server.silent.store(true, Ordering::Relaxed);
    let unknown = Request::Add(sandbox("unknown", "1", &["10.8.0.79"]));
    refused(node.ask(&unknown, Duration::from_secs(1)), "has not answered yet");
    refused(node.ask(&unknown, Duration::from_secs(4)), "within 2 s");
}

/// S56: no host route leads to a pod on a bridge; its interface is the peer of the one in its
/// namespace.
#[test]
fn s56_a_pod_on_a_bridge_is_found_in_its_namespace() {
    let mut node = Node::up("bridge", false);
    let host = node.net.node("n1").unwrap().clone();
    let namespace = Namespace::create(&format!("netpolc-{}-bridged", node.net.id())).unwrap();
    let inside = Site {
        name: "shop/db".into(),
        namespace: namespace.clone(),
        addresses: vec![[10, 8, 5, 1].into()],
        host_end: None,
    };
    let run = |site: &Site, line: &str| {
        let output = site.command("ip").args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for line in [
        "link add pods type bridge",
        "address add 10.8.5.254/24 dev pods",
        "link set pods up",
        &format!("link add port type veth peer name eth0 netns {}", namespace.name()),
        "link set port master pods up",
    ] {
        run(&host, line);
    }
    for line in [
        "address add 10.8.5.1/24 dev eth0",
        "link set eth0 up",
        "link set lo up",
        "route add default via 10.8.5.254",
    ] {
        run(&inside, line);
    }
    node.servers.push(Servers::start([(&inside, [REDIS])]).unwrap());
    // The bridge and its port take a moment to be up.
    let began = Instant::now();
    while !node.passes("other", "10.8.5.1") {
        assert!(began.elapsed() < Duration::from_secs(10), "the bridge does not work");
    }
    node.server.store(&pod("db", "1", "server", &[]));
    assert_eq!(node.add("db", "1", "10.8.5.1"), Reply::Enforced);
    assert!(!node.passes("other", "10.8.5.1") && node.passes("client", "10.8.5.1"));
}

/// S56: a node's worth of pods at once.
#[test]
fn s56_many_pods_start_at_once() {
    const COUNT: usize = 40;
    let mut node = Node::up("many", false);
    let names: Vec<(String, String)> =
        (0..COUNT).map(|i| (format!("db{i}"), format!("10.8.1.{i}"))).collect();
    let wired: Vec<(&str, &str)> = names.iter().map(|(n, a)| (&**n, &**a)).collect();
    node.wire(&wired);
    for (i, (name, _)) in names.iter().enumerate() {
        let pod = pod(name, "1", "server", &[]);
        node.server.store(&pod);
        // The watch shows some of them; the others are fetched.
        if i % 2 == 0 {
            node.server.show("ADDED", &pod);
        }
    }
    let began = Instant::now();
    let replies: BTreeSet<bool> = std::thread::scope(|scope| {
        let asks: Vec<_> = names
            .iter()
            .map(|(name, address)| scope.spawn(|| node.add(name, "1", address)))
            .collect();
        asks.into_iter().map(|ask| ask.join().unwrap() == Reply::Enforced).collect()
    });
    println!("{COUNT} pods were confirmed within {:?}", began.elapsed());
    assert_eq!(replies, BTreeSet::from([true]));
    let questions: Vec<Question> = ["other", "client"]
        .into_iter()
        .flat_map(|from| names.iter().map(move |(_, address)| (from, address)))
        .map(|(from, address)| Question::new(node.pod(from), address.parse().unwrap(), REDIS))
        .collect();
    let answers = probe(&questions, PATIENCE).unwrap();
    let (other, client) = answers.split_at(COUNT);
    assert!(other.iter().all(|a| !a.passed()) && client.iter().all(|a| a.passed()), "{answers:?}");
}
