//! The order of the steps: what a hook does with one frame.
//!
//! Not here: reading bytes (`parse`), ICMP errors (`icmp`), and the judgement (`judge`).

use std::net::{IpAddr, Ipv6Addr};

use netpolc_table::{
    EndpointId, IfIndex, TableId,
    eval::{self, Pipeline},
    schema::{Family, SetEndpoint, Word, interface_key, own_key},
};
use netpolc_target::{
    Arrival,
    DropReason::{
        self, Discovery, ForeignDestination, Fragment, Malformed, NotIp, SourceRoute,
        SpoofedSource, Truncated, Tunnel,
    },
    Frame, Hook, Mark, Verdict,
    semantics::{DHCP, DHCPV6, DISCOVERY_BYTES, HAS_PORTS, icmp, ip, may_be_unproven},
};

use crate::{
    Mem,
    fragments::RecordKey,
    parse::{self, Layer3, Network, Part, Piece, Transport},
    state::Birth,
};

/// What becomes of a packet: it goes on, without the mark (Next) or with it (Defer), or it is
/// dropped for a reason.
pub(crate) type Answer = Result<Mark, DropReason>;

/// The packet goes on, unmarked.
pub(crate) const NEXT: Answer = Ok(Mark::Clear);

/// The endpoint that a packet is judged for, and what is known of the packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub hook: Hook,
    pub endpoint: EndpointId,
    /// That of the endpoint; where the packet is gated, with the born set as its ingress set.
    pub word: Word,
    /// Where the packet was created; `OnNode` is possible only at `to_pod`.
    pub birth: Birth,
    /// The endpoint by whose interface the packet came to the node; 0 where there is none.
    pub sender: EndpointId,
}

impl Context {
    /// Whether the packet's direction is isolated (`iso`).
    pub fn isolated(&self) -> bool {
        isolated(self.word, self.hook)
    }

    /// Whether the packet is born on the node and nobody judges it (S44): it is not *gated*.
    pub fn exempt(&self) -> bool {
        self.birth == Birth::OnNode && Pipeline::Born.set(self.word).is_none()
    }

    /// Whether the pod is guarded and sends the packet (`guard`).
    fn guarded(&self) -> bool {
        self.hook == Hook::FromPod && self.word.flags & (Word::GUARD | Word::EGRESS) != 0
    }

    /// Whether the endpoint keeps state (`keep`).
    pub fn keeps(&self) -> bool {
        self.word.flags & (Word::INGRESS | Word::EGRESS | Word::RECORD | Word::TRIED) != 0
    }

    /// Whether this is the pod's own packet, back from a Service (S47).
    pub fn own_traffic(&self) -> bool {
        self.hook == Hook::ToPod && self.sender == self.endpoint
    }

    /// *Refuse*: drops the packet where its direction is isolated.
    fn refuse(&self, reason: DropReason) -> Answer {
        if self.isolated() { Err(reason) } else { NEXT }
    }

    /// *Refuse early*: drops the packet where its direction is isolated or guarded.
    fn refuse_early(&self, reason: DropReason) -> Answer {
        if self.isolated() || self.guarded() { Err(reason) } else { NEXT }
    }
}

/// Whether the word isolates the direction of this hook.
pub(crate) fn isolated(word: Word, hook: Hook) -> bool {
    let flag = match hook {
        Hook::ToPod => Word::INGRESS,
        Hook::FromPod | Hook::Translated => Word::EGRESS,
    };
    word.flags & flag != 0
}

/// Whether the guard has found that the source is the pod's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It is, or nothing guards the packet.
    Proven,
    /// It is not, but the address is one that a few kinds of packets may have.
    Unproven,
}

impl Mem {
    /// The endpoint of an interface; 0 where it has none.
    pub(crate) fn endpoint_of(&self, interface: IfIndex) -> EndpointId {
        let entry = self.program.get(TableId::Interface, &interface_key(interface));
        entry.map(SetEndpoint::of).unwrap_or_default().endpoint
    }

    /// Judges a frame at `to_pod` or `from_pod`, from step 1 on. Returns the answer with the
    /// endpoint, which is 0 where the interface has none.
    pub(crate) fn judge_frame(&mut self, hook: Hook, frame: &Frame) -> (EndpointId, Answer) {
        let endpoint = self.endpoint_of(frame.interface);
        if endpoint == EndpointId::default() {
            return (endpoint, NEXT);
        }
        let birth = match hook {
            Hook::ToPod if frame.arrival == Arrival::Born => Birth::OnNode,
            _ => Birth::Elsewhere,
        };
        let sender = self.endpoint_of(frame.arrival.ifindex());
        let mut word = self.word(endpoint);
        // What judges the packet stands in the place of the ingress set from here on.
        if let (Birth::OnNode, Some(set)) = (birth, Pipeline::Born.set(word)) {
            word.ingress_set = set;
        }
        let context = Context { hook, endpoint, word, birth, sender };
        // Hardware addresses come before everything else: they hold for pods without policies too.
        if let Err(reason) = self.hardware(&context, &frame.bytes) {
            return (endpoint, Err(reason));
        }
        if !context.keeps() && !context.guarded() && !self.hears_others(&context) {
            return (endpoint, NEXT);
        }
        (endpoint, self.steps(&context, &frame.bytes))
    }

    /// Checks the frame's hardware addresses, where that of the endpoint is known (S55).
    fn hardware(&self, context: &Context, frame: &[u8]) -> Result<(), DropReason> {
        let Some(own) =
            eval::own_mac(&self.program, context.endpoint).filter(|_| frame.len() >= 14)
        else {
            return Ok(());
        };
        match context.hook {
            Hook::FromPod if context.guarded() && frame[6..12] != own => Err(SpoofedSource),
            Hook::ToPod if frame[0] & 1 == 0 && frame[..6] != own => Err(ForeignDestination),
            _ => Ok(()),
        }
    }

    /// Whether the hook sees frames that are for others, because the pod hangs on a bridge (S55).
    fn hears_others(&self, context: &Context) -> bool {
        context.hook == Hook::ToPod && eval::own_mac(&self.program, context.endpoint).is_some()
    }

    /// Whether packets to this address are meant for the endpoint: it is its own, or stands for
    /// many.
    fn is_meant(&self, endpoint: EndpointId, to: IpAddr) -> bool {
        let many = match to {
            IpAddr::V4(a) => a.is_multicast() || a.is_broadcast(),
            IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
        };
        many || self.is_own(endpoint, to)
    }

    /// Step 2 and those that follow.
    pub(crate) fn steps(&mut self, context: &Context, frame: &[u8]) -> Answer {
        match parse::ethernet(frame) {
            Err(reason) => context.refuse_early(reason),
            Ok(Layer3::Arp(at)) if context.guarded() => self.arp(context, frame, at),
            Ok(Layer3::Arp(_)) => NEXT,
            Ok(Layer3::Other) => context.refuse_early(NotIp),
            Ok(Layer3::Ip(family, l3)) => self.ip(context, frame, family, l3),
        }
    }

    /// ARP of a guarded pod, which speaks only for its own address (S36).
    fn arp(&self, context: &Context, frame: &[u8], at: usize) -> Answer {
        let body = frame.get(at..at + 28).ok_or(Truncated)?;
        if body[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(Malformed);
        }
        if eval::own_mac(&self.program, context.endpoint).is_some_and(|own| body[8..14] != own) {
            return Err(SpoofedSource);
        }
        let sender: [u8; 4] = body[14..18].try_into().expect("4 bytes");
        let speaks = sender == [0; 4] || self.is_own(context.endpoint, IpAddr::from(sender));
        if speaks { NEXT } else { Err(SpoofedSource) }
    }

    /// Whether a guarded pod sends into a tunnel that no rule with this port permits (S45).
    fn is_denied_tunnel(
        &self,
        context: &Context,
        to: IpAddr,
        protocol: u8,
        transport: &Transport,
    ) -> bool {
        let port = HAS_PORTS.contains(&protocol).then_some(transport.destination_port);
        context.guarded()
            && eval::is_tunnel(&self.program, protocol, port)
            && !eval::names_port(&self.program, context.endpoint, to, protocol, port)
    }

    /// Whether a guarded pod sends a later fragment of a packet that leads into a tunnel whatever
    /// its ports are (S45).
    fn is_part_of_tunnel(&self, context: &Context, protocol: u8) -> bool {
        context.guarded()
            && !HAS_PORTS.contains(&protocol)
            && eval::is_tunnel(&self.program, protocol, None)
    }

    /// Whether the address is one of the endpoint's own.
    pub(crate) fn is_own(&self, endpoint: EndpointId, address: IpAddr) -> bool {
        self.program.get(TableId::own(Family::of(address)), &own_key(endpoint, address)).is_some()
    }

    /// Steps 3 to 6.
    fn ip(&mut self, context: &Context, frame: &[u8], family: Family, l3: usize) -> Answer {
        let (from, to) = match parse::addresses(frame, family, l3, frame.len()) {
            Ok(addresses) => addresses,
            Err(reason) => return context.refuse_early(reason),
        };
        if self.hears_others(context) && !self.is_meant(context.endpoint, to) {
            return Err(ForeignDestination);
        }
        let source = if !context.guarded() || self.is_own(context.endpoint, from) {
            Source::Proven
        } else {
            let possible = match from {
                IpAddr::V4(a) => a.is_unspecified(),
                IpAddr::V6(a) => may_be_unproven(a),
            };
            if !possible {
                return Err(SpoofedSource);
            }
            Source::Unproven
        };
        // From here on, whatever is wrong with a packet of an unproven source, it is dropped as
        // spoofed.
        let refuse = |reason| match source {
            Source::Proven => context.refuse(reason),
            Source::Unproven => Err(SpoofedSource),
        };
        let network = match parse::network(frame, family, l3) {
            Ok(network) => network,
            Err(SourceRoute) if source == Source::Proven => {
                return context.refuse_early(SourceRoute);
            }
            // With too many extension headers, a kernel reads on where this does not (step 4).
            Err(Malformed) if source == Source::Proven && family == Family::V6 => {
                return context.refuse_early(Malformed);
            }
            Err(reason) => return refuse(reason),
        };
        if source == Source::Unproven && network.fragmented {
            return Err(SpoofedSource);
        }
        let record = |piece: Piece| RecordKey {
            endpoint: context.endpoint,
            hook: context.hook,
            source: from,
            destination: to,
            protocol: piece.protocol,
            id: piece.id,
        };
        // Fragments have records only where their verdict may be Drop.
        let judged = context.isolated() && !context.exempt();
        if let Part::Later(piece) = network.part {
            return match judged {
                true => self.later(context, piece, record(piece)),
                false if self.is_part_of_tunnel(context, piece.protocol) => Err(Tunnel),
                false => NEXT,
            };
        }
        let answer = match parse::transport(frame, family, &network) {
            Err(reason) => refuse(reason),
            Ok(_) if self.is_discovery(context, frame, family, &network)? => return NEXT,
            Ok(transport)
                if source == Source::Unproven && !is_exception(to, &network, &transport) =>
            {
                return Err(SpoofedSource);
            }
            Ok(transport) if context.guarded() && is_dhcp_answer(network.protocol, &transport) => {
                return Err(SpoofedSource);
            }
            Ok(transport) if self.is_denied_tunnel(context, to, network.protocol, &transport) => {
                Err(Tunnel)
            }
            Ok(transport) => match transport.icmp {
                Some(kind) if parse::is_error(family, kind) && context.hook != Hook::Translated => {
                    self.icmp_error(context, frame, family, &network, from, to)
                }
                _ => self.judge(context, from, to, network.protocol, &transport),
            },
        };
        // Whatever step 6 and those behind it decided, the later fragments get the same.
        if let Part::First(piece) = network.part
            && judged
        {
            let verdict = match answer {
                Ok(Mark::Clear) => Verdict::Next,
                Ok(Mark::Deferred) => Verdict::Defer,
                Err(_) => Verdict::Drop,
            };
            self.fragments.record(record(piece), verdict, self.now);
        }
        answer
    }

    /// Step 5 for a later fragment in an isolated direction that is not exempt.
    fn later(&self, context: &Context, piece: Piece, key: RecordKey) -> Answer {
        // The flags of TCP and the chunk type of SCTP lie in bytes 8 to 15, which this fragment
        // would overwrite (RFC 3128).
        if piece.offset == 1 && matches!(piece.protocol, ip::TCP | ip::SCTP) {
            return Err(Fragment);
        }
        match self.fragments.verdict(&key, self.now) {
            Some(Verdict::Next) => return NEXT,
            Some(Verdict::Defer) => return Ok(Mark::Deferred),
            Some(Verdict::Drop) => return Err(Fragment),
            None => {}
        }
        let remote = match context.hook {
            Hook::ToPod => key.source,
            Hook::FromPod | Hook::Translated => key.destination,
        };
        if remote.is_ipv6() && ip::EXTENSIONS.contains(&piece.protocol) {
            return Err(Fragment);
        }
        if self.is_part_of_tunnel(context, piece.protocol) {
            return Err(Fragment);
        }
        // Without a record the ports are unknown. The tables must give one answer for all of them.
        let set = crate::judge::pipeline(context.hook).set(context.word);
        let alike = set.map_or(Some(eval::Verdict::Permit), |set| {
            eval::alike_in(&self.program, set, remote, piece.protocol)
        });
        let own = self.is_own(context.endpoint, remote);
        let permitted = match context.hook {
            Hook::ToPod => context.own_traffic() || !own && alike == Some(eval::Verdict::Permit),
            Hook::FromPod | Hook::Translated => own || alike == Some(eval::Verdict::Permit),
        };
        if permitted { NEXT } else { Err(Fragment) }
    }

    /// Whether the packet is neighbour discovery that may pass (S36): it comes from this link,
    /// since nothing that was forwarded has hop limit 255, and is not fragmented (RFC 6980). A
    /// guarded pod may speak for itself only, and not as a router.
    ///
    /// # Errors
    /// The reason why the packet is dropped, where a guarded pod sends what it must not.
    fn is_discovery(
        &self,
        context: &Context,
        frame: &[u8],
        family: Family,
        network: &Network,
    ) -> Result<bool, DropReason> {
        let (first, last) = icmp::DISCOVERY;
        let of_its_types = family == Family::V6
            && network.protocol == ip::ICMPV6
            && (first..=last).contains(&frame[network.l4]);
        if of_its_types && network.fragmented && context.guarded() {
            return Err(Discovery);
        }
        let is = of_its_types && network.hop_limit == 255 && !network.fragmented;
        if !is || !context.guarded() {
            return Ok(is);
        }
        let message = &frame[network.l4..network.end];
        if icmp::OF_ROUTERS.contains(&message[0]) {
            return Err(Discovery);
        }
        if message[0] == icmp::ADVERTISEMENT {
            let target: [u8; 16] =
                message.get(8..24).ok_or(Discovery)?.try_into().expect("16 bytes");
            let target = Ipv6Addr::from(target);
            let speaks = match target.is_unicast_link_local() {
                true => !eval::is_on_link(&self.program, target),
                false => self.is_own(context.endpoint, target.into()),
            };
            if !speaks {
                return Err(Discovery);
            }
        }
        let destination: [u8; 16] = frame[network.l3 + 24..][..16].try_into().expect("16 bytes");
        let destination = Ipv6Addr::from(destination);
        let near = destination.is_multicast()
            || destination.is_unicast_link_local()
            || context.word.flags & Word::BRIDGED != 0
                && eval::is_on_link(&self.program, destination);
        Ok(near && message.len() <= DISCOVERY_BYTES)
    }
}

/// Whether the packet is the answer of a DHCP server, which a pod is not (S36).
fn is_dhcp_answer(protocol: u8, transport: &Transport) -> bool {
    let ports = (transport.destination_port, transport.source_port);
    protocol == ip::UDP && [DHCP, DHCPV6].contains(&ports)
}

/// Whether the packet may come from an address that is not the pod's own (S55), neighbour discovery
/// aside.
fn is_exception(to: IpAddr, network: &Network, transport: &Transport) -> bool {
    debug_assert!(HAS_PORTS.contains(&ip::UDP));
    let ports = (transport.source_port, transport.destination_port);
    match (to, network.protocol) {
        (IpAddr::V4(_), ip::UDP) => ports == DHCP,
        (IpAddr::V6(a), ip::UDP) => a.is_multicast() && ports == DHCPV6,
        (IpAddr::V6(a), ip::ICMPV6) => {
            a.is_multicast() && transport.icmp.is_some_and(|kind| icmp::LISTENER.contains(&kind))
        }
        _ => false,
    }
}
