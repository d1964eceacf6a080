//! The agent against a target in memory and a made-up network: the order of what it does, what it
//! keeps when things fail, and what a restart writes.

mod common;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    rc::Rc,
};

use common::{Host, Log, PODS, POLICY, cluster};
use netpolc_agent::{
    Agent, Standing,
    discovery::{Discovery, HostInterface, PodFacts, Source},
    network::Network,
    trials::{Trials, Would},
};
use netpolc_host::{
    Connection, Opener,
    conntrack::{Tracked, Tuple},
};
use netpolc_policy::{ByDefault, Cluster, Enforcement, ObjectKey, Unselected};
use netpolc_table::{IfIndex, TableId, schema::Word};
use netpolc_target::{Arrival, Frame, Hook, Mark, Verdict, frame::Packet};

#[derive(Clone, Default)]
struct Net {
    ways: Rc<RefCell<BTreeMap<IpAddr, IfIndex>>>,
    tracked: Rc<RefCell<Vec<Tracked>>>,
    sockets: Rc<RefCell<BTreeMap<IfIndex, Vec<Connection>>>>,
    /// Pods are where they were before.
    before: Rc<RefCell<bool>>,
    log: Log,
}

impl Network for Net {
    fn find_interfaces(&mut self, pods: &[PodFacts]) -> io::Result<Vec<Discovery>> {
        let ways = self.ways.borrow();
        let mut answers = Discovery::by_address(pods, |address| ways.get(&address).copied());
        for (answer, pod) in answers.iter_mut().zip(pods).filter(|_| *self.before.borrow()) {
            answer.interface =
                pod.previous.map(|ifindex| HostInterface { ifindex, source: Source::Before });
        }
        Ok(answers)
    }
    fn tracked(&mut self, _: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        self.log.borrow_mut().push("dump".into());
        Ok(self.tracked.borrow().clone())
    }
    fn sockets(&mut self, _: &BTreeSet<IfIndex>) -> io::Result<BTreeMap<IfIndex, Vec<Connection>>> {
        Ok(self.sockets.borrow().clone())
    }
    fn own_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(BTreeSet::from([[192, 168, 0, 1].into()]))
    }
}

fn agent() -> (Agent<Host, Net>, Host, Net) {
    let (host, net) = (Host::new(), Net::default());
    let net = Net { log: host.log.clone(), ..net };
    let ways = [([10, 0, 0, 1], 11), ([10, 0, 0, 2], 12)];
    net.ways
        .borrow_mut()
        .extend(ways.map(|(address, ifindex)| (address.into(), IfIndex::new(ifindex))));
    (Agent::new("n1".into(), host.clone(), net.clone()).unwrap(), host, net)
}

fn took(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.borrow_mut())
}

const GUARD: u8 = Word::GUARD;

/// S40: record, dump, isolate; also for pods that ran before the agent did.
#[test]
fn s40_a_running_pod_records_before_the_dump_and_is_isolated_after_it() {
    let (mut agent, host, net) = agent();
    let side = |source: [u8; 4], source_port, destination: [u8; 4], destination_port| Tuple {
        source: source.into(),
        destination: destination.into(),
        protocol: 6,
        source_port,
        destination_port,
    };
    let tracked = |from, port| Tracked {
        original: side(from, port, [10, 0, 0, 1], 6379),
        reply: side([10, 0, 0, 1], 6379, from, port),
        answered: true,
        closing: false,
    };
    *net.tracked.borrow_mut() = vec![tracked([10, 0, 0, 2], 1000), tracked([192, 168, 0, 1], 2000)];
    agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
    let (record, isolated) = (Word::RECORD | GUARD, Word::INGRESS | GUARD);
    let log = took(&host.log);
    let expected = [
        "attach 11".to_owned(),
        "attach 12".into(),
        format!("word {record:#x}"),
        format!("word {GUARD:#x}"),
        "interface".into(),
        "interface".into(),
        "dump".into(),
        "adopt Remote 1000 Elsewhere".into(),
        "adopt Remote 2000 Node".into(),
        format!("word {isolated:#x}"),
    ];
    let (mut sorted, mut wanted) = (log.clone(), expected.to_vec());
    sorted.sort();
    wanted.sort();
    assert_eq!(sorted, wanted, "{log:?}");
    let at = |what: &str| {
        log.iter().position(|l| l == what).unwrap_or_else(|| panic!("{what}: {log:?}"))
    };
    assert!(at("attach 12") < at("interface"), "{log:?}");
    assert!(at(&expected[2]) < at("dump") && at("dump") < at(&expected[9]), "{log:?}");
    assert_eq!(agent.pods().iter().map(|p| p.adopted).collect::<Vec<_>>(), [2, 0]);
}

/// S40: what opened while the other direction was open needed no entry, and does once that is
/// isolated too. In the direction that was isolated policy judges all the time.
#[test]
fn s40_a_pod_that_is_isolated_in_a_second_direction_records_and_stays_isolated_in_the_first() {
    let (mut agent, host, _) = agent();
    agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
    took(&host.log);
    let egress = POLICY
        .replace("name: db", "name: out")
        .replace("[Ingress]", "[Egress]")
        .replace("ingress: [{from:", "egress: [{to:");
    agent.update(cluster(&format!("{PODS}{POLICY}{egress}"))).unwrap();
    let (record, both) =
        (Word::RECORD | Word::INGRESS | GUARD, Word::INGRESS | Word::EGRESS | GUARD);
    let log = took(&host.log);
    let expected = [format!("word {record:#x}"), "dump".into(), format!("word {both:#x}")];
    assert_eq!(log, expected);
    // And not again, where nothing opens that was closed.
    agent.update(cluster(&format!("{PODS}{egress}"))).unwrap();
    assert_eq!(took(&host.log), [format!("word {:#x}", Word::EGRESS | GUARD)]);
}

/// S56: a pod that appears later was never running unseen.
#[test]
fn s56_a_new_pod_is_isolated_without_a_recording_phase() {
    let (mut agent, host, net) = agent();
    let only_policy = POLICY.trim_start_matches("\n---");
    agent.update(cluster(only_policy)).unwrap();
    assert_eq!(took(&host.log), Vec::<String>::new());
    net.ways.borrow_mut().remove(&IpAddr::from([10, 0, 0, 1]));
    agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
    took(&host.log);
    assert_eq!(agent.missing().len(), 1);
    // The interface comes last.
    net.ways.borrow_mut().insert([10, 0, 0, 1].into(), IfIndex::new(11));
    agent.refresh().unwrap();
    assert_eq!(took(&host.log), ["attach 11", "interface"]);
    assert!(host.words().iter().any(|w| w.flags & Word::INGRESS != 0));
}

#[test]
fn s60_the_last_policy_lifts_isolation_and_a_gone_pod_leaves_nothing() {
    let (mut agent, host, net) = agent();
    agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
    agent.update(cluster(PODS)).unwrap();
    assert!(host.words().iter().all(|w| w.flags & !GUARD == 0), "{:?}", host.words());
    took(&host.log);
    net.ways.borrow_mut().clear();
    agent.update(Cluster::default()).unwrap();
    assert_eq!(took(&host.log), ["detach 11", "detach 12"]);
    let left = host.program();
    let left: Vec<_> =
        left.tables().filter(|t| t.id != TableId::Port && !t.entries.is_empty()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// An agent that starts, and finds no way to a pod that it knows from the tables, leaves it where
/// it is.
#[test]
fn s58_doubt_takes_no_interface_away() {
    let (mut agent, host, net) = agent();
    let cluster = cluster(&format!("{PODS}{POLICY}"));
    agent.update(cluster.clone()).unwrap();
    let (held, attached) = (host.program(), agent.host().clone());
    *net.before.borrow_mut() = true;
    net.ways.borrow_mut().clear();
    agent.refresh().unwrap();
    let mut second = Agent::new("n1".into(), attached, net.clone()).unwrap();
    took(&host.log);
    second.update(cluster).unwrap();
    assert_eq!((host.program() == held, took(&host.log)), (true, vec![]));
    assert!(second.missing().is_empty());
}

/// S58: the second agent finds what the first left, and has nothing to write.
#[test]
fn s58_a_restart_writes_nothing() {
    let (mut agent, host, net) = agent();
    let cluster = cluster(&format!("{PODS}{POLICY}"));
    agent.update(cluster.clone()).unwrap();
    took(&host.log);
    let held = host.program();
    let attached = agent.host().clone();
    let mut second = Agent::new("n1".into(), attached, net.clone()).unwrap();
    let report = second.update(cluster).unwrap();
    assert_eq!((report.writes, host.program() == held), (0, true));
    assert_eq!(took(&host.log), Vec::<String>::new());
}

/// S90: the node's default isolates what no policy selects. A restart with it writes nothing (S58),
/// and one without it opens the pods again.
#[test]
fn s90_the_default_of_the_node_isolates_and_outlives_a_restart() {
    let (mut agent, host, net) = agent();
    let except = ["ops".into()].into();
    let closed = ByDefault { unselected: Unselected::Isolated, except };
    // The namespace of a pod without an address is known by the pod alone, too.
    let text = format!(
        "{PODS}---\nkind: Pod\nmetadata: {{name: new}}\nspec: {{nodeName: n1, containers: []}}\n\
         ---\nkind: Pod\nmetadata: {{name: free, namespace: ops}}\nspec: {{nodeName: n1, \
         containers: []}}\n"
    );
    let standings = |agent: &Agent<Host, Net>| {
        ["default/db", "default/ui", "default/new", "ops/free"].map(|name| {
            let (namespace, name) = name.split_once('/').unwrap();
            agent.standing(&ObjectKey::new(namespace, name))
        })
    };
    agent.set_default(closed.clone());
    agent.update(cluster(&text)).unwrap();
    let expected = [Standing::Enforced, Standing::Enforced, Standing::Unfound, Standing::Open];
    assert_eq!(standings(&agent), expected);
    took(&host.log);
    let (held, attached) = (host.program(), agent.host().clone());
    let mut second = Agent::new("n1".into(), attached.clone(), net.clone()).unwrap();
    second.set_default(closed);
    let report = second.update(cluster(&text)).unwrap();
    assert_eq!((report.writes, host.program() == held), (0, true));
    assert_eq!(standings(&second), expected);
    let mut third = Agent::new("n1".into(), attached, net).unwrap();
    third.update(cluster(&text)).unwrap();
    assert_eq!(standings(&third), [Standing::Open; 4]);
}

/// S80, S82: a probe of the node's own needs a rule of the pod's group, unless the agent was told
/// that groups do not judge what stays on the node.
#[test]
fn s80_s82_groups_judge_what_the_node_sends_as_the_agent_was_told() {
    let (mut agent, host, _) = agent();
    let group = |rules: &str| {
        format!(
            "{PODS}---\napiVersion: vpcresources.k8s.aws/v1beta1\nkind: SecurityGroupPolicy\n\
             metadata: {{name: db, namespace: default}}\nspec: {{podSelector: {{matchLabels: \
             {{role: db}}}}, securityGroups: {{groupIds: [sg-db]}}}}\n---\napiVersion: \
             ec2.services.k8s.aws/v1alpha1\nkind: SecurityGroup\nmetadata: {{name: db, namespace: \
             default}}\nspec: {{name: db, ingressRules: [{rules}]}}\nstatus: {{id: sg-db}}\n"
        )
    };
    let probe = |source_port: u16| {
        let packet = Packet::new([192, 168, 0, 1], [10, 0, 0, 1]).tcp(source_port, 8080, 0x02);
        let (interface, mark) = (IfIndex::new(11), Mark::Clear);
        let frame = Frame { interface, arrival: Arrival::Born, mark, bytes: packet.build() };
        host.packet(Hook::ToPod, &frame)
    };
    agent.update(cluster(PODS)).unwrap();
    assert_eq!(probe(1_000), Verdict::Next, "without groups");
    let rule =
        "{ipProtocol: tcp, fromPort: 8080, toPort: 8080, ipRanges: [{cidrIP: 192.168.0.0/24}]}";
    for (rules, expected) in [("", Verdict::Drop), (rule, Verdict::Next), ("", Verdict::Drop)] {
        agent.update(cluster(&group(rules))).unwrap();
        assert_eq!(probe(1_001), expected, "{rules}");
    }
    agent.set_enforcement(Enforcement::Standard);
    agent.update(cluster(&group(""))).unwrap();
    assert_eq!(probe(1_002), Verdict::Next, "exempt");
}

/// S85: connections that an audited policy would have denied are counted under its name, across an
/// update that gives the tables' ids another meaning, and each once.
#[test]
fn s85_packets_that_a_tried_policy_would_deny_are_counted_for_it() {
    let (mut agent, host, _) = agent();
    let audited = POLICY
        .replace("{name: db,", "{name: strict, annotations: {netpolc.io/mode: audit},")
        .replace("role: ui}}}]", "role: nobody}}}]");
    agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
    let opening = |from: [u8; 4], source_port: u16| Frame {
        interface: IfIndex::new(11),
        arrival: IfIndex::new(99).into(),
        mark: Mark::Clear,
        bytes: Packet::new(from, [10, 0, 0, 1]).tcp(source_port, 6379, 0x02).build(),
    };
    let send = |from, port| host.packet(Hook::ToPod, &opening(from, port));
    assert_eq!(send([10, 0, 0, 2], 1_000), Verdict::Next);
    assert_eq!(agent.take_trials(), Trials::new(), "nothing is tried yet");

    // Alone the audited policy would let nobody in; beside the enforced one it adds a peer that
    // nobody is, so nothing differs.
    agent.update(cluster(&format!("{PODS}{POLICY}{audited}"))).unwrap();
    assert_eq!(send([10, 0, 0, 2], 1_001), Verdict::Next);
    assert_eq!(agent.take_trials(), Trials::new(), "policies add up");

    agent.update(cluster(&format!("{PODS}{audited}"))).unwrap();
    assert_eq!(send([10, 0, 0, 2], 1_002), Verdict::Next);
    assert_eq!(send([10, 0, 0, 3], 1_003), Verdict::Next);
    let denied = |count| Trials::from([(("default/strict".into(), Would::Deny), count)]);
    assert_eq!(agent.take_trials(), denied(2));
    assert_eq!(send([10, 0, 0, 3], 1_004), Verdict::Next);
    // Enforced from here on. What was counted before has not been lost.
    let enforced = audited.replace("netpolc.io/mode: audit", "");
    agent.update(cluster(&format!("{PODS}{enforced}"))).unwrap();
    assert_eq!(send([10, 0, 0, 3], 1_005), Verdict::Drop);
    assert_eq!(agent.take_trials(), denied(1));
    assert_eq!(agent.take_trials(), Trials::new());
}

/// S57, S59: whichever write fails, the next try completes the update.
#[test]
fn s59_a_failure_at_any_write_is_reported_and_completed_later() {
    let wanted = {
        let (mut agent, host, _) = agent();
        agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
        host.program().len()
    };
    for budget in 0.. {
        let (mut agent, host, _) = agent();
        *host.budget.borrow_mut() = Some(budget);
        let result = agent.update(cluster(&format!("{PODS}{POLICY}")));
        if result.is_ok() {
            assert!(budget > 5, "only {budget} writes");
            return;
        }
        *host.budget.borrow_mut() = None;
        agent.retry().unwrap();
        assert_eq!(host.program().len(), wanted, "after {budget} writes");
        assert!(host.words().iter().any(|w| w.flags & Word::INGRESS != 0));
        assert_eq!(agent.retry().unwrap().writes, 0);
        agent.update(cluster(PODS)).unwrap();
        assert!(host.words().iter().all(|w| w.flags & !GUARD == 0));
    }
}

#[test]
fn the_opener_is_told_from_both_ends() {
    // One tracked connection between two local pods is adopted by both, each from its side.
    let (mut agent, host, net) = agent();
    let tuple = |source: [u8; 4], source_port, destination: [u8; 4], destination_port| Tuple {
        source: source.into(),
        destination: destination.into(),
        protocol: 6,
        source_port,
        destination_port,
    };
    *net.tracked.borrow_mut() = vec![Tracked {
        original: tuple([10, 0, 0, 2], 1000, [10, 0, 0, 1], 6379),
        reply: tuple([10, 0, 0, 1], 6379, [10, 0, 0, 2], 1000),
        answered: true,
        closing: false,
    }];
    let deny_all = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";
    agent.update(cluster(&format!("{PODS}{deny_all}"))).unwrap();
    let log = took(&host.log);
    assert!(log.contains(&format!("adopt {:?} 1000 Elsewhere", Opener::Remote)), "{log:?}");
    assert!(log.contains(&format!("adopt {:?} 6379 Elsewhere", Opener::Pod)), "{log:?}");
}

/// S40: what anybody can make the host track is not believed: unanswered entries, UDP that a pod is
/// said to have opened, and a source address that is the node's.
#[test]
fn s40_adoption_believes_what_cannot_be_forged() {
    let (mut agent, host, net) = agent();
    let tracked = |protocol, from: [u8; 4], from_port, to: [u8; 4], to_port, answered| {
        let side = |source: [u8; 4], source_port, destination: [u8; 4], destination_port| Tuple {
            source: source.into(),
            destination: destination.into(),
            protocol,
            source_port,
            destination_port,
        };
        let (original, reply) =
            (side(from, from_port, to, to_port), side(to, to_port, from, from_port));
        Tracked { original, reply, answered, closing: false }
    };
    let (db, ui, node, other) = ([10, 0, 0, 1], [10, 0, 0, 2], [192, 168, 0, 1], [203, 0, 113, 9]);
    *net.tracked.borrow_mut() = vec![
        tracked(6, ui, 1000, db, 6379, true),
        tracked(6, ui, 1001, db, 6379, false),
        tracked(6, db, 98, other, 1002, false),
        tracked(17, db, 98, other, 1003, true),
        tracked(17, db, 98, other, 1004, false),
        tracked(17, other, 1005, db, 53, true),
        tracked(17, other, 1006, db, 53, false),
        tracked(17, node, 1007, db, 53, true),
        tracked(1, db, 7, other, 7, true),
    ];
    let socket = |local: [u8; 4], remote_port| Connection {
        opener: Opener::Pod,
        protocol: 17,
        local: local.into(),
        local_port: 4000,
        remote: other.into(),
        remote_port,
        answered: true,
        origin: local.into(),
    };
    // In its own namespace, in that with an address that is not its own, and in another's.
    let sockets = [(11, vec![socket(db, 2000), socket(ui, 2001)]), (12, vec![socket(db, 2002)])];
    *net.sockets.borrow_mut() = sockets.map(|(ifindex, list)| (IfIndex::new(ifindex), list)).into();
    agent.update(cluster(&format!("{PODS}{POLICY}"))).unwrap();
    let mut adopted: Vec<String> =
        took(&host.log).into_iter().filter(|l| l.starts_with("adopt")).collect();
    adopted.sort();
    let expected = [
        "adopt Pod 2000 Elsewhere",
        "adopt Remote 1000 Elsewhere",
        "adopt Remote 1005 Elsewhere",
        "adopt Remote 1007 Elsewhere",
    ];
    assert_eq!(adopted, expected);
}
