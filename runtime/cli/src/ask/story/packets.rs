//! The packets that a question means: one for each pair of ends that some rule tells apart.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use netpolc_analyze::{
    Analysis, End as ClassEnd,
    list::is_public,
    nearest,
    region::Regions,
    traffic::TrafficSet,
    universe::{PodClassId, RemoteId},
};
use netpolc_kube_sync::Survey;
use netpolc_policy::{
    Cluster, IpFamily, ObjectKey, Pod,
    frontend::{self, PortChoice},
    oracle::{Party, Question, Transport},
};

use crate::ask::{end::End, port::Port};

/// A question, as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who opens the connection.
    pub source: End,
    /// Who answers.
    pub destination: End,
    /// The port at the destination; None: whichever.
    pub port: Option<Port>,
    /// The protocol; None: TCP where there is a port, and else whichever.
    pub protocol: Option<Transport>,
}

/// A packet that stands for all of which policies say the same.
pub(super) struct Meant {
    pub question: Question,
    pub source: String,
    pub destination: String,
    pub traffic: String,
    /// For how many pairs of ends it stands.
    pub pairs: usize,
}

/// Some of an end's pods or addresses, which stand for those that no rule tells apart from them.
#[derive(Clone)]
struct Sample {
    /// None: an address that is no pod's.
    pod: Option<ObjectKey>,
    addresses: Vec<IpAddr>,
    /// How many pods it stands for.
    count: usize,
}

impl Sample {
    fn name(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => self.addresses.first().map(IpAddr::to_string).unwrap_or_default(),
        }
    }

    fn address(&self, family: IpFamily) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| IpFamily::of(*address) == family)
    }

    fn party(&self, address: IpAddr) -> Party {
        match &self.pod {
            Some(pod) => Party::Pod(pod.clone(), address),
            None => Party::Address(address),
        }
    }
}

/// The packets that are meant.
///
/// # Errors
/// The question means nothing in this input.
pub(super) fn meant(survey: &Survey, asked: &Asked) -> anyhow::Result<Vec<Meant>> {
    if let End::Service(key) = &asked.source {
        anyhow::bail!("Service {key} opens no connections; ask about the pods behind it");
    }
    let mut asking = Asking { survey, analysis: None };
    let sources = asking.samples(&asked.source)?;
    let found = match &asked.destination {
        End::Service(key) => asking.through_service(&sources, key, asked)?,
        end => {
            let destinations = asking.samples(end)?;
            asking.between(&sources, &destinations, asked)?
        }
    };
    anyhow::ensure!(
        !found.is_empty(),
        "the two ends have no address family in common, or are one pod: there is nothing to judge"
    );
    Ok(found)
}

/// Works the packets of one question out.
struct Asking<'a> {
    survey: &'a Survey,
    /// Made only where several pods or ports are meant.
    analysis: Option<Analysis<'a>>,
}

impl<'a> Asking<'a> {
    fn cluster(&self) -> &'a Cluster {
        &self.survey.loaded.cluster
    }

    fn analysis(&mut self) -> &mut Analysis<'a> {
        let cluster = self.cluster();
        self.analysis.get_or_insert_with(|| Analysis::new(cluster))
    }

    fn samples(&mut self, end: &End) -> anyhow::Result<Vec<Sample>> {
        let outside = |address| Sample { pod: None, addresses: vec![address], count: 1 };
        Ok(match end {
            End::Pods(keys) => self.pods(keys)?,
            End::Address(address) => vec![outside(*address)],
            End::Block(block) => self.block(block).into_iter().map(outside).collect(),
            End::Internet => {
                let everything = ["0.0.0.0/0", "::/0"].map(|text| text.parse().expect("a prefix"));
                let all = everything.iter().flat_map(|block| self.public(block));
                all.map(outside).collect()
            }
            End::Node(name) => {
                let node = self.cluster().nodes.get(&**name);
                let addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
                anyhow::ensure!(!addresses.is_empty(), "Node {name} has no address in the input");
                vec![Sample { pod: None, addresses, count: 1 }]
            }
            End::Service(key) => anyhow::bail!("Service {key} is no sample"),
        })
    }

    /// A pod of each class, where there are several.
    fn pods(&mut self, keys: &[ObjectKey]) -> anyhow::Result<Vec<Sample>> {
        let cluster = self.cluster();
        let sample = |key: &ObjectKey, count| {
            let pod = &cluster.pods[key];
            let addresses = cluster.addresses(pod).to_vec();
            Sample { pod: Some(key.clone()), addresses, count }
        };
        let mut samples = Vec::new();
        if let [only] = keys {
            samples.push(sample(only, 1));
        } else {
            let mut seen: Vec<(Option<PodClassId>, usize)> = Vec::new();
            for key in keys {
                let class = self.analysis().universe().class_of(key);
                match seen.iter().find(|(known, _)| *known == class) {
                    Some((_, at)) => {
                        let known: &mut Sample = &mut samples[*at];
                        known.count += 1;
                    }
                    None => {
                        seen.push((class, samples.len()));
                        samples.push(sample(key, 1));
                    }
                }
            }
        }
        samples.retain(|sample| !sample.addresses.is_empty());
        anyhow::ensure!(
            !samples.is_empty(),
            "pod {} has no address in the input (status.podIPs is empty)",
            keys[0]
        );
        Ok(samples)
    }

    /// An address for each part of a block that some rule tells apart.
    fn block(&self, block: &IpNetwork) -> Vec<IpAddr> {
        let regions = Regions::beside(self.cluster(), block);
        let within = regions.ids().filter(|region| regions.is_within(*region, block));
        let first = |region| {
            let addresses = regions.addresses(&BTreeSet::from([region]));
            addresses.first().map(|prefix| prefix.network())
        };
        within.filter_map(first).collect()
    }

    /// The same of addresses that the internet routes.
    fn public(&self, block: &IpNetwork) -> Vec<IpAddr> {
        let regions = Regions::beside(self.cluster(), block);
        let within = regions.ids().filter(|region| regions.is_within(*region, block));
        let first = |region| {
            let addresses = regions.addresses(&BTreeSet::from([region]));
            let public = addresses.into_iter().filter(is_public).map(|prefix| prefix.network());
            // The first address of all is none that anybody has.
            public
                .map(|address| match address {
                    IpAddr::V4(a) if a.is_unspecified() => IpAddr::from([1, 1, 1, 1]),
                    other => other,
                })
                .next()
        };
        within.filter_map(first).filter(|address| !address.is_unspecified()).collect()
    }

    fn between(
        &mut self,
        sources: &[Sample],
        destinations: &[Sample],
        asked: &Asked,
    ) -> anyhow::Result<Vec<Meant>> {
        let cluster = self.cluster();
        let pods: Vec<&Pod> =
            destinations.iter().filter_map(|d| cluster.pods.get(d.pod.as_ref()?)).collect();
        let traffic = match (&asked.port, asked.protocol) {
            (Some(port), protocol) => port.traffic(protocol, &pods)?,
            (None, Some(protocol)) => TrafficSet::protocol(protocol.number()),
            (None, None) => TrafficSet::everything(),
        };
        let mut found = Vec::new();
        for source in sources {
            for destination in destinations {
                if source.pod.is_some() && source.pod == destination.pod && source.count == 1 {
                    continue;
                }
                for family in IpFamily::BOTH {
                    let ends = (source.address(family), destination.address(family));
                    let (Some(from), Some(to)) = ends else { continue };
                    for (number, port) in self.packets(&traffic, (source, from), (destination, to))
                    {
                        let is_home =
                            !matches!((number, family), (1, IpFamily::V6) | (58, IpFamily::V4));
                        let protocol = Transport::from_number(number);
                        let has_port = protocol.protocol().is_some();
                        let port = has_port.then_some(port);
                        found.extend(is_home.then(|| Meant {
                            question: Question {
                                source: source.party(from),
                                destination: destination.party(to),
                                protocol,
                                port,
                                via: None,
                            },
                            source: source.name(),
                            destination: destination.name(),
                            traffic: nearest::asked(number, port),
                            pairs: source.count * destination.count,
                        }));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Packets of this traffic on which policies say different things: one that passes and one that
    /// does not, where there are both.
    fn packets(
        &mut self,
        traffic: &TrafficSet,
        (source, from): (&Sample, IpAddr),
        (destination, to): (&Sample, IpAddr),
    ) -> Vec<(u8, u16)> {
        let mut one = traffic.singles(9);
        if let Some(packets) = one.take() {
            return packets;
        }
        let cluster = self.cluster();
        let pod = destination.pod.as_ref().and_then(|key| cluster.pods.get(key));
        let permitted = self.permitted((source, from), (destination, to));
        let (here, not_here) = (traffic.intersection(&permitted), traffic.minus(&permitted));
        let prefer = |set: &TrafficSet| {
            let ports = pod.into_iter().flat_map(|pod| &pod.ports);
            let mut own = ports.map(|port| (port.protocol.number(), port.number));
            let own = own.find(|(protocol, port)| set.contains(*protocol, *port));
            let usual = [(6, 80), (6, 443), (17, 53)].into_iter();
            let usual = || usual.clone().find(|(protocol, port)| set.contains(*protocol, *port));
            own.or_else(usual).or_else(|| set.example())
        };
        [prefer(&here), prefer(&not_here)].into_iter().flatten().collect()
    }

    /// What passes between two samples.
    fn permitted(
        &mut self,
        (source, from): (&Sample, IpAddr),
        (destination, to): (&Sample, IpAddr),
    ) -> TrafficSet {
        let family = IpFamily::of(to);
        let analysis = self.analysis();
        let end = |sample: &Sample, address: IpAddr, analysis: &Analysis<'_>| {
            let class = sample.pod.as_ref().and_then(|key| analysis.universe().class_of(key));
            let remote = || -> RemoteId { analysis.universe().remote_at(address) };
            class.map_or_else(|| ClassEnd::Elsewhere(remote()), ClassEnd::Pods)
        };
        let (source, destination) = (end(source, from, analysis), end(destination, to, analysis));
        let passing = analysis.between(source, destination, family);
        passing.map(|id| analysis.traffic(id).clone()).unwrap_or_default()
    }

    fn through_service(
        &mut self,
        sources: &[Sample],
        key: &ObjectKey,
        asked: &Asked,
    ) -> anyhow::Result<Vec<Meant>> {
        let choice = match &asked.port {
            None => PortChoice::All,
            Some(Port::Number(number)) => PortChoice::Number(*number),
            Some(Port::Name(name)) => PortChoice::named(name),
            Some(Port::Range(..)) => {
                anyhow::bail!("Service {key}: name one of its ports by number or name, or none")
            }
        };
        let backends = frontend::backends(self.cluster(), &self.survey.frontends, key, &choice)?;
        let mut found = Vec::new();
        for source in sources {
            for backend in &backends {
                let protocol = Transport::from(backend.frontend.protocol);
                if asked.protocol.is_some_and(|asked| asked != protocol) {
                    continue;
                }
                let family = IpFamily::of(backend.address);
                let Some(from) = source.address(family) else { continue };
                let destination = match &backend.pod {
                    Some(pod) => Party::Pod(pod.clone(), backend.address),
                    None => Party::Address(backend.address),
                };
                let name =
                    backend.pod.as_ref().map_or(backend.address.to_string(), |p| p.to_string());
                found.push(Meant {
                    question: Question {
                        source: source.party(from),
                        destination,
                        protocol,
                        port: Some(backend.port),
                        via: backend.via,
                    },
                    source: source.name(),
                    destination: name,
                    traffic: nearest::asked(protocol.number(), Some(backend.port)),
                    pairs: source.count,
                });
            }
        }
        Ok(found)
    }
}
