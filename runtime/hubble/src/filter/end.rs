//! The filters that look at one end of a flow.
//!
//! Names of pods and Services are the beginnings of names, and those without a namespace are in the
//! namespace `default`, as Hubble reads them. Not here: selectors of labels ([`super::labels`]),
//! and patterns of DNS names ([`super::pattern`]).

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Test, labels::Selector, pattern::Name, test_of};
use crate::api::flow::{Endpoint, Flow, Service, Workload, layer4::Protocol};

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who sent the packet.
    Source,
    /// Who was to get it.
    Destination,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Source => "source",
            End::Destination => "destination",
        }
    }

    fn of(self, flow: &Flow) -> Option<&Endpoint> {
        match self {
            End::Source => flow.source.as_ref(),
            End::Destination => flow.destination.as_ref(),
        }
    }

    fn service(self, flow: &Flow) -> Option<&Service> {
        match self {
            End::Source => flow.source_service.as_ref(),
            End::Destination => flow.destination_service.as_ref(),
        }
    }

    fn names(self, flow: &Flow) -> &[String] {
        match self {
            End::Source => &flow.source_names,
            End::Destination => &flow.destination_names,
        }
    }

    fn address(self, flow: &Flow) -> Option<IpAddr> {
        let ip = flow.ip.as_ref()?;
        let text = match self {
            End::Source => &ip.source,
            End::Destination => &ip.destination,
        };
        text.parse().ok()
    }

    fn port(self, flow: &Flow) -> Option<u32> {
        let (source, destination) = match flow.l4.as_ref()?.protocol.as_ref()? {
            Protocol::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            Protocol::Udp(udp) => (udp.source_port, udp.destination_port),
            Protocol::Sctp(sctp) => (sctp.source_port, sctp.destination_port),
            Protocol::IcmPv4(_) | Protocol::IcmPv6(_) => return None,
        };
        Some(match self {
            End::Source => source,
            End::Destination => destination,
        })
    }
}

/// Addresses, and blocks of them.
pub fn addresses(end: End, texts: &[String]) -> Result<Option<Test>, String> {
    let read = |text: &String| {
        let block = text.parse::<IpNetwork>();
        block.map_err(|_| {
            format!(
                "{}_ip {text:?} is no address; write one such as 10.0.0.1, or a block such as \
                10.0.0.0/8",
                end.name()
            )
        })
    };
    test_of(texts, read, |blocks| {
        Box::new(move |flow| {
            let address = end.address(flow);
            address.is_some_and(|address| blocks.iter().any(|block| block.contains(address)))
        })
    })
}

/// A namespace, and how the name begins. Without a namespace, any will do.
struct Prefix {
    namespace: String,
    name: String,
}

impl Prefix {
    fn read(what: &str, text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        let first = parts.next().unwrap_or_default();
        let (namespace, name) = match parts.next() {
            Some(name) => (first, name),
            None => ("default", first),
        };
        if parts.next().is_some() || text.is_empty() || text == "/" {
            return Err(format!(
                "{what} {text:?}: write NAMESPACE/NAME, NAMESPACE/ for all of a namespace, /NAME \
                for any namespace, or NAME for the namespace default"
            ));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    fn fits(&self, namespace: &str, name: &str) -> bool {
        !(namespace.is_empty() && name.is_empty())
            && (self.namespace.is_empty() || self.namespace == namespace)
            && name.starts_with(&self.name)
    }
}

/// Pods by their names.
pub fn pods(end: End, texts: &[String]) -> Result<Option<Test>, String> {
    let what = format!("{}_pod", end.name());
    test_of(
        texts,
        |text| Prefix::read(&what, text),
        |wanted| {
            Box::new(move |flow| {
                let Some(pod) = end.of(flow) else { return false };
                wanted.iter().any(|prefix| prefix.fits(&pod.namespace, &pod.pod_name))
            })
        },
    )
}

/// Services by their names.
pub fn services(end: End, texts: &[String]) -> Result<Option<Test>, String> {
    let what = format!("{}_service", end.name());
    test_of(
        texts,
        |text| Prefix::read(&what, text),
        |wanted| {
            Box::new(move |flow| {
                let Some(service) = end.service(flow) else { return false };
                wanted.iter().any(|prefix| prefix.fits(&service.namespace, &service.name))
            })
        },
    )
}

/// Workloads by name, by kind or by both.
pub fn workloads(end: End, wanted: &[Workload]) -> Option<Test> {
    let wanted = wanted.to_vec();
    (!wanted.is_empty()).then(|| -> Test {
        Box::new(move |flow| {
            let of = end.of(flow).map(|end| &end.workloads[..]).unwrap_or_default();
            let fits = |wanted: &Workload, one: &Workload| {
                (wanted.name.is_empty() || wanted.name == one.name)
                    && (wanted.kind.is_empty() || wanted.kind == one.kind)
            };
            of.iter().any(|one| wanted.iter().any(|wanted| fits(wanted, one)))
        })
    })
}

/// Names in DNS, of which netpolc knows those of Services.
pub fn names(end: End, texts: &[String]) -> Result<Option<Test>, String> {
    let read = |text: &String| {
        Name::read(text).map_err(|why| format!("{}_fqdn {text:?}: {why}", end.name()))
    };
    test_of(texts, read, |patterns| {
        Box::new(move |flow| {
            let fits = |name: &String| patterns.iter().any(|pattern| pattern.fits(name));
            end.names(flow).iter().any(fits)
        })
    })
}

/// Selectors of labels.
pub fn labels(end: End, texts: &[String]) -> Result<Option<Test>, String> {
    let read = |text: &String| {
        Selector::read(text).map_err(|why| format!("{}_label {text:?}: {why}", end.name()))
    };
    test_of(texts, read, |selectors| {
        Box::new(move |flow| {
            let labels = end.of(flow).map(|end| &end.labels[..]).unwrap_or_default();
            selectors.iter().any(|selector| selector.selects(labels))
        })
    })
}

/// Ports, one by one.
pub fn ports(end: End, texts: &[String]) -> Result<Option<Test>, String> {
    let read = |text: &String| {
        text.parse::<u16>().map(u32::from).map_err(|_| {
            format!("{}_port {text:?} is no port; write a number up to 65535", end.name())
        })
    };
    test_of(texts, read, |ports| {
        Box::new(move |flow| end.port(flow).is_some_and(|port| ports.contains(&port)))
    })
}

/// Identities.
pub fn identities(end: End, wanted: &[u32]) -> Option<Test> {
    let wanted = wanted.to_vec();
    (!wanted.is_empty()).then(|| -> Test {
        Box::new(move |flow| {
            let identity = end.of(flow).map(|end| end.identity).unwrap_or_default();
            wanted.contains(&identity)
        })
    })
}

/// The clusters of pods.
pub fn clusters(end: End, wanted: &[String]) -> Result<Option<Test>, String> {
    let read = |name: &String| match name.is_empty() {
        true => Err(format!("{}_cluster_name is empty; give a name or omit it", end.name())),
        false => Ok(name.clone()),
    };
    test_of(wanted, read, |wanted| {
        Box::new(move |flow| end.of(flow).is_some_and(|end| wanted.contains(&end.cluster_name)))
    })
}
