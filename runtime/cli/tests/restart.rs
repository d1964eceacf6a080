//! Restarts under load: while an agent is stopped, killed in the middle of updates and started
//! again, no packet of an allowed connection is lost and none that is denied gets through. Needs
//! root.

mod common;

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Node, Running};
use netpolc_testbed::{
    netns::Site,
    probe::{Answer, Ask, Connection, PATIENCE},
    random::Rng,
    story::Story,
};

const RESTARTS: usize = 20;
/// Where what is denied would arrive.
const DENIED: u16 = 7777;

/// ui may open to db, and db to other, on 6379 and `extra`; nobody may open anything else to or
/// from db and ui.
fn policies(extra: usize) -> String {
    let ports = format!(
        "ports: [{{port: 6379}}, {{port: 6379, protocol: UDP}}, {{port: {}}}]",
        8000 + extra
    );
    let policy = |role: &str, from: &str, to: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {role}, \
             namespace: default}}\n\
             spec:\n  podSelector: {{matchLabels: {{role: {role}}}}}\n  policyTypes: [Ingress, \
             Egress]\n\
             \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {from}}}}}}}], \
             {ports}}}]\n\
             \x20 egress: [{{to: [{{podSelector: {{matchLabels: {{role: {to}}}}}}}], {ports}}}]\n"
        )
    };
    [policy("db", "ui", "other"), policy("ui", "nobody", "db")].concat()
}

impl Node {
    /// In one step, as an editor would.
    fn replace(&self, policies: &str) {
        fs::write(self.folder.join(".policy"), policies).unwrap();
        fs::rename(self.folder.join(".policy"), self.folder.join("policy.yaml")).unwrap();
    }

    fn agent(&self) -> Running {
        let from = self.folder.to_str().unwrap();
        let mut command =
            self.command(&["agent", "--node", "n1", "--target", "ebpf", "--from", from]);
        Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Segments that were sent again in the pods, by both sides.
    fn sent_again(&self) -> u64 {
        let of = |site: &Site| {
            let text =
                site.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
            let mut lines = text.lines().filter_map(|l| l.strip_prefix("Tcp:"));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let mut pairs = names.split_whitespace().zip(values.split_whitespace());
            pairs.find(|(name, _)| *name == "RetransSegs").unwrap().1.parse::<u64>().unwrap()
        };
        self.net.pods().map(|(_, site)| of(site)).sum()
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
        let bind = |site: &Site, address: IpAddr, port| {
            site.run(|| UdpSocket::bind((address, port))).unwrap().unwrap()
        };
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
    let story = Story::begin();
    story.step("start a node under a flood of packets");
    let node = Node::up("restart", &[Ask::Tcp(6379), Ask::Udp(6379)]);
    let floods = [("other", "db"), ("ui", "other")].map(|(from, to)| {
        (node.pod(from), node.pod(to), Flood { sent: 0.into(), arrived: 0.into() })
    });
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let again = std::thread::scope(|scope| {
        for (from, to, flood) in &floods {
            let stop = &stop;
            scope.spawn(move || flood.run(from, to, stop));
        }
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
        story.step("enforce policies, until the flood ends");
        node.replace(&policies(0));
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
        story.step("open connections that the policies allow");
        let ways = [("ui", "db"), ("db", "other")];
        let flows = ways.map(|(from, to)| (node.pod(from), node.pod(to).addresses.clone()));
        let mut connections: Vec<Connection> = Vec::new();
        for (from, addresses) in &flows {
            for address in addresses {
                for asked in [Ask::Tcp(6379), Ask::Udp(6379)] {
                    connections.push(
                        Connection::open(from, *address, asked, PATIENCE)
                            .unwrap()
                            .expect("the policies allow it"),
                    );
                }
            }
        }
        let again = node.sent_again();
        let (stop, counted) = (&stop, &rounds);
        let load = scope.spawn(move || {
            while !stop.load(Relaxed) {
                for connection in &mut connections {
                    assert_eq!(connection.poke(PATIENCE), Answer::Echo, "{connection:?}");
                }
                counted.fetch_add(1, Relaxed);
            }
        });
        let mut rng = Rng::new(58);
        for turn in 1..=RESTARTS {
            story.step(format!("restart the agent while it updates, time {turn} of {RESTARTS}"));
            node.replace(&policies(turn));
            sleep(Duration::from_millis(rng.below(80) as u64));
            agent.end(if turn % 2 == 0 { libc::SIGTERM } else { libc::SIGKILL });
            sleep(Duration::from_millis(rng.below(20) as u64));
            agent = node.agent();
            // Now and then the next one ends before it is in step.
            sleep(Duration::from_millis(if turn % 4 == 3 { rng.below(300) as u64 } else { 1000 }));
            assert_eq!(quiet(), before, "restart {turn}: denied packets got through");
            assert!(!load.is_finished(), "restart {turn}: an allowed packet was lost");
        }
        story.step("end the agent");
        agent.end(libc::SIGTERM);
        sleep(Duration::from_millis(300));
        assert_eq!(quiet(), before);
        again
    });
    story.step("compare what was sent with what arrived");
    let rounds = rounds.into_inner();
    let sent: u64 = floods.iter().map(|(.., f)| f.sent.load(Relaxed)).sum();
    println!("{RESTARTS} restarts: {rounds} rounds on 8 connections, {sent} denied packets");
    assert!(rounds > 1000 && sent > 1000);
    assert_eq!(node.sent_again(), again, "TCP had to send again what was lost");
}
