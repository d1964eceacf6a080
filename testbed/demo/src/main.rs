//! `netpolc-demo`, also `netpolc demo`: a web shop in network namespaces, an agent on each node,
//! and real packets through five acts: no policy, a default deny on ui, the policies that repair
//! it, one with a mistake, and policies that nobody has written ([`seen`]).
//!
//! Here: the order of things and what is printed. Not here: the shop and its policies (the
//! testbed).

mod agents;
mod interrupt;
mod seen;

use std::{
    collections::BTreeMap,
    io::Write,
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use netpolc::{
    judge::{Answer, Judge, Place, oracle::Oracle},
    output::{self, Colour, Outcome},
};
use netpolc_agent::Report;
use netpolc_policy::{
    Cluster,
    oracle::{Party, Question as Asked, Transport},
};
use netpolc_testbed::{
    netns::Net,
    probe::{Ask, PATIENCE, Question, Servers, ask_until},
    shop::{self, CUSTOMER_ADDRESSES, EVERYBODY, Stage, Talk, Who},
};

use self::agents::Agents;

const HELP: &str = "\
Shows policies at work: a small web shop in network namespaces, with real packets.
Needs root; makes network namespaces and removes them again.

Usage: sudo netpolc demo
";

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        None => run(),
        Some("-h" | "--help") => {
            output::stdout().write_all(HELP.as_bytes()).map(|()| Outcome::Fine).map_err(Into::into)
        }
        Some(other) => Err(anyhow!("unexpected argument {other:?}: the demo takes none")),
    };
    output::finish(done)
}

fn run() -> anyhow::Result<Outcome> {
    output::needs_root("the demo (network namespaces and eBPF)")?;
    interrupt::watch();
    let mut show = Show { colour: Colour::of_stdout(), began: Instant::now() };
    show.step("making the cluster: namespaces for nodes, pods and a customer outside")?;
    let net = Net::up(&shop::spec())?;
    let open = Stage::Open.cluster();
    let servers = net.pods().map(|(key, site)| (site, shop::serves(&open.pods[key])));
    let _servers = Servers::start(servers.collect::<Vec<_>>())?;
    show.step(&format!("starting an agent on each of {} nodes", net.nodes().count()))?;
    let mut agents = Agents::start(net.nodes())?;
    let mut outcome = Outcome::Fine;
    let mut before = None;
    for stage in Stage::ALL {
        interrupt::check()?;
        let cluster = stage.cluster();
        show.act(stage, &cluster)?;
        let reports = agents.update(&cluster)?;
        show.reports(&reports)?;
        let seen = look(&net, &cluster)?;
        outcome = outcome.and(show.compare(&seen)?);
        show.needed(&seen, before.as_deref().unwrap_or_default())?;
        before = Some(seen);
    }
    interrupt::check()?;
    outcome = outcome.and(seen::act(&mut show, &net, &mut agents)?);
    interrupt::check()?;
    show.step("removing everything")?;
    drop(agents);
    drop(_servers);
    drop(net);
    let seconds = show.began.elapsed().as_secs_f64();
    show.line(&format!("done in {seconds:.1} s; nothing is left behind"))?;
    Ok(outcome)
}

fn said(passed: bool) -> &'static str {
    if passed { "passed" } else { "blocked" }
}

/// A connection that was tried, with what came of it.
struct Seen {
    talk: Talk,
    to: IpAddr,
    passed: bool,
    answer: Answer,
}

impl Seen {
    fn text(&self) -> String {
        let family = if self.to.is_ipv4() { "IPv4" } else { "IPv6" };
        format!("{} -> {} {} ({family})", self.talk.from, self.talk.to, self.talk.ask)
    }
}

/// Tries the matrix, what the shop needs, and pings, over both families.
fn look(net: &Net, cluster: &Cluster) -> anyhow::Result<Vec<Seen>> {
    let mut talks: Vec<Talk> = shop::matrix();
    talks.extend(shop::NEEDED);
    let pings = talks.iter().map(|t| Talk { ask: Ask::Ping, ..*t }).collect::<Vec<_>>();
    talks.extend(pings);
    talks.sort();
    talks.dedup();
    let mut oracle = Oracle::new(cluster);
    let mut seen = Vec::new();
    for talk in talks {
        for (from, to) in addresses(cluster, talk.from).into_iter().zip(addresses(cluster, talk.to))
        {
            let (protocol, port) = match talk.ask {
                Ask::Tcp(port) => (Transport::Tcp, Some(port)),
                Ask::Udp(port) => (Transport::Udp, Some(port)),
                Ask::Ping if to.is_ipv4() => (Transport::Other(1), None),
                Ask::Ping => (Transport::Other(58), None),
            };
            let party = |who: Who, address| {
                who.key().map_or(Party::Address(address), |key| Party::Pod(key, address))
            };
            let (source, destination) = (party(talk.from, from), party(talk.to, to));
            let answer = oracle.judge(&Asked { source, destination, protocol, port, via: None })?;
            seen.push(Seen { talk, to, passed: false, answer });
        }
    }
    let questions: Vec<Question> = seen
        .iter()
        .map(|s| Ok(Question::new(s.talk.from.site(net)?, s.to, s.talk.ask)))
        .collect::<anyhow::Result<_>>()?;
    let expected: Vec<bool> = seen.iter().map(|s| s.answer.allowed).collect();
    let answers = ask_until(&questions, &expected, PATIENCE)?;
    let passed: Vec<bool> = answers.into_iter().map(|a| a.passed()).collect();
    for (s, passed) in seen.iter_mut().zip(passed) {
        s.passed = passed;
    }
    Ok(seen)
}

/// The addresses of a party: IPv4, then IPv6.
fn addresses(cluster: &Cluster, who: Who) -> Vec<IpAddr> {
    let mut addresses = match who.key() {
        Some(key) => cluster.pods[&key].addresses.clone(),
        None => CUSTOMER_ADDRESSES.iter().filter_map(|a| a.parse().ok()).collect(),
    };
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// Prints the steps of the demo, each with the time since it began.
struct Show {
    colour: Colour,
    began: Instant,
}

impl Show {
    fn line(&self, text: &str) -> anyhow::Result<()> {
        let mut out = output::stdout();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    fn step(&mut self, text: &str) -> anyhow::Result<()> {
        interrupt::check()?;
        let seconds = self.began.elapsed().as_secs_f64();
        self.line(&format!("{} {text}", self.colour.faint(&format!("[{seconds:5.1} s]"))))
    }

    fn act(&mut self, stage: Stage, cluster: &Cluster) -> anyhow::Result<()> {
        let title = match stage {
            Stage::Open => "No policy: everybody reaches everybody",
            Stage::DenyUi => "A default deny on ui: the shop stops working",
            Stage::Repaired => {
                "Policies for what the shop needs: it works again, and nothing else does"
            }
            Stage::Wrong => "One more policy, with a mistake in it",
        };
        self.title(title, cluster)?;
        for (name, _) in stage.adds() {
            self.line(&format!("          + {name}"))?;
        }
        Ok(())
    }

    /// The beginning of an act.
    fn title(&mut self, title: &str, cluster: &Cluster) -> anyhow::Result<()> {
        self.line("")?;
        let count = match cluster.policies.len() {
            1 => "1 policy".to_owned(),
            n => format!("{n} policies"),
        };
        self.step(&self.colour.strong(&format!("{title} ({count})")))
    }

    fn reports(&self, reports: &BTreeMap<String, Report>) -> anyhow::Result<()> {
        for (node, report) in reports {
            let adopted: usize = report.adopted.values().map(|a| a.connections).sum();
            let adopted = if adopted > 0 {
                format!(", {adopted} running connections taken over")
            } else {
                String::new()
            };
            let took = millis(report.took);
            self.line(&format!(
                "          node {node}: {} table writes in {took}{adopted}",
                report.writes
            ))?;
        }
        Ok(())
    }

    /// The matrix, and whether real packets went as the policies say.
    fn compare(&self, seen: &[Seen]) -> anyhow::Result<Outcome> {
        self.matrix(seen)?;
        let wrong: Vec<_> = seen.iter().filter(|s| s.passed != s.answer.allowed).collect();
        for s in &wrong {
            let (passed, should) = (said(s.passed), said(s.answer.allowed));
            self.line(&format!(
                "{} {}: {passed}, but the policies say {should}",
                self.colour.bad("WRONG"),
                s.text()
            ))?;
        }
        let right = seen.len() - wrong.len();
        self.line(&format!(
            "{right} of {} real connections went as the policies say (TCP, UDP, ICMP; IPv4, IPv6)",
            seen.len()
        ))?;
        Ok(Outcome::of_problems(wrong.len()))
    }

    /// Services across, clients down; each cell is the service's first port over both families.
    fn matrix(&self, seen: &[Seen]) -> anyhow::Result<()> {
        let matrix = shop::matrix();
        let served: Vec<Who> =
            EVERYBODY.into_iter().filter(|w| matrix.iter().any(|t| t.to == *w)).collect();
        let cell = |from: Who, to: Who| -> String {
            let Some(talk) = matrix.iter().find(|t| (t.from, t.to) == (from, to)) else {
                return "-".into();
            };
            let passed: Vec<bool> =
                seen.iter().filter(|s| s.talk == *talk).map(|s| s.passed).collect();
            match (passed.iter().all(|p| *p), passed.iter().any(|p| *p)) {
                (true, _) => self.colour.good("yes"),
                (false, true) => self.colour.bad("one"),
                (false, false) => self.colour.bad("."),
            }
        };
        let width = |text: &str| text.len();
        let names: Vec<String> = served.iter().map(ToString::to_string).map(short).collect();
        let first = EVERYBODY.iter().map(|w| width(&w.to_string())).max().unwrap_or(0);
        let mut text = format!("{:first$}", "from \\ to");
        for name in &names {
            text += &format!("  {name:>8}");
        }
        for from in EVERYBODY {
            text += &format!("\n{:first$}", from.to_string());
            for to in &served {
                let plain = match cell(from, *to) {
                    c if c.contains("yes") => 3,
                    c if c.contains("one") => 3,
                    _ => 1,
                };
                text += &format!("  {}{}", " ".repeat(8 - plain), cell(from, *to));
            }
        }
        self.line(&text)
    }

    /// What the shop needs and does not get, who is to blame, and what worked before.
    fn needed(&self, seen: &[Seen], before: &[Seen]) -> anyhow::Result<()> {
        let broken: Vec<&Seen> = seen
            .iter()
            .filter(|s| shop::NEEDED.contains(&s.talk) && !s.passed && s.to.is_ipv4())
            .collect();
        if broken.is_empty() {
            return self
                .line(&format!("{} everything that the shop needs works", self.colour.good("ok")));
        }
        for s in &broken {
            let worked = before.iter().any(|b| b.talk == s.talk && b.to == s.to && b.passed);
            let since = if worked { " (worked before)" } else { "" };
            self.line(&format!("{} {}{since}", self.colour.bad("broken"), s.text()))?;
            for (side, direction) in
                [(&s.answer.egress, "egress of"), (&s.answer.ingress, "ingress of")]
            {
                if let (false, Some(pod)) = (side.allowed, &side.pod) {
                    let policies: Vec<String> = side.by.iter().map(Place::to_string).collect();
                    let policies = policies.join(", ");
                    self.line(&format!(
                        "       {direction} {pod}: isolated by {policies}, and no rule there \
                         allows it"
                    ))?;
                }
            }
        }
        Ok(())
    }
}

/// `orders/postgres` is `postgres` at the head of a narrow column.
fn short(name: String) -> String {
    let name = name.rsplit('/').next().unwrap_or_default();
    name.chars().take(8).collect()
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
