//! Reads one rule of a ClusterNetworkPolicy: action, peers and ports, in the form of either group,
//! within the limits that the API server sets. Not here: single ports (`tier_ports`), and what is
//! around the rules (`tier`).

use std::sync::Arc;

use netpolc_policy::{Action, Direction, Port, Ports, Selector, TierApi, TierPeer, TierRule};

use crate::{
    cidr::network,
    problem::{Path, excerpt},
    selector::selector,
    source::Reader,
    strict::{self, Health},
    tier_ports::read_ports,
    tree::Node,
};

/// How many peers, and how many protocols or ports, a rule may have.
fn most(api: TierApi) -> usize {
    match api {
        TierApi::Upstream => 25,
        TierApi::Aws => 100,
    }
}

/// How many networks or names a peer may have.
const MOST_IN_PEER: usize = 25;
/// How many characters a rule's name may have.
const MOST_NAME: usize = 100;

/// The field of a rule that has its ports.
fn ports_field(api: TierApi) -> &'static str {
    match api {
        TierApi::Upstream => "protocols",
        TierApi::Aws => "ports",
    }
}

/// What stands for a Deny or a Pass that cannot be understood.
pub(crate) fn deny_everything(name: Option<Arc<str>>) -> TierRule {
    TierRule { name, action: Action::Deny, peers: vec![TierPeer::Anybody], ports: Ports::Any }
}

/// Reads a rule. Of a broken Accept the peers and ports that are sound stay, since they permit less
/// than what was written; any other broken rule denies everything (S72).
pub(crate) fn rule(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    direction: Direction,
    api: TierApi,
) -> TierRule {
    let (peers_field, ports_field) = match direction {
        Direction::Ingress => ("from", ports_field(api)),
        Direction::Egress => ("to", ports_field(api)),
    };
    let ([name, action, peers, ports], health) =
        strict::fields(reader, node, path, ["name", "action", peers_field, ports_field]);
    // A name tells rules apart and changes nothing, so a broken one breaks nothing else.
    let name = name.and_then(|node| rule_name(reader, node, &path.field("name")));
    let mut need = |given: Option<&Node>, field: &str, advice: &str| {
        if given.is_none() && health == Health::Sound {
            let message = format!("the field is required but missing; write {advice}");
            reader.error(node.at, &path.field(field), message);
        }
    };
    need(action, "action", "Accept, Deny or Pass");
    need(peers, peers_field, "`- namespaces: {}` in it for every pod");
    let action = action.and_then(|node| read_action(reader, node, &path.field("action")));
    let (peers, peers_health) = match peers {
        Some(list) => read_peers(reader, list, &path.field(peers_field), direction, api),
        None => (vec![TierPeer::Nobody], Health::Broken),
    };
    let (ports, ports_health) = match ports {
        Some(list) => read_ports(reader, list, &path.field(ports_field), most(api), api),
        None => (Ports::Any, Health::Sound),
    };
    let names_fit = names_fit(reader, node, path, &peers, &ports, api);
    let sound = health.and(peers_health).and(ports_health) == Health::Sound && names_fit;
    match action {
        Some(action) if sound => TierRule { name, action, peers, ports },
        // An unknown field may have narrowed the rule.
        Some(Action::Accept) if health == Health::Sound && names_fit => {
            TierRule { name, action: Action::Accept, peers, ports }
        }
        Some(Action::Accept) => {
            TierRule { name, action: Action::Accept, peers: vec![TierPeer::Nobody], ports }
        }
        Some(Action::Deny | Action::Pass) | None => deny_everything(name),
    }
}

fn rule_name(reader: &mut Reader, node: &Node, path: &Path) -> Option<Arc<str>> {
    let text = strict::string(reader, node, path)?;
    let length = text.chars().count();
    if length > MOST_NAME {
        let message = format!(
            "the name has {length} characters, but may have at most {MOST_NAME}; shorten it"
        );
        reader.error(node.at, path, message);
        return None;
    }
    (!text.is_empty()).then(|| reader.interner.string(text))
}

fn read_action(reader: &mut Reader, node: &Node, path: &Path) -> Option<Action> {
    let text = strict::string(reader, node, path)?;
    let found = [Action::Accept, Action::Deny, Action::Pass]
        .into_iter()
        .find(|action| action.to_string() == text);
    if found.is_none() {
        let advice = if text == "Allow" { "Accept" } else { "Accept, Deny or Pass" };
        let message = format!(
            "`{}` is not an action, so the rule denies everything; write {advice}",
            excerpt(text)
        );
        reader.error(node.at, path, message);
    }
    found
}

/// The items of a list that has from one to `most` of them. Of a longer one the first ones, with a
/// report, and that it is broken.
pub(crate) fn items<'n, 't>(
    reader: &mut Reader,
    node: &'n Node<'t>,
    path: &Path,
    most: usize,
    advice: &str,
) -> (&'n [Node<'t>], Health) {
    match strict::list(reader, Some(node), path) {
        None => (&[], Health::Broken),
        Some([]) => {
            reader.error(node.at, path, format!("the list is empty; {advice}"));
            (&[], Health::Broken)
        }
        Some(items) if items.len() > most => {
            let message =
                format!("there are {}, but at most {most} may be; write a second one", items.len());
            reader.error(items[most].at, path, message);
            (&items[..most], Health::Broken)
        }
        Some(items) => (items, Health::Sound),
    }
}

fn read_peers(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    direction: Direction,
    api: TierApi,
) -> (Vec<TierPeer>, Health) {
    let advice = "write `- namespaces: {}` for every pod";
    let (items, mut health) = items(reader, node, path, most(api), advice);
    let mut peers = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let read = peer(reader, item, &path.index(index), direction, api);
        if read.is_none() {
            health = Health::Broken;
        }
        peers.push(read.unwrap_or(TierPeer::Nobody));
    }
    if peers.is_empty() {
        peers.push(TierPeer::Nobody);
    }
    (peers, health)
}

/// Reads one peer; None, with a report, where it cannot be understood.
fn peer(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    direction: Direction,
    api: TierApi,
) -> Option<TierPeer> {
    let names = ["namespaces", "pods", "networks", "domainNames", "nodes"];
    let [a, b, c, d, _] = names;
    let (found, health): ([Option<&Node>; 5], _) = match (direction, api) {
        (Direction::Ingress, _) => {
            let ([a, b], health) = strict::fields(reader, node, path, [a, b]);
            ([a, b, None, None, None], health)
        }
        (Direction::Egress, TierApi::Aws) => {
            let ([a, b, c, d], health) = strict::fields(reader, node, path, [a, b, c, d]);
            ([a, b, c, d, None], health)
        }
        (Direction::Egress, TierApi::Upstream) => strict::fields(reader, node, path, names),
    };
    let set = found.iter().flatten().count();
    if set == 0 && health == Health::Sound {
        let message = "the peer is empty; write `namespaces: {}` for every pod";
        reader.error(node.at, path, message);
    }
    if set > 1 {
        let set: Vec<&str> =
            names.into_iter().zip(found).filter(|(_, node)| node.is_some()).map(|n| n.0).collect();
        let message = format!("{} cannot be combined; write several peers", set.join(" and "));
        reader.error(node.at, path, message);
    }
    let [namespaces, in_namespaces, networks, domains, nodes] = found;
    let mut read = None;
    if let Some(node) = namespaces {
        let (namespaces, sound) = selector(reader, node, &path.field("namespaces"));
        read = Some((TierPeer::Pods { namespaces, pods: Selector::default() }, sound));
    }
    if let Some(node) = in_namespaces {
        let (namespaces, pods, sound) = pods(reader, node, &path.field("pods"), api);
        read = Some((TierPeer::Pods { namespaces, pods }, sound));
    }
    if let Some(node) = networks {
        let (networks, sound) = read_networks(reader, node, &path.field("networks"));
        read = Some((TierPeer::Networks(networks), sound));
    }
    if let Some(node) = nodes {
        let (nodes, sound) = selector(reader, node, &path.field("nodes"));
        read = Some((TierPeer::Nodes(nodes), sound));
    }
    if let Some(node) = domains {
        let message = "names are not supported yet: an Accept matches nothing, and any other rule \
            denies everything; write `networks` with the addresses";
        reader.error(node.at, &path.field("domainNames"), message);
        read = None;
    }
    read.filter(|(_, sound)| set == 1 && health.and(*sound) == Health::Sound).map(|(peer, _)| peer)
}

/// Reads a pair of selectors, of namespaces and of pods in them. What cannot be understood is left
/// out of them.
pub(crate) fn pods(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    api: TierApi,
) -> (Selector, Selector, Health) {
    let names = ["namespaceSelector", "podSelector"];
    let ([namespaces, pods], mut health) = strict::fields(reader, node, path, names);
    let whole = health == Health::Sound;
    let mut read = |given: Option<&Node>, field: &str, required: bool| match given {
        Some(node) => {
            let (selector, sound) = selector(reader, node, &path.field(field));
            health = health.and(sound);
            selector
        }
        None => {
            let advice = format!("write `{field}: {{}}` to select all");
            if required && whole {
                let message = format!("the field is required but missing; {advice}");
                reader.error(node.at, &path.field(field), message);
            } else if whole {
                let message = format!("the field is absent, which selects all; {advice}");
                reader.warning(node.at, &path.field(field), message);
            }
            if required {
                health = Health::Broken;
            }
            Selector::default()
        }
    };
    let namespaces = read(namespaces, names[0], api == TierApi::Aws);
    let pods = read(pods, names[1], true);
    (namespaces, pods, health)
}

fn read_networks(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
) -> (Vec<ipnetwork::IpNetwork>, Health) {
    let advice = "write 0.0.0.0/0 and ::/0 for every address";
    let (items, health) = items(reader, node, path, MOST_IN_PEER, advice);
    let read: Vec<_> = items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| network(reader, item, &path.index(index)))
        .collect();
    let whole = if read.len() == items.len() { Health::Sound } else { Health::Broken };
    (read, health.and(whole))
}

/// Reports names of ports beside peers that have none; the API of AWS takes them.
fn names_fit(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    peers: &[TierPeer],
    ports: &Ports,
    api: TierApi,
) -> bool {
    let nameless = |peer: &TierPeer| matches!(peer, TierPeer::Networks(_) | TierPeer::Nodes(_));
    let named =
        matches!(ports, Ports::Listed(list) if list.iter().any(|p| matches!(p, Port::Name(_))));
    let fits = api == TierApi::Aws || !named || !peers.iter().any(nameless);
    if !fits {
        let message = "destinationNamedPort cannot be combined with networks or nodes, which name \
            no ports; write numbers, or two rules";
        reader.error(node.at, path, message);
    }
    fits
}
