//! Namespace clusters with real packets. Needs root; without it every test here fails and says so.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use netpolc_policy::{ObjectKey, PodNetwork};
use netpolc_testbed::{
    netns::{self, Namespace, Net, NodeSpec, PodSpec, Spec},
    probe::{Answer, Ask, Connection, PATIENCE, Question, Servers, ask},
};

/// Two nodes, `pods` dual-stack pods spread over them, one host outside.
fn spec(pods: u8) -> Spec {
    let node = |n: u8| NodeSpec {
        name: format!("n{n}").into(),
        addresses: vec![
            [192, 168, 0, n].into(),
            format!("fd00:1::{n}").parse().expect("an address"),
        ],
    };
    let pod = |i: u8| PodSpec {
        key: key(i),
        node: format!("n{}", 1 + i % 2).into(),
        addresses: vec![[10, 0, 0, i].into(), format!("fd00:2::{i}").parse().expect("an address")],
        network: PodNetwork::Own,
    };
    Spec { nodes: vec![node(1), node(2)], pods: (1..=pods).map(pod).collect(), outside: vec![] }
        .with_outside(
            "client",
            [
                "203.0.113.9".parse().expect("an address"),
                "2001:db8::9".parse().expect("an address"),
            ],
        )
}

fn key(i: u8) -> ObjectKey {
    ObjectKey::new("default", format!("p{i}"))
}

#[test]
fn everybody_reaches_everybody_over_both_families_and_nothing_is_left_behind() {
    let begin = Instant::now();
    let net = Net::up(&spec(10)).expect("a cluster");
    println!("up after {:?}", begin.elapsed());
    let prefix = format!("{}{}-", netns::PREFIX, net.id());
    assert_eq!(Namespace::list(&prefix).len(), 1 + 2 + 10 + 1);
    let ports = [Ask::Tcp(80), Ask::Udp(53)];
    let servers = Servers::start(net.pods().map(|(_, site)| (site, ports))).expect("servers");
    let client = net.outside("client").expect("a client");
    let sources: Vec<_> =
        net.pods().map(|(_, site)| site).chain(net.nodes()).chain([client]).collect();
    let mut questions = Vec::new();
    for from in sources {
        for (_, to) in net.pods() {
            for address in &to.addresses {
                questions.extend(
                    [Ask::Tcp(80), Ask::Udp(53), Ask::Ping]
                        .map(|a| Question::new(from, *address, a)),
                );
            }
        }
    }
    let asked = Instant::now();
    let answers = ask(&questions, Duration::from_secs(2)).expect("answers");
    println!("{} questions in {:?}", questions.len(), asked.elapsed());
    for (question, answer) in questions.iter().zip(answers) {
        assert_eq!(
            answer,
            Answer::Echo,
            "{} -> {} {}",
            question.from.name,
            question.to,
            question.ask
        );
    }
    drop(servers);
    drop(net);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(Namespace::list(&prefix), [] as [String; 0]);
}

#[test]
fn refused_and_silent_are_told_apart_and_drops_cost_one_patience() {
    let net = Net::up(&spec(2)).expect("a cluster");
    let (one, two) = (net.pod(&key(1)).expect("p1"), net.pod(&key(2)).expect("p2"));
    // A blackhole at the source's node swallows silently.
    let swallowed = net
        .node("n2")
        .expect("n2")
        .command("ip")
        .args(["route", "add", "blackhole", "10.9.0.0/16"])
        .status();
    assert!(swallowed.expect("ip runs").success());
    let mut questions = vec![Question::new(one, two.addresses[0], Ask::Tcp(81))];
    questions.extend((0..40).map(|i| Question::new(one, [10, 9, 0, i].into(), Ask::Udp(53))));
    let begin = Instant::now();
    let answers = ask(&questions, PATIENCE).expect("answers");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(answers[0], Answer::Refused);
    assert!(answers[1..].iter().all(|a| !a.passed()), "{answers:?}");
}

#[test]
fn pods_come_and_go_and_an_open_connection_feels_a_cut() {
    let mut net = Net::up(&spec(3)).expect("a cluster");
    let target = net.pod(&key(2)).expect("p2").addresses[0];
    let _servers = Servers::start([(net.pod(&key(2)).expect("p2"), [Ask::Tcp(80), Ask::Udp(53)])])
        .expect("servers");
    let from = net.pod(&key(1)).expect("p1").clone();
    let mut tcp = Connection::open(&from, target, Ask::Tcp(80), PATIENCE)
        .expect("a socket")
        .expect("a connection");
    let mut udp = Connection::open(&from, target, Ask::Udp(53), PATIENCE)
        .expect("a socket")
        .expect("a connection");
    assert_eq!((tcp.poke(PATIENCE), udp.poke(PATIENCE)), (Answer::Echo, Answer::Echo));
    net.remove_pod(&key(2)).expect("removed");
    assert_ne!(tcp.poke(PATIENCE), Answer::Echo);
    assert_ne!(udp.poke(PATIENCE), Answer::Echo);
    // The same address again, on the other node (S43's setting).
    let moved = PodSpec {
        key: key(9),
        node: "n2".into(),
        addresses: vec![target],
        network: PodNetwork::Own,
    };
    net.add_pods(&[moved]).expect("added");
    let answers = ask(&[Question::new(&from, target, Ask::Tcp(80))], PATIENCE).expect("answers");
    assert_eq!(answers, [Answer::Refused]);
    let node_pod =
        PodSpec { key: key(8), node: "n1".into(), addresses: vec![], network: PodNetwork::Host };
    net.add_pods(&[node_pod]).expect("added");
    assert_eq!(
        net.pod(&key(8)).expect("p8").namespace.name(),
        net.node("n1").expect("n1").namespace.name()
    );
}

#[test]
fn a_killed_run_is_cleaned_up_by_its_guard() {
    // This very binary, running the test below as a victim.
    let me = std::env::current_exe().expect("this binary");
    let mut victim = Command::new(me)
        .args(["--exact", "victim_waits_to_be_killed", "--nocapture"])
        .env("NETPOLC_TESTBED_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a victim");
    let lines = BufReader::new(victim.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let id = lines
        .filter_map(|l| l.split("id=").nth(1).map(str::to_owned))
        .next()
        .expect("the victim's id");
    let prefix = format!("{}{id}-", netns::PREFIX);
    assert!(!Namespace::list(&prefix).is_empty());
    victim.kill().expect("killed");
    victim.wait().expect("gone");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !Namespace::list(&prefix).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(Namespace::list(&prefix), [] as [String; 0]);
}

/// Does nothing by itself; `a_killed_run_is_cleaned_up_by_its_guard` starts it and kills it.
#[test]
fn victim_waits_to_be_killed() {
    if std::env::var_os("NETPOLC_TESTBED_VICTIM").is_none() {
        return;
    }
    let net = Net::up(&spec(2)).expect("a cluster");
    println!("id={}", net.id());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn without_root_it_says_so_in_one_line() {
    let made = std::thread::spawn(|| {
        // SAFETY: the system call takes integers only. Made without libc's wrapper it changes the
        // calling thread alone, which ends after this; -1 keeps an id.
        let dropped = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65_534, -1) };
        assert_eq!(dropped, 0, "this test needs root to give it up");
        Net::up(&spec(1)).map(drop).expect_err("refused").to_string()
    });
    let message = made.join().expect("no panic");
    assert!(message.contains("need root") && message.lines().count() == 1, "{message}");
}

#[test]
fn leftovers_of_runs_whose_guard_died_too_are_swept() {
    // A lock file that nobody holds, as after a kill of everything.
    let name = format!("netpolc-stale{}-pod", std::process::id());
    let lock = format!("/run/netpolc-testbed/stale{}", std::process::id());
    let _others = Net::up(&spec(1)).expect("a cluster");
    Namespace::create(&name).expect("a namespace");
    std::fs::write(&lock, "").expect("a lock file");
    netns::sweep();
    // Another test's sweep may be at it: it is done once the lock file is gone.
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::exists(&lock).expect("readable") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(Namespace::list(&name), [] as [String; 0]);
    assert_eq!(Namespace::list(&format!("{}{}-", netns::PREFIX, _others.id())).len(), 5);
}

#[test]
fn clusters_of_the_corpus_run_too() {
    // Single stack, nodes without addresses, a finished pod whose address an heir has; and dual
    // stack with a hostNetwork pod. Without enforcement everybody answers.
    for name in ["finished-pod", "readme"] {
        let cluster = netpolc_testbed::cases::named(name).cluster;
        let net = Net::up(&Spec::of(&cluster)).expect("a cluster");
        let sites: Vec<_> = net.pods().map(|(_, site)| site).collect();
        assert_eq!(
            sites.len(),
            cluster.pods.values().filter(|p| p.phase == netpolc_policy::Phase::Active).count()
        );
        let pairs = sites.iter().flat_map(|from| sites.iter().map(move |to| (*from, *to)));
        let questions: Vec<Question> = pairs
            .flat_map(|(from, to)| {
                to.addresses.iter().map(move |a| Question::new(from, *a, Ask::Ping))
            })
            .collect();
        for (question, answer) in
            questions.iter().zip(ask(&questions, Duration::from_secs(2)).expect("answers"))
        {
            assert_eq!(answer, Answer::Echo, "{name}: {} -> {}", question.from.name, question.to);
        }
    }
}
