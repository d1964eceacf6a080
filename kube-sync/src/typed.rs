//! The fast path for JSON: derived decoders for Pods, Namespaces and Nodes that borrow from the
//! input. It gives a result only where nothing at all is unusual; everything else goes through
//! `object`, which reports what is wrong. Both paths give the same objects, and a test compares
//! them.

use std::{net::IpAddr, sync::Arc};

use netpolc_policy::{
    ContainerPort, Grouping, Labels, Namespace, Node as ClusterNode, ObjectKey, Owner, Phase, Pod,
    PodNetwork, Protocol,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    annotation,
    gather::Purpose,
    groups::pod,
    intern::Interner,
    json::Str,
    json_maps::{Annotations, Pairs},
    kind::{Kind, asked::classify_for},
    object::{ItemType, NAMESPACE_NAME_LABEL, Object},
    owner,
    selector::is_dns_subdomain,
};

/// Any object, with its larger parts left as text. A key that occurs twice is an error.
#[derive(Default)]
pub(crate) struct Item<'a> {
    pub kind: Option<Str<'a>>,
    pub api_version: Option<Str<'a>>,
    metadata: Option<Metadata<'a>>,
    spec: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
    /// Whether there are other fields, which the kinds that are read here do not have.
    more: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
                let (mut item, mut seen) = (Item::default(), [false; 5]);
                while let Some(Str(name)) = map.next_key()? {
                    let index = match &*name {
                        "kind" => {
                            item.kind = map.next_value()?;
                            0
                        }
                        "apiVersion" => {
                            item.api_version = map.next_value()?;
                            1
                        }
                        "metadata" => {
                            item.metadata = map.next_value()?;
                            2
                        }
                        "spec" => {
                            item.spec = map.next_value()?;
                            3
                        }
                        "status" => {
                            item.status = map.next_value()?;
                            4
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            item.more = true;
                            continue;
                        }
                    };
                    if std::mem::replace(&mut seen[index], true) {
                        return Err(A::Error::custom("given twice"));
                    }
                }
                Ok(item)
            }
        }
        from.deserialize_map(ItemVisitor)
    }
}

/// Every field that `metadata` may have; any other one is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "some fields are only allowed, and not read")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Str<'a>>,
    #[serde(borrow)]
    namespace: Option<Str<'a>>,
    #[serde(borrow)]
    uid: Option<Str<'a>>,
    #[serde(borrow)]
    labels: Option<Pairs<'a>>,
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
    generate_name: Option<IgnoredAny>,
    resource_version: Option<IgnoredAny>,
    generation: Option<IgnoredAny>,
    creation_timestamp: Option<IgnoredAny>,
    deletion_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: Option<IgnoredAny>,
    #[serde(borrow)]
    owner_references: Option<&'a RawValue>,
    finalizers: Option<IgnoredAny>,
    managed_fields: Option<IgnoredAny>,
    self_link: Option<IgnoredAny>,
    cluster_name: Option<IgnoredAny>,
    initializers: Option<IgnoredAny>,
}

impl<'a> Metadata<'a> {
    /// The text of a field; an empty one counts as absent.
    fn text<'m>(field: &'m Option<Str<'a>>) -> Option<&'m str> {
        field.as_ref().map(|text| &*text.0).filter(|text| !text.is_empty())
    }
}

/// One entry of ownerReferences.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerReference<'a> {
    #[serde(borrow)]
    api_version: Option<Str<'a>>,
    #[serde(borrow)]
    kind: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    controller: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec<'a> {
    #[serde(borrow)]
    node_name: Option<Str<'a>>,
    #[serde(borrow)]
    service_account_name: Option<Str<'a>>,
    #[serde(borrow)]
    service_account: Option<Str<'a>>,
    host_network: Option<bool>,
    #[serde(borrow)]
    containers: Option<Vec<Container<'a>>>,
    #[serde(borrow)]
    init_containers: Option<Vec<Container<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container<'a> {
    #[serde(borrow)]
    ports: Option<Vec<PortFields<'a>>>,
    #[serde(borrow)]
    restart_policy: Option<Str<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortFields<'a> {
    #[serde(borrow)]
    name: Option<Str<'a>>,
    container_port: u16,
    host_port: Option<u16>,
    #[serde(borrow)]
    protocol: Option<Str<'a>>,
}

#[derive(Deserialize)]
struct PodStatus<'a> {
    #[serde(borrow)]
    phase: Option<Str<'a>>,
    #[serde(borrow, rename = "podIP")]
    pod_ip: Option<Str<'a>>,
    #[serde(borrow, rename = "podIPs")]
    pod_ips: Option<Vec<PodIp<'a>>>,
}

#[derive(Deserialize)]
struct PodIp<'a> {
    #[serde(borrow)]
    ip: Option<Str<'a>>,
}

#[derive(Deserialize)]
struct NodeStatus<'a> {
    #[serde(borrow)]
    addresses: Option<Vec<NodeAddress<'a>>>,
}

#[derive(Deserialize)]
struct NodeAddress<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Str<'a>>,
    #[serde(borrow)]
    address: Option<Str<'a>>,
}

/// The result of the fast path for an item.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and mostly it is an object")]
pub(crate) enum Outcome {
    Found(Object),
    Ignored,
    /// Something is unusual; `object` has to read the item.
    Unsure,
}

/// Converts `item`, whose type is `item_type` where it carries none itself.
pub(crate) fn convert(
    item: &Item,
    item_type: Option<ItemType>,
    purpose: Purpose,
    interner: &mut Interner,
) -> Outcome {
    let Some(kind) = item.kind.as_ref().map(|kind| &*kind.0).or(item_type.map(|t| t.kind)) else {
        return Outcome::Unsure;
    };
    let version =
        item.api_version.as_ref().map(|v| &*v.0).or(item_type.and_then(|t| t.api_version));
    let found = match classify_for(purpose, kind, version) {
        (Kind::Ignored, None) => return Outcome::Ignored,
        _ if item.more => None,
        (Kind::Pod, None) => pod_of(item, interner).map(Object::Pod),
        (Kind::Namespace, None) => namespace(item, interner),
        (Kind::Node, None) => node(item, interner),
        (Kind::Account, None) => account(item, interner),
        _ => None,
    };
    found.map_or(Outcome::Unsure, Outcome::Found)
}

/// The object's name. It is not interned: names are mostly unique, so that would only cost memory.
fn name(metadata: &Metadata) -> Option<Arc<str>> {
    Metadata::text(&metadata.name).filter(|name| is_dns_subdomain(name)).map(Arc::from)
}

fn namespace(item: &Item, interner: &mut Interner) -> Option<Object> {
    let metadata = item.metadata.as_ref()?;
    let name = name(metadata)?;
    let pairs = metadata.labels.iter().flat_map(|l| &l.0).map(|(k, v)| (&*k.0, &*v.0));
    let labels = interner.labels(pairs.chain([(NAMESPACE_NAME_LABEL, &*name)]));
    let annotations = metadata.annotations.as_ref();
    let unselected = match annotations.and_then(|found| found.isolate_by_default.as_ref()) {
        Some(text) => Some(annotation::isolate_by_default(&text.0)?),
        None => None,
    };
    // What is gathered is gathered from trees.
    if annotations.is_some_and(|found| found.lint_allow.is_some()) {
        return None;
    }
    Some(Object::Namespace(name, Namespace { labels, unselected }))
}

fn account(item: &Item, interner: &mut Interner) -> Option<Object> {
    let metadata = item.metadata.as_ref()?;
    let key = ObjectKey { name: name(metadata)?, namespace: namespace_of(metadata, interner)? };
    Some(Object::Account(key, labels(metadata, interner)))
}

/// The namespace in which the object is; None where that is no valid name.
fn namespace_of(metadata: &Metadata, interner: &mut Interner) -> Option<Arc<str>> {
    let namespace = Metadata::text(&metadata.namespace).unwrap_or("default");
    is_dns_subdomain(namespace).then(|| interner.string(namespace))
}

fn labels(metadata: &Metadata, interner: &mut Interner) -> Labels {
    interner.labels(metadata.labels.iter().flat_map(|l| &l.0).map(|(k, v)| (&*k.0, &*v.0)))
}

fn node(item: &Item, interner: &mut Interner) -> Option<Object> {
    let metadata = item.metadata.as_ref()?;
    let name = name(metadata)?;
    let mut addresses = Vec::new();
    if let Some(status) = part::<NodeStatus>(item.status)? {
        for address in status.addresses.iter().flatten() {
            if matches!(&*address.kind.as_ref()?.0, "InternalIP" | "ExternalIP") {
                add(address.address.as_ref()?, &mut addresses)?;
            }
        }
    }
    Some(Object::Node(name, ClusterNode { labels: labels(metadata, interner), addresses }))
}

fn pod_of(item: &Item, interner: &mut Interner) -> Option<Pod> {
    let metadata = item.metadata.as_ref()?;
    let name = name(metadata)?;
    let namespace = namespace_of(metadata, interner)?;
    let spec = part::<PodSpec>(item.spec)?;
    let status = part::<PodStatus>(item.status)?;
    let labels = labels(metadata, interner);
    let mut ports = Vec::new();
    let mut addresses = Vec::new();
    if let Some(spec) = &spec {
        let keeps_running =
            |c: &&Container| c.restart_policy.as_ref().is_some_and(|p| p.0 == "Always");
        let init = spec.init_containers.iter().flatten().filter(keeps_running);
        for container in spec.containers.iter().flatten().chain(init) {
            for port in container.ports.iter().flatten() {
                ports.push(container_port(port, interner)?);
            }
        }
    }
    ports.shrink_to_fit();
    if let Some(status) = &status {
        for ip in status.pod_ips.iter().flatten() {
            add(ip.ip.as_ref()?, &mut addresses)?;
        }
        if let Some(ip) = &status.pod_ip {
            add(ip, &mut addresses)?;
        }
    }
    addresses.shrink_to_fit();
    let phase = status.as_ref().and_then(|s| s.phase.as_ref()).map(|p| &*p.0);
    let node = spec.as_ref().and_then(|s| s.node_name.as_ref()).filter(|name| !name.0.is_empty());
    Some(Pod {
        key: ObjectKey { namespace, name },
        uid: Metadata::text(&metadata.uid).map(Arc::from),
        node: node.map(|name| interner.string(&name.0)),
        labels,
        addresses,
        network: match spec.as_ref().and_then(|s| s.host_network) {
            Some(true) => PodNetwork::Host,
            _ => PodNetwork::Own,
        },
        phase: if matches!(phase, Some("Succeeded" | "Failed")) {
            Phase::Finished
        } else {
            Phase::Active
        },
        ports,
        grouping: grouping(metadata, spec.as_ref(), interner)?,
        owner: owner_of(metadata, interner)?,
    })
}

/// The workload that the pod belongs to; None where ownerReferences are unusual.
fn owner_of(metadata: &Metadata, interner: &mut Interner) -> Option<Option<Arc<Owner>>> {
    let Some(raw) = metadata.owner_references else { return Some(None) };
    let references: Vec<OwnerReference> = serde_json::from_str(raw.get()).ok()?;
    let found = references.iter().find(|reference| reference.controller == Some(true));
    let Some(OwnerReference { api_version, kind, name, .. }) = found else { return Some(None) };
    let reference =
        owner::Reference { api_version: Metadata::text(api_version), kind: &kind.0, name: &name.0 };
    let mut labels = metadata.labels.iter().flat_map(|labels| &labels.0);
    let hash = labels.find(|(key, _)| key.0 == owner::HASH).map(|(_, value)| &*value.0);
    Some(owner::of(interner, reference, hash))
}

fn grouping(
    metadata: &Metadata,
    spec: Option<&PodSpec>,
    interner: &mut Interner,
) -> Option<Grouping> {
    let accounts = spec.map(|s| [&s.service_account_name, &s.service_account]);
    let account = accounts.into_iter().flatten().find_map(Metadata::text).unwrap_or(pod::ACCOUNT);
    let mut grouping =
        Grouping { account: interner.string(account), interfaces: Vec::new(), fargate: Vec::new() };
    if let Some(annotations) = &metadata.annotations {
        if let Some(text) = &annotations.eni {
            grouping.interfaces = pod::interfaces(&text.0).ok()?;
        }
        if let Some(text) = &annotations.fargate {
            grouping.fargate = pod::groups(&text.0).ok()?;
        }
    }
    Some(grouping)
}

/// Decodes a part of an object; Some(None) where it is absent, None where it is unusual.
fn part<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<Option<T>> {
    // serde would accept a list in place of an object.
    let object = |raw: &'a RawValue| {
        serde_json::from_str(Some(raw.get()).filter(|text| text.starts_with('{'))?).ok()
    };
    match raw {
        None => Some(None),
        Some(raw) => object(raw).map(Some),
    }
}

fn add(text: &Str, into: &mut Vec<IpAddr>) -> Option<()> {
    if text.0.is_empty() {
        return Some(());
    }
    let address = text.0.parse().ok()?;
    if !into.contains(&address) {
        into.push(address);
    }
    Some(())
}

fn container_port(port: &PortFields, interner: &mut Interner) -> Option<ContainerPort> {
    let protocol = match port.protocol.as_ref().map(|p| &*p.0) {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    let name = port.name.as_ref().filter(|name| !name.0.is_empty());
    Some(ContainerPort {
        name: name.map(|name| interner.string(&name.0)),
        protocol,
        number: Some(port.container_port).filter(|number| *number != 0)?,
        host_port: port.host_port.filter(|number| *number != 0),
    })
}
