//! Denied traffic in few words, for Events about pods: packets that are alike are told of together,
//! and only so often.
//!
//! Packets are alike that one pod would have received from, or has sent to, the pods of one
//! workload, by one protocol and port. A pod, a minute and an agent have budgets, so neither a scan
//! of ports nor a flood makes many Events. Not here: Events themselves (`netpolc-kube-sync`).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_flow::{Flow, Peer, Verdict};
use netpolc_policy::{Direction, ObjectKey};

/// What of denied traffic is told of at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long what was told of is not told of again.
    pub interval: Duration,
    /// How long packets are counted until they are told of for the first time.
    pub settle: Duration,
    /// How many Events there may be in a minute.
    pub per_minute: usize,
    /// How many kinds of traffic of one pod are told of in an interval.
    pub per_pod: usize,
    /// How many are known in all.
    pub most: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(600),
            settle: Duration::from_secs(2),
            per_minute: 10,
            per_pod: 4,
            most: 1024,
        }
    }
}

/// What is to be said about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The pod for which packets were denied.
    pub pod: ObjectKey,
    /// Which, and why.
    pub note: String,
    /// How many.
    pub packets: u64,
}

/// What is known of denied traffic.
#[derive(Debug)]
pub struct Denials {
    limits: Limits,
    known: BTreeMap<Traffic, Count>,
    /// When the present minute began, and how many Events it has.
    minute: Option<(Instant, usize)>,
    suppressed: u64,
}

/// Packets that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traffic {
    pod: Arc<str>,
    direction: Direction,
    /// The workload at the other end; None for addresses of nothing that is known, which are
    /// whatever the sender likes.
    peer: Option<String>,
    what: String,
}

#[derive(Debug)]
struct Count {
    packets: u64,
    /// Since when they were counted.
    since: Instant,
    /// When they were last told of.
    told: Option<Instant>,
    /// The last address, and why.
    address: String,
    why: String,
}

impl Denials {
    /// Nothing is known yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, known: BTreeMap::new(), minute: None, suppressed: 0 }
    }

    /// Counts what was denied.
    pub fn take(&mut self, flows: &[Flow], now: Instant) {
        for flow in flows.iter().filter(|flow| flow.verdict == Verdict::Denied) {
            let Some((traffic, address)) = Traffic::of(flow) else { continue };
            let why = flow.decided();
            let why = if why.is_empty() { flow.why() } else { why.join(", ") };
            if let Some(count) = self.known.get_mut(&traffic) {
                count.packets += 1;
                (count.address, count.why) = (address, why);
            } else if self.has_room(&traffic) {
                let count = Count { packets: 1, since: now, told: None, address, why };
                self.known.insert(traffic, count);
            } else {
                self.suppressed += 1;
            }
        }
    }

    fn has_room(&self, traffic: &Traffic) -> bool {
        let first = Traffic { direction: Direction::Ingress, peer: None, ..traffic.clone() };
        let first = Traffic { what: String::new(), ..first };
        let of_pod = self.known.range(first..).take_while(|(one, _)| one.pod == traffic.pod);
        self.known.len() < self.limits.most && of_pod.count() < self.limits.per_pod
    }

    /// What is to be said now.
    pub fn due(&mut self, now: Instant) -> Vec<Denial> {
        let Limits { interval, settle, per_minute, .. } = self.limits;
        let (began, mut said) = self.minute.unwrap_or((now, 0));
        let is_over = now.duration_since(began) >= Duration::from_secs(60);
        let began = if is_over { now } else { began };
        if is_over {
            said = 0;
        }
        let mut due = Vec::new();
        self.known.retain(|traffic, count| {
            let since = now.duration_since(count.told.unwrap_or(count.since));
            if since < count.told.map_or(settle, |_| interval) {
                return true;
            }
            if count.packets == 0 {
                return false;
            }
            if said == per_minute {
                // It waits for the next minute.
                return true;
            }
            said += 1;
            due.extend(traffic.denial(count, now));
            (count.packets, count.since, count.told) = (0, now, Some(now));
            true
        });
        self.minute = Some((began, said));
        due
    }

    /// How many packets since the last call no Event will tell of.
    pub fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

impl Traffic {
    /// With the address at the other end; None where the pod is not known.
    fn of(flow: &Flow) -> Option<(Self, String)> {
        let other = match flow.direction {
            Direction::Ingress => &flow.source,
            Direction::Egress => &flow.destination,
        };
        let what = match (flow.destination.port, flow.icmp) {
            (Some(port), _) => format!("{} {port}", flow.protocol),
            (None, Some([kind, _])) => format!("{} type {kind}", flow.protocol),
            (None, None) => flow.protocol.to_string(),
        };
        let address = other.address.map_or("an unknown address".into(), |a| a.to_string());
        let (pod, direction) = (flow.pod.clone()?, flow.direction);
        Some((Self { pod, direction, peer: known(other), what }, address))
    }

    fn denial(&self, count: &Count, now: Instant) -> Option<Denial> {
        let (namespace, name) = self.pod.split_once('/')?;
        let peer = match &self.peer {
            Some(peer) => peer.clone(),
            None => format!("{} (perhaps among others)", count.address),
        };
        let (what, packets) = (&self.what, count.packets);
        let ends = match self.direction {
            Direction::Ingress => format!("ingress from {peer} to {what}"),
            Direction::Egress => format!("egress to {peer}, {what},"),
        };
        let (plural, seconds) =
            (if packets == 1 { "" } else { "s" }, now.duration_since(count.since).as_secs().max(1));
        let why = &count.why;
        let note = format!("{ends} denied: {why} ({packets} packet{plural} in {seconds} s)");
        Some(Denial { pod: ObjectKey::new(namespace, name), note, packets })
    }
}

/// The workload, or what else an end is known as; None for a mere address.
fn known(peer: &Peer) -> Option<String> {
    let workload = peer.workload.as_deref().and_then(|workload| workload.split_once(' '));
    match (workload, peer.namespace()) {
        (Some((_, name)), Some(namespace)) => Some(format!("{namespace}/{name}")),
        _ if peer.pod.is_some() || peer.service.is_some() || peer.node.is_some() => {
            Some(peer.told())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netpolc_flow::{Decider, Kind};

    use super::*;

    fn flow(pod: &str, from: &str, port: u16) -> Flow {
        let mut source = Peer { address: from.parse().ok(), ..Peer::default() };
        if source.address.is_none() {
            source.pod = Some(format!("shop/{from}-6d5f").into());
            source.workload = Some(format!("Deployment {from}").into());
        }
        Flow {
            time: 0,
            node: "n1".into(),
            verdict: Verdict::Denied,
            reason: Some("policy".into()),
            direction: Direction::Ingress,
            pod: Some(pod.into()),
            source,
            destination: Peer { port: Some(port), ..Peer::default() },
            protocol: "TCP".into(),
            tcp_flags: None,
            icmp: None,
            by: vec![Decider::whole(Kind::NetworkPolicy, "data/db")],
            bytes: 60,
        }
    }

    fn notes(denials: &mut Denials, at: Instant) -> Vec<String> {
        denials
            .due(at)
            .into_iter()
            .map(|denial| format!("{}: {}", denial.pod, denial.note))
            .collect()
    }

    #[test]
    fn what_is_alike_is_told_of_together_and_not_again_for_a_while() {
        let (mut denials, start) = (Denials::new(Limits::default()), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let allowed = Flow { verdict: Verdict::Allowed, ..flow("data/db-0", "ui", 5432) };
        denials.take(&[flow("data/db-0", "ui", 5432), allowed], start);
        assert_eq!(notes(&mut denials, after(1)), [] as [String; 0]);
        denials.take(&vec![flow("data/db-0", "ui", 5432); 11], after(4));
        let first = "data/db-0: ingress from shop/ui to TCP 5432 denied: isolated by data/db";
        assert_eq!(notes(&mut denials, after(5)), [format!("{first} (12 packets in 5 s)")]);
        denials.take(&[flow("data/db-0", "ui", 5432)], after(100));
        assert_eq!(notes(&mut denials, after(604)), [] as [String; 0]);
        assert_eq!(notes(&mut denials, after(605)), [format!("{first} (1 packet in 600 s)")]);
        // What has ended is forgotten.
        assert_eq!(notes(&mut denials, after(1205)), [] as [String; 0]);
        assert!(denials.known.is_empty());
        let mut out = flow("shop/ui", "198.51.100.7", 443);
        std::mem::swap(&mut out.source.address, &mut out.destination.address);
        out.direction = Direction::Egress;
        denials.take(&[out], after(1300));
        let told = notes(&mut denials, after(1310));
        let expected = "egress to 198.51.100.7 (perhaps among others), TCP 443, denied: ";
        assert!(told[0].contains(expected), "{told:?}");
    }

    /// Neither many addresses nor many ports nor many pods make many Events, and one pod leaves
    /// room for others.
    #[test]
    fn budgets_hold_for_a_pod_a_minute_and_in_all() {
        let limits = Limits { most: 30, ..Limits::default() };
        let (mut denials, start) = (Denials::new(limits), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        for number in 0..1000 {
            let from = format!("203.0.113.{}", number % 250);
            denials.take(&[flow("data/db-0", &from, 5432)], start);
            denials.take(&[flow("data/db-0", "ui", number)], start);
        }
        assert_eq!(denials.known.len(), limits.per_pod);
        assert_eq!(denials.take_suppressed(), 1000 - 3);
        for number in 0..100 {
            denials.take(&[flow(&format!("data/p{number}"), "ui", 5432)], start);
        }
        assert_eq!(denials.known.len(), 30);
        assert_eq!(denials.take_suppressed(), 100 - 26);
        let told = [5, 10, 59, 66, 70, 127, 200].map(|at| denials.due(after(at)).len());
        assert_eq!(told, [10, 0, 0, 10, 0, 10, 0]);
        assert_eq!(denials.due(after(700)).len(), 0, "nothing new");
    }
}
