//! `netpolc eval`: reads probes and prints verdicts, one JSON object per line.
//!
//! Here: what a probe means. Not here: the answers ([`crate::judge`]).

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use netpolc_policy::{
    Cluster, ObjectKey, Pod, PodNetwork, audit,
    oracle::{Party, Question, Transport},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{
    cli::{request::Eval, resolve::pod as pod_name},
    input,
    judge::{self, Answer, Judge, JudgeName, oracle::Oracle},
    output::{self, Outcome},
};

/// The longest line that is read as a probe, in bytes.
const MAX_LINE_LEN: usize = 1 << 20;

/// Runs `netpolc eval`.
///
/// # Errors
/// The probes cannot be read, the judge cannot be started, or standard output cannot be written.
pub fn run(eval: &Eval) -> anyhow::Result<Outcome> {
    if eval.judge == JudgeName::Ebpf {
        output::needs_root("--judge ebpf (it loads programs into the kernel)")?;
    }
    let loaded = input::load(&eval.input);
    let refused = input::report(&loaded.problems);
    let mut judge = judge::open(eval.judge, &loaded.cluster)?;
    // Whatever judge is asked about what is enforced, the policies themselves are asked about what
    // is only tried.
    let shadow = audit::shadow(&loaded.cluster);
    let clusters = (&loaded.cluster, shadow.as_ref());
    let mut out = output::stdout();
    let answered = answer_all(clusters, judge.as_mut(), open(&eval.probes)?, &mut out)?;
    out.flush()?;
    Ok(refused.and(answered))
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path)
        .with_context(|| format!("--probes {} cannot be read", path.display()))?;
    Ok(Box::new(std::io::BufReader::new(file)))
}

/// Answers each line of `probes`. A line that is not valid gets an object with `error` in place of
/// an answer, and makes the outcome `Problems`. The second cluster is the one in which every policy
/// that is only tried is enforced; where its verdict differs, the answer has it as `audit` (S85).
///
/// # Errors
/// The probes cannot be read, or the answers cannot be written.
pub fn answer_all(
    (cluster, shadow): (&Cluster, Option<&Cluster>),
    judge: &mut dyn Judge,
    mut probes: impl BufRead,
    out: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Fine;
    let mut line = Vec::new();
    for number in 1usize.. {
        line.clear();
        if read_line(&mut probes, &mut line).context("the probes could not be read")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (mut probe, answer) = answer((cluster, shadow), judge, &line);
        match answer {
            Ok((answer, tried)) => {
                probe.set("allowed", json!(answer.allowed));
                probe.set("egress", serde_json::to_value(&answer.egress)?);
                probe.set("ingress", serde_json::to_value(&answer.ingress)?);
                if let Some(tried) = tried {
                    let Answer { allowed, egress, ingress } = tried;
                    let audit = json!({"allowed": allowed, "egress": egress, "ingress": ingress});
                    probe.set("audit", audit);
                }
            }
            Err(error) => {
                outcome = Outcome::Problems;
                probe.set("error", json!(error));
                probe.set("line", json!(number));
            }
        }
        serde_json::to_writer(&mut *out, &probe).map_err(std::io::Error::from)?;
        writeln!(out)?;
        // The sender may wait for each answer before it sends the next probe.
        out.flush()?;
    }
    Ok(outcome)
}

/// Reads a line of any length, and keeps only so much of it that its excessive length can be seen.
/// Returns the number of bytes read.
fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut total = 0;
    loop {
        let chunk = from.fill_buf()?;
        if chunk.is_empty() {
            return Ok(total);
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let used = end.map_or(chunk.len(), |at| at + 1);
        let room = (MAX_LINE_LEN + 1).saturating_sub(line.len());
        line.extend_from_slice(&chunk[..end.unwrap_or(used).min(room)]);
        from.consume(used);
        total += used;
        if end.is_some() {
            return Ok(total);
        }
    }
}

/// A line of input: an object whose keys keep their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe(Vec<(String, Value)>);

impl Probe {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Sets a key. The key moves to the end, and replaces an earlier one of the same name.
    fn set(&mut self, key: &str, value: Value) {
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

fn answer(
    (cluster, shadow): (&Cluster, Option<&Cluster>),
    judge: &mut dyn Judge,
    line: &[u8],
) -> (Probe, Result<(Answer, Option<Answer>), String>) {
    if line.len() > MAX_LINE_LEN {
        return (Probe::default(), Err(format!("the line is longer than {MAX_LINE_LEN} bytes")));
    }
    let probe: Probe = match serde_json::from_slice(line) {
        Ok(probe) => probe,
        Err(error) => {
            return (Probe::default(), Err(format!("this is not a valid probe: {error}")));
        }
    };
    let answer = question(cluster, &probe).and_then(|question| {
        let answer = judge.judge(&question).map_err(|error| error.to_string())?;
        let Some(shadow) = shadow else { return Ok((answer, None)) };
        // The policies themselves are asked about both, since a judge may be stricter than they
        // are.
        let ask = |cluster| Oracle::new(cluster).judge(&question).map_err(|e| e.to_string());
        let (now, then) = (ask(cluster)?, ask(shadow)?);
        Ok((answer, Some(then).filter(|then| then.allowed != now.allowed)))
    });
    (probe, answer)
}

/// Turns a probe into a question.
///
/// # Errors
/// The message names the key that is missing or not valid, and says what to write.
pub fn question(cluster: &Cluster, probe: &Probe) -> Result<Question, String> {
    let family = match probe.get("family") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_u64().or_else(|| value.as_str()?.parse().ok()) {
            Some(number @ (4 | 6)) => Some(number),
            _ => {
                return Err(format!("family: {value} is not a valid address family; write 4 or 6"));
            }
        },
    };
    let source = End::read(cluster, probe, "src", "srcIP")?;
    let destination = End::read(cluster, probe, "dst", "dstIP")?;
    let fits = |s: &IpAddr, d: &IpAddr| {
        s.is_ipv4() == d.is_ipv4() && family.is_none_or(|f| s.is_ipv4() == (f == 4))
    };
    let pairs =
        source.addresses.iter().flat_map(|s| destination.addresses.iter().map(move |d| (*s, *d)));
    let (from, to) = pairs.into_iter().find(|(s, d)| fits(s, d)).ok_or_else(|| {
        let family = family.map(|f| format!(" of family {f}")).unwrap_or_default();
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
struct End {
    pod: Option<ObjectKey>,
    addresses: Vec<IpAddr>,
}

impl End {
    fn read(
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
        let mut addresses = addresses(cluster, pod);
        if let Some(chosen) = chosen {
            if !addresses.contains(&chosen) {
                return Err(format!("{address_key}: pod {name} has no address {chosen}"));
            }
            addresses = vec![chosen];
        }
        if addresses.is_empty() {
            return Err(format!("{key}: pod {name} has no address (status.podIPs is empty)"));
        }
        Ok(Self { pod: Some(name), addresses })
    }

    fn list(&self) -> String {
        self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
    }

    fn party(&self, address: IpAddr) -> Party {
        match &self.pod {
            Some(pod) => Party::Pod(pod.clone(), address),
            None => Party::Address(address),
        }
    }
}

/// The addresses of a pod. A hostNetwork pod may be listed without addresses, and then has those of
/// its node.
fn addresses(cluster: &Cluster, pod: &Pod) -> Vec<IpAddr> {
    if pod.addresses.is_empty() && pod.network == PodNetwork::Host {
        let nodes: &BTreeMap<Arc<str>, _> = &cluster.nodes;
        return pod
            .node
            .as_ref()
            .and_then(|n| nodes.get(n))
            .map(|n| n.addresses.clone())
            .unwrap_or_default();
    }
    pod.addresses.clone()
}

fn protocol(value: Option<&Value>, address: IpAddr) -> Result<Transport, String> {
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
mod tests {
    use netpolc_policy::{Labels, Phase};

    use super::*;

    fn cluster() -> Cluster {
        let pod = |name: &str, addresses: &[&str]| Pod {
            key: ObjectKey::new("shop", name),
            uid: None,
            node: None,
            labels: Labels::default(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            network: PodNetwork::Own,
            phase: Phase::Active,
            ports: vec![],
            grouping: Default::default(),
            owner: None,
        };
        let pods = [
            pod("ui", &["10.0.0.1", "fd00::1"]),
            pod("carts", &["10.0.0.2", "fd00::2"]),
            pod("new", &[]),
        ];
        Cluster {
            pods: pods.into_iter().map(|p| (p.key.clone(), p)).collect(),
            ..Cluster::default()
        }
    }

    fn ask(probe: Value) -> Result<Question, String> {
        question(&cluster(), &serde_json::from_value(probe).unwrap())
    }

    #[test]
    fn s24_the_family_chooses_between_the_addresses_of_dual_stack_pods() {
        let q = ask(json!({"src": "shop/ui", "dst": "shop/carts", "port": 80})).unwrap();
        assert_eq!((q.source.address(), q.protocol), ("10.0.0.1".parse().unwrap(), Transport::Tcp));
        let timestamp = json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "type": 13});
        assert_eq!(ask(timestamp).unwrap().port, Some(13 << 8), "S77: code 0 where none is named");
        let q = ask(json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "family": 6}))
            .unwrap();
        assert_eq!(
            (q.destination.address(), q.protocol),
            ("fd00::2".parse().unwrap(), Transport::Other(58))
        );
        let q = ask(json!({"src": "2001:db8::1", "dst": "shop/carts", "proto": 17, "port": "53"}))
            .unwrap();
        assert_eq!((q.destination.address(), q.port), ("fd00::2".parse().unwrap(), Some(53)));
    }

    #[test]
    fn wrong_probes_name_the_key_and_what_it_should_be() {
        for (probe, part) in [
            (json!({"dst": "shop/ui"}), "src: the key is missing"),
            (json!({"src": "ui", "dst": "shop/ui"}), "neither"),
            (json!({"src": "shop/x", "dst": "shop/ui"}), "no pod shop/x"),
            (json!({"src": "shop/new", "dst": "shop/ui"}), "has no address"),
            (json!({"src": "shop/ui", "dst": "shop/carts"}), "port: the key is missing"),
            (json!({"src": "shop/ui", "dst": "shop/carts", "port": 65536}), "port: 65536"),
            (
                json!({"src": "shop/ui", "dst": "shop/carts", "proto": "tpc", "port": 1}),
                "proto: \"tpc\"",
            ),
            (
                json!({"src": "shop/ui", "srcIP": "10.9.9.9", "dst": "shop/carts", "port": 1}),
                "no address 10.9.9.9",
            ),
            (json!({"src": "10.0.0.1", "dst": "fd00::2", "port": 1}), "in common"),
            (json!({"src": "shop/ui", "dst": "shop/carts", "port": 1, "family": 5}), "family"),
            (json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "code": 1}), "type"),
            (json!({"src": "shop/ui", "dst": "shop/carts", "proto": 47, "type": 1}), "type"),
            (json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "type": 256}), "type"),
            (json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "type": 3}), "error"),
        ] {
            let error = ask(probe.clone()).unwrap_err();
            assert!(error.contains(part), "{probe}: {error}");
        }
    }

    #[test]
    fn a_bad_line_is_answered_by_an_error_and_the_others_are_answered() {
        let cluster = cluster();
        let mut judge = judge::oracle::Oracle::new(&cluster);
        let probes = b"{\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"port\":80,\"note\":1}\n\nnonsense\n[]\n\
                       {\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"proto\":\"icmp\"}";
        let mut out = Vec::new();
        let outcome = answer_all((&cluster, None), &mut judge, &probes[..], &mut out).unwrap();
        assert_eq!(outcome, Outcome::Problems);
        assert!(out.starts_with(
            b"{\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"port\":80,\"note\":1,\"allowed\":true,"
        ));
        let lines: Vec<Value> =
            out.lines().map(|l| serde_json::from_str(&l.unwrap()).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((&lines[0]["allowed"], &lines[0]["note"]), (&json!(true), &json!(1)));
        assert_eq!(lines[0]["egress"]["reason"], json!("notIsolated"));
        assert_eq!((&lines[1]["line"], &lines[2]["line"]), (&json!(3), &json!(4)));
        assert_eq!(lines[3]["allowed"], json!(true));
    }
}
