//! The agent's loop with a real API server and a target in memory: what it does before it knows the
//! cluster, that its tables are those of the objects that the server has, and what it keeps when
//! the server goes away, forgets or refuses. The watch by itself: kube-sync's `apiserver.rs`.

mod common;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{Host, Net, interface};
use netpolc_agent::serve::{Options, cluster_loop, metrics::Metrics, record::Record};
use netpolc_kube_sync::{
    Families, Input, PolicyState, load,
    watch::{self, Access, Lists},
};
use netpolc_lower::{Scope, compile};
use netpolc_table::{IfIndex, Program, TableId};
use netpolc_testbed::{
    kube::{
        Client, Server, User,
        objects::{create, create_all, delete, list, patch, patch_status},
        storage::Storage,
    },
    random::Rng,
    story::Story,
};
use serde_json::{Value, json};

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "a"}}})
}

fn pod(name: &str, node: &str, app: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": node, "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "c"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
}

fn policy(name: &str, app: &str, from: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"port": 80}]}]}})
}

struct Scene {
    host: Host,
    pin_dir: PathBuf,
}

impl Scene {
    fn record(&self) -> Record {
        Record::read(&self.pin_dir).unwrap_or_default()
    }

    fn policy(&self, name: &str) -> Option<PolicyState> {
        self.record().policies.into_iter().find(|p| p.policy == name)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // What was refused for long is tried again each half minute.
        let outcome = tokio::time::timeout(Duration::from_secs(90), wait).await;
        assert!(
            outcome.is_ok(),
            "{what}: not within 90 s; {:?} {:?}",
            self.record().behind,
            self.record().problems
        );
    }
}

/// S58, S61: one agent's life: no rights, rights, changes, no server, a server again.
#[tokio::test]
async fn the_agent_follows_a_real_api_server() {
    let steps = Story::begin();
    steps.step("start an API server with some objects");
    let mut server = Server::start().await.unwrap();
    let admin = server.client(User::Admin).await.unwrap();
    create(&admin, &namespace("shop")).await.unwrap();
    create(
        &admin,
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}),
    )
    .await
    .unwrap();
    create(&admin, &pod("db", "n1", "db", "10.9.0.1")).await.unwrap();
    create(&admin, &pod("far", "n2", "ui", "10.9.0.2")).await.unwrap();
    create(&admin, &policy("db", "db", "ui")).await.unwrap();

    steps.step("fill tables as an earlier agent would have left them");
    let host = Host::new();
    let left = load([Input::bytes("left", LEFT)]).cluster;
    let mut compiler = compile(&left, Scope::Node("n1".into())).unwrap();
    let pod_key = netpolc_policy::ObjectKey::new("old", "pod");
    compiler
        .apply(netpolc_lower::Event::Interface {
            pod: pod_key,
            interface: Some(IfIndex::new(5).into()),
        })
        .unwrap();
    let plan = netpolc_table::delta::plan(&Program::default(), compiler.program()).unwrap().1;
    netpolc_target::execute(&mut host.clone(), &plan).unwrap();
    let before = host.program();
    assert_eq!(host.isolated(), 1);

    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpolc-test-kube-{}", std::process::id()));
    let access = Access::Kubeconfig(server.kubeconfig(User::Viewer).unwrap().into());
    let options = Options::new("n1", pin_dir.clone());
    let source = watch::Options {
        access,
        node: Some("n1".into()),
        lists: Lists::Automatic,
        families: Families::default(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let scene = Scene { host: host.clone(), pin_dir: pin_dir.clone() };
    let agent =
        cluster_loop::serve(&options, source, Metrics::new(pin_dir.clone()), host, Net, async {
            drop(stopped.await)
        });
    let story = async {
        steps.step("start the agent without rights: nothing changes, and the record says why");
        scene
            .until("refusals", |s| {
                s.record().problems.iter().filter(|p| p.contains("ClusterRole")).count() == 6
            })
            .await;
        assert!(scene.record().behind.unwrap().contains("first list of"));
        assert_eq!(scene.host.program(), before);
        steps.step("give the agent its rights");
        grant(&server, &admin).await;
        scene
            .until("the cluster", |s| s.record().behind.is_none() && s.policy("shop/db").is_some())
            .await;
        assert_eq!(scene.record().pods.iter().map(|p| &*p.pod).collect::<Vec<_>>(), ["shop/db"]);
        in_step(&scene, &admin, "the first view").await;
        steps.step("publish a node's status");
        node_status(&scene, &server, &admin).await;
        steps.step("follow changes of pods and policies");
        follows(&scene, &admin).await;
        steps.step("follow changes of namespaces, and addresses that pass to other pods");
        namespaces_and_addresses(&scene, &admin).await;
        steps.step("follow random events");
        random_events(&scene, &admin).await;
        steps.step("lose the server, and get it back");
        outage(&scene, &mut server).await;
        steps.step("set a policy aside that takes more than its share");
        over_its_share(&scene, &server).await;
        steps.step("read the agent's own status from the API server");
        let admin = server.client(User::Admin).await.unwrap();
        let status =
            node_policy_status(&admin, |s| s["conditions"][3]["reason"] == "SetAside").await;
        assert_eq!(status["agentVersion"], env!("CARGO_PKG_VERSION"));
        let policies = status["policies"].as_array().unwrap();
        assert!(
            policies.iter().any(|p| p["policy"] == "shop/web" && p["generation"] == 1),
            "{status}"
        );
        let conditions =
            ["InStep", "Watching", "InterfacesFound", "WithinShares"].into_iter().enumerate();
        for (index, kind) in conditions {
            let condition = &status["conditions"][index];
            let expected = if kind == "WithinShares" { "False" } else { "True" };
            assert_eq!(
                (&condition["type"], &condition["status"]),
                (&kind.into(), &expected.into()),
                "{status}"
            );
        }
        let message = status["conditions"][3]["message"].as_str().unwrap();
        assert!(message.ends_with(": NetworkPolicy evil/large"), "{message}");
        delete(&admin, "NetworkPolicy", Some("evil"), "large").await.unwrap();
        let status = node_policy_status(&admin, |s| s["conditions"][3]["status"] == "True").await;
        assert_eq!(status["conditions"][3]["reason"], "Admitted", "{status}");
        stop.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(agent, story);
    outcome.unwrap();
    Record::remove(&pin_dir).unwrap();
}

const LEFT: &str = "
kind: Pod
metadata: {name: pod, namespace: old, labels: {a: b}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: old}
spec: {podSelector: {}}
";

/// S13, S43, S56, S60: what happens to pods and policies arrives one by one.
async fn follows(scene: &Scene, admin: &Client) {
    assert_eq!(scene.host.isolated(), 1);
    create(admin, &pod("db2", "n1", "db", "10.9.0.3")).await.unwrap();
    scene.until("a second isolated pod", |s| s.host.isolated() == 2).await;
    let labels = json!({"metadata": {"labels": {"app": "open"}}});
    patch(admin, "Pod", Some("shop"), "db2", &labels).await.unwrap();
    scene.until("a pod that no policy selects any more", |s| s.host.isolated() == 1).await;
    patch_status(admin, "Pod", Some("shop"), "db", &json!({"phase": "Succeeded"})).await.unwrap();
    scene.until("a pod that has ended", |s| s.host.isolated() == 0).await;
    // Its address goes to another pod, which is isolated by policies of its own.
    create(admin, &pod("heir", "n1", "db", "10.9.0.1")).await.unwrap();
    scene.until("the heir", |s| s.host.isolated() == 1).await;
    delete(admin, "NetworkPolicy", Some("shop"), "db").await.unwrap();
    scene.until("no policy", |s| s.host.isolated() == 0).await;
}

/// S16, S43: what other objects than the pod itself, and other pods with its address, do to the
/// tables.
async fn namespaces_and_addresses(scene: &Scene, admin: &Client) {
    create(admin, &namespace("guests")).await.unwrap();
    let guest = |name: &str, address: &str| {
        let mut guest = pod(name, "n2", "guest", address);
        guest["metadata"]["namespace"] = "guests".into();
        guest
    };
    create(admin, &guest("g", "10.9.0.7")).await.unwrap();
    let mut from_team = policy("team", "db", "ui");
    from_team["spec"]["ingress"][0]["from"] =
        json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}}]);
    create(admin, &from_team).await.unwrap();
    in_step(scene, admin, "a policy for a team's namespaces").await;
    let before = scene.host.program();
    let team = |team: &str| json!({"metadata": {"labels": {"team": team}}});
    patch(admin, "Namespace", None, "guests", &team("b")).await.unwrap();
    in_step(scene, admin, "a relabelled namespace").await;
    assert_ne!(scene.host.program(), before);
    patch(admin, "Namespace", None, "guests", &team("a")).await.unwrap();
    in_step(scene, admin, "and back").await;
    // A pod ends, another one has its address while the ended one is still there, then in the
    // other's place.
    patch_status(admin, "Pod", Some("guests"), "g", &json!({"phase": "Failed"})).await.unwrap();
    in_step(scene, admin, "a terminated pod").await;
    create(admin, &guest("heir", "10.9.0.7")).await.unwrap();
    in_step(scene, admin, "its address at another pod").await;
    delete(admin, "Pod", Some("guests"), "heir").await.unwrap();
    create(admin, &guest("heir", "10.9.0.8")).await.unwrap();
    in_step(scene, admin, "a pod of the same name, made anew").await;
    delete(admin, "NetworkPolicy", Some("shop"), "team").await.unwrap();
}

/// What many events lead to is what the cluster at their end compiles to.
async fn random_events(scene: &Scene, admin: &Client) {
    let apps = ["web", "db", "ui"];
    let policies = apps.map(|app| policy(app, app, "ui"));
    create_all(admin, policies).await.unwrap();
    let pods = (0..60).map(|i| {
        let node = if i % 2 == 0 { "n1" } else { "n2" };
        pod(&format!("r{i}"), node, apps[i % 3], &format!("10.9.1.{i}"))
    });
    create_all(admin, pods).await.unwrap();
    let mut rng = Rng::new(3);
    for _ in 0..100 {
        let name = format!("r{}", rng.below(60));
        match rng.below(4) {
            0 => {
                let labels = json!({"metadata": {"labels": {"app": *rng.pick(&apps)}}});
                // It may be gone.
                let _ = patch(admin, "Pod", Some("shop"), &name, &labels).await;
            }
            1 => drop(delete(admin, "Pod", Some("shop"), &name).await),
            2 => {
                let address = format!("10.9.2.{}", rng.below(100));
                let status = json!({"podIP": address, "podIPs": [{"ip": address}]});
                let _ = patch_status(admin, "Pod", Some("shop"), &name, &status).await;
            }
            _ => {
                let labels = json!({"metadata": {"labels": {"team": *rng.pick(&["a", "b"])}}});
                patch(admin, "Namespace", None, "shop", &labels).await.unwrap();
            }
        }
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    create(admin, &service).await.unwrap();
    in_step(scene, admin, "random events").await;
}

/// S58: without a server everything stays; what it forgot meanwhile is found by lists; where it
/// refuses, that is said and what is enforced stays.
async fn outage(scene: &Scene, server: &mut Server) {
    let before = scene.host.program();
    server.kill_api();
    let problems = |scene: &Scene, part: &str| {
        scene.record().problems.iter().filter(|p| p.contains(part)).count()
    };
    // Pods that share an address remain a problem.
    let works = |s: &Scene| problems(s, "cannot be reached") + problems(s, "ClusterRole") == 0;
    scene.until("unreachable", |s| problems(s, "cannot be reached") == 6).await;
    assert_eq!(scene.host.program(), before);
    let record = scene.record();
    assert!(record.behind.is_none() && !record.is_in_step(), "{record:?}");
    assert!(record.blind.is_some_and(|why| why.contains("cannot watch") && why.contains("pods")));

    // Changes that no watch can show any more: 410 Gone, and a list. Until that, the rights are
    // gone.
    let storage = Storage::of(server).unwrap();
    storage.delete(&pod("heir", "n1", "db", "")).await.unwrap();
    storage
        .put_all([pod("late", "n1", "web", "10.9.200.1"), policy("late", "web", "db")])
        .await
        .unwrap();
    storage
        .delete(&json!({"kind": "ClusterRoleBinding", "metadata": {"name": "agent"}}))
        .await
        .unwrap();
    storage.compact().await.unwrap();
    server.restart_api(&[User::Admin, User::Viewer]).await.unwrap();
    let admin = server.client(User::Admin).await.unwrap();
    scene.until("refusals", |s| problems(s, "ClusterRole") == 6).await;
    assert_eq!(scene.host.program(), before);
    grant(server, &admin).await;
    in_step(scene, &admin, "with rights again").await;
    scene.until("the server works again", works).await;
    // What is enforced is in the record a moment later.
    scene.until("the late policy", |s| s.policy("shop/late").is_some()).await;
}

/// The status of the agent's node, as soon as `holds` is true of it.
async fn node_policy_status(admin: &Client, holds: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let read = list(admin, "NodePolicyStatus", None).await.unwrap();
        let own = read.iter().find(|o| o["metadata"]["name"] == "n1");
        let status = own.map_or(&Value::Null, |o| &o["status"]);
        if holds(status) {
            return status.clone();
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// S33: a policy that takes more than its namespace's share is set aside alone, and an Event in
/// that namespace says why.
async fn over_its_share(scene: &Scene, server: &Server) {
    let admin = &server.client(User::Admin).await.unwrap();
    create(admin, &namespace("evil")).await.unwrap();
    let mut tenant = pod("a", "n1", "a", "10.9.3.1");
    tenant["metadata"]["namespace"] = "evil".into();
    create(admin, &tenant).await.unwrap();
    let peers =
        (0..1_001).map(|i| json!({"podSelector": {"matchLabels": {"app": format!("a{i}")}}}));
    let mut large = policy("large", "a", "a");
    large["metadata"]["namespace"] = "evil".into();
    large["spec"]["ingress"][0]["from"] = peers.collect::<Vec<_>>().into();
    create(admin, &large).await.unwrap();
    let said = "NetworkPolicy evil/large is set aside, the pods that it selects stay isolated";
    scene.until("it is named", |s| s.record().problems.iter().any(|p| p.starts_with(said))).await;
    assert_eq!(scene.policy("evil/large").map(|p| (p.pods, p.errors)), Some((1, 1)));
    let began = Instant::now();
    loop {
        let events = list(admin, "Event", Some("evil")).await.unwrap();
        if let Some(event) = events.iter().find(|event| event["reason"] == "SetAside") {
            let regarding = &event["regarding"];
            assert_eq!(
                (&regarding["kind"], &regarding["name"]),
                (&"NetworkPolicy".into(), &"large".into()),
                "{event}"
            );
            assert!(event["note"].as_str().unwrap().starts_with(said), "{event}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{events:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Gives the viewer what the manifests give the agent, and no more.
async fn grant(server: &Server, admin: &Client) {
    kubectl(server, &["apply", "-f", &manifest("rbac.yaml")]);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "agent"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "netpolc"},
        "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}]});
    create(admin, &binding).await.unwrap();
}

fn manifest(name: &str) -> String {
    format!("{}/../deploy/kustomize/base/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn kubectl(server: &Server, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(server.programs().join("kubectl"));
    // What it knows of the server's resources must not be older than the last command.
    let cache = server.folder().join("kubectl");
    let _ = std::fs::remove_dir_all(&cache);
    command
        .arg("--cache-dir")
        .arg(cache)
        .arg("--kubeconfig")
        .arg(server.kubeconfig(User::Admin).unwrap());
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The cluster can read what the node enforces: created when missing, with the policy's generation,
/// and written seldom.
async fn node_status(scene: &Scene, server: &Server, admin: &Client) {
    // The agent has gone on without the resource until now, and asks again now and then. This is
    // another node's, which asks at once.
    create(admin, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "observer"}}))
        .await
        .unwrap();
    kubectl(server, &["apply", "-f", &manifest("crd.yaml")]);
    kubectl(
        server,
        &[
            "wait",
            "--for=condition=Established",
            "crd/nodepolicystatuses.netpolc.dev",
            "--timeout=30s",
        ],
    );
    let source = watch::Options {
        access: Access::Kubeconfig(server.kubeconfig(User::Viewer).unwrap().into()),
        node: Some("observer".into()),
        lists: Lists::Automatic,
        families: Families::default(),
    };
    let writer = watch::Watch::start(source).unwrap();
    let policy = scene.policy("shop/db").unwrap();
    assert_eq!((policy.generation, policy.pods, policy.errors), (Some(1), 1, 0));
    assert!(policy.entries > 0);
    let mut status = watch::NodeStatus {
        version: "1.2.3".into(),
        behind: None,
        blind: None,
        unfound: vec![],
        aside: vec!["NetworkPolicy evil/p".into()],
        pods: 1,
        isolated: 1,
        policies: vec![policy],
        audited: 2,
        problems: vec!["a problem".into()],
    };
    let get = async || {
        let read = list(admin, "NodePolicyStatus", None).await.unwrap_or_default();
        read.into_iter().find(|o| o["metadata"]["name"] == "observer").unwrap_or_default()
    };
    let arrives = async |pods: usize| {
        let began = Instant::now();
        loop {
            let object = get().await;
            if object["status"]["pods"] == pods {
                return (object, began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{object}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    writer.publish(status.clone());
    let (object, _) = arrives(1).await;
    assert_eq!(object["metadata"]["ownerReferences"][0]["kind"], "Node", "{object}");
    assert_eq!(object["status"]["policies"][0]["generation"], 1, "{object}");
    // What the definition does not name, the server drops.
    assert_eq!(object["status"]["policies"][0]["kind"], "NetworkPolicy", "{object}");
    assert_eq!(object["status"]["networkPolicyCount"], 1, "{object}");
    assert_eq!(object["status"]["clusterNetworkPolicyCount"], 0, "{object}");
    assert_eq!(object["status"]["securityGroupCount"], 0, "{object}");
    assert_eq!(object["status"]["auditedPolicyCount"], 2, "{object}");
    let table = kubectl(server, &["get", "nps"]);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert!(
        words.starts_with(&[
            "NAME", "IN-STEP", "PODS", "ISOLATED", "POLICIES", "PROBLEMS", "VERSION", "UPDATED"
        ]),
        "{table}"
    );
    let row = words.iter().position(|w| *w == "observer").unwrap_or_else(|| panic!("{table}"));
    assert_eq!(words[row..row + 7], ["observer", "True", "1", "1", "1", "1", "1.2.3"], "{table}");
    // However often it changes, it is written each ten seconds at most, with the newest.
    for pods in 2..=100 {
        status.pods = pods;
        status.behind = Some("the table is full".into());
        writer.publish(status.clone());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (object, waited) = arrives(100).await;
    assert!(waited > Duration::from_secs(8), "{waited:?}");
    let condition = &object["status"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["message"]),
        (&"False".into(), &"the table is full".into())
    );
    assert_eq!(object["metadata"]["generation"], 1, "only the status is written");
}

/// Waits until the tables are those that the server's objects, read back as they are now, compile
/// to.
async fn in_step(scene: &Scene, admin: &Client, what: &str) {
    let mut items = Vec::new();
    for (kind, version) in [
        ("Namespace", "v1"),
        ("Node", "v1"),
        ("Service", "v1"),
        ("EndpointSlice", "discovery.k8s.io/v1"),
        ("Pod", "v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"),
    ] {
        for mut item in list(admin, kind, None).await.unwrap() {
            (item["kind"], item["apiVersion"]) = (json!(kind), json!(version));
            items.push(item);
        }
    }
    let text = json!({"kind": "List", "apiVersion": "v1", "items": items}).to_string();
    let mut cluster = load([Input::bytes("list", text)]).cluster;
    cluster.nodes.retain(|name, _| &**name == "n1");
    let mut expected = compile(&cluster, Scope::Node("n1".into())).unwrap();
    let mut taken = BTreeSet::new();
    for pod in cluster.pods.values().filter(|p| p.is_policed() && p.node.as_deref() == Some("n1")) {
        let Some(ifindex) =
            pod.addresses.first().map(|a| interface(*a)).filter(|i| taken.insert(*i))
        else {
            continue;
        };
        let event = netpolc_lower::Event::Interface {
            pod: pod.key.clone(),
            interface: Some(ifindex.into()),
        };
        expected.apply(event).unwrap();
    }
    let expected = bare(expected.program()).canonical();
    scene.until(what, |s| bare(&s.host.program()).canonical() == expected).await;
}

/// Origins are not kept by targets.
fn bare(program: &Program) -> Program {
    let mut bare = program.clone();
    for &table in TableId::ALL {
        for entry in bare.table_mut(table).entries.values_mut() {
            entry.origins = Default::default();
        }
    }
    bare
}
