//! The packets that a question means: one for each pair of ends that some rule tells apart.
//!
//! Not here: the ends ([`super::samples`]).

use std::net::IpAddr;

use netpolc_analyze::{
    Analysis, End as ClassEnd, nearest, traffic::TrafficSet, universe::RemoteId,
};
use netpolc_kube_sync::Survey;
use netpolc_policy::{
    IpFamily, ObjectKey, Pod,
    frontend::{self, Backend, PortChoice},
    oracle::{Question, Transport},
};

use super::samples::{Asking, Member, Pair, Sample, is_one_pod};
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
    /// The one of the Service's addresses that is asked about; None: whichever.
    pub via: Option<IpAddr>,
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

/// The packets that are meant.
///
/// # Errors
/// The question means nothing in this input.
pub(super) fn meant(survey: &Survey, asked: &Asked) -> anyhow::Result<Vec<Meant>> {
    if let End::Service(key) = &asked.source {
        anyhow::bail!("Service {key} opens no connections; ask about the pods behind it");
    }
    let mut asking = Asking::new(survey);
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
        "the two ends have no address family in common: there is nothing to judge"
    );
    Ok(found)
}

impl Asking<'_> {
    fn between(
        &mut self,
        sources: &[Sample],
        destinations: &[Sample],
        asked: &Asked,
    ) -> anyhow::Result<Vec<Meant>> {
        let cluster = self.cluster();
        let members = destinations.iter().flat_map(|sample| &sample.members);
        let pods: Vec<&Pod> =
            members.filter_map(|member| cluster.pods.get(member.pod.as_ref()?)).collect();
        let traffic = match (&asked.port, asked.protocol) {
            (Some(port), protocol) => port.traffic(protocol, &pods)?,
            (None, Some(protocol)) => TrafficSet::protocol(protocol.number()),
            (None, None) => TrafficSet::everything(),
        };
        let mut found = Vec::new();
        for (source, destination, pairs) in self.all_pairs(sources, destinations) {
            for family in IpFamily::BOTH {
                let ends = (source.address(family), destination.address(family));
                let (Some(from), Some(to)) = ends else { continue };
                for (number, port) in self.packets(&traffic, (source, from), (destination, to)) {
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
                        pairs,
                    }));
                }
            }
        }
        Ok(found)
    }

    /// The pairs that stand for all pairs of these ends. One pod at both ends is the only pair of a
    /// pod and itself that anybody asks about.
    fn all_pairs<'s>(&self, sources: &'s [Sample], destinations: &'s [Sample]) -> Vec<Pair<'s>> {
        if is_one_pod(sources, destinations) {
            return vec![(&sources[0].members[0], &destinations[0].members[0], 1)];
        }
        let of = |source| destinations.iter().flat_map(move |other| self.pairs(source, other));
        sources.iter().flat_map(of).collect()
    }

    /// Packets of this traffic on which policies say different things: one that passes and one that
    /// does not, where there are both.
    fn packets(
        &mut self,
        traffic: &TrafficSet,
        (source, from): (&Member, IpAddr),
        (destination, to): (&Member, IpAddr),
    ) -> Vec<(u8, u16)> {
        let mut one = traffic.singles(9);
        if let Some(packets) = one.take() {
            return packets;
        }
        let cluster = self.cluster();
        let pod = destination.pod.as_ref().and_then(|key| cluster.pods.get(key));
        let permitted = match source.is(destination) {
            true => traffic.clone(),
            false => self.permitted((source, from), (destination, to)),
        };
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
        (source, from): (&Member, IpAddr),
        (destination, to): (&Member, IpAddr),
    ) -> TrafficSet {
        let family = IpFamily::of(to);
        let analysis = self.analysis();
        let end = |member: &Member, address: IpAddr, analysis: &Analysis<'_>| {
            let class = member.pod.as_ref().and_then(|key| analysis.universe().class_of(key));
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
        let is_asked = |backend: &&Backend| {
            asked.protocol.is_none_or(|asked| asked == Transport::from(backend.frontend.protocol))
                && asked.via.is_none_or(|via| via.is_ipv4() == backend.address.is_ipv4())
        };
        let (behind, destinations): (Vec<Backend>, Vec<Sample>) = backends
            .iter()
            .filter(is_asked)
            .map(|backend| {
                let (pod, addresses) = (backend.pod.clone(), vec![backend.address]);
                (backend.clone(), Sample::of(Member::new(self.cluster(), pod, addresses)))
            })
            .unzip();
        if behind.is_empty() {
            let mut ports: Vec<String> =
                backends.iter().map(|backend| backend.frontend.to_string()).collect();
            ports.dedup();
            let protocol = asked.protocol.map(|asked| nearest::asked(asked.number(), None));
            anyhow::bail!(
                "Service {key} has no such port for {}, but {}",
                protocol.unwrap_or_default(),
                ports.join(", ")
            );
        }
        let of_one_pod = is_one_pod(sources, &destinations);
        let mut found = Vec::new();
        for source in sources {
            for (backend, destination) in behind.iter().zip(&destinations) {
                let pairs = match of_one_pod {
                    true => vec![(&source.members[0], &destination.members[0], 1)],
                    false => self.pairs(source, destination),
                };
                let family = IpFamily::of(backend.address);
                for (source, destination, pairs) in pairs {
                    let Some(from) = source.address(family) else { continue };
                    let protocol = Transport::from(backend.frontend.protocol);
                    found.push(Meant {
                        question: Question {
                            source: source.party(from),
                            destination: destination.party(backend.address),
                            protocol,
                            port: Some(backend.port),
                            via: asked
                                .via
                                .map_or(backend.via, |at| Some((at, backend.frontend.number))),
                        },
                        source: source.name(),
                        destination: destination.name(),
                        traffic: nearest::asked(protocol.number(), Some(backend.port)),
                        pairs,
                    });
                }
            }
        }
        Ok(found)
    }
}
