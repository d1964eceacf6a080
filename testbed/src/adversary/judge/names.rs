//! In whose name somebody sends, and to whom: addresses (S47, S55), neighbour discovery (S36), and
//! tunnels, which hide both (S45).

use std::net::IpAddr;

use netpolc_policy::{Direction, oracle::Reason};

use super::{
    super::{
        Place,
        bytes::number,
        parse::{self, Content, Frame, Packet},
        world::{BRIDGE_MAC, link_local},
    },
    Judge, Judged, Kind, Sent, wrong,
};

impl Judge {
    /// S45: a rule lets the pod send into the tunnel at this node, and whoever wrote it trusts the
    /// pod with it.
    pub(super) fn is_named_tunnel(&self, sent: &Sent) -> bool {
        let Some(Frame { content: Content::Ip(packet), .. }) = parse::frame(&sent.bytes) else {
            return false;
        };
        let to_node = self.world.nodes_own.contains(&packet.destination) && is_tunnel(&packet);
        to_node && self.is_named(sent.place, &packet)
    }

    /// Does a rule that names ports allow it, S45 aside?
    fn is_named(&self, from: Place, packet: &Packet) -> bool {
        let port = packet.ports().map(|p| p.1);
        let reason = self.ask(
            &self.bare,
            from,
            Direction::Egress,
            packet.source,
            packet.destination,
            packet.protocol,
            port,
        );
        matches!(reason, Reason::Allowed(place) if place.port.is_some())
    }

    /// S55, and S45 where other nodes are concerned.
    pub(super) fn sender_is_honest(&self, from: Place, packet: &Packet, linked: bool) -> Judged {
        let unproven = match packet.source {
            IpAddr::V4(a) => {
                a.is_unspecified()
                    && packet.protocol == number::UDP
                    && packet.ports() == Some((68, 67))
            }
            IpAddr::V6(a) => {
                let listener = || {
                    packet.is_icmp()
                        && packet.body.first().is_some_and(|k| [130, 131, 132, 143].contains(k))
                };
                let dhcp = || packet.protocol == number::UDP && packet.ports() == Some((546, 547));
                let to_many = packet.destination.is_multicast();
                let asks = packet.discovery().is_some() || (to_many && (listener() || dhcp()));
                let free = packet.fragment.is_none() && asks;
                (a.is_unspecified() || a.is_unicast_link_local()) && free
            }
        };
        let proven = self.world.owns(from, packet.source) || (unproven && linked);
        if !proven {
            return wrong(
                Kind::ForgedSource,
                format_args!("{} is not an address of {from:?}", packet.source),
            );
        }
        if self.world.far_node.contains(&packet.destination)
            && is_tunnel(packet)
            && !self.is_named(from, packet)
        {
            return wrong(Kind::Tunnel, format_args!("into the tunnel of {}", packet.destination));
        }
        Ok(())
    }

    /// Is it for this pod, and from somebody else?
    pub(super) fn receiver_is_meant(&self, at: Place, packet: &Packet, sent: &Sent) -> Judged {
        let many = match packet.destination {
            IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a.octets() == [10, 0, 1, 255],
            IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
        };
        if !many && !self.world.owns(at, packet.destination) {
            return wrong(
                Kind::ForeignDestination,
                format_args!("{} is not an address of {at:?}", packet.destination),
            );
        }
        let isolated = self.is_isolated(at, Direction::Ingress);
        if isolated && self.world.owns(at, packet.source) {
            return wrong(
                Kind::OwnSource,
                format_args!("the pod's own address as source, sent by {:?}", sent.place),
            );
        }
        Ok(())
    }

    /// S36, between two pods on a link.
    pub(super) fn discovery(&self, from: Place, packet: &Packet, kind: u8) -> Judged {
        let target =
            packet.body.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
        match kind {
            134 => wrong(Kind::Discovery, "a router advertisement of a pod"),
            137 => wrong(Kind::Discovery, "a redirect of a pod"),
            // Nobody knows all link-local addresses of pods, but the node's is known. Those of its
            // other links are nobody's on this one.
            136 if !target.is_some_and(|t| self.may_speak_for(from, t)) => {
                wrong(Kind::Discovery, format_args!("an advertisement for {target:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Is this one of its addresses, or a link-local one that is not the node's on this link?
    fn may_speak_for(&self, place: Place, address: IpAddr) -> bool {
        let local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        self.world.owns(place, address) || (local && address != link_local(BRIDGE_MAC))
    }
}

/// Is it a packet that a node may take out of a tunnel?
fn is_tunnel(packet: &Packet) -> bool {
    packet.overlaid().is_some() || number::TUNNELS.contains(&packet.protocol)
}
