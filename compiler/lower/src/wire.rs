//! What the node's own devices mean for its pods: tunnels that end on nodes, and the pods' own
//! link.
//!
//! Not here: how an agent finds out, and what a hook does with it (`netpolc_target::semantics`).

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::Ipv6Network;
use netpolc_policy::{Protocol, oracle};
use netpolc_table::{
    ActionId, Entry, IfIndex, Key, TableId,
    schema::{on_link_key, plain, tunnel_key},
};

use crate::{interval::PortRange, output::Output};

/// What leads into a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// A UDP port that a node's device unwraps: VXLAN, Geneve, FOU.
    Udp(u16),
    /// An IP protocol that carries packets.
    Protocol(u8),
}

/// The devices of a node, as far as they concern its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Where tunnels end (S45).
    pub tunnels: BTreeSet<Tunnel>,
    /// IPv6 prefixes of the bridges that pods hang on, and the node's own link-local addresses on
    /// them (S36).
    pub on_link: BTreeSet<Ipv6Network>,
    /// The interfaces that hang on those bridges.
    pub bridged: BTreeSet<IfIndex>,
}

impl Wire {
    /// What every node has, whatever its devices are: the IP protocols that lead into tunnels.
    pub fn of_every_node() -> Self {
        Self { tunnels: oracle::TUNNELS.map(Tunnel::Protocol).into(), ..Self::default() }
    }

    /// The UDP ports of tunnels, as ranges.
    pub(crate) fn ports(&self) -> BTreeSet<PortRange> {
        let port = |tunnel: &Tunnel| match tunnel {
            Tunnel::Udp(port) => Some((Protocol::Udp, *port, *port)),
            Tunnel::Protocol(_) => None,
        };
        self.tunnels.iter().filter_map(port).collect()
    }

    /// Makes the tables say what `wire` says and no longer what this one did. Returns the
    /// interfaces that came to the bridges or left them.
    pub(crate) fn replace(&mut self, wire: Wire, out: &mut Output) -> BTreeSet<IfIndex> {
        let (before, after) = (self.entries(), wire.entries());
        for (table, key) in before.keys().filter(|k| !after.contains_key(*k)) {
            out.take(*table, key.clone());
        }
        for ((table, key), entry) in after.into_iter().filter(|(k, _)| !before.contains_key(k)) {
            out.put(table, key, entry);
        }
        let moved = self.bridged.symmetric_difference(&wire.bridged).copied().collect();
        *self = wire;
        moved
    }

    fn entries(&self) -> BTreeMap<(TableId, Key), Entry> {
        let tunnels = self.tunnels.iter().map(|tunnel| {
            let (protocol, port) = match *tunnel {
                Tunnel::Udp(port) => (17, port),
                Tunnel::Protocol(protocol) => (protocol, 0),
            };
            ((TableId::Tunnel, tunnel_key(protocol, port)), plain(ActionId::Tunnel))
        });
        let on_link = self.on_link.iter().map(|prefix| {
            let key = on_link_key(prefix.network(), prefix.prefix());
            ((TableId::OnLinkV6, key), plain(ActionId::OnLink))
        });
        tunnels.chain(on_link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s45_devices_come_and_go_as_entries() {
        let (mut known, mut out) = (Wire::default(), Output::default());
        let mut apply = |tunnels: &[Tunnel], on_link: &[&str]| {
            let on_link = on_link.iter().map(|p| p.parse().expect("a prefix")).collect();
            let tunnels = tunnels.iter().copied().collect();
            out.begin_update();
            known.replace(Wire { tunnels, on_link, ..Wire::default() }, &mut out);
            let changed = out.end_update().entries.len();
            let entries = |table| out.program().table(table).entries.len();
            (changed, entries(TableId::Tunnel), entries(TableId::OnLinkV6))
        };
        let tunnels = [Tunnel::Udp(8472), Tunnel::Protocol(4)];
        assert_eq!(apply(&tunnels, &["fd00::1/64"]), (3, 2, 1));
        assert_eq!(apply(&tunnels, &["fd00::2/64"]), (0, 2, 1), "the same prefix");
        assert_eq!(apply(&[Tunnel::Udp(4789)], &[]), (4, 1, 0));
    }
}
