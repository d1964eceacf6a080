//! Reads a NetworkPolicy, or one that is staged, into the model, strictly. What cannot be
//! understood is reported and never widens access: the policy still isolates every pod that it can
//! be seen to select, and its broken part allows nothing (S10, S61).
//!
//! Source of the rules: k8s.io/api networking/v1 types.go; defaults.go and validation.go of
//! pkg/apis/networking in Kubernetes.

use netpolc_policy::{
    Block, Isolation, Mode, Namespaces, ObjectKey, Peer, Peers, Policy, Port, Ports, Protocol,
    Rule, Selector, Staged,
};

use crate::{
    annotation,
    cidr::network,
    problem::{Path, excerpt},
    selector::selector,
    source::Reader,
    strict::{self, Health},
    tree::{Node, Value},
};

/// Reads the policy `key`, with everything that can be understood of `object`.
pub(crate) fn policy(reader: &mut Reader, key: ObjectKey, object: &Node) -> Policy {
    let (spec, health) = spec(reader, object);
    let path = Path::Root.field("spec");
    // To the API server an absent spec is an empty one.
    let empty = Node { at: object.at, value: Value::Map(Vec::new()) };
    let names = ["podSelector", "policyTypes", "ingress", "egress"];
    let (fields, spec_health) = strict::fields(reader, spec.unwrap_or(&empty), &path, names);
    let at = spec.unwrap_or(object).at;
    let policy = of_fields(reader, key, at, fields, health.and(spec_health));
    Policy { mode: annotation::mode(reader, object), ..policy }
}

/// Reads a StagedKubernetesNetworkPolicy, whose `spec` is that of a NetworkPolicy with
/// `stagedAction` (S84). None, with a report, where it stages nothing that is known: it changes no
/// verdict either way.
///
/// Source: api/pkg/apis/projectcalico/v3/stagedkubernetesnetworkpolicy.go of Calico.
pub(crate) fn staged(reader: &mut Reader, key: ObjectKey, object: &Node) -> Option<Staged> {
    let (spec, health) = spec(reader, object);
    let path = Path::Root.field("spec");
    let empty = Node { at: object.at, value: Value::Map(Vec::new()) };
    let names = ["podSelector", "policyTypes", "ingress", "egress", "stagedAction"];
    let ([subject, types, ingress, egress, action], spec_health) =
        strict::fields(reader, spec.unwrap_or(&empty), &path, names);
    let action_path = path.field("stagedAction");
    let action = match action {
        None => "Set",
        Some(node) => strict::string(reader, node, &action_path)?,
    };
    match action {
        "Set" | "" => {
            let at = spec.unwrap_or(object).at;
            let fields = [subject, types, ingress, egress];
            Some(Staged::Set(of_fields(reader, key, at, fields, health.and(spec_health))))
        }
        "Delete" => Some(Staged::Delete),
        other => {
            let message = format!(
                "`{}` cannot be tried, so the object is ignored; write Set or Delete",
                excerpt(other)
            );
            reader.error(spec.unwrap_or(object).at, &action_path, message);
            None
        }
    }
}

/// The field `spec` of a policy.
fn spec<'n, 't>(reader: &mut Reader, object: &'n Node<'t>) -> (Option<&'n Node<'t>>, Health) {
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let ([.., spec, _], health) = strict::fields(reader, object, &Path::Root, top);
    (spec, health)
}

/// Makes a policy of podSelector, policyTypes, ingress and egress; `at` is where they stand.
fn of_fields(
    reader: &mut Reader,
    key: ObjectKey,
    at: u32,
    [subject, types, ingress, egress]: [Option<&Node>; 4],
    health: Health,
) -> Policy {
    let path = Path::Root.field("spec");
    let (subject, subject_health) = match subject {
        // S10: a broken part of the selector counts as true, so that it selects more pods and not
        // fewer.
        Some(node) => selector(reader, node, &path.field("podSelector")),
        None => {
            if health == Health::Sound {
                let message = "the field is absent, which selects every pod of the namespace; \
                    write `podSelector: {}` if that is intended";
                reader.warning(at, &path.field("podSelector"), message);
            }
            // A field that was not understood may have been the selector.
            (Selector::default(), health)
        }
    };
    let types = policy_types(reader, types, &path.field("policyTypes"));
    let ingress_rules = rules(reader, ingress, &path.field("ingress"), "from");
    let egress_rules = rules(reader, egress, &path.field("egress"), "to");
    let isolates = match types {
        Types::Listed { ingress, egress } => (ingress, egress),
        Types::Broken => (true, true),
        // S2. Where a field was not understood, it may have named a direction, so both are
        // isolated.
        Types::Absent => (
            true,
            health == Health::Broken || !matches!(&egress_rules, Some(rules) if rules.is_empty()),
        ),
    };
    for (isolated, rules, field, node) in [
        (isolates.0, &ingress_rules, "ingress", ingress),
        (isolates.1, &egress_rules, "egress", egress),
    ] {
        if let (false, Some(node), false) =
            (isolated, node, rules.as_ref().is_some_and(Vec::is_empty))
        {
            reader.warning(
                node.at,
                &path.field(field),
                "the field has no effect, because policyTypes does not name this direction",
            );
        }
    }
    // S10: a selector of which nothing is left selects every pod, and must not open them.
    let is_lost = subject_health == Health::Broken && subject.requirements.is_empty();
    let of_its_own = |rules: Option<Vec<Rule>>| rules.filter(|_| !is_lost);
    let isolation = |isolated, rules: Option<Vec<Rule>>| match isolated {
        true => Isolation::Isolated(of_its_own(rules).unwrap_or_default()),
        false => Isolation::Open,
    };
    Policy {
        key,
        selector: subject,
        ingress: isolation(isolates.0, ingress_rules),
        egress: isolation(isolates.1, egress_rules),
        mode: Mode::Enforced,
    }
}

/// What `spec.policyTypes` says.
enum Types {
    /// The field is absent, null or empty, so that defaults apply.
    Absent,
    Listed {
        ingress: bool,
        egress: bool,
    },
    Broken,
}

fn policy_types(reader: &mut Reader, node: Option<&Node>, path: &Path) -> Types {
    let Some(items) = strict::list(reader, node, path) else { return Types::Broken };
    if items.is_empty() {
        return Types::Absent;
    }
    let (mut ingress, mut egress, mut health) = (false, false, Health::Sound);
    for (index, item) in items.iter().enumerate() {
        match strict::string(reader, item, &path.index(index)) {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            other => {
                health = Health::Broken;
                if let Some(text) = other {
                    let message = format!(
                        "`{}` is not a valid policy type; write Ingress or Egress",
                        excerpt(text)
                    );
                    reader.error(item.at, &path.index(index), message);
                }
            }
        }
    }
    if health == Health::Broken { Types::Broken } else { Types::Listed { ingress, egress } }
}

/// A rule that allows nothing, in place of one that is broken.
fn nothing() -> Rule {
    Rule { peers: Peers::Listed(vec![Peer::Nothing]), ports: Ports::Any }
}

/// Reads the rules of a direction; None where the list itself is broken.
fn rules(reader: &mut Reader, node: Option<&Node>, path: &Path, peers: &str) -> Option<Vec<Rule>> {
    let items = strict::list(reader, node, path)?;
    Some(
        items
            .iter()
            .enumerate()
            .map(|(index, item)| rule(reader, item, &path.index(index), peers))
            .collect(),
    )
}

fn rule(reader: &mut Reader, node: &Node, path: &Path, peers_field: &str) -> Rule {
    // To the API server a null rule is `{}`, which allows everything. Here it is a mistake (S61).
    let ([peers, ports], health) = strict::fields(reader, node, path, [peers_field, "ports"]);
    let peers_path = path.field(peers_field);
    let ports_path = path.field("ports");
    let peers = strict::list(reader, peers, &peers_path).map(|items| {
        let each =
            |(index, item)| peer(reader, item, &peers_path.index(index)).unwrap_or(Peer::Nothing);
        items.iter().enumerate().map(each).collect::<Vec<_>>()
    });
    let ports = strict::list(reader, ports, &ports_path).map(|items| {
        let each =
            |(index, item)| port(reader, item, &ports_path.index(index)).unwrap_or(Port::Nothing);
        items.iter().enumerate().map(each).collect::<Vec<_>>()
    });
    match (health, peers, ports) {
        (Health::Sound, Some(peers), Some(ports)) => Rule {
            peers: if peers.is_empty() { Peers::Any } else { Peers::Listed(peers) },
            ports: if ports.is_empty() { Ports::Any } else { Ports::Listed(ports) },
        },
        _ => nothing(),
    }
}

fn peer(reader: &mut Reader, node: &Node, path: &Path) -> Option<Peer> {
    let names = ["podSelector", "namespaceSelector", "ipBlock"];
    let ([pods, namespaces, block], health) = strict::fields(reader, node, path, names);
    if let (Some(block), None, None) = (block, pods, namespaces) {
        let block = ip_block(reader, block, &path.field("ipBlock"))?;
        return (health == Health::Sound).then_some(Peer::Block(block));
    }
    let mut read =
        |node: Option<&Node>, field| node.map(|n| selector(reader, n, &path.field(field)));
    let pods_read = read(pods, "podSelector");
    let namespaces_read = read(namespaces, "namespaceSelector");
    if block.is_some() {
        reader.error(
            node.at,
            path,
            "ipBlock cannot be combined with podSelector or namespaceSelector; write two peers",
        );
        return None;
    }
    if health == Health::Sound && pods_read.is_none() && namespaces_read.is_none() {
        let message = "the peer is empty; write `podSelector: {}` to match all pods of the \
            namespace, or omit the list to match all peers";
        reader.error(node.at, path, message);
        return None;
    }
    let sound =
        [&pods_read, &namespaces_read].into_iter().flatten().all(|(_, h)| *h == Health::Sound);
    (health == Health::Sound && sound).then(|| Peer::Pods {
        namespaces: namespaces_read
            .map_or(Namespaces::Own, |(selector, _)| Namespaces::Matching(selector)),
        pods: pods_read.map(|(selector, _)| selector).unwrap_or_default(),
    })
}

fn ip_block(reader: &mut Reader, node: &Node, path: &Path) -> Option<Block> {
    let ([cidr, except], health) = strict::fields(reader, node, path, ["cidr", "except"]);
    let cidr_path = path.field("cidr");
    let Some(cidr) = cidr else {
        if health == Health::Sound {
            reader.error(node.at, &cidr_path, "the field is required but missing");
        }
        return None;
    };
    let cidr = network(reader, cidr, &cidr_path);
    let path = path.field("except");
    let items = strict::list(reader, except, &path)?;
    let mut except = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(part) = network(reader, item, &path) else { continue };
        let Some(cidr) = cidr else { continue };
        if cidr.contains(part.network()) && part.prefix() > cidr.prefix() {
            except.push(part);
        } else {
            reader.error(item.at, &path, format!("{part} does not lie strictly within {cidr}"));
        }
    }
    let sound = health == Health::Sound && except.len() == items.len();
    cidr.filter(|_| sound).map(|cidr| Block { cidr, except })
}

fn port(reader: &mut Reader, node: &Node, path: &Path) -> Option<Port> {
    let ([protocol, port, end], health) =
        strict::fields(reader, node, path, ["protocol", "port", "endPort"]);
    let protocol = match protocol {
        None => Some(Protocol::Tcp),
        Some(node) => protocol_name(reader, node, &path.field("protocol")),
    };
    let port_path = path.field("port");
    let end_path = path.field("endPort");
    let last = end.map(|node| strict::integer(reader, node, &end_path, 1, u16::MAX));
    let read = match (port, end) {
        (None, None) => protocol.map(Port::Every),
        (None, Some(end)) => {
            reader.error(end.at, &end_path, "endPort requires `port`, the first port of the range");
            None
        }
        (Some(Node { value: Value::String(name), at }), None) => {
            let sound = port_name(reader, *at, &port_path, name);
            let name = reader.interner.string(name);
            protocol.filter(|_| sound).map(|protocol| Port::Named { protocol, name })
        }
        (Some(Node { value: Value::String(_), .. }), Some(end)) => {
            reader.error(end.at, &end_path, "endPort requires a number in `port`, not a name");
            None
        }
        (Some(node), _) => {
            let first = strict::integer(reader, node, &port_path, 1, u16::MAX);
            match (protocol, first, last.unwrap_or(first)) {
                (_, Some(first), Some(last)) if last < first => {
                    let at = end.unwrap_or(node).at;
                    reader.error(at, &end_path, format!("{last} is less than port {first}"));
                    None
                }
                (Some(protocol), Some(first), Some(last)) => {
                    Some(Port::Range { protocol, first, last })
                }
                _ => None,
            }
        }
    };
    read.filter(|_| health == Health::Sound)
}

pub(crate) fn protocol_name(reader: &mut Reader, node: &Node, path: &Path) -> Option<Protocol> {
    let text = strict::string(reader, node, path)?;
    let found = Protocol::ALL.into_iter().find(|p| p.to_string() == text);
    if found.is_none() {
        let message = format!(
            "`{}` is not a valid protocol; write TCP, UDP or SCTP (in capitals)",
            excerpt(text)
        );
        reader.error(node.at, path, message);
    }
    found
}

/// Checks and reports a port name: an IANA_SVC_NAME (RFC 6335, 5.1), in lower case as
/// IsValidPortName requires.
fn port_name(reader: &mut Reader, at: u32, path: &Path, name: &str) -> bool {
    let sound = is_port_name(name);
    if !sound {
        let advice = match name.parse::<u16>() {
            Ok(_) => "; write a number without quotes",
            Err(_) => {
                "; use at most 15 of a-z, 0-9 and single `-`, with at least one letter and no `-` \
                first or last"
            }
        };
        reader.error(at, path, format!("`{}` is not a valid port name{advice}", excerpt(name)));
    }
    sound
}

/// Whether this is a valid name of a port: IsValidPortName of k8s.io/apimachinery.
pub fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-')
}
