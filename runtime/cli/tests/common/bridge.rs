//! A node whose pods hang on a bridge, as with flannel, and a host outside. [`super::Node`] has
//! host routes.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use netpolc_testbed::{
    netns::{Namespace, Net, NodeSpec, Site, Spec},
    probe::{Ask, Servers},
};

/// The node n1 with a bridge cni0; everything on it goes with this.
pub struct Bridge {
    pub net: Net,
    /// By name, which is also the label `app`.
    pub pods: BTreeMap<String, Site>,
    _servers: Servers,
    /// The agent's input.
    pub folder: PathBuf,
    pub pins: PathBuf,
}

impl Bridge {
    /// The node's address on the bridge.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 254);

    /// Pods echo on TCP 80 and UDP 53, and so does the host outside. The interface of a pod p is
    /// vp.
    pub fn up(name: &str, pods: &[&str], policies: &str) -> Self {
        let nodes = vec![NodeSpec { name: "n1".into(), addresses: vec![[192, 168, 9, 1].into()] }];
        let outside: [IpAddr; 1] = [[203, 0, 113, 9].into()];
        let spec = Spec { nodes, ..Spec::default() }.with_outside("out", outside);
        let net = Net::up(&spec).expect("network namespaces (this needs root)");
        let node = net.node("n1").unwrap().clone();
        let gateway = Self::GATEWAY;
        sh(
            &node,
            &format!(
                "ip link add cni0 type bridge; ip addr add {gateway}/24 dev cni0; ip link set cni0 \
                 up"
            ),
        );
        let back =
            format!("ip route add 10.9.0.0/24 via 169.254.1.2 dev {} onlink", host_end(&node));
        let neighbour = format!(
            "ip neigh replace 169.254.1.2 lladdr {} dev {} nud permanent",
            mac(&node),
            host_end(&node)
        );
        let done = net
            .fabric()
            .command("sh")
            .args(["-ec", &format!("{neighbour}; {back}")])
            .status()
            .unwrap();
        assert!(done.success());
        let mut sites = BTreeMap::new();
        let mut objects = String::from(
            "kind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: \
             192.168.9.1}]}\n",
        );
        for (number, pod) in (1u8..).zip(pods) {
            let namespace =
                Namespace::create(&format!("netpolc-{}-bridge-{pod}", net.id())).unwrap();
            let address: IpAddr = [10, 9, 0, number].into();
            let inside = namespace.name();
            sh(
                &node,
                &format!(
                    "ip link add v{pod} type veth peer name eth0 netns {inside}; ip link set \
                     v{pod} master cni0; \
                     ip link set v{pod} up"
                ),
            );
            let site =
                Site { name: (*pod).into(), namespace, addresses: vec![address], host_end: None };
            sh(
                &site,
                &format!(
                    "ip link set lo up; ip link set eth0 up; ip addr add {address}/24 dev eth0; \
                     ip route add default via {gateway}"
                ),
            );
            objects += &format!(
                "---\nkind: Pod\nmetadata: {{name: {pod}, namespace: default, labels: {{app: \
                 {pod}}}}}\n\
                 spec: {{nodeName: n1, containers: [{{name: c}}]}}\nstatus: {{phase: Running, \
                 podIPs: [{{ip: {address}}}]}}\n"
            );
            sites.insert((*pod).to_owned(), site);
        }
        let folder =
            std::env::temp_dir().join(format!("netpolc-bridge-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("objects.yaml"), objects + policies).unwrap();
        let echo = sites.values().chain([net.outside("out").unwrap()]);
        let _servers =
            Servers::start(echo.map(|site| (site, [Ask::Tcp(80), Ask::Udp(53)]))).unwrap();
        let pins =
            Path::new("/sys/fs/bpf").join(format!("netpolc-test-{name}-{}", std::process::id()));
        Self { net, pods: sites, _servers, folder, pins }
    }

    pub fn pod(&self, name: &str) -> &Site {
        &self.pods[name]
    }

    pub fn outside(&self) -> &Site {
        self.net.outside("out").unwrap()
    }

    /// Runs a script on the node; gives what it prints.
    pub fn sh(&self, script: &str) -> String {
        sh(self.net.node("n1").unwrap(), script)
    }

    /// Runs a script in a pod.
    pub fn inside(&self, pod: &str, script: &str) -> String {
        sh(self.pod(pod), script)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.net.node("n1").unwrap().command(env!("CARGO_BIN_EXE_netpolc"));
        command.args(arguments).arg("--pin-dir").arg(&self.pins);
        command
    }

    /// The agent of this node.
    pub fn agent(&self) -> Command {
        self.command(&[
            "agent",
            "--node",
            "n1",
            "--target",
            "ebpf",
            "--from",
            self.folder.to_str().unwrap(),
        ])
    }

    pub fn netpolc(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.netpolc(&["detach"]);
        let _ = fs::remove_dir_all(&self.folder);
        for site in self.pods.values() {
            let _ = Namespace::remove(site.namespace.name());
        }
    }
}

fn sh(site: &Site, script: &str) -> String {
    let done = site.command("sh").args(["-ec", script]).output().unwrap();
    let (out, error) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{script}: {out}{error}");
    out.into_owned()
}

/// The other end of a node's uplink.
fn host_end(node: &Site) -> &str {
    &node.host_end.as_ref().unwrap().interface
}

fn mac(node: &Site) -> String {
    // /sys shows the namespace that it was mounted in.
    sh(node, "ip -o link show eth0 | sed 's/.*ether //; s/ .*//'").trim().to_owned()
}
