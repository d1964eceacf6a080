//! What tests of the agent share: a node of network namespaces, the agent as a process or as a
//! thread, and what CNI says of a pod.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod bridge;
pub mod folder;
pub mod frames;
pub mod stage;
pub mod tables;
pub mod tamper;
pub mod watching;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
};

use netpolc_cni::protocol::Sandbox;
use netpolc_policy::ObjectKey;
use netpolc_testbed::{
    netns::{Net, Site, Spec},
    probe::{Ask, Servers},
};

/// A node n1 with three pods: db, ui and other.
pub const CLUSTER: &str = "
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.7.1}]}
---
kind: Pod
metadata: {name: db, namespace: default, labels: {role: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.7.0.1}, {ip: fd07::1}]}
---
kind: Pod
metadata: {name: ui, namespace: default, labels: {role: ui}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.7.0.2}, {ip: fd07::2}]}
---
kind: Pod
metadata: {name: other, namespace: default, labels: {role: other}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.7.0.3}, {ip: fd07::3}]}
";

/// Lets ui, and nobody else, open connections to db.
pub const UI_TO_DB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {role: ui}}}], ports: [{port: 6379}]}]
";

/// The node n1 of [`CLUSTER`] in network namespaces, and everything that an agent there needs. What
/// is left of an agent goes with it.
pub struct Node {
    pub net: Net,
    _servers: Servers,
    /// The agent's input.
    pub folder: PathBuf,
    pub pins: PathBuf,
}

impl Node {
    /// Every pod echoes on `ports`.
    pub fn up(name: &str, ports: &[Ask]) -> Self {
        let folder =
            std::env::temp_dir().join(format!("netpolc-node-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cluster.yaml"), CLUSTER).unwrap();
        let loaded = netpolc_kube_sync::load([netpolc_kube_sync::Input::Path(folder.clone())]);
        assert_eq!(loaded.problems, []);
        let net =
            Net::up(&Spec::of(&loaded.cluster)).expect("network namespaces (this needs root)");
        let _servers = Servers::start(net.pods().map(|(_, site)| (site, ports.to_vec()))).unwrap();
        let pins =
            Path::new("/sys/fs/bpf").join(format!("netpolc-test-{name}-{}", std::process::id()));
        Self { net, _servers, folder, pins }
    }

    pub fn pod(&self, name: &str) -> &Site {
        self.net.pod(&ObjectKey::new("default", name)).unwrap()
    }

    /// Writes or removes the policies of the agent's input.
    pub fn apply(&self, policies: Option<&str>) {
        let path = self.folder.join("policy.yaml");
        match policies {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.net.node("n1").unwrap().command(env!("CARGO_BIN_EXE_netpolc"));
        command.args(arguments).arg("--pin-dir").arg(&self.pins);
        command
    }

    pub fn netpolc(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What an agent serves to monitoring on port 9643 of the node.
    pub fn metrics(&self) -> String {
        let scrape = || {
            let mut stream = TcpStream::connect("127.0.0.1:9643").unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        self.net.node("n1").unwrap().run(scrape).unwrap().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.netpolc(&["detach"]);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An agent's process; killed at the latest when this goes.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Running(command.spawn().unwrap())
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it by a signal.
    pub fn end(mut self, signal: i32) -> ExitStatus {
        // SAFETY: our own child's number, which is not reaped before the wait below.
        unsafe { libc::kill(self.0.id() as i32, signal) };
        self.0.wait().unwrap()
    }

    /// [`Running::end`], which must go well unless it is killed.
    pub fn stop(self, signal: i32) {
        let status = self.end(signal);
        assert!(signal == libc::SIGKILL || status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sandbox of a pod in the namespace shop.
pub fn sandbox(name: &str, uid: &str, addresses: &[&str]) -> Sandbox {
    Sandbox {
        container: format!("{name}-{uid}"),
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        netns: "/run/netns/x".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        host_interfaces: vec![],
    }
}
