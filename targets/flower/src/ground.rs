//! The node as flower filters need to know it: which endpoint is behind which port, and the ways between them.
//!
//! Not here: what a NIC can do ([`crate::detect`]), filters.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netpolc_host::{
    links::{self, Link},
    switch,
};
use netpolc_table::{Program, TableId, schema::Family};

use crate::topology::{Forwarding, PodPort, Port, Topology};

/// What was found about the calling thread's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// All links.
    pub links: BTreeMap<u32, Link>,
    /// The hardware address behind a bridge's port.
    pub learned: BTreeMap<u32, [u8; 6]>,
    /// Interfaces of default routes.
    pub uplinks: BTreeSet<u32>,
    /// The node's own addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl Ground {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Its answer.
    pub fn look() -> io::Result<Self> {
        Ok(Ground {
            links: links::by_index()?,
            learned: switch::learned()?,
            uplinks: switch::uplinks()?,
            addresses: links::addresses()?.into_iter().map(|found| found.address).collect(),
        })
    }

    /// The topology of the endpoints whose interface is in `ports`, and of the uplinks in it.
    pub fn topology(&self, program: &Program, ports: &BTreeSet<u32>) -> Topology {
        let port = |index: u32| {
            let link = self.links.get(&index).filter(|_| ports.contains(&index))?;
            Some(Port { ifindex: index, name: link.name.clone() })
        };
        let entries = &program.table(TableId::Interface).entries;
        let pods = entries.iter().filter_map(|(key, entry)| {
            let index = key.value(0).low() as u32;
            let pod = PodPort { port: port(index)?, mac: self.learned.get(&index).copied() };
            Some((entry.params[0] as u16, pod))
        });
        let pods: BTreeMap<u16, PodPort> = pods.collect();
        let endpoints: BTreeSet<u32> = pods.values().map(|p| p.port.ifindex).collect();
        let uplinks = self.uplinks.iter().filter(|index| !endpoints.contains(index)).filter_map(|index| port(*index));
        // One switch only where all pods hang on the same bridge.
        let masters: BTreeSet<Option<u32>> =
            endpoints.iter().map(|index| self.links.get(index).and_then(|l| l.master)).collect();
        let switched = masters.len() == 1 && masters.iter().all(Option::is_some);
        Topology {
            uplinks: uplinks.collect(),
            pods,
            node_addresses: self.addresses.iter().copied().collect(),
            translated: translated(program),
            // Whether a host translates between pods cannot be seen from its tables, so it is taken to.
            forwarding: if switched { Forwarding::Translating } else { Forwarding::Routed },
        }
    }
}

/// Addresses of Services: what is sent there is judged after translation (S48).
fn translated(program: &Program) -> Vec<IpNetwork> {
    let mut list = Vec::new();
    for family in Family::BOTH {
        let keys = program.table(TableId::service(family)).entries.keys();
        list.extend(keys.map(|key| address(key.value(0).get(), family)));
    }
    list.sort();
    list.dedup();
    list
}

fn address(value: u128, family: Family) -> IpNetwork {
    match family {
        Family::V4 => IpAddr::from(Ipv4Addr::from_bits(value as u32)).into(),
        Family::V6 => IpAddr::from(Ipv6Addr::from_bits(value)).into(),
    }
}

#[cfg(test)]
mod tests {
    use netpolc_table::schema::{entry, interface_key};

    use super::*;

    fn ground(masters: [Option<u32>; 3]) -> Ground {
        let link = |(index, master)| (index, Link { index, name: format!("p{index}"), master, ..Link::default() });
        Ground {
            links: [10, 11, 12].into_iter().zip(masters).map(link).collect(),
            learned: BTreeMap::from([(10, [2, 0, 0, 0, 0, 1])]),
            uplinks: BTreeSet::from([12]),
            addresses: BTreeSet::from([[192, 0, 2, 1].into()]),
        }
    }

    fn program() -> Program {
        let mut program = Program::default();
        for (index, endpoint) in [(10, 1u16), (11, 2)] {
            let entries = &mut program.table_mut(TableId::Interface).entries;
            entries.insert(interface_key(index), entry(netpolc_table::ActionId::SetEndpoint, endpoint));
        }
        program
    }

    #[test]
    fn pods_of_one_bridge_are_switched() {
        let topology = ground([Some(5), Some(5), None]).topology(&program(), &BTreeSet::from([10, 11, 12]));
        // Forwarding replies past the host's translation would break Services.
        assert_eq!(topology.forwarding, Forwarding::Translating);
        assert_eq!(topology.pods.keys().collect::<Vec<_>>(), [&1, &2]);
        assert_eq!(topology.pods[&1].mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(topology.uplinks.len(), 1);
        assert_eq!(
            ground([None, None, None]).topology(&program(), &BTreeSet::from([10, 11])).forwarding,
            Forwarding::Routed
        );
        assert_eq!(
            ground([Some(5), Some(6), None]).topology(&program(), &BTreeSet::from([10, 11])).forwarding,
            Forwarding::Routed
        );
    }

    #[test]
    fn ports_that_do_not_take_part_are_left_out() {
        let topology = ground([None; 3]).topology(&program(), &BTreeSet::from([11]));
        assert_eq!(topology.pods.keys().collect::<Vec<_>>(), [&2]);
        assert!(topology.uplinks.is_empty());
    }
}
