//! Ports as people write them in a question: `80`, `8000-8999`, `http`, and the protocol.

use netpolc_analyze::{ports::resolved, traffic::TrafficSet};
use netpolc_policy::{Pod, Protocol, oracle::Transport};

/// A port in a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// One number.
    Number(u16),
    /// Numbers, both ends included.
    Range(u16, u16),
    /// A container port's name.
    Name(String),
}

impl Port {
    /// Reads a number, a range or a name.
    ///
    /// # Errors
    /// The message says what to write.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.parse::<u16>().ok();
        if let Some(port) = number(text) {
            return Ok(Port::Number(port));
        }
        if let Some((first, last)) = text.split_once('-')
            && let (Some(first), Some(last)) = (number(first), number(last))
        {
            anyhow::ensure!(first <= last, "port {text}: the first number is above the last one");
            return Ok(Port::Range(first, last));
        }
        let is_name = !text.is_empty()
            && text.len() <= 15
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.bytes().any(|b| b.is_ascii_lowercase());
        anyhow::ensure!(
            is_name,
            "port {text:?} is not valid; write a number from 0 to 65535, a range such as \
             8000-8999, or the name of a container port"
        );
        Ok(Port::Name(text.into()))
    }

    /// The traffic that is meant at these destinations. A protocol that is not given is TCP for
    /// numbers, and that of the container port for names.
    ///
    /// # Errors
    /// No container of any of them has a port of this name.
    pub fn traffic(
        &self,
        protocol: Option<Transport>,
        destinations: &[&Pod],
    ) -> anyhow::Result<TrafficSet> {
        let with_ports = match protocol {
            None => Some(Protocol::Tcp),
            Some(transport) => transport.protocol(),
        };
        let Some(asked) = with_ports else {
            anyhow::bail!("only TCP, UDP and SCTP have ports; leave the port out");
        };
        Ok(match self {
            Port::Number(number) => TrafficSet::ports(asked, *number, *number),
            Port::Range(first, last) => TrafficSet::ports(asked, *first, *last),
            Port::Name(name) => {
                let only = protocol.map(|_| asked);
                let each = destinations.iter().map(|pod| resolved(pod, only, name));
                let found = each.fold(TrafficSet::nothing(), |all, set| all.union(&set));
                anyhow::ensure!(
                    !found.is_nothing(),
                    "no container of the destination has a {}port named {name:?}{}",
                    only.map(|protocol| format!("{protocol} ")).unwrap_or_default(),
                    names(destinations)
                );
                found
            }
        })
    }
}

/// The names that container ports of these pods have, with their protocols.
fn names(pods: &[&Pod]) -> String {
    let ports = pods.iter().flat_map(|pod| &pod.ports);
    let names =
        ports.filter_map(|port| Some(format!("{} ({})", port.name.as_ref()?, port.protocol)));
    let names: std::collections::BTreeSet<String> = names.collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; it has {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// The protocol of this name.
pub fn protocol(text: &str) -> Option<Transport> {
    Some(match text.to_ascii_lowercase().as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        "icmp" => Transport::Other(1),
        "icmpv6" => Transport::Other(58),
        other => Transport::from_number(other.strip_prefix("protocol-")?.parse().ok()?),
    })
}

/// Splits `shop/db:5432/tcp` into the end, its port and its protocol. Each but the end may be
/// missing, and an IPv6 address with a port stands in brackets.
///
/// # Errors
/// The port is not valid.
pub fn split(text: &str) -> anyhow::Result<(&str, Option<Port>, Option<Transport>)> {
    let (mut rest, mut transport) = (text, None);
    if let Some((before, name)) = text.rsplit_once('/')
        && let Some(found) = protocol(name)
        && !before.is_empty()
    {
        (rest, transport) = (before, Some(found));
    }
    if rest.parse::<std::net::Ipv6Addr>().is_ok() || rest.parse::<ipnetwork::Ipv6Network>().is_ok()
    {
        return Ok((rest, None, transport));
    }
    if let Some(inner) = rest.strip_prefix('[') {
        let (address, after) = inner
            .split_once(']')
            .ok_or_else(|| anyhow::anyhow!("{text:?} has no ] behind the address"))?;
        let port = after.strip_prefix(':').map(Port::parse).transpose()?;
        return Ok((address, port, transport));
    }
    match rest.rsplit_once(':') {
        Some((end, port)) => Ok((end, Some(Port::parse(port)?), transport)),
        None => Ok((rest, None, transport)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_split_from_its_port_and_protocol() {
        for (text, end, port, protocol) in [
            ("shop/db", "shop/db", None, None),
            ("shop/db:5432", "shop/db", Some(Port::Number(5432)), None),
            ("shop/db:pg/tcp", "shop/db", Some(Port::Name("pg".into())), Some(Transport::Tcp)),
            ("shop/dns/udp", "shop/dns", None, Some(Transport::Udp)),
            ("10.0.0.0/8", "10.0.0.0/8", None, None),
            ("10.0.0.0/8:53/udp", "10.0.0.0/8", Some(Port::Number(53)), Some(Transport::Udp)),
            ("fd00::1", "fd00::1", None, None),
            ("[fd00::1]:80-90", "fd00::1", Some(Port::Range(80, 90)), None),
            ("app=web", "app=web", None, None),
            ("shop/db/protocol-47", "shop/db", None, Some(Transport::Other(47))),
        ] {
            assert_eq!(split(text).unwrap(), (end, port, protocol), "{text}");
        }
        for (text, part) in [("a:70000", "0 to 65535"), ("a:9-8", "above"), ("[::1:80", "]")] {
            let error = split(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
