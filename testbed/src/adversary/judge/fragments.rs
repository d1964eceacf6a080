//! Later fragments (S50): each needs a first one that may pass, or a policy to which all ports are
//! alike.

use netpolc_policy::{Direction, oracle::Transport};

use super::{
    super::{
        Place,
        bytes::number,
        parse::{Event, Flow, Packet},
    },
    Judge, Judged, Kind, Sent, wrong,
};

impl Judge {
    /// S50: it follows a first one that may pass, or every port may.
    pub(super) fn later(&self, at: Place, packet: &Packet, sent: &Sent) -> Judged {
        let policed = self.is_isolated(sent.place, Direction::Egress)
            || self.is_isolated(at, Direction::Ingress);
        if !policed {
            return Ok(());
        }
        let fragment = packet.fragment.expect("it is one");
        let has_flags = [number::TCP, number::SCTP].contains(&packet.protocol);
        if has_flags && fragment.offset == 8 {
            return wrong(Kind::Fragment, "it overwrites the first one's flags (RFC 3128)");
        }
        let key = (packet.source, packet.destination, fragment.protocol, fragment.id);
        let firsts =
            self.firsts.get(&key).into_iter().chain(self.case_firsts.get(&sent.case)).flatten();
        let same = |p: &&Packet| (p.source, p.destination) == (packet.source, packet.destination);
        let passes = |first: &Packet| {
            let error = first.is_error() && self.error(at, first, sent.place).is_ok();
            let (flow, event) = first.flow().expect("it is a first one");
            error || self.passes(sent.place, at, flow, first.ports().map(|p| p.1), event).is_ok()
        };
        if firsts.filter(same).any(passes) {
            return Ok(());
        }
        let transport = Transport::from_number(packet.protocol);
        let flow = |port| Flow {
            protocol: packet.protocol,
            source: (packet.source, 0),
            destination: (packet.destination, port),
        };
        let all = match transport {
            Transport::Other(p) if number::EXTENSIONS.contains(&p) => false,
            Transport::Other(_) => self.passes(sent.place, at, flow(0), None, Event::Alone).is_ok(),
            _ => self
                .edges
                .iter()
                .filter(|(t, _)| *t == transport)
                .filter_map(|(_, port)| *port)
                .chain([0])
                .all(|port| {
                    self.passes(sent.place, at, flow(port), Some(port), Event::Alone).is_ok()
                }),
        };
        if all {
            Ok(())
        } else {
            wrong(Kind::Fragment, "a later fragment, and no first one may pass")
        }
    }
}
