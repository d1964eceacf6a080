//! What a probe means: a line of input becomes a question. Not here: Services by their names
//! ([`super::service`]).

use std::net::IpAddr;

use netpolc_policy::{
    Cluster, IpFamily, ObjectKey, PodNetwork,
    oracle::{Party, Question, Transport},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::cli::resolve::pod as pod_name;

/// A line of input: an object whose keys keep their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe(Vec<(String, Value)>);

impl Probe {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Sets a key. The key moves to the end, and replaces an earlier one of the same name.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.0.retain(|(k, _)| k != key);
        self.0.push((key.into(), value));
    }
}

impl Serialize for Probe {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Probe;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object {\"src\": ..., \"dst\": ...}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Probe, A::Error> {
                let mut probe = Probe::default();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    probe.set(&key, value);
                }
                Ok(probe)
            }
        }
        from.deserialize_map(Fields)
    }
}

/// Turns a probe into a question.
///
/// # Errors
/// The message names the key that is missing or not valid, and says what to write.
pub fn question(cluster: &Cluster, probe: &Probe) -> Result<Question, String> {
    let family = family(probe)?;
    let source = End::read(cluster, probe, "src", "srcIP")?;
    let destination = End::read(cluster, probe, "dst", "dstIP")?;
    let fits = |s: &IpAddr, d: &IpAddr| {
        s.is_ipv4() == d.is_ipv4() && family.is_none_or(|f| IpFamily::of(*s) == f)
    };
    let pairs =
        source.addresses.iter().flat_map(|s| destination.addresses.iter().map(move |d| (*s, *d)));
    let (from, to) = pairs.into_iter().find(|(s, d)| fits(s, d)).ok_or_else(|| {
        let family = family.map(of_family).unwrap_or_default();
        format!(
            "src ({}) and dst ({}) have no addresses{family} in common",
            source.list(),
            destination.list()
        )
    })?;
    let protocol = protocol(probe.get("proto"), from)?;
    let port = match probe.get("port") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            let port = number.and_then(|n| u16::try_from(n).ok());
            Some(port.ok_or_else(|| format!("port: {value} is not a number from 0 to 65535"))?)
        }
    };
    if protocol.protocol().is_some() && port.is_none() {
        return Err("port: the key is missing; tcp, udp and sctp need the destination port".into());
    }
    let port = match protocol.protocol() {
        Some(_) => port,
        None => message(probe, protocol, from)?,
    };
    Ok(Question {
        source: source.party(from),
        destination: destination.party(to),
        protocol,
        port,
        via: via(probe)?,
    })
}

/// The family that the probe chooses; None where it leaves the choice.
pub(super) fn family(probe: &Probe) -> Result<Option<IpFamily>, String> {
    match probe.get("family") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().or_else(|| value.as_str()?.parse().ok()) {
            Some(4) => Ok(Some(IpFamily::V4)),
            Some(6) => Ok(Some(IpFamily::V6)),
            _ => Err(format!("family: {value} is not a valid address family; write 4 or 6")),
        },
    }
}

/// A family, as it follows the word "addresses".
pub(super) fn of_family(family: IpFamily) -> String {
    format!(" of family {}", if family == IpFamily::V4 { 4 } else { 6 })
}

/// Type and code of an ICMP message, as questions have them in place of a port; None is an echo
/// request.
fn message(probe: &Probe, protocol: Transport, from: IpAddr) -> Result<Option<u16>, String> {
    let part = |key: &str| match probe.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            let part = number.and_then(|n| u8::try_from(n).ok());
            part.map(Some).ok_or_else(|| format!("{key}: {value} is not a number from 0 to 255"))
        }
    };
    let (kind, code) = (part("type")?, part("code")?);
    let number = if from.is_ipv4() { 1 } else { 58 };
    match (kind, code) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("type: the key is missing; a code belongs to a type".into()),
        _ if protocol.number() != number => {
            Err("type: only icmp has types; write icmp as proto, or leave the key out".into())
        }
        (Some(kind), _) if is_error(number, kind) => Err(format!(
            "type: {kind} is an ICMP error, which is judged by the packet that it is about; ask \
             about that packet"
        )),
        (Some(kind), code) => Ok(Some(u16::from_be_bytes([kind, code.unwrap_or(0)]))),
    }
}

/// Is this type of message an error, of ICMP (1) or ICMPv6 (58)?
fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        1 => [3, 4, 5, 11, 12].contains(&kind),
        _ => (1..=4).contains(&kind),
    }
}

/// The address and port to which the packet was sent, where a Service has translated them to the
/// destination; None without a Service.
fn via(probe: &Probe) -> Result<Option<(IpAddr, u16)>, String> {
    let socket = match probe.get("via") {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value
            .as_str()
            .and_then(|text| text.parse::<std::net::SocketAddr>().ok())
            .ok_or_else(|| {
                format!(
                    "via: {value} is not a valid address and port of a Service; write \
                \"10.96.0.10:53\" or \"[fd00::a]:53\""
                )
            })?,
    };
    Ok(Some((socket.ip(), socket.port())))
}

/// One end of a probe, with the addresses that it may stand for.
pub(super) struct End {
    pod: Option<ObjectKey>,
    /// At least one.
    pub addresses: Vec<IpAddr>,
}

impl End {
    /// The end that the probe names under `key`.
    pub fn read(
        cluster: &Cluster,
        probe: &Probe,
        key: &str,
        address_key: &str,
    ) -> Result<Self, String> {
        let text = match probe.get(key) {
            Some(Value::String(text)) => text.as_str(),
            Some(other) => {
                return Err(format!(
                    "{key}: {other} is not a string; write \"namespace/pod\" or an address"
                ));
            }
            None => {
                return Err(format!(
                    "{key}: the key is missing; write \"namespace/pod\" or an address"
                ));
            }
        };
        let chosen =
            match probe.get(address_key) {
                None | Some(Value::Null) => None,
                Some(value) => {
                    let address = value.as_str().and_then(|a| a.parse::<IpAddr>().ok());
                    Some(address.ok_or_else(|| {
                        format!("{address_key}: {value} is not a valid IP address")
                    })?)
                }
            };
        if let Ok(address) = text.parse::<IpAddr>() {
            return match chosen {
                Some(other) if other != address => {
                    Err(format!("{address_key}: {other} is not the address of {key}, {address}"))
                }
                _ => Ok(Self { pod: None, addresses: vec![address] }),
            };
        }
        let name = pod_name(text)
            .map_err(|_| format!("{key}: {text:?} is neither \"namespace/pod\" nor an address"))?;
        let pod = cluster
            .pods
            .get(&name)
            .ok_or_else(|| format!("{key}: there is no pod {name} in the input"))?;
        let mut addresses = cluster.addresses(pod).to_vec();
        if let Some(chosen) = chosen {
            if !addresses.contains(&chosen) {
                return Err(format!("{address_key}: pod {name} has no address {chosen}"));
            }
            addresses = vec![chosen];
        }
        if addresses.is_empty() {
            return Err(match pod.network {
                PodNetwork::Own => {
                    format!("{key}: pod {name} has no address (status.podIPs is empty)")
                }
                PodNetwork::Host => format!(
                    "{key}: pod {name} uses its node's network, and the input has no Node that it \
                     runs on; write the node's address"
                ),
            });
        }
        Ok(Self { pod: Some(name), addresses })
    }

    /// Its addresses, for messages.
    pub fn list(&self) -> String {
        self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The party that sends or receives under `address`.
    pub fn party(&self, address: IpAddr) -> Party {
        match &self.pod {
            Some(pod) => Party::Pod(pod.clone(), address),
            None => Party::Address(address),
        }
    }
}

/// The protocol that a probe means; which ICMP it is depends on the family of `address`.
pub(super) fn protocol(value: Option<&Value>, address: IpAddr) -> Result<Transport, String> {
    let number = match value {
        None | Some(Value::Null) => Some(6),
        Some(Value::Number(number)) => number.as_u64().and_then(|n| u8::try_from(n).ok()),
        Some(Value::String(name)) => match name.to_ascii_lowercase().as_str() {
            "tcp" => Some(6),
            "udp" => Some(17),
            "sctp" => Some(132),
            "icmp" | "icmpv6" | "icmp6" => Some(if address.is_ipv4() { 1 } else { 58 }),
            other => other.parse().ok(),
        },
        Some(_) => None,
    };
    let wrong = || {
        format!(
            "proto: {} is not tcp, udp, sctp, icmp or a number from 0 to 255",
            value.unwrap_or(&Value::Null)
        )
    };
    number.map(Transport::from_number).ok_or_else(wrong)
}

#[cfg(test)]
pub(super) mod tests;
