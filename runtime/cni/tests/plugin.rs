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
    assert_eq!((sandbox.namespace.as_str(), sandbox.name.as_str(), sandbox.uid.as_str()), ("shop", "ui", "u-1"));
    assert_eq!(sandbox.host_interfaces, ["veth12"]);
    assert_eq!(sandbox.addresses, ["10.1.2.3".parse::<std::net::IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
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
    let other = plugin("ADD", &config(&folder.socket(), json!({"exemptNamespaces": ["kube-system"]})));
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
    assert!(output(&done)["msg"].as_str().unwrap().contains("no answer"), "{done:?}");
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
