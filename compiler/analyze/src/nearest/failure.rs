//! One thing that keeps a rule from allowing a packet: in words, with what to change, and how far
//! away it is.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use netpolc_policy::{ObjectKey, Operator, Requirement, SecurityGroupId};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::traffic::{self, TrafficSet};

/// Whose labels are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// The pod that the policy should select.
    Subject(ObjectKey),
    /// The pod at the other end.
    Pod(ObjectKey),
    /// This namespace.
    Namespace(Arc<str>),
    /// This node.
    Node(Arc<str>),
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Of::Subject(pod) | Of::Pod(pod) => write!(f, "pod {pod}"),
            Of::Namespace(name) => write!(f, "namespace {name}"),
            Of::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// One thing that keeps a rule from allowing a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The rule is about other ports.
    Port {
        /// Those that it lists.
        listed: TrafficSet,
        /// The packet's protocol, as an IP protocol number.
        protocol: u8,
        /// The packet's port.
        port: Option<u16>,
    },
    /// The rule names a port, and no container of the destination has one of that name.
    NoPortNamed {
        /// The name.
        name: Arc<str>,
        /// The destination; None where it is no pod, or is meant by a block of addresses.
        on: Option<ObjectKey>,
    },
    /// A label is missing or has another value.
    Label {
        /// Whose label.
        of: Of,
        /// What the selector asks for.
        wanted: Requirement,
        /// What is there.
        has: Option<Arc<str>>,
    },
    /// The peer means pods of another namespace.
    OtherNamespace {
        /// The namespace of the pod at the other end.
        has: Arc<str>,
        /// The namespace of the policy.
        wanted: Arc<str>,
    },
    /// The peer means pods, and the address at the other end is no pod's.
    NoPod {
        /// The address.
        remote: IpAddr,
    },
    /// The peer means nodes, and the address at the other end is no node's.
    NoNode {
        /// The address.
        remote: IpAddr,
    },
    /// The address is outside of the block.
    OutsideBlock {
        /// The address.
        remote: IpAddr,
        /// The block.
        cidr: IpNetwork,
    },
    /// The address is in an exception of the block.
    Excepted {
        /// The address.
        remote: IpAddr,
        /// The exception.
        except: IpNetwork,
    },
    /// The peer could not be understood and matches nothing.
    Broken,
    /// The address is none of those whom the security group's rule means.
    NoGroupPeer {
        /// The address.
        remote: IpAddr,
        /// Whom the rule means.
        peers: Vec<String>,
    },
    /// Nothing is known of the security group.
    UnknownGroup {
        /// The group.
        group: SecurityGroupId,
    },
}

impl Failure {
    /// How far away the rule is because of this. What a typing error explains is nearest.
    pub(super) fn distance(&self) -> u32 {
        match self {
            Failure::Label { wanted, has: Some(has), .. } if is_typo(wanted, has) => 1,
            Failure::Port { .. } | Failure::NoPortNamed { .. } => 2,
            Failure::Excepted { .. } => 2,
            Failure::Label { of: Of::Namespace(_), .. } => 3,
            Failure::Label { has: Some(_), .. } => 4,
            Failure::Label { has: None, .. } => 3,
            Failure::OtherNamespace { .. } => 3,
            Failure::UnknownGroup { .. } => 3,
            Failure::NoGroupPeer { .. } => 4,
            Failure::OutsideBlock { .. } => 5,
            Failure::NoPod { .. } | Failure::NoNode { .. } => 6,
            Failure::Broken => 6,
        }
    }

    /// What to change so that this does not keep the rule from allowing the packet.
    pub fn change(&self) -> String {
        match self {
            Failure::Port { listed, protocol, port } => {
                let asked = asked(*protocol, *port);
                if !matches!(protocol, 6 | 17 | 132) {
                    return format!("leave the ports out of a rule: that alone allows {asked}");
                }
                match listed.is_nothing() {
                    true => format!("list {asked} in the rule's ports"),
                    false => format!("list {asked} in the rule's ports, or use {listed}"),
                }
            }
            Failure::NoPortNamed { name, on: Some(pod) } => {
                format!("name a container port of {pod} {name:?}, or write its number in the rule")
            }
            Failure::NoPortNamed { .. } => "write the port's number in the rule".into(),
            Failure::Label { of, wanted, .. } => match &wanted.operator {
                Operator::In(values) => match values.as_slice() {
                    [value] => format!("give {of} the label {}={value}", wanted.key),
                    _ => format!(
                        "give {of} the label {} with one of the values {}",
                        wanted.key,
                        values.join(", ")
                    ),
                },
                Operator::NotIn(_) => format!("give {of} another value of {}", wanted.key),
                Operator::Exists => format!("give {of} the label {}", wanted.key),
                Operator::DoesNotExist => format!("take the label {} off {of}", wanted.key),
            },
            Failure::OtherNamespace { has, .. } => {
                format!("add a namespaceSelector to the peer: kubernetes.io/metadata.name: {has}")
            }
            Failure::NoPod { remote } | Failure::NoNode { remote } => {
                format!("add an ipBlock that has {remote}")
            }
            Failure::OutsideBlock { remote, .. } => format!("add an ipBlock that has {remote}"),
            Failure::Excepted { except, .. } => format!("take {except} out of the except"),
            Failure::Broken => "mend the peer; netpolc lint says what is wrong with it".into(),
            Failure::NoGroupPeer { remote, .. } => {
                format!("add a rule for {remote}, or for a group that it has")
            }
            Failure::UnknownGroup { group } => format!(
                "add the group to the input: aws ec2 describe-security-groups --group-ids {group}"
            ),
        }
    }
}

/// The port of a packet as people write it.
pub fn asked(protocol: u8, port: Option<u16>) -> String {
    let Some(name) = traffic::name(protocol) else { return format!("protocol {protocol}") };
    match port {
        Some(port) if !matches!(protocol, 1 | 58) => format!("{name} {port}"),
        Some(message) => {
            let [kind, code] = message.to_be_bytes();
            format!("{name} type {kind} code {code}")
        }
        None => name.into(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Port { listed, protocol, port } if listed.is_nothing() => {
                write!(f, "it lists no port that could be {}", asked(*protocol, *port))
            }
            Failure::Port { listed, protocol, port } => {
                write!(f, "it is about {listed}, not {}", asked(*protocol, *port))
            }
            Failure::NoPortNamed { name, on: Some(pod) } => {
                write!(f, "the port name {name:?} is on no container of {pod}")
            }
            Failure::NoPortNamed { name, on: None } => {
                write!(f, "the port name {name:?} means nothing there, since no pod is meant")
            }
            Failure::Label { of, wanted, has } => {
                let key = &wanted.key;
                match (&wanted.operator, has) {
                    (Operator::In(values), Some(has)) => {
                        write!(f, "it asks for {key}={}; {of} has {key}={has}", values.join(" or "))
                    }
                    (Operator::In(values), None) => {
                        write!(
                            f,
                            "it asks for {key}={}; {of} has no label {key}",
                            values.join(" or ")
                        )
                    }
                    (Operator::NotIn(_) | Operator::DoesNotExist, Some(has)) => {
                        write!(f, "it leaves out {key}={has}, which {of} has")
                    }
                    (Operator::Exists, _) => {
                        write!(f, "it asks for the label {key}, which {of} does not have")
                    }
                    (Operator::NotIn(_) | Operator::DoesNotExist, None) => {
                        write!(f, "it asks for another label {key} of {of}")
                    }
                }
            }
            Failure::OtherNamespace { has, wanted } => write!(
                f,
                "its peer means pods of the policy's own namespace {wanted}; the pod is in {has}"
            ),
            Failure::NoPod { remote } => {
                write!(f, "its peer means pods; {remote} is no address of a pod")
            }
            Failure::NoNode { remote } => {
                write!(f, "its peer means nodes; {remote} is no address of a node")
            }
            Failure::OutsideBlock { remote, cidr } => write!(f, "{remote} is not in {cidr}"),
            Failure::Excepted { remote, except } => {
                write!(f, "{remote} is in its except {except}")
            }
            Failure::Broken => f.write_str("its peer cannot be understood and matches nothing"),
            Failure::NoGroupPeer { remote, peers } if peers.is_empty() => {
                write!(f, "it means nobody, and so not {remote}")
            }
            Failure::NoGroupPeer { remote, peers } => {
                write!(f, "it means {}; {remote} is none of them", peers.join(" and "))
            }
            Failure::UnknownGroup { group } => write!(f, "the input has no group {group}"),
        }
    }
}

impl Serialize for Failure {
    /// Both sentences: `what`, and the `change`.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Failure", 2)?;
        fields.serialize_field("what", &self.to_string())?;
        fields.serialize_field("change", &self.change())?;
        fields.end()
    }
}

/// Would one or two changed letters make this value one that is asked for?
fn is_typo(wanted: &Requirement, has: &str) -> bool {
    let Operator::In(values) = &wanted.operator else { return false };
    values.iter().any(|value| {
        let far = distance(value, has);
        far <= 2 && far < value.chars().count().min(has.chars().count())
    })
}

/// How many letters to change, to add, to leave out, or to swap with the next one.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut far = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..width {
            let at = i * width + j;
            if i == 0 || j == 0 {
                far[at] = i + j;
                continue;
            }
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut least = far[at - width] + 1;
            least = least.min(far[at - 1] + 1).min(far[at - width - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(far[at - 2 * width - 2] + 1);
            }
            far[at] = least;
        }
    }
    far[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_a_letter_or_two() {
        for (a, b, far) in [
            ("web", "wbe", 1),
            ("web", "web", 0),
            ("api", "apis", 1),
            ("", "ab", 2),
            ("ab", "cd", 2),
        ] {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
        let wanted = Requirement { key: "app".into(), operator: Operator::In(vec!["web".into()]) };
        assert!(is_typo(&wanted, "wbe"));
        assert!(!is_typo(&wanted, "db"));
    }
}
