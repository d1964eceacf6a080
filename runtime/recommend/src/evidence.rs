//! What flows say together: who had contact with whom, how often, and what became of it.
//!
//! Flows may come from several nodes and in any order; each is about one pod, the one for which the
//! packet was judged, and is added to what is known of the same contact. Not here: what follows
//! from a contact ([`crate::need`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use netpolc_flow::{Flow, Kind, Peer, Verdict, line::Line};
use netpolc_kube_sync::{cron_job, is_dns_subdomain};
use netpolc_policy::{Direction, Labels, ObjectKey, Owner, OwnerKind, oracle::Transport};

/// How many different contacts are kept; what exceeds that is counted.
const MAX_CONTACTS: usize = 1 << 20;
/// The first of the ports that Linux gives to whoever asks for none (ip_local_port_range).
pub(crate) const FIRST_EPHEMERAL: u16 = 32768;
/// How many addresses of a pod are kept: a pod has one of each family.
const MAX_ADDRESSES: usize = 8;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub(crate) contacts: BTreeMap<Contact, Counts>,
    /// The pods that flows name at either end, as they were last.
    pub(crate) pods: BTreeMap<ObjectKey, Appearance>,
    /// The nodes whose flows these are.
    pub(crate) nodes: BTreeSet<Arc<str>>,
    /// Directions of pods in which a policy, enforced or only tried, was seen to decide.
    pub(crate) policed: BTreeSet<(ObjectKey, Direction)>,
    pub(crate) first: Option<u64>,
    pub(crate) last: u64,
    pub(crate) flows: u64,
    /// Flows that are missing, since somebody was too slow.
    pub(crate) lost: u64,
    /// Packets that were counted and have no flow, by pod.
    pub(crate) unrecorded: BTreeMap<Arc<str>, u64>,
    /// Flows that say nothing here: no pod is known, or a name is none.
    pub(crate) unusable: u64,
    /// Flows of contacts for which there was no room.
    pub(crate) crowded: u64,
}

/// A pod and somebody else, and what they had to do with each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Contact {
    pub pod: ObjectKey,
    pub direction: Direction,
    pub remote: Remote,
    pub address: Option<IpAddr>,
    pub protocol: Transport,
    /// The destination's port.
    pub port: Option<u16>,
    /// The sender's port, where the packet may be an answer that came late: a datagram to a port
    /// that nobody chose.
    pub answer_of: Option<u16>,
    /// The node that judged, which is the pod's own.
    pub node: Arc<str>,
}

/// The other end of a contact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remote {
    Pod(ObjectKey),
    Service(ObjectKey),
    Node(Arc<str>),
    /// Nobody that the node knew.
    Address,
}

/// How often a contact was seen, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections that were opened.
    pub allowed: u64,
    /// Of these, those that a rule permitted.
    pub by_rule: u64,
    /// Packets that what is tried would have judged otherwise.
    pub audit: u64,
    /// Packets that policies have denied.
    pub denied: u64,
    /// The policies that denied them.
    pub denied_by: BTreeSet<String>,
    /// When it was first and last seen.
    pub first: u64,
    pub last: u64,
}

impl Counts {
    /// Packets that passed. A packet that passed and would not have is in two flows.
    pub fn passed(&self) -> u64 {
        // Where policies deny it, what would be otherwise is that it passes.
        let audit = if self.denied > 0 { 0 } else { self.audit };
        self.allowed.max(audit)
    }
}

/// A pod as a flow names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Appearance {
    pub at: u64,
    pub owner: Option<Owner>,
    pub labels: Labels,
    pub node: Option<Arc<str>>,
    pub addresses: BTreeSet<IpAddr>,
}

impl Evidence {
    /// Adds a line of an agent or of a log.
    pub fn take(&mut self, line: &Line) {
        match line {
            Line::Flow(flow) => self.flow(flow),
            Line::Lost(count) => self.lost += count,
            Line::Unrecorded(all) => {
                for one in all.iter().filter(|one| one.pod.is_some()) {
                    let pod = one.pod.clone().unwrap_or_default();
                    *self.unrecorded.entry(pod).or_default() += one.packets;
                }
            }
            Line::Live(_) | Line::Error(_) => {}
        }
    }

    /// Adds a flow.
    pub fn flow(&mut self, flow: &Flow) {
        self.flows += 1;
        self.nodes.insert(flow.node.clone());
        self.first = Some(self.first.unwrap_or(flow.time).min(flow.time));
        self.last = self.last.max(flow.time);
        let (own, other) = match flow.direction {
            Direction::Ingress => (&flow.destination, &flow.source),
            Direction::Egress => (&flow.source, &flow.destination),
        };
        let (Some(pod), Some(remote), Some(protocol)) =
            (flow.pod.as_deref().and_then(key), remote(other), protocol(&flow.protocol))
        else {
            self.unusable += 1;
            return;
        };
        self.appears(&pod, own, flow);
        if let Remote::Pod(key) = &remote {
            self.appears(key, other, flow);
        }
        if flow.by.iter().any(|one| isolates(one.kind)) {
            self.policed.insert((pod.clone(), flow.direction));
        }
        let may_answer = protocol == Transport::Udp
            && flow.destination.port.is_some_and(|port| port >= FIRST_EPHEMERAL);
        let contact = Contact {
            pod,
            direction: flow.direction,
            remote,
            address: other.address,
            protocol,
            port: flow.destination.port,
            answer_of: flow.source.port.filter(|_| may_answer),
            node: flow.node.clone(),
        };
        if self.contacts.len() >= MAX_CONTACTS && !self.contacts.contains_key(&contact) {
            self.crowded += 1;
            return;
        }
        let counts = self
            .contacts
            .entry(contact)
            .or_insert_with(|| Counts { first: flow.time, ..Counts::default() });
        counts.first = counts.first.min(flow.time);
        counts.last = counts.last.max(flow.time);
        match flow.verdict {
            Verdict::Allowed => {
                counts.allowed += 1;
                counts.by_rule += u64::from(flow.by.iter().any(|one| one.rule.is_some()));
            }
            Verdict::Audit => counts.audit += 1,
            // A protection that drops a packet says nothing about what is needed.
            Verdict::Denied if flow.reason.as_deref() == Some("policy") => {
                counts.denied += 1;
                if counts.denied_by.len() < 4 {
                    counts.denied_by.extend(flow.policies());
                }
            }
            Verdict::Denied => {}
        }
    }

    /// A pod stands at this end of a flow.
    fn appears(&mut self, key: &ObjectKey, peer: &Peer, flow: &Flow) {
        let known = self.pods.entry(key.clone()).or_default();
        if known.addresses.len() < MAX_ADDRESSES {
            known.addresses.extend(peer.address);
        }
        if flow.time >= known.at && peer.pod.is_some() {
            known.at = flow.time;
            known.owner = peer.workload.as_deref().and_then(owner);
            known.labels = peer.labels.clone();
            known.node = peer.node.clone();
        }
    }

    /// How many flows were added.
    pub fn flows(&self) -> u64 {
        self.flows
    }
}

/// Does an object of this kind isolate pods?
fn isolates(kind: Kind) -> bool {
    match kind {
        Kind::NetworkPolicy | Kind::StagedKubernetesNetworkPolicy | Kind::IsolatedByDefault => true,
        Kind::ClusterNetworkPolicy | Kind::SecurityGroup | Kind::Implied => false,
    }
}

/// `namespace/name`; None where that is no name of an object.
fn key(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/')?;
    (is_dns_subdomain(namespace) && is_dns_subdomain(name)).then(|| ObjectKey::new(namespace, name))
}

/// Who is at this end; None where nobody can be told.
fn remote(peer: &Peer) -> Option<Remote> {
    match (&peer.pod, &peer.service, &peer.node) {
        (Some(pod), ..) => key(pod).map(Remote::Pod),
        (None, Some(service), _) => key(service).map(Remote::Service),
        (None, None, Some(node)) => Some(Remote::Node(node.clone())),
        (None, None, None) => peer.address.map(|_| Remote::Address),
    }
}

/// `Deployment web`. The Jobs of a CronJob are its runs.
fn owner(text: &str) -> Option<Owner> {
    let (kind, name) = text.split_once(' ')?;
    let is_kind = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_kind || !is_dns_subdomain(name) {
        return None;
    }
    Some(match (OwnerKind::named(kind), cron_job(name)) {
        (OwnerKind::Job, Some(cron)) => Owner { kind: OwnerKind::CronJob, name: cron.into() },
        (kind, _) => Owner { kind, name: name.into() },
    })
}

fn protocol(text: &str) -> Option<Transport> {
    Some(match text {
        "TCP" => Transport::Tcp,
        "UDP" => Transport::Udp,
        "SCTP" => Transport::Sctp,
        "ICMP" => Transport::Other(1),
        "ICMPv6" => Transport::Other(58),
        other => Transport::from_number(other.strip_prefix("protocol-")?.parse().ok()?),
    })
}
