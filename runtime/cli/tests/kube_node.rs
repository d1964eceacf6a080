//! One real node: kubelet, containerd, runc and CNI ptp with a real API server, the DaemonSet from
//! the chart, real pods, policies applied by kubectl, and packets between the pods while the agent
//! is deleted, killed, upgraded and removed.
//!
//! Needs root and Debian's packages, which testbed/kube unpacks and builds once. The manifests by
//! themselves: `deploy.rs`.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netpolc_testbed::{
    feed::feed,
    netns::{Namespace, Site},
    probe::{Answer, Ask, Connection, PATIENCE, Question, Servers, ask},
    story::Story,
};
use serde_json::Value;

const IMAGE: &str = "ghcr.io/netpolc/netpolc";
const REDIS: Ask = Ask::Tcp(6379);
const DNS: Ask = Ask::Udp(53);

/// Only the client may reach the server, and it nothing else.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: default}
spec:
  podSelector: {matchLabels: {role: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {role: client}}}]
    ports: [{port: 6379}, {port: 53, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: default}
spec:
  podSelector: {matchLabels: {role: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {role: server}}}]}]
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace")
}

fn script(name: &str) -> Command {
    Command::new(root().join("testbed/kube").join(name))
}

fn output(command: &mut Command, input: &str) -> Output {
    feed(command, input.as_bytes()).unwrap()
}

fn succeeds(command: &mut Command, input: &str) -> String {
    let output = output(command, input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The chart's objects. Each try of kubelet waits a moment only.
fn chart(arguments: &[&str]) -> String {
    let folder = root().join("runtime/deploy/helm/netpolc");
    let short = ["-n", "kube-system", "-set", "cni.timeoutMilliseconds=2000"];
    succeeds(script("render.sh").arg(folder).args(short).args(arguments), "")
}

/// Waits for something that follows from the last command.
fn until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

/// The cluster; its node ends with it.
struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    fn up() -> Self {
        let temporary = std::env::temp_dir();
        // Nodes of runs that were killed.
        for entry in fs::read_dir(&temporary).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let run = name.strip_prefix("netpolc-kubelet-");
            if run.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                drop(Cluster { folder: entry.path() });
            }
        }
        let cluster =
            Cluster { folder: temporary.join(format!("netpolc-kubelet-{}", std::process::id())) };
        fs::create_dir_all(&cluster.folder).unwrap();
        let archive = cluster.folder.join("image.tar");
        let names = ["0.1.0", "0.1.1"].map(|tag| format!("{IMAGE}:{tag}"));
        succeeds(script("agent-image.sh").arg(&archive).args(&names), "");
        succeeds(&mut cluster.command("up", &[archive.to_str().unwrap()]), "");
        cluster
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = script("node.sh");
        command.arg(verb).arg(&self.folder).args(arguments);
        command
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        succeeds(&mut self.command("kubectl", arguments), "")
    }

    fn apply(&self, yaml: &str) {
        succeeds(&mut self.command("kubectl", &["apply", "-f", "-"]), yaml);
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[arguments, &["-o", "json"]].concat())).unwrap()
    }

    fn exec(&self, arguments: &[&str]) -> String {
        succeeds(&mut self.command("exec", arguments), "")
    }

    /// Waits until every pod of the DaemonSet is a new one and ready.
    fn rollout(&self) {
        until("the rollout is complete", Duration::from_secs(90), || {
            self.bury();
            let set = self.json(&["-n", "kube-system", "get", "daemonset", "netpolc"]);
            let number = |name: &str| set["status"][name].as_u64().unwrap_or(0);
            let wanted = number("desiredNumberScheduled");
            set["status"]["observedGeneration"] == set["metadata"]["generation"]
                && (wanted, wanted) == (number("updatedNumberScheduled"), number("numberAvailable"))
                && wanted == 1
                && self.agent().is_some()
        });
    }

    fn agents(&self) -> Vec<Value> {
        let pods = self.json(&[
            "-n",
            "kube-system",
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=netpolc",
        ]);
        pods["items"].as_array().unwrap().clone()
    }

    /// The agent's pod: its name, of those that are not on their way out.
    fn agent(&self) -> Option<String> {
        let pods = self.agents();
        let stays = pods.iter().find(|p| p["metadata"]["deletionTimestamp"].is_null())?;
        Some(stays["metadata"]["name"].as_str()?.to_owned())
    }

    /// This kubelet collects some pods whose processes have all ended a minute later; it is told to
    /// at once.
    fn bury(&self) {
        let ended = |container: &Value| container["state"]["terminated"].is_object();
        for pod in self.agents().iter().filter(|p| p["metadata"]["deletionTimestamp"].is_string()) {
            if pod["status"]["containerStatuses"]
                .as_array()
                .is_some_and(|all| all.iter().all(ended))
            {
                let name = pod["metadata"]["name"].as_str().unwrap();
                let force = ["--grace-period=0", "--force", "--ignore-not-found"];
                self.kubectl(&[&["-n", "kube-system", "delete", "pod", name][..], &force].concat());
            }
        }
    }

    fn status(&self) -> Value {
        let text = self.kubectl(&[
            "-n",
            "kube-system",
            "exec",
            "daemonset/netpolc",
            "-c",
            "agent",
            "--",
            "/netpolc",
            "status",
            "-o",
            "json",
        ]);
        serde_json::from_str(&text).unwrap()
    }

    /// The node's files.
    fn root(&self) -> PathBuf {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap();
        Path::new("/proc").join(pid.trim()).join("root")
    }

    /// Does the node's own `netpolc status` say that the agent runs?
    fn lives(&self) -> bool {
        // The node has a /tmp of its own.
        let inside = "/run/netpolc-outside";
        fs::copy(env!("CARGO_BIN_EXE_netpolc"), format!("{}{inside}", self.root().display()))
            .unwrap();
        let text = self.exec(&[inside, "status", "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["agent"]["running"] == true
    }

    fn start(&self, namespace: &str, name: &str, role: &str) {
        self.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{role: {role}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: 'docker.io/local/pause:1', imagePullPolicy: Never}}]
"
        ));
    }

    /// Waits until the pod runs, and finds its network namespace by its address.
    fn site(&self, name: &str) -> Site {
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        let pod = self.json(&["get", "pod", name]);
        let address: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let folder = self.root().join("run/netns");
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            // An absolute path stays one.
            let namespace = Namespace::open(entry.path().to_str().unwrap()).unwrap();
            let Ok(shown) = namespace.command("ip").args(["-o", "address"]).output() else {
                continue;
            };
            if String::from_utf8_lossy(&shown.stdout).contains(&format!(" {address}/")) {
                return Site {
                    name: name.into(),
                    namespace,
                    addresses: vec![address],
                    host_end: None,
                };
            }
        }
        panic!("no network namespace in {} has {address}", folder.display());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && self.folder.join("pid").exists() {
            for arguments in [
                &["get", "pods", "-A", "-o", "wide"][..],
                &["get", "events", "-A"],
                &["-n", "kube-system", "logs", "daemonset/netpolc", "-c", "agent", "--tail=30"],
            ] {
                let output = output(&mut self.command("kubectl", arguments), "");
                eprintln!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        let down = output(&mut self.command("down", &[]), "");
        if down.status.success() && !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        } else {
            eprintln!(
                "logs are in {}: {}",
                self.folder.display(),
                String::from_utf8_lossy(&down.stderr)
            );
        }
    }
}

fn address(site: &Site) -> IpAddr {
    site.addresses[0]
}

fn passes(from: &Site, to: &Site, what: Ask, patience: Duration) -> bool {
    ask(&[Question::new(from, address(to), what)], patience).unwrap()[0].passed()
}

/// No answer soon, and none with patience either: the machine may just be busy.
fn denied(from: &Site, to: &Site, what: Ask) -> bool {
    !passes(from, to, what, Duration::from_millis(15)) && !passes(from, to, what, PATIENCE)
}

/// TCP segments that were sent again in the site's namespace.
fn repeated(site: &Site) -> u64 {
    let text = site.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("Tcp: ")).map(|l| l.split(' '));
    let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = { names }.position(|n| n == "RetransSegs").unwrap();
    values.nth(place).unwrap().parse().unwrap()
}

/// What became of packets while something happened to the agent.
#[derive(Debug, Default)]
struct Seen {
    rounds: u64,
    /// Messages of established connections without an answer.
    lost: u64,
    /// New connections that are allowed and failed.
    refused: u64,
    /// New ones that are not allowed and passed.
    let_through: u64,
}

/// Packets all the time: established connections over TCP and UDP, opened by the client and, to a
/// third pod, by the server; new ones that are allowed, and new ones that are not.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
    repeated: [(Site, u64); 2],
}

impl Traffic {
    fn start(client: &Site, other: &Site, server: &Site) -> Self {
        let open = |from: &Site, to: &Site, what| {
            Connection::open(from, address(to), what, PATIENCE)
                .unwrap()
                .expect("an allowed connection opens")
        };
        let mut connections = [
            open(client, server, REDIS),
            open(client, server, DNS),
            open(server, other, REDIS),
            open(server, other, DNS),
        ];
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, sites) = (stop.clone(), [client.clone(), other.clone(), server.clone()]);
        let repeated = [client, server].map(|site| (site.clone(), repeated(site)));
        let thread = std::thread::spawn(move || {
            let [client, other, server] = &sites;
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                seen.rounds += 1;
                let lost = connections
                    .iter_mut()
                    .map(|c| c.poke(Duration::from_secs(2)))
                    .filter(|a| *a != Answer::Echo);
                seen.lost += lost.count() as u64;
                seen.refused +=
                    u64::from(!passes(client, server, REDIS, Duration::from_millis(900)));
                let short = Duration::from_millis(15);
                for (from, to, what) in
                    [(other, server, REDIS), (other, server, DNS), (client, other, REDIS)]
                {
                    seen.let_through += u64::from(passes(from, to, what, short));
                }
            }
            seen
        });
        Traffic { stop, thread, repeated }
    }

    /// Every packet was judged as policy says.
    fn stop(self, during: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        println!("{during}: {seen:?}");
        assert!(seen.rounds > 10, "{during}: {seen:?}");
        assert_eq!((seen.lost, seen.refused, seen.let_through), (0, 0, 0), "{during}: {seen:?}");
        for (site, before) in &self.repeated {
            assert_eq!(
                repeated(site),
                *before,
                "{during}: segments of {} were sent again",
                site.name
            );
        }
    }
}

/// S12, S56, S58, S60 on a real node, from the chart to its removal.
#[test]
fn s58_a_daemonset_enforces_and_is_upgraded_under_traffic() {
    let story = Story::begin();
    story.step("start a node of a real cluster");
    let cluster = Cluster::up();
    story.step("apply every form of the manifests without effect");

    // The API server takes every form of the manifests, unknown fields and all.
    let dry = ["apply", "--dry-run=server", "--validate=true", "-f", "-"];
    for arguments in [
        &[][..],
        &["-set", "remove=true"],
        &["-set", "dashboard.enabled=true", "-set", "cni.enabled=false"],
    ] {
        succeeds(&mut cluster.command("kubectl", &dry), &chart(arguments));
    }
    let kubectl = Path::new(succeeds(&mut script("kubernetes.sh"), "").trim()).join("kubectl");
    // admission is for newer servers.
    for folder in ["base", "remove"] {
        let folder = root().join("runtime/deploy/kustomize").join(folder);
        let objects = succeeds(Command::new(&kubectl).arg("kustomize").arg(folder), "");
        succeeds(&mut cluster.command("kubectl", &dry), &objects);
    }
    story.step("run pods without an agent");

    // Pods that run before there is an agent, and a connection that policy will cut.
    for name in ["client", "other", "server"] {
        cluster.start("default", name, name);
    }
    let [client, other, server] = ["client", "other", "server"].map(|name| cluster.site(name));
    let _servers = Servers::start([(&server, [REDIS, DNS]), (&other, [REDIS, DNS])]).unwrap();
    assert!(passes(&other, &server, REDIS, PATIENCE) && passes(&client, &server, REDIS, PATIENCE));
    let mut unwanted =
        Connection::open(&other, address(&server), REDIS, PATIENCE).unwrap().unwrap();
    let before = cluster.exec(&["cat", "/etc/cni/net.d/10-ptp.conflist"]);
    story.step("roll out the DaemonSet");

    cluster.apply(&chart(&[]));
    cluster.rollout();
    assert!(cluster.exec(&["cat", "/etc/cni/net.d/10-ptp.conflist"]).contains("netpolc-cni"));
    assert!(passes(&other, &server, REDIS, PATIENCE), "without policies nothing is isolated");

    story.step("apply policies, and have them enforced");
    cluster.apply(POLICIES);
    let began = Instant::now();
    let mut took = Duration::ZERO;
    until("the policies are enforced", Duration::from_secs(5), || {
        let short = Duration::from_millis(15);
        let soon = !passes(&other, &server, REDIS, short) && !passes(&client, &other, REDIS, short);
        took = began.elapsed();
        // The machine may just be busy.
        soon && denied(&other, &server, REDIS) && denied(&client, &other, REDIS)
    });
    println!("policies were enforced {took:?} after kubectl returned");
    assert!(passes(&client, &server, REDIS, PATIENCE) && passes(&client, &server, DNS, PATIENCE));
    assert!(!passes(&client, &other, REDIS, PATIENCE) && !passes(&other, &server, DNS, PATIENCE));
    assert_eq!(unwanted.poke(PATIENCE), Answer::Silent);
    let status = cluster.status();
    assert_eq!(
        (&status["enforcing"], &status["agent"]["running"]),
        (&true.into(), &true.into()),
        "{status}"
    );

    story.step("read the node's status from the API server");
    until("the node's status", Duration::from_secs(60), || {
        let nodes = cluster.json(&["get", "nodepolicystatuses"]);
        let status = &nodes["items"][0]["status"];
        status["policyCount"] == 2
            && status["conditions"][0]["status"] == "True"
            && status["problemCount"] == 0
    });
    println!("{}", cluster.kubectl(&["get", "nps"]).trim());

    // The agent's pod is deleted, then killed without a word, then upgraded; each time another one
    // takes over.
    for (what, arguments) in [
        ("deleted", &["--wait=false"][..]),
        ("killed", &["--wait=false", "--grace-period=0", "--force"]),
    ] {
        story.step(format!("have the agent's pod {what} under traffic"));
        let traffic = Traffic::start(&client, &other, &server);
        let old = cluster.agent().unwrap();
        cluster.kubectl(&[&["-n", "kube-system", "delete", "pod", &old], arguments].concat());
        until("a new agent", Duration::from_secs(60), || {
            cluster.bury();
            cluster.agent().is_some_and(|new| new != old)
        });
        cluster.rollout();
        traffic.stop(what);
    }
    story.step("upgrade the agent under traffic");
    let traffic = Traffic::start(&client, &other, &server);
    cluster.apply(&chart(&["-set", "image.tag=0.1.1"]));
    cluster.rollout();
    traffic.stop("upgraded");
    let pod = cluster.json(&["-n", "kube-system", "get", "pod", &cluster.agent().unwrap()]);
    assert_eq!(pod["spec"]["containers"][0]["image"], format!("{IMAGE}:0.1.1"));

    story.step("isolate a new pod before its first packet");
    cluster.start("default", "late", "server");
    let late = cluster.site("late");
    let _more = Servers::start([(&late, [REDIS])]).unwrap();
    assert!(!passes(&other, &late, REDIS, PATIENCE) && passes(&client, &late, REDIS, PATIENCE));

    // Seen from the node, which counts processes otherwise than the agent's container.
    assert!(cluster.lives());

    story.step("remove the agent: no pod starts that the chained plugin may not let through");
    cluster.apply(&chart(&["-set", "image.tag=0.1.1", "-set", "nodeSelector={nobody: here}"]));
    until("the agent is gone", Duration::from_secs(30), || cluster.agent().is_none());
    cluster.start("default", "waits", "server");
    cluster.start("kube-system", "exempt", "server");
    cluster.kubectl(&[
        "-n",
        "kube-system",
        "wait",
        "--for=condition=Ready",
        "pod/exempt",
        "--timeout=30s",
    ]);
    until("an event says why", Duration::from_secs(30), || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector=involvedObject.name=waits"]);
        events.contains("pod default/waits is not isolated yet")
    });
    assert_eq!(cluster.json(&["get", "pod", "waits"])["status"]["phase"], "Pending");
    assert!(!passes(&other, &server, REDIS, PATIENCE), "enforcement outlives the agent");
    until("the node sees it, too", Duration::from_secs(30), || !cluster.lives());
    story.step("bring the agent back: the pods that waited start");
    cluster.apply(&chart(&["-set", "image.tag=0.1.1"]));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/waits", "--timeout=60s"]);

    story.step("delete the policies");
    cluster.kubectl(&["delete", "networkpolicy", "server", "client"]);
    let took = until("isolation is lifted", Duration::from_secs(5), || {
        passes(&other, &server, REDIS, Duration::from_millis(200))
    });
    println!("isolation was lifted {took:?} after kubectl returned");
    story.step("remove netpolc without a trace");
    cluster.apply(POLICIES);
    until("isolated again", Duration::from_secs(5), || denied(&other, &server, REDIS));
    cluster.apply(&chart(&["-set", "image.tag=0.1.1", "-set", "remove=true"]));
    cluster.rollout();
    assert!(passes(&other, &server, REDIS, PATIENCE), "nothing is enforced any more");
    assert_eq!(cluster.exec(&["cat", "/etc/cni/net.d/10-ptp.conflist"]), before);
    let left =
        cluster.exec(&["ls", "/sys/fs/bpf", "/opt/cni/bin", "/etc/cni/net.d", "/run/netpolc"]);
    assert!(
        !left.replace("/run/netpolc", "").contains("netpolc") && !left.contains("cni.sock"),
        "{left}"
    );

    story.step("uninstall without that, and see pods start again after a while");
    // Uninstalled without that, as `helm uninstall`, a prune or `kubectl delete` do: pods wait for
    // a while, and then start.
    let objects = chart(&["-set", "image.tag=0.1.1"]);
    cluster.apply(&objects);
    cluster.rollout();
    succeeds(&mut cluster.command("kubectl", &["delete", "--wait=false", "-f", "-"]), &objects);
    until("the agent is gone", Duration::from_secs(60), || {
        cluster.bury();
        cluster.agents().is_empty()
    });
    cluster.start("default", "orphan", "server");
    until("an event says why it waits", Duration::from_secs(60), || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector=involvedObject.name=orphan"]);
        events.contains("pod default/orphan is not isolated yet")
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/orphan", "--timeout=420s"]);
}
