//! The plugin as a container runtime runs it, against an agent that the test plays.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use netpolc_cni::protocol::{Reply, Request, line};
use serde_json::{Value, json};

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netpolc-cni-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("cni.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn previous() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth12", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 1}, {"address": "fd00::3/64", "interface": 1}],
        "dns": {}
    })
}

fn config(socket: &Path, more: Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "n", "type": "netpolc-cni", "socket": socket,
        "timeoutMilliseconds": 300, "prevResult": previous()
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn plugin(command: &str, config: &Value) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_netpolc-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=ui;K8S_POD_UID=u-1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // VERSION does not read its input.
    let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
    child.wait_with_output().unwrap()
}

fn output(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Answers one request with `reply`, and gives what was asked.
fn agent(socket: &Path, reply: Reply) -> thread::JoinHandle<Request> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        BufReader::new(&stream).read_line(&mut asked).unwrap();
        stream.write_all(line(&reply).unwrap().as_bytes()).unwrap();
        serde_json::from_str(&asked).unwrap()
    })
}

#[test]
fn add_waits_for_the_agent_and_passes_the_result_on_s56() {
    let folder = Folder::new("add");
    let agent = agent(&folder.socket(), Reply::Enforced);
    let done = plugin("ADD", &config(&folder.socket(), json!({})));
    assert!(done.status.success(), "{done:?}");
    assert_eq!(output(&done), previous());
    let Request::Add(sandbox) = agent.join().unwrap() else { panic!("not an ADD") };
    assert_eq!(
        (sandbox.namespace.as_str(), sandbox.name.as_str(), sandbox.uid.as_str()),
        ("shop", "ui", "u-1")
    );
    assert_eq!(sandbox.host_interfaces, ["veth12"]);
    assert_eq!(
        sandbox.addresses,
        ["10.1.2.3".parse::<std::net::IpAddr>().unwrap(), "fd00::3".parse().unwrap()]
    );
}

#[test]
fn a_refusal_is_an_error_to_try_again() {
    let folder = Folder::new("refused");
    let agent = agent(&folder.socket(), Reply::Refused { why: "the tables are full".into() });
    let done = plugin("ADD", &config(&folder.socket(), json!({})));
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(output(&done)["code"], 11);
    assert_eq!(output(&done)["msg"], "pod shop/ui is not isolated yet: the tables are full");
    agent.join().unwrap();
}

#[test]
fn without_an_agent_pods_do_not_start_unless_exempt_or_open() {
    let folder = Folder::new("away");
    let began = Instant::now();
    let closed = plugin("ADD", &config(&folder.socket(), json!({})));
    assert_eq!(closed.status.code(), Some(1));
    assert!(output(&closed)["msg"].as_str().unwrap().contains("cni.sock"));
    assert!(began.elapsed() < Duration::from_secs(2), "waited {:?}", began.elapsed());
    for more in [json!({"exemptNamespaces": ["kube-system", "shop"]}), json!({"fail": "open"})] {
        let done = plugin("ADD", &config(&folder.socket(), more));
        assert!(done.status.success());
        assert_eq!(output(&done), previous());
        assert!(String::from_utf8_lossy(&done.stderr).contains("shop/ui starts although"));
    }
    let other =
        plugin("ADD", &config(&folder.socket(), json!({"exemptNamespaces": ["kube-system"]})));
    assert_eq!(other.status.code(), Some(1));
}

#[test]
fn an_agent_that_says_nothing_costs_no_more_than_the_timeout() {
    let folder = Folder::new("mute");
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let mute = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // A byte now and then must not stretch it.
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(50));
            if stream.write_all(b" ").is_err() {
                break;
            }
        }
    });
    let began = Instant::now();
    let done = plugin("ADD", &config(&folder.socket(), json!({})));
    assert_eq!(done.status.code(), Some(1));
    assert!(output(&done)["msg"].as_str().unwrap().contains("did not answer"), "{done:?}");
    assert!(began.elapsed() < Duration::from_millis(900), "waited {:?}", began.elapsed());
    mute.join().unwrap();
}

#[test]
fn an_agent_that_comes_back_in_time_is_waited_for() {
    let folder = Folder::new("late");
    let socket = folder.socket();
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        agent(&socket, Reply::Enforced).join().unwrap()
    });
    let done = plugin("ADD", &config(&folder.socket(), json!({"timeoutMilliseconds": 3000})));
    assert!(done.status.success(), "{done:?}");
    late.join().unwrap();
}

#[test]
fn del_always_succeeds_and_check_asks() {
    let folder = Folder::new("del");
    assert!(plugin("DEL", &config(&folder.socket(), json!({}))).status.success());
    let agent = agent(&folder.socket(), Reply::Enforced);
    let check = plugin("CHECK", &config(&folder.socket(), json!({})));
    assert!(check.status.success() && check.stdout.is_empty(), "{check:?}");
    assert!(matches!(agent.join().unwrap(), Request::Check(_)));
}

/// An exempt pod's check is answered as its start was; STATUS takes no node down on which some pods
/// may start.
#[test]
fn exempt_pods_are_checked_and_counted_as_such() {
    let folder = Folder::new("exempt");
    for more in [json!({"exemptNamespaces": ["shop"]}), json!({"fail": "open"})] {
        let done = plugin("CHECK", &config(&folder.socket(), more.clone()));
        assert!(done.status.success() && done.stdout.is_empty(), "{done:?}");
        assert!(plugin("STATUS", &config(&folder.socket(), more)).status.success());
    }
    assert!(!plugin("CHECK", &config(&folder.socket(), json!({}))).status.success());
    let done = plugin("STATUS", &config(&folder.socket(), json!({})));
    assert_eq!(output(&done)["code"], 50, "{done:?}");
    assert!(
        plugin("STATUS", &config(&folder.socket(), json!({"exemptNamespaces": ["kube-system"]})))
            .status
            .success()
    );
}

/// Folders of kubelet's logs, and what the plugin makes of them.
struct Kubelet<'a> {
    folder: &'a Folder,
    options: Value,
}

impl<'a> Kubelet<'a> {
    fn new(folder: &'a Folder) -> Self {
        let logs = folder.0.join("pods");
        let agent = json!({"namespace": "kube-system", "namePrefix": "netpolc-", "podLogs": &logs});
        let kubelet = Self { folder, options: json!({"agent": agent}) };
        kubelet.pod("shop_ui_u-1");
        kubelet.pod("kube-system_netpolc-x2x4z_a-1");
        kubelet
    }

    fn pod(&self, name: &str) {
        std::fs::create_dir_all(self.folder.0.join("pods").join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_dir(self.folder.0.join("pods").join(name)).unwrap();
    }

    fn note(&self) -> PathBuf {
        self.folder.0.join("agent-missing-since")
    }

    /// The agent's pod has been missing for longer than the plugin waits.
    fn long_ago(&self) {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let now: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        std::fs::write(self.note(), ((now as u64).saturating_sub(130)).to_string()).unwrap();
    }

    fn add(&self) -> Output {
        plugin("ADD", &config(&self.folder.socket(), self.options.clone()))
    }
}

/// S56: an agent that crashes, restarts or waits for its image has a pod on the node, and nothing
/// opens.
#[test]
fn s56_no_pod_starts_while_the_agents_pod_is_there() {
    let folder = Folder::new("crash");
    let kubelet = Kubelet::new(&folder);
    kubelet.long_ago();
    let done = kubelet.add();
    assert_eq!(output(&done)["code"], 11, "{done:?}");
    assert!(!kubelet.note().exists(), "what was noted before counts no more");
    // Between two pods of a rollout.
    kubelet.remove("kube-system_netpolc-x2x4z_a-1");
    assert_eq!(output(&kubelet.add())["code"], 11);
    assert!(kubelet.note().exists());
    kubelet.pod("kube-system_netpolc-y3y5w_a-2");
    assert_eq!(output(&kubelet.add())["code"], 11);
    assert!(!kubelet.note().exists());
    // Folders without the one of the pod that starts are not kubelet's.
    kubelet.remove("kube-system_netpolc-y3y5w_a-2");
    kubelet.remove("shop_ui_u-1");
    kubelet.pod("shop_other_u-2");
    kubelet.long_ago();
    assert_eq!(output(&kubelet.add())["code"], 11);
    std::fs::remove_dir_all(folder.0.join("pods")).unwrap();
    assert_eq!(output(&kubelet.add())["code"], 11, "no folder is no evidence");
}

/// Uninstalled without being taken off the node: pods start again, at once, and the note says what
/// to do.
#[test]
fn an_orphaned_plugin_lets_pods_start() {
    let folder = Folder::new("orphan");
    let kubelet = Kubelet::new(&folder);
    kubelet.remove("kube-system_netpolc-x2x4z_a-1");
    assert_eq!(output(&kubelet.add())["code"], 11, "not before the time is over");
    kubelet.long_ago();
    let began = Instant::now();
    let done = kubelet.add();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(output(&done), previous());
    assert!(String::from_utf8_lossy(&done.stderr).contains("netpolc was uninstalled"), "{done:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "waited {:?}", began.elapsed());
    let check = plugin("CHECK", &config(&folder.socket(), kubelet.options.clone()));
    assert!(check.status.success(), "{check:?}");
    // An agent that answers is one, whatever its pod is called.
    let agent = agent(&folder.socket(), Reply::Refused { why: "the tables are full".into() });
    assert_eq!(output(&kubelet.add())["code"], 11);
    agent.join().unwrap();
}

#[test]
fn bad_input_is_named() {
    let folder = Folder::new("bad");
    let mut unchained = config(&folder.socket(), json!({}));
    unchained.as_object_mut().unwrap().remove("prevResult");
    for (config, code, words) in [
        (unchained, 7, "prevResult is missing"),
        (config(&folder.socket(), json!({"timeoutMilliseconds": 0})), 7, "timeoutMilliseconds"),
        (config(&folder.socket(), json!({"cniVersion": "9.9.9"})), 1, "9.9.9 is not supported"),
        (json!("no object"), 6, "network configuration"),
    ] {
        let done = plugin("ADD", &config);
        assert_eq!(done.status.code(), Some(1));
        assert_eq!(output(&done)["code"], code, "{done:?}");
        assert!(output(&done)["msg"].as_str().unwrap().contains(words), "{done:?}");
    }
    let version = plugin("VERSION", &json!({"cniVersion": "1.0.0"}));
    assert!(output(&version)["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")));
}
