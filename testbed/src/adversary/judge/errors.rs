//! Errors (S35): one that arrives tells of a connection that there is, or that policy permits both
//! ways, and carries no more than errors do.

use netpolc_policy::Direction;

use super::{
    super::{
        Place,
        bytes::number,
        parse::{Event, Flow, Packet},
    },
    Judge, Judged, Kind, wrong,
};

impl Judge {
    /// S35: an error tells of a connection of the pod, to or from the other end of that connection,
    /// and no more than errors do.
    pub(super) fn error(&self, at: Place, packet: &Packet, from: Place) -> Judged {
        let checks = [(from, Direction::Egress), (at, Direction::Ingress)];
        for (place, direction) in checks.into_iter().filter(|(p, d)| self.is_isolated(*p, *d)) {
            let Place::Pod(pod) = place else { continue };
            let Some(inner) =
                packet.quoted().filter(|p| p.body.len() >= 8 && !p.is_error() && !p.is_later())
            else {
                return wrong(Kind::IcmpError, "an error about nothing that can be read");
            };
            let (flow, event) = inner.flow().expect("it is no later fragment");
            // As the pod sent it.
            let (sent, remote) = match direction {
                Direction::Egress => (flow.reverse(), inner.source),
                Direction::Ingress => (flow, inner.destination),
            };
            if !self.world.owns(place, sent.source.0) {
                return wrong(
                    Kind::IcmpError,
                    format_args!("about {}, which is not the pod's", sent.source.0),
                );
            }
            if direction == Direction::Egress && packet.destination != remote {
                return wrong(
                    Kind::IcmpError,
                    format_args!("about a connection with {remote}, to {}", packet.destination),
                );
            }
            let most = if packet.is_v4() { 576 } else { 1280 };
            if direction == Direction::Egress && packet.body.len() - 8 > most {
                return wrong(
                    Kind::IcmpError,
                    format_args!("{} bytes of quotation", packet.body.len() - 8),
                );
            }
            let ports = |flow: Flow| {
                [number::TCP, number::UDP, number::SCTP]
                    .contains(&flow.protocol)
                    .then_some(flow.destination.1)
            };
            let permits = |direction, flow: Flow| {
                let reason = match direction {
                    Direction::Egress => self.ask(
                        &self.cluster,
                        place,
                        direction,
                        flow.source.0,
                        remote,
                        flow.protocol,
                        ports(flow),
                    ),
                    Direction::Ingress => self.ask(
                        &self.bare,
                        place,
                        direction,
                        flow.destination.0,
                        remote,
                        flow.protocol,
                        ports(flow),
                    ),
                };
                reason.allows()
            };
            let (out, into) =
                (permits(Direction::Egress, sent), permits(Direction::Ingress, sent.reverse()));
            let opened = self.opened.contains(&(pod, sent)) && out;
            let accepted = self.accepted.contains(&(pod, sent.reverse())) && into;
            // A packet of no connection: policy decides about it.
            let alone = event == Event::Alone
                && match direction {
                    Direction::Egress => into,
                    Direction::Ingress => out,
                };
            // What policy permits both ways needs nobody to have opened it (S39a).
            if !(opened || accepted || alone || (out && into)) {
                return wrong(
                    Kind::IcmpError,
                    format_args!("about a connection that {place:?} does not have: {sent:?}"),
                );
            }
        }
        Ok(())
    }
}
