//! The node as flower filters need to know it: which endpoint is behind which port, and how packets
//! get from one port to another.
//!
//! Not here: what a NIC can do ([`crate::detect`]), filters.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use netpolc_host::{
    links::{self, Link},
    switch,
};
use netpolc_table::{
    EndpointId, IfIndex, Program, TableId,
    schema::{Family, InterfaceKey, ServiceKey, SetEndpoint},
};

use crate::topology::{Forwarding, PodPort, Port, Topology};

/// The links, uplinks and addresses of the calling thread's network namespace, as the kernel had
/// them at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLinks {
    /// Every link, by its index.
    pub links: BTreeMap<IfIndex, Link>,
    /// The hardware address behind a bridge's port.
    pub learned: BTreeMap<IfIndex, [u8; 6]>,
    /// The interfaces that default routes lead to.
    pub uplinks: BTreeSet<IfIndex>,
    /// The addresses of all links, of both families.
    pub addresses: BTreeSet<IpAddr>,
}

impl NodeLinks {
    /// Reads all of it from the kernel.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket or one of the dumps of links, neighbours, routes and
    /// addresses.
    pub fn read() -> io::Result<Self> {
        Ok(NodeLinks {
            links: links::by_index()?
                .into_iter()
                .map(|(index, link)| (IfIndex::new(index), link))
                .collect(),
            learned: switch::learned()?
                .into_iter()
                .map(|(index, mac)| (IfIndex::new(index), mac))
                .collect(),
            uplinks: switch::uplinks()?.into_iter().map(IfIndex::new).collect(),
            addresses: links::addresses()?.into_iter().map(|found| found.address).collect(),
        })
    }

    /// The topology of the endpoints whose interface is in `ports`, and of the uplinks in it.
    pub fn topology(&self, program: &Program, ports: &BTreeSet<IfIndex>) -> Topology {
        let port = |ifindex: IfIndex| {
            let link = self.links.get(&ifindex).filter(|_| ports.contains(&ifindex))?;
            Some(Port { ifindex, name: link.name.clone() })
        };
        let entries = &program.table(TableId::Interface).entries;
        let pods = entries.iter().filter_map(|(key, entry)| {
            let InterfaceKey { ifindex } = InterfaceKey::of(key);
            let pod = PodPort { port: port(ifindex)?, mac: self.learned.get(&ifindex).copied() };
            Some((SetEndpoint::of(entry).endpoint, pod))
        });
        let pods: BTreeMap<EndpointId, PodPort> = pods.collect();
        let endpoints: BTreeSet<IfIndex> = pods.values().map(|p| p.port.ifindex).collect();
        let uplinks = self
            .uplinks
            .iter()
            .copied()
            .filter(|ifindex| !endpoints.contains(ifindex))
            .filter_map(port);
        // One switch only where all pods hang on the same bridge.
        let masters: BTreeSet<Option<u32>> = endpoints
            .iter()
            .map(|ifindex| self.links.get(ifindex).and_then(|l| l.master))
            .collect();
        let switched = masters.len() == 1 && masters.iter().all(Option::is_some);
        Topology {
            uplinks: uplinks.collect(),
            pods,
            node_addresses: self.addresses.iter().copied().collect(),
            translated: translated(program),
            // Whether a host translates between pods cannot be seen from its tables, so it is taken
            // to.
            forwarding: if switched { Forwarding::Translating } else { Forwarding::Routed },
        }
    }
}

/// Addresses of Services: what is sent there is judged after translation (S48).
fn translated(program: &Program) -> Vec<IpNetwork> {
    let mut list = Vec::new();
    for family in Family::BOTH {
        let keys = program.table(TableId::service(family)).entries.keys();
        list.extend(keys.map(|key| IpNetwork::from(ServiceKey::of(family, key).address)));
    }
    list.sort();
    list.dedup();
    list
}

#[cfg(test)]
mod tests {
    use netpolc_table::schema::{interface_key, set_endpoint};

    use super::*;

    fn links(masters: [Option<u32>; 3]) -> NodeLinks {
        let link = |(index, master)| {
            (
                IfIndex::new(index),
                Link { index, name: format!("p{index}"), master, ..Link::default() },
            )
        };
        NodeLinks {
            links: [10, 11, 12].into_iter().zip(masters).map(link).collect(),
            learned: BTreeMap::from([(IfIndex::new(10), [2, 0, 0, 0, 0, 1])]),
            uplinks: BTreeSet::from([IfIndex::new(12)]),
            addresses: BTreeSet::from([[192, 0, 2, 1].into()]),
        }
    }

    fn program() -> Program {
        let mut program = Program::default();
        for (index, endpoint) in [(10, 1u16), (11, 2)] {
            let entries = &mut program.table_mut(TableId::Interface).entries;
            entries.insert(
                interface_key(IfIndex::new(index)),
                set_endpoint(EndpointId::new(endpoint)),
            );
        }
        program
    }

    #[test]
    fn pods_of_one_bridge_are_switched() {
        let topology = links([Some(5), Some(5), None])
            .topology(&program(), &BTreeSet::from([10, 11, 12].map(IfIndex::new)));
        // Forwarding replies past the host's translation would break Services.
        assert_eq!(topology.forwarding, Forwarding::Translating);
        assert_eq!(
            topology.pods.keys().collect::<Vec<_>>(),
            [&EndpointId::new(1), &EndpointId::new(2)]
        );
        assert_eq!(topology.pods[&EndpointId::new(1)].mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(topology.uplinks.len(), 1);
        assert_eq!(
            links([None, None, None])
                .topology(&program(), &BTreeSet::from([10, 11].map(IfIndex::new)))
                .forwarding,
            Forwarding::Routed
        );
        assert_eq!(
            links([Some(5), Some(6), None])
                .topology(&program(), &BTreeSet::from([10, 11].map(IfIndex::new)))
                .forwarding,
            Forwarding::Routed
        );
    }

    #[test]
    fn ports_that_do_not_take_part_are_left_out() {
        let topology = links([None; 3]).topology(&program(), &BTreeSet::from([IfIndex::new(11)]));
        assert_eq!(topology.pods.keys().collect::<Vec<_>>(), [&EndpointId::new(2)]);
        assert!(topology.uplinks.is_empty());
    }
}
