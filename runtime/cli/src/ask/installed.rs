//! What the tables in this node's kernel say, with the names that the agent's record gives.
//!
//! Here: reading them, whose endpoints they have, and what they make of one packet. Not here: what
//! policies say ([`super::story`]), and whether both agree (`netpolc verify`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use netpolc_agent::serve::record::Record;
use netpolc_analyze::compare::pipeline;
use netpolc_kube_sync::Survey;
use netpolc_policy::{
    AddressBook, Cluster, Direction, Grouping, Labels, Namespace, ObjectKey, Phase, Pod,
    PodNetwork, oracle,
};
use netpolc_table::{
    EndpointId, Program, TableId,
    eval::{self, Decision, Pipeline, Verdict},
    schema::{EndpointKey, Family, OwnKey},
    text,
};
use netpolc_target::Target as _;
use netpolc_target_ebpf::Ebpf;
use serde::Serialize;

use super::{
    end::End,
    port::Port,
    story::{self, Asked},
};

/// The tables that this node's kernel holds.
pub struct Installed {
    /// The node's name, where the agent has left its record.
    pub node: Option<String>,
    /// The tables.
    pub program: Program,
    /// The pods' names by endpoint, as the record has them.
    pub pods: BTreeMap<EndpointId, ObjectKey>,
    addresses: BTreeMap<EndpointId, BTreeSet<IpAddr>>,
}

/// What the tables say of a packet at one of its ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstalledSide {
    /// Whether the end sends or receives.
    pub direction: Direction,
    /// The pod, or the number of the endpoint where no record names it.
    pub end: String,
    /// Do the tables permit the packet?
    pub allowed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// The entries that were found, one for each table that was asked.
    pub entries: Vec<String>,
}

/// What the tables say of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstalledStory {
    /// Who opens the connection.
    pub source: String,
    /// Who answers it.
    pub destination: String,
    /// Protocol and port at the destination, such as `TCP 80`.
    pub traffic: String,
    /// Do the tables of this node permit it, at each end that is a pod of this node?
    pub allowed: bool,
    /// Those ends; empty where none is a pod of this node.
    pub sides: Vec<InstalledSide>,
    /// What the policies of the input say of these ends; None without an input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies_allow: Option<bool>,
}

impl Installed {
    /// Reads the tables that are pinned in `pin_dir`.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    pub fn read(pin_dir: &Path) -> anyhow::Result<Self> {
        let ebpf = Ebpf::observe(pin_dir)
            .and_then(|found| found.map(|ebpf| ebpf.read()).transpose())
            .context("the installed tables cannot be read")?;
        let program = ebpf.with_context(|| {
            format!(
                "no tables are pinned in {}, so nothing is enforced by eBPF here; start the agent, \
                 or name the folder by --pin-dir",
                pin_dir.display()
            )
        })?;
        Ok(Self::of(program, Record::read(pin_dir).as_ref()))
    }

    /// These tables, with the names of an agent's record.
    pub fn of(program: Program, record: Option<&Record>) -> Self {
        let recorded = record.iter().flat_map(|record| &record.pods);
        let named = recorded.filter_map(|pod| {
            let (namespace, name) = pod.pod.split_once('/')?;
            Some((pod.endpoint, ObjectKey::new(namespace, name)))
        });
        let mut addresses: BTreeMap<EndpointId, BTreeSet<IpAddr>> = BTreeMap::new();
        for key in program.table(TableId::Endpoint).entries.keys() {
            addresses.entry(EndpointKey::of(key).endpoint).or_default();
        }
        for family in Family::BOTH {
            for key in program.table(TableId::own(family)).entries.keys() {
                let OwnKey { endpoint, address } = OwnKey::of(family, key);
                addresses.entry(endpoint).or_default().insert(address);
            }
        }
        let pods = named.filter(|(endpoint, _)| addresses.contains_key(endpoint)).collect();
        Self { node: record.map(|record| record.node.clone()), program, pods, addresses }
    }

    /// The endpoints that the tables have, with the addresses that each may send from.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointId, &BTreeSet<IpAddr>)> {
        self.addresses.iter().map(|(endpoint, addresses)| (*endpoint, addresses))
    }

    /// What an endpoint is called.
    pub fn name(&self, endpoint: EndpointId) -> String {
        self.pods.get(&endpoint).map_or(format!("endpoint {endpoint}"), ToString::to_string)
    }

    /// As much of a cluster as the tables and the record know: the node's pods with their
    /// addresses.
    pub fn survey(&self) -> Survey {
        let node: Option<Arc<str>> = self.node.as_deref().map(Arc::from);
        let mut cluster = Cluster::default();
        for (endpoint, key) in &self.pods {
            let addresses = self.addresses[endpoint].iter().copied().collect();
            let pod = Pod {
                key: key.clone(),
                uid: None,
                node: node.clone(),
                labels: Labels::default(),
                addresses,
                network: PodNetwork::Own,
                phase: Phase::Active,
                ports: Vec::new(),
                grouping: Grouping::default(),
                owner: None,
            };
            cluster.namespaces.insert(key.namespace.clone(), Namespace::default());
            cluster.pods.insert(key.clone(), pod);
        }
        let book = AddressBook::of(&cluster);
        let mut survey = Survey { book, ..Survey::default() };
        survey.loaded.cluster = cluster;
        survey
    }

    /// What the tables say of the packets that are meant. `policies` says whether the survey has
    /// what policies say, too.
    ///
    /// # Errors
    /// The question means nothing in this input.
    pub fn stories(
        &self,
        survey: &Survey,
        asked: &Asked,
        policies: Policies,
    ) -> anyhow::Result<Vec<InstalledStory>> {
        let is_one = |end: &End| !matches!(end, End::Block(_) | End::Internet);
        anyhow::ensure!(
            is_one(&asked.source) && is_one(&asked.destination),
            "--installed asks about single packets; name an address of the block"
        );
        anyhow::ensure!(
            !matches!(asked.port, Some(Port::Range(..)))
                && (asked.port.is_some() || asked.protocol.is_some()),
            "--installed asks about single packets; name one port, such as :80"
        );
        let packets = story::packets(survey, asked)?;
        let stories = packets.into_iter().map(|(question, source, destination, traffic)| {
            let sides = [Direction::Egress, Direction::Ingress].map(|direction| {
                let of_end = self.sides(&survey.loaded.cluster, direction, &question);
                // Whoever claims an address has to permit it (S16).
                of_end.into_iter().min_by_key(|side| side.allowed)
            });
            let judged = (policies == Policies::Known)
                .then(|| story::judged(survey, &question))
                .map(|judged| {
                    let of = [&judged.egress, &judged.ingress];
                    let mut here = sides.iter().zip(of).filter(|(side, _)| side.is_some());
                    here.all(|(_, judged)| judged.reason.allows())
                });
            let sides: Vec<InstalledSide> = sides.into_iter().flatten().collect();
            let allowed = sides.iter().all(|side| side.allowed);
            let policies_allow = judged.filter(|_| !sides.is_empty());
            let source = with_address(source, question.source.address());
            let destination = with_address(destination, question.destination.address());
            InstalledStory { source, destination, traffic, allowed, sides, policies_allow }
        });
        Ok(stories.collect())
    }

    /// What the tables say at each endpoint that has the address of this end.
    fn sides(
        &self,
        cluster: &Cluster,
        direction: Direction,
        question: &oracle::Question,
    ) -> Vec<InstalledSide> {
        let (own, remote) = match direction {
            Direction::Egress => (question.source.address(), question.destination.address()),
            Direction::Ingress => (question.destination.address(), question.source.address()),
        };
        let here = self.endpoints().filter(|(_, addresses)| addresses.contains(&own));
        let sides = here.map(|(endpoint, addresses)| {
            let from_node = self.is_own_node(cluster, endpoint, remote);
            let side = |allowed, reason: String, entries| InstalledSide {
                direction,
                end: self.name(endpoint),
                allowed,
                reason,
                entries,
            };
            if addresses.contains(&remote) {
                return side(true, "a pod always reaches itself (S47)".into(), Vec::new());
            }
            let number = question.protocol.number();
            if direction == Direction::Egress && eval::is_tunnel(&self.program, number, None) {
                return side(false, "the protocol leads into a tunnel (S45)".into(), Vec::new());
            }
            let word = eval::word(&self.program, endpoint);
            let gated = from_node && Pipeline::Born.set(word).is_some();
            let pipeline = match direction {
                Direction::Ingress if gated => Pipeline::Born,
                _ => pipeline(direction),
            };
            let decide = |remote, port| {
                eval::decide(&self.program, pipeline, endpoint, remote, number, port)
            };
            // A packet to a Service is judged by its backend (S48), unless policies permit the
            // address itself.
            let via = question.via.filter(|_| direction == Direction::Egress);
            let before = via.map(|(address, port)| decide(address, Some(port)));
            let decision = match before {
                Some(decision) if decision.verdict != Verdict::Defer => decision,
                _ => decide(remote, question.port),
            };
            let isolated = pipeline.set(word);
            let allowed = match decision.verdict {
                Verdict::Permit => true,
                Verdict::Deny | Verdict::Defer => {
                    direction == Direction::Ingress && from_node && !gated
                }
            };
            let reason = match (isolated, decision.verdict) {
                (None, _) => "no set judges it: nothing isolates the pod".to_owned(),
                (Some(_), Verdict::Permit) => format!("table {} permits it", table(&decision)),
                (Some(_), Verdict::Deny) if allowed => {
                    "it comes from the pod's own node (S44)".to_owned()
                }
                (Some(_), Verdict::Deny) => format!("table {} denies it", table(&decision)),
                (Some(_), Verdict::Defer) => {
                    "this is the address of a Service; ask about the Service by name, or about a \
                     pod behind it"
                        .to_owned()
                }
            };
            side(allowed, reason, entries(&decision))
        });
        sides.collect()
    }

    /// Is this an address of the node on which the endpoint's pod is?
    fn is_own_node(&self, cluster: &Cluster, endpoint: EndpointId, remote: IpAddr) -> bool {
        let pod = self.pods.get(&endpoint).and_then(|key| cluster.pods.get(key));
        let node = pod.and_then(|pod| cluster.nodes.get(pod.node.as_ref()?));
        node.is_some_and(|node| node.addresses.contains(&remote))
    }
}

/// Does an input say what policies there are?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policies {
    /// It does.
    Known,
    /// Only the tables are known.
    Unknown,
}

/// An end with the address that is asked about.
fn with_address(name: String, address: IpAddr) -> String {
    let address = address.to_string();
    if name == address { name } else { format!("{name} ({address})") }
}

fn table(decision: &Decision) -> &'static str {
    decision.table.spec().name
}

/// The lookups of a decision, one line each.
fn entries(decision: &Decision) -> Vec<String> {
    let line = |step: &eval::Step| match &step.hit {
        Some((key, entry)) => {
            format!("{}: {}", step.table.spec().name, text::entry(step.table, key, entry).trim())
        }
        None => format!("{}: no entry, so its default action holds", step.table.spec().name),
    };
    decision.steps.iter().map(line).collect()
}
