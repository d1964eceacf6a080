//! Watching a real API server: first lists, changes, deletions, expired versions, refusals. One
//! server for all scenarios, since it takes seconds to start; each scenario has namespaces of its
//! own.
//!
//! Not here: servers that are newer, or that lie (`watch.rs`).

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use netpolc_kube_sync::{
    Change, Families, Resource,
    watch::{Access, Lists, Options, Reason, Update, Watch},
};
use netpolc_policy::{Cluster, Isolation, ObjectKey};
use netpolc_testbed::kube::{
    Server, User,
    objects::{create, create_all, delete, list, patch, patch_status},
    storage::Storage,
};
use serde_json::{Value, json};

/// A watch with the cluster that its updates make.
struct Follower {
    watch: Watch,
    cluster: Cluster,
    /// Changes since the last look.
    changes: Vec<Change>,
    /// The first lists are complete.
    complete: bool,
}

impl Follower {
    fn new(access: Access) -> Self {
        let options = Options {
            access,
            node: Some("n1".into()),
            lists: Lists::Automatic,
            families: Families::default(),
        };
        let watch = Watch::start(options).unwrap();
        Self { watch, cluster: Cluster::default(), changes: vec![], complete: false }
    }

    fn of(server: &Server) -> Self {
        Self::new(Access::Kubeconfig(server.kubeconfig(User::Admin).unwrap().into()))
    }

    async fn step(&mut self) {
        match self.watch.next(&self.cluster).await {
            Update::Ended => panic!("the watching thread is gone"),
            Update::First(cluster) => (self.cluster, self.complete) = (cluster, true),
            Update::Changes(changes) => {
                for change in changes {
                    self.changes.push(change.clone());
                    change.apply(&mut self.cluster);
                }
            }
        }
    }

    /// Follows until `holds`; at most 30 s.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                self.step().await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(30), wait).await;
        let conditions: Vec<String> = self.watch.conditions().map(ToString::to_string).collect();
        assert!(outcome.is_ok(), "{what}: not within 30 s; conditions {conditions:?}");
    }

    fn pods(&self, namespace: &str) -> usize {
        self.cluster.pods.keys().filter(|key| &*key.namespace == namespace).count()
    }
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}})
}

fn pod(namespace: &str, name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server() {
    let mut server = Server::start().await.unwrap();
    let admin = server.client(User::Admin).await.unwrap();
    create(
        &admin,
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}),
    )
    .await
    .unwrap();
    create(&admin, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}))
        .await
        .unwrap();
    lists_and_changes(&server).await;
    tokio::join!(refusals(&server), illegal_objects(&server), stalls(&server));
    expired_versions(&mut server).await;
}

/// Connections of this process to the server that stand.
fn connections(server: &Server) -> usize {
    let url = server.url();
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let (end, own) = (format!(":{port:04X}"), format!("/proc/{}/fd", std::process::id()));
    let links = std::fs::read_dir(own)
        .unwrap()
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let sockets: Vec<String> =
        links.filter_map(|l| Some(l.to_str()?.strip_prefix("socket:[")?.to_owned())).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let established = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = established.filter(|f| f[2].ends_with(&end) && f[3] == "01");
    ours.filter(|f| sockets.iter().any(|s| s.strip_suffix(']') == Some(f[9]))).count()
}

/// First lists are complete before anything is handed on; then each change comes as itself.
async fn lists_and_changes(server: &Server) {
    let admin = server.client(User::Admin).await.unwrap();
    create(&admin, &namespace("shop")).await.unwrap();
    let names =
        (0..1200).map(|i| pod("shop", &format!("p{i}"), &format!("10.1.{}.{}", i / 250, i % 250)));
    Storage::of(server).unwrap().put_all(names).await.unwrap();
    create(&admin, &policy("shop", "deny", json!({"podSelector": {}}))).await.unwrap();

    let before = connections(server);
    let mut follower = Follower::of(server);
    follower.until("first lists", |f| f.complete).await;
    assert_eq!(connections(server), before + 1, "one connection carries all watches");
    assert_eq!(follower.changes, [], "nothing comes before the first lists");
    assert_eq!(follower.pods("shop"), 1200, "three pages");
    assert_eq!(follower.cluster.nodes.len(), 1, "of the nodes only the own one");
    assert_eq!(
        follower.cluster.nodes["n1"].addresses,
        ["192.168.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        follower.cluster.policies[&key("shop", "deny")].ingress,
        Isolation::Isolated(vec![])
    );
    assert_eq!(follower.cluster.pods[&key("shop", "p7")].ports.len(), 1);

    // A relabelled namespace.
    patch(&admin, "Namespace", None, "shop", &json!({"metadata": {"labels": {"team": "b"}}}))
        .await
        .unwrap();
    follower
        .until("new labels", |f| f.cluster.namespaces["shop"].labels.get("team") == Some("b"))
        .await;
    // A terminated pod keeps its address in its status and loses it to the next one (S13).
    patch_status(&admin, "Pod", Some("shop"), "p0", &json!({"phase": "Succeeded"})).await.unwrap();
    create(&admin, &pod("shop", "heir", "10.1.0.0")).await.unwrap();
    follower
        .until("the heir", |f| {
            f.cluster.pods.get(&key("shop", "heir")).is_some_and(|p| !p.addresses.is_empty())
        })
        .await;
    let owners = follower.cluster.pods.values().filter(|p| p.is_policed());
    let owners: Vec<_> =
        owners.filter(|p| p.addresses.contains(&"10.1.0.0".parse().unwrap())).collect();
    assert_eq!(owners.iter().map(|p| &*p.key.name).collect::<Vec<_>>(), ["heir"]);
    // A pod that is made again under its name is another one (S43).
    let before = follower.cluster.pods[&key("shop", "p1")].uid.clone();
    delete(&admin, "Pod", Some("shop"), "p1").await.unwrap();
    create(&admin, &pod("shop", "p1", "10.1.9.9")).await.unwrap();
    let again = |f: &Follower| {
        f.cluster
            .pods
            .get(&key("shop", "p1"))
            .is_some_and(|p| p.uid != before && !p.addresses.is_empty())
    };
    follower.until("p1 again", again).await;
    delete(&admin, "NetworkPolicy", Some("shop"), "deny").await.unwrap();
    follower.until("no policy", |f| !f.cluster.policies.contains_key(&key("shop", "deny"))).await;
    // Two hundred at once are all seen.
    create_all(&admin, (0..200).map(|i| pod("shop", &format!("burst{i}"), &format!("10.2.0.{i}"))))
        .await
        .unwrap();
    follower
        .until("the burst", |f| {
            f.pods("shop") == 1401 && f.cluster.pods[&key("shop", "burst199")].addresses.len() == 1
        })
        .await;
}

/// S61: what RBAC refuses is named, with what to do, and ends when the rights are there.
async fn refusals(server: &Server) {
    let admin = server.client(User::Admin).await.unwrap();
    let mut follower =
        Follower::new(Access::Kubeconfig(server.kubeconfig(User::Viewer).unwrap().into()));
    follower.until("six refusals", |f| f.watch.conditions().count() == Resource::ALL.len()).await;
    assert!(follower.watch.conditions().all(|c| c.reason == Reason::Forbidden));
    let policies =
        follower.watch.conditions().find(|c| c.resource == Resource::Policy).unwrap().to_string();
    assert!(
        policies.contains("networkpolicies.networking.k8s.io") && policies.contains("ClusterRole"),
        "{policies}"
    );
    assert!(!follower.complete);
    create(
        &admin,
        &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "agent"},
        "rules": [{"apiGroups": ["", "networking.k8s.io", "discovery.k8s.io"], "verbs": ["get", "list", "watch"],
            "resources": ["pods", "namespaces", "nodes", "services", "networkpolicies", "endpointslices"]}]}),
    )
    .await
    .unwrap();
    create(&admin, &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "agent"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent"},
        "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}]}))
    .await
    .unwrap();
    follower.until("rights", |f| f.complete && f.watch.conditions().count() == 0).await;
}

/// S61: what 1.20 lets through and a policy may not say isolates, is named, and becomes an Event.
async fn illegal_objects(server: &Server) {
    let admin = server.client(User::Admin).await.unwrap();
    let storage = Storage::of(server).unwrap();
    create(&admin, &namespace("odd")).await.unwrap();
    let spec = json!({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": 70000}]}]});
    // The server's validation refuses it; it may have been stored by another version.
    storage.put_all([policy("odd", "port", spec), pod("odd", "a", "10.3.0.1")]).await.unwrap();
    let mut follower = Follower::of(server);
    follower.until("first lists", |f| f.complete).await;
    let policy = &follower.cluster.policies[&key("odd", "port")];
    assert!(matches!(&policy.ingress, Isolation::Isolated(rules) if rules.len() == 1));
    let problems: Vec<String> = follower.watch.problems().map(ToString::to_string).collect();
    let named = problems.iter().find(|p| p.contains("odd/port")).unwrap();
    assert!(
        named.starts_with("kubernetes: NetworkPolicy odd/port: spec.ingress[0].ports[0].port"),
        "{named}"
    );
    assert!(follower.cluster.pods.contains_key(&key("odd", "a")), "the rest is there");
    let mut event = None;
    for _ in 0..100 {
        event = list(&admin, "Event", Some("odd")).await.unwrap().into_iter().next();
        if event.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let event = event.expect("an Event");
    assert_eq!(event["regarding"]["name"], "port");
    assert!(event["note"].as_str().unwrap().contains("70000"), "{event}");
    // Mended, it is no problem any more.
    delete(&admin, "NetworkPolicy", Some("odd"), "port").await.unwrap();
    follower
        .until("no problem", |f| f.watch.problems().all(|p| !p.to_string().contains("odd/port")))
        .await;
}

/// What lies between loses a connection's state: nothing comes through any more, and nobody resets
/// it.
struct Proxy {
    port: u16,
    /// Connections up to this one are lost.
    lost: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
}

impl Proxy {
    fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (lost, accepted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            lost: lost.clone(),
            accepted: accepted.clone(),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = accepted.fetch_add(1, Ordering::SeqCst) + 1;
                let Ok(server) = TcpStream::connect(&to) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let lost = lost.clone();
                    std::thread::spawn(move || {
                        let mut part = [0; 16 << 10];
                        while let Ok(read @ 1..) = from.read(&mut part) {
                            if lost.load(Ordering::SeqCst) < number
                                && to.write_all(&part[..read]).is_err()
                            {
                                return;
                            }
                        }
                        if lost.load(Ordering::SeqCst) < number {
                            let _ = to.shutdown(Shutdown::Both);
                        }
                    });
                }
            }
        });
        proxy
    }

    fn lose_all(&self) {
        self.lost.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// S58: a stall is noticed within half a minute by itself, and at once where somebody asks for a
/// view that is current.
async fn stalls(server: &Server) {
    let admin = server.client(User::Admin).await.unwrap();
    create(&admin, &namespace("stall")).await.unwrap();
    let url = server.url();
    let proxy = Proxy::start(url.strip_prefix("https://").unwrap().to_owned());
    let kubeconfig = std::fs::read_to_string(server.kubeconfig(User::Admin).unwrap()).unwrap();
    let path = server.folder().join("proxy.kubeconfig");
    std::fs::write(&path, kubeconfig.replace(&url, &format!("https://127.0.0.1:{}", proxy.port)))
        .unwrap();
    let mut follower = Follower::new(Access::Kubeconfig(path.into()));
    follower.until("first lists", |f| f.complete).await;
    let asked = Instant::now();
    follower.watch.fetcher().freshen(asked + Duration::from_secs(5)).unwrap();
    follower.until("a current view", |f| f.watch.current().is_some_and(|c| c >= asked)).await;

    proxy.lose_all();
    create(&admin, &policy("stall", "unasked", json!({"podSelector": {}}))).await.unwrap();
    // By signs of life on the connection: 30 s at most.
    follower
        .until("the stall is noticed", |f| {
            f.cluster.policies.contains_key(&key("stall", "unasked"))
        })
        .await;

    tokio::time::sleep(Duration::from_secs(6)).await;
    proxy.lose_all();
    create(&admin, &policy("stall", "asked", json!({"podSelector": {}}))).await.unwrap();
    let asked = Instant::now();
    follower.watch.fetcher().freshen(asked + Duration::from_millis(4_750)).unwrap();
    follower.until("a current view", |f| f.watch.current().is_some_and(|c| c >= asked)).await;
    assert!(follower.cluster.policies.contains_key(&key("stall", "asked")));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// A server that was away, and whose past is gone: the difference comes, deletions too, and nothing
/// else.
async fn expired_versions(server: &mut Server) {
    let admin = server.client(User::Admin).await.unwrap();
    create(&admin, &namespace("gone")).await.unwrap();
    let storage = Storage::of(server).unwrap();
    storage
        .put_all((0..50).map(|i| pod("gone", &format!("p{i}"), &format!("10.4.0.{i}"))))
        .await
        .unwrap();
    let token_file = server.folder().join("token");
    std::fs::write(&token_file, User::Admin.token()).unwrap();
    let access = Access::Kubeconfig(server.kubeconfig_with_token_file(&token_file).unwrap().into());
    let mut follower = Follower::new(access);
    follower.until("first lists", |f| f.complete && f.pods("gone") == 50).await;
    follower.changes.clear();
    server.kill_api();
    // Two go and one comes while nobody watches; and the credentials are replaced.
    storage.delete(&pod("gone", "p0", "")).await.unwrap();
    storage.delete(&pod("gone", "p1", "")).await.unwrap();
    storage.put_all([pod("gone", "new", "10.4.1.1")]).await.unwrap();
    storage.compact().await.unwrap();
    follower.until("unreachable", |f| f.watch.conditions().count() == Resource::ALL.len()).await;
    assert!(follower.watch.conditions().all(|c| c.reason == Reason::Unreachable));
    assert_eq!(follower.pods("gone"), 50, "what is known stays");
    std::fs::write(&token_file, User::Deputy.token()).unwrap();
    server.restart_api(&[User::Deputy]).await.unwrap();
    follower
        .until("the difference", |f| {
            f.cluster.pods.contains_key(&key("gone", "new")) && f.pods("gone") == 49
        })
        .await;
    follower.until("no condition", |f| f.watch.conditions().count() == 0).await;
    let pods = follower.changes.iter().filter(|c| c.resource == Resource::Pod);
    let mut pods: Vec<(&str, bool)> = pods.map(|c| (&*c.key.name, c.object.is_some())).collect();
    pods.sort_unstable();
    assert_eq!(pods, [("new", true), ("p0", false), ("p1", false)]);
}
