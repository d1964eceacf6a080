//! The connections of a cluster, as a list that a person can read and a program can use.
//!
//! Here: which connections there are between units, nodes and the rest of the world. Not here: how
//! they are printed.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use ipnetwork::IpNetwork;
use netpolc_policy::Direction;
use serde::{Serialize, Serializer};

use crate::{
    Analysis,
    region::without,
    traffic::{TrafficId, TrafficSet},
    unit::{Passing, Unit},
};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// Pods under this name.
    Pods(Arc<str>),
    /// Nodes by their metadata.name, at least one.
    Nodes(Vec<Arc<str>>),
    /// Addresses outside of the cluster.
    Outside(Vec<IpNetwork>),
}

impl Who {
    /// Every address outside of the cluster that the list of prefixes covers, in few words.
    fn outside(prefixes: &[IpNetwork]) -> String {
        let whole = |v4: bool| prefixes.iter().any(|p| p.prefix() == 0 && p.is_ipv4() == v4);
        if whole(true) && whole(false) {
            return "anywhere outside".into();
        }
        let families = [true, false].map(|v4| {
            let of_family = prefixes.iter().filter(|prefix| prefix.is_ipv4() == v4);
            in_few_words(&of_family.copied().collect::<Vec<_>>())
        });
        match families {
            [v4, v6] if v4.is_empty() => v6,
            [v4, v6] if v6.is_empty() => v4,
            // What follows on "but" is left out, and the other family is not.
            [v4, v6] if v4.contains(" but ") => format!("{v4}; {v6}"),
            [v4, v6] => format!("{v4}, {v6}"),
        }
    }
}

/// Prefixes of one family: as they are, or as one prefix without others, where that is shorter. A
/// block inside another one's `except` comes first, so that nothing stands behind what is left out
/// that is not left out.
fn in_few_words(prefixes: &[IpNetwork]) -> String {
    let texts = |prefixes: &[IpNetwork]| {
        prefixes.iter().map(prefix_in_words).collect::<Vec<_>>().join(", ")
    };
    let plain = texts(prefixes);
    let Some(wide) = hull(prefixes).filter(|_| prefixes.len() >= 3) else { return plain };
    let holes = without(&wide, prefixes);
    let Some(hole) = hull(&holes) else { return plain };
    let inside = prefixes.iter().filter(|prefix| hole.contains(prefix.network()));
    let inside: Vec<&IpNetwork> = inside.collect();
    let wide = prefix_in_words(&wide);
    if inside.len() + 1 < holes.len().min(prefixes.len()) {
        let inside: String = inside.iter().map(|prefix| format!("{prefix}, ")).collect();
        format!("{inside}{wide} but {hole}")
    } else if holes.len() < prefixes.len() {
        format!("{wide} but {}", texts(&holes))
    } else {
        plain
    }
}

/// The longest prefix that covers all of these, which are of one family.
fn hull(prefixes: &[IpNetwork]) -> Option<IpNetwork> {
    let first = prefixes.first()?;
    let covers = |length: u8| {
        let wide = IpNetwork::new(first.ip(), length).ok()?;
        let wide = IpNetwork::new(wide.network(), length).ok()?;
        prefixes.iter().all(|prefix| wide.contains(prefix.network())).then_some(wide)
    };
    (0..=first.prefix()).rev().find_map(covers)
}

fn prefix_in_words(prefix: &IpNetwork) -> String {
    match prefix.prefix() {
        0 if prefix.is_ipv4() => "anywhere outside (IPv4)".into(),
        0 => "anywhere outside (IPv6)".into(),
        _ => prefix.to_string(),
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Pods(name) => f.write_str(name),
            Who::Nodes(names) => {
                let names: Vec<&str> = names.iter().map(|name| &**name).collect();
                write!(f, "node {}", names.join(", node "))
            }
            Who::Outside(prefixes) => f.write_str(&Who::outside(prefixes)),
        }
    }
}

impl Serialize for Who {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(Some(1))?;
        match self {
            Who::Pods(name) => map.serialize_entry("pods", name)?,
            Who::Nodes(names) => map.serialize_entry("nodes", names)?,
            Who::Outside(prefixes) => {
                let prefixes: Vec<String> = prefixes.iter().map(IpNetwork::to_string).collect();
                map.serialize_entry("outside", &prefixes)?;
            }
        }
        map.end()
    }
}

/// What may be sent from one end to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Who opens it.
    pub source: Who,
    /// Who answers.
    pub destination: Who,
    /// What may pass between at least one pair of the two.
    pub traffic: TrafficSet,
    /// What may pass between every pair, where that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_all: Option<TrafficSet>,
}

/// What a list is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only connections from units with one of these names; empty: from all.
    pub from: BTreeSet<Arc<str>>,
    /// Only connections to units with one of these names; empty: to all.
    pub to: BTreeSet<Arc<str>>,
    /// Only these ports; None: all.
    pub traffic: Option<TrafficSet>,
    /// What is left out.
    pub only: Only,
}

/// Which connections are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Only {
    /// All of them.
    #[default]
    All,
    /// Those from outside of the cluster, and those to it.
    Outside,
    /// Those from public addresses.
    Exposed,
}

/// The connections that may be opened, in order.
pub fn connections(
    analysis: &mut Analysis<'_>,
    units: &[Unit],
    filter: &Filter,
) -> Vec<Connection> {
    let among =
        |names: &BTreeSet<Arc<str>>, unit: &Unit| names.is_empty() || names.contains(&unit.name);
    let sources: Vec<&Unit> = units.iter().filter(|u| among(&filter.from, u)).collect();
    let destinations: Vec<&Unit> = units.iter().filter(|u| among(&filter.to, u)).collect();
    let mut found = Vec::new();
    if filter.only == Only::All {
        for destination in &destinations {
            for source in &sources {
                let Some(passing) = analysis.between_units(source, destination) else { continue };
                let ends = (Who::Pods(source.name.clone()), Who::Pods(destination.name.clone()));
                found.extend(connection(analysis, ends, passing, filter));
            }
        }
    }
    let regions = |analysis: &mut Analysis<'_>, unit: &Unit, direction| {
        let by_traffic = analysis.with_outside(unit, direction);
        let regions = &analysis.universe().regions;
        let ends = by_traffic.into_iter().map(|(passing, set)| (regions.addresses(&set), passing));
        ends.filter(|(addresses, _)| !addresses.is_empty()).collect::<Vec<_>>()
    };
    if filter.from.is_empty() {
        for destination in &destinations {
            let pods = Who::Pods(destination.name.clone());
            for (addresses, passing) in regions(analysis, destination, Direction::Ingress) {
                if filter.only == Only::Exposed && !addresses.iter().any(is_public) {
                    continue;
                }
                let ends = (Who::Outside(addresses), pods.clone());
                found.extend(connection(analysis, ends, passing, filter));
            }
            if filter.only == Only::All {
                for (who, passing) in nodes(analysis, destination, Direction::Ingress) {
                    found.extend(connection(analysis, (who, pods.clone()), passing, filter));
                }
            }
        }
    }
    if filter.to.is_empty() && filter.only != Only::Exposed {
        for source in &sources {
            let pods = Who::Pods(source.name.clone());
            for (addresses, passing) in regions(analysis, source, Direction::Egress) {
                let ends = (pods.clone(), Who::Outside(addresses));
                found.extend(connection(analysis, ends, passing, filter));
            }
            if filter.only == Only::All {
                for (who, passing) in nodes(analysis, source, Direction::Egress) {
                    found.extend(connection(analysis, (pods.clone(), who), passing, filter));
                }
            }
        }
    }
    found.sort();
    found
}

/// What may pass between a unit and nodes. Each pod may also be reached from its own node, and
/// reach it (S44, S45), which is not said here.
fn nodes(analysis: &mut Analysis<'_>, unit: &Unit, direction: Direction) -> Vec<(Who, Passing)> {
    let all: Vec<_> = analysis.universe().nodes().to_vec();
    let mut found: Vec<(BTreeSet<Arc<str>>, Passing)> = Vec::new();
    for (remote, names) in all {
        let Some(passing) = analysis.with_elsewhere(unit, direction, remote) else { continue };
        if passing.is_nothing() {
            continue;
        }
        let names = names.into_iter().map(Arc::from);
        match found.iter_mut().find(|(_, known)| *known == passing) {
            Some((known, _)) => known.extend(names),
            None => found.push((names.collect(), passing)),
        }
    }
    let who = |(names, passing): (BTreeSet<Arc<str>>, _)| {
        (Who::Nodes(names.into_iter().collect()), passing)
    };
    found.into_iter().map(who).collect()
}

fn connection(
    analysis: &mut Analysis<'_>,
    (source, destination): (Who, Who),
    passing: Passing,
    filter: &Filter,
) -> Option<Connection> {
    let Passing { mut some, mut every } = passing;
    if let Some(only) = &filter.traffic {
        let only = analysis.traffic.intern(only.clone());
        some = analysis.traffic.intersection(some, only);
        every = analysis.traffic.intersection(every, only);
    }
    if some == TrafficId::NOTHING {
        return None;
    }
    let set = |id| analysis.traffic(id).clone();
    let between_all = (some != every).then(|| set(every));
    Some(Connection { source, destination, traffic: set(some), between_all })
}

/// The prefixes that the internet does not route.
static PRIVATE: LazyLock<Vec<IpNetwork>> = LazyLock::new(|| {
    let ranges = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "0.0.0.0/8",
        "224.0.0.0/3",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
        "::1/128",
    ];
    ranges.map(|range| range.parse().expect("a prefix")).into()
});

/// The range of this address that the internet does not route; None where it routes the address.
pub fn private(address: IpAddr) -> Option<&'static IpNetwork> {
    PRIVATE.iter().find(|range| range.contains(address))
}

/// Are there addresses in the prefix that the internet routes?
pub fn is_public(prefix: &IpNetwork) -> bool {
    !PRIVATE.iter().any(|range| {
        range.is_ipv4() == prefix.is_ipv4()
            && range.prefix() <= prefix.prefix()
            && range.contains(prefix.network())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(prefixes: &[&str]) -> String {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
        Who::Outside(prefixes).to_string()
    }

    /// The parts of `wide` that are in none of `holes`.
    fn but(wide: &str, holes: &[&str]) -> Vec<String> {
        let parse = |text: &str| text.parse::<IpNetwork>().expect("a prefix");
        let holes: Vec<IpNetwork> = holes.iter().map(|hole| parse(hole)).collect();
        without(&parse(wide), &holes).iter().map(IpNetwork::to_string).collect()
    }

    #[test]
    fn whole_families_are_called_anywhere() {
        assert_eq!(words(&["0.0.0.0/0", "::/0"]), "anywhere outside");
        assert_eq!(words(&["0.0.0.0/0"]), "anywhere outside (IPv4)");
        assert_eq!(words(&["192.0.2.0/24", "::/0"]), "192.0.2.0/24, anywhere outside (IPv6)");
    }

    #[test]
    fn what_is_left_out_comes_last_in_its_family() {
        let all_but = but("0.0.0.0/0", &["10.0.0.0/8"]);
        let mut prefixes: Vec<&str> = all_but.iter().map(String::as_str).collect();
        assert_eq!(words(&prefixes), "anywhere outside (IPv4) but 10.0.0.0/8");
        // A block in the hole, in order.
        prefixes.push("10.10.0.0/16");
        prefixes.sort_by_key(|prefix| prefix.parse::<IpNetwork>().expect("a prefix"));
        let v4 = "10.10.0.0/16, anywhere outside (IPv4) but 10.0.0.0/8";
        assert_eq!(words(&prefixes), v4);
        prefixes.push("::/0");
        assert_eq!(words(&prefixes), format!("{v4}; anywhere outside (IPv6)"));
    }

    #[test]
    fn a_few_prefixes_stay_as_they_are() {
        assert_eq!(words(&["10.0.0.0/8", "192.168.0.0/16"]), "10.0.0.0/8, 192.168.0.0/16");
        let two_holes = but("10.0.0.0/8", &["10.1.0.0/16", "10.200.0.0/16"]);
        let two_holes: Vec<&str> = two_holes.iter().map(String::as_str).collect();
        assert_eq!(words(&two_holes), "10.0.0.0/8 but 10.1.0.0/16, 10.200.0.0/16");
    }
}
