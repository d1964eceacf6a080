//! Restarts under load: while an agent is stopped, killed in the middle of updates and started again, no packet of an
//! allowed connection is lost and none that is denied gets through. Needs root.

mod common;

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

use common::Running;
use netpolc_policy::ObjectKey;
use netpolc_testbed::{
    netns::{Net, Site, Spec},
    probe::{Answer, Ask, Connection, PATIENCE, Servers},
    random::Rng,
};

const RESTARTS: usize = 20;
const PODS: [&str; 3] = ["db", "ui", "other"];
/// Where what is denied would arrive.
const DENIED: u16 = 7777;

fn cluster() -> String {
    let pods = PODS.iter().zip(1..).map(|(name, at)| {
        format!(
            "---\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{role: {name}}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIPs: [{{ip: 10.8.0.{at}}}, {{ip: 'fd08::{at}'}}]}}\n"
        )
    });
    let node = "kind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.168.8.1}]}\n";
    [node.to_owned(), pods.collect()].concat()
}

/// ui may open to db, and db to other, on 6379 and `extra`; nobody may open anything else to or from db and ui.
fn policies(extra: usize) -> String {
    let ports = format!("ports: [{{port: 6379}}, {{port: 6379, protocol: UDP}}, {{port: {}}}]", 8000 + extra);
    let policy = |role: &str, from: &str, to: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {role}, namespace: default}}\n\
             spec:\n  podSelector: {{matchLabels: {{role: {role}}}}}\n  policyTypes: [Ingress, Egress]\n\
             \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {from}}}}}}}], {ports}}}]\n\
             \x20 egress: [{{to: [{{podSelector: {{matchLabels: {{role: {to}}}}}}}], {ports}}}]\n"
        )
    };
    [policy("db", "ui", "other"), policy("ui", "nobody", "db")].concat()
}

struct Node {
    net: Net,
    _servers: Servers,
    folder: PathBuf,
    pins: PathBuf,
}

impl Node {
    fn up() -> Self {
        let folder = std::env::temp_dir().join(format!("netpolc-restart-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cluster.yaml"), cluster()).unwrap();
        let loaded = netpolc_kube_sync::load([netpolc_kube_sync::Input::Path(folder.clone())]);
        assert_eq!(loaded.problems, []);
        let net = Net::up(&Spec::of(&loaded.cluster)).expect("network namespaces (this needs root)");
        let ports = [Ask::Tcp(6379), Ask::Udp(6379)];
        let _servers = Servers::start(net.pods().map(|(_, site)| (site, ports))).unwrap();
        let pins = Path::new("/sys/fs/bpf").join(format!("netpolc-restart-{}", std::process::id()));
        Node { net, _servers, folder, pins }
    }

    fn pod(&self, name: &str) -> &Site {
        self.net.pod(&ObjectKey::new("default", name)).unwrap()
    }

    /// In one step, as an editor would.
    fn apply(&self, extra: usize) {
        fs::write(self.folder.join(".policy"), policies(extra)).unwrap();
        fs::rename(self.folder.join(".policy"), self.folder.join("policy.yaml")).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.net.node("n1").unwrap().command(env!("CARGO_BIN_EXE_netpolc"));
        command.args(arguments).arg("--pin-dir").arg(&self.pins).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn agent(&self) -> Running {
        let from = self.folder.to_str().unwrap();
        Running::start(&mut self.command(&["agent", "--node", "n1", "--target", "ebpf", "--from", from]))
    }

    /// Segments that were sent again in the pods, by both sides.
    fn sent_again(&self) -> u64 {
        let of = |site: &Site| {
            let text = site.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
            let mut lines = text.lines().filter_map(|l| l.strip_prefix("Tcp:"));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let mut pairs = names.split_whitespace().zip(values.split_whitespace());
            pairs.find(|(name, _)| *name == "RetransSegs").unwrap().1.parse::<u64>().unwrap()
        };
        self.net.pods().map(|(_, site)| of(site)).sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.command(&["detach"]).status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Datagrams that nobody allows: how many arrived.
struct Flood {
    sent: AtomicU64,
    arrived: AtomicU64,
}

impl Flood {
    /// Sends all the time until `stop`.
    fn run(&self, from: &Site, to: &Site, stop: &AtomicBool) {
        for (sender, target) in from.addresses.iter().zip(&to.addresses) {
            assert_eq!(sender.is_ipv4(), target.is_ipv4());
        }
        let bind = |site: &Site, address: IpAddr, port| site.run(|| UdpSocket::bind((address, port))).unwrap().unwrap();
        let pairs: Vec<_> = from
            .addresses
            .iter()
            .zip(&to.addresses)
            .map(|(f, t)| (bind(from, *f, 0), bind(to, *t, DENIED), *t))
            .collect();
        while !stop.load(Relaxed) {
            for (sender, receiver, target) in &pairs {
                let _ = sender.send_to(b"x", (*target, DENIED));
                self.sent.fetch_add(1, Relaxed);
                receiver.set_nonblocking(true).unwrap();
                while receiver.recv(&mut [0; 8]).is_ok() {
                    self.arrived.fetch_add(1, Relaxed);
                }
            }
            sleep(Duration::from_micros(500));
        }
    }
}

/// S58, with load: TCP and UDP, both families, both directions.
#[test]
fn s58_no_restart_loses_a_packet_or_lets_one_through() {
    let node = Node::up();
    let ways = [("ui", "db"), ("db", "other")];
    let flows = ways.map(|(from, to)| (node.pod(from), node.pod(to).addresses.clone()));
    let mut connections: Vec<Connection> = Vec::new();
    for (from, addresses) in &flows {
        for address in addresses {
            for asked in [Ask::Tcp(6379), Ask::Udp(6379)] {
                connections
                    .push(Connection::open(from, *address, asked, PATIENCE).unwrap().expect("nothing is isolated yet"));
            }
        }
    }
    let floods = [("other", "db"), ("ui", "other")]
        .map(|(from, to)| (node.pod(from), node.pod(to), Flood { sent: 0.into(), arrived: 0.into() }));
    let (stop, rounds, again) = (AtomicBool::new(false), AtomicU64::new(0), node.sent_again());
    std::thread::scope(|scope| {
        for (from, to, flood) in &floods {
            let stop = &stop;
            scope.spawn(move || flood.run(from, to, stop));
        }
        let load = scope.spawn(|| {
            while !stop.load(Relaxed) {
                for connection in &mut connections {
                    assert_eq!(connection.poke(PATIENCE), Answer::Echo, "{connection:?}");
                }
                rounds.fetch_add(1, Relaxed);
            }
        });
        // However this ends, the threads do.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _stop = Stop(&stop);

        let quiet = || floods.each_ref().map(|(.., f)| f.arrived.load(Relaxed));
        sleep(Duration::from_millis(200));
        assert!(quiet().iter().all(|arrived| *arrived > 0), "without policies the flood arrives");
        node.apply(0);
        let mut agent = node.agent();
        let settle = |what: &str| {
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let before = quiet();
                sleep(Duration::from_millis(200));
                if before == quiet() {
                    return before;
                }
                assert!(Instant::now() < end, "{what}: the flood does not end");
            }
        };
        let before = settle("policies");
        let mut rng = Rng::new(58);
        for turn in 1..=RESTARTS {
            node.apply(turn);
            sleep(Duration::from_millis(rng.below(80) as u64));
            agent.end(if turn % 2 == 0 { libc::SIGTERM } else { libc::SIGKILL });
            sleep(Duration::from_millis(rng.below(20) as u64));
            agent = node.agent();
            // Now and then the next one ends before it is in step.
            sleep(Duration::from_millis(if turn % 4 == 3 { rng.below(300) as u64 } else { 1000 }));
            assert_eq!(quiet(), before, "restart {turn}: denied packets got through");
            assert!(!load.is_finished(), "restart {turn}: an allowed packet was lost");
        }
        agent.end(libc::SIGTERM);
        sleep(Duration::from_millis(300));
        assert_eq!(quiet(), before);
    });
    let rounds = rounds.into_inner();
    let sent: u64 = floods.iter().map(|(.., f)| f.sent.load(Relaxed)).sum();
    println!("{RESTARTS} restarts: {rounds} rounds on 8 connections, {sent} denied packets");
    assert!(rounds > 1000 && sent > 1000);
    assert_eq!(node.sent_again(), again, "TCP had to send again what was lost");
}
