//! Steps 3, 4, 5 (the branch alone) and 6 of IPv6: header, guard, extension headers, layer 4.
//!
//! Not here: the parsers of TCP, UDP and SCTP (`ipv4`), fragments (`fragment`), ICMP errors
//! (`icmp`).

use netpolc_table::schema::{Family, Word};
use netpolc_target::{
    Hook,
    semantics::{DHCPV6, DISCOVERY_BYTES, DropReason::*, icmp, ip, needed},
};

use super::{Generator, ctx, mark, parse::be16, stack};
use crate::{
    asm::{
        Alu, Cond, Label,
        Reg::{self, *},
        Size,
    },
    layout::{
        MapId,
        config::{self, code, extension},
        on_link,
    },
};

/// The bits of [`stack::IPV6`] above the hop limit, which has the low 8.
pub(super) mod seen {
    /// The packet has a fragment header.
    pub const FRAGMENT: i32 = 1 << 8;
    /// The packet is a first fragment.
    pub const FIRST: i32 = 1 << 9;
}

/// Where the parsers of layer 4 begin.
struct Layer4 {
    tcp: Label,
    udp: Label,
    sctp: Label,
    icmp: Label,
    other: Label,
}

/// Where the walk over extension headers ([`Generator::extensions`]) goes.
pub(super) struct Walk {
    /// For too many headers, or a second fragment header.
    pub malformed: Label,
    /// For a header that does not end before the packet.
    pub truncated: Label,
    /// For a routing header with segments left; None where those do not matter, as in a quoted
    /// packet.
    pub routed: Option<Label>,
    /// For a fragment header, whose 8 bytes are in the buffer; its offset and M bits are in R1.
    pub fragment: Label,
    /// Where the walk goes on behind a fragment header; bound by the walk.
    pub after: Label,
}

impl Generator<'_> {
    /// From `header` on. R2 + 14 points to the 40 bytes of the header, which are readable; R7: its
    /// offset in the frame.
    pub(super) fn ipv6(&mut self, header: Label) {
        let (super_packet, ended, judge) = (self.a.label(), self.a.label(), self.a.label());
        let [tcp, udp, sctp, icmp, other] = std::array::from_fn(|_| self.a.label());
        let to = Layer4 { tcp, udp, sctp, icmp, other };
        let (walk, error) = (self.a.label(), self.a.label());
        self.tunnel = self.a.label();
        let short = self.refuse(Truncated);
        let early = self.refuse_early(Malformed);
        let a = &mut self.a;
        a.note("parse: ipv6 header");
        a.bind(header);
        a.load(Size::Dw, R8, R2, 14);
        a.mov(R1, R8);
        a.alu(Alu::And, R1, 0xf0);
        a.jump_if(Cond::Ne, R1, 0x60, early);
        let (source, destination) = match self.hook {
            Hook::ToPod => (stack::REMOTE, stack::LOCAL),
            Hook::FromPod | Hook::Translated => (stack::LOCAL, stack::REMOTE),
        };
        for (offset, to) in
            [(22, source), (30, source + 8), (38, destination), (46, destination + 8)]
        {
            a.load(Size::Dw, R1, R2, offset);
            a.store(Size::Dw, Fp, to, R1);
        }
        if self.guards() {
            self.guard_v6();
        } else if self.hook == Hook::ToPod && self.options.is_whole() {
            self.meant_v6();
        }
        let a = &mut self.a;
        a.note("parse: ipv6 lengths");
        a.load(Size::W, R2, R6, ctx::LEN);
        a.alu(Alu::Add, R7, 40);
        a.mov(R3, R8);
        a.alu(Alu::Rsh, R3, 32);
        a.swap(R3, 16);
        a.jump_if(Cond::Eq, R3, 0, super_packet);
        a.alu(Alu::Add, R3, R7);
        a.jump_if(Cond::Gt, R3, R2, short);
        a.bind(ended);
        a.store(Size::Dw, Fp, stack::END, R3);
        a.mov(R5, R8);
        a.alu(Alu::Rsh, R5, 48);
        a.alu(Alu::And, R5, 255);
        a.alu(Alu::Rsh, R8, 56);
        a.store(Size::Dw, Fp, stack::IPV6, R8);
        self.layer4_v6(&to, judge, walk, error);

        let a = &mut self.a;
        a.note("parse: ipv6 without a length");
        a.bind(super_packet);
        let empty = a.label();
        a.mov(R3, R2);
        a.mov(R1, R2);
        a.alu(Alu::Sub, R1, 65535);
        a.jump_if(Cond::SLe, R1, R7, empty);
        a.jump(ended);
        a.bind(empty);
        a.mov(R3, R7);
        a.jump(ended);

        self.a.bind(judge);
        #[cfg(feature = "measure")]
        self.vary(Family::V6);
        if !self.options.is_whole() {
            let next = self.next;
            for label in [walk, error] {
                self.a.bind(label);
            }
            self.a.jump(next);
            return;
        }
        let again = self.a.label();
        self.a.bind(again);
        self.judge(Family::V6, error);
        self.tunnel(Family::V6, again);
        self.walk(walk, &to);
    }

    /// Goes to the parser of the protocol in R5, or to `walk` where that is an extension header.
    /// R3: the end, R7: the offset of what follows the header. After a walk, `walk` is None. Runs
    /// on where no parser knows the protocol.
    fn dispatch(&mut self, to: &Layer4, walk: Option<Label>) {
        self.a.note("parse: layer 4");
        if self.guards() {
            let proven = self.a.label();
            let a = &mut self.a;
            a.load(Size::Dw, R1, Fp, stack::MARKS);
            a.alu(Alu::And, R1, mark::UNPROVEN);
            a.jump_if(Cond::Eq, R1, 0, proven);
            self.unproven_v6(to, walk);
            self.a.note("parse: layer 4");
            self.a.bind(proven);
        }
        let a = &mut self.a;
        a.jump_if(Cond::Eq, R5, i32::from(ip::TCP), to.tcp);
        a.jump_if(Cond::Eq, R5, i32::from(ip::UDP), to.udp);
        a.jump_if(Cond::Eq, R5, i32::from(ip::ICMPV6), to.icmp);
        if let Some(walk) = walk {
            self.extension(R5, R4);
            self.a.jump_if(Cond::Ne, R4, 0, walk);
        }
        self.a.jump_if(Cond::Eq, R5, i32::from(ip::SCTP), to.sctp);
    }

    /// `kind` = which kind of extension header `number` is ([`extension`]); 0 where it is a
    /// protocol.
    fn extension(&mut self, number: Reg, kind: Reg) {
        self.a.map_value(kind, MapId::Config, config::EXTENSIONS);
        self.a.alu(Alu::Add, kind, number);
        self.a.load(Size::B, kind, kind, 0);
    }

    /// Parses layer 4. R3: the end, R5: the next header, R7: the offset of what follows the fixed
    /// header.
    fn layer4_v6(&mut self, to: &Layer4, judge: Label, walk: Label, error: Label) {
        let short = self.refuse(Truncated);
        let Layer4 { tcp, udp, sctp, icmp, other } = *to;
        self.dispatch(to, Some(walk));
        self.a.bind(other);
        self.layer4_other(judge);
        self.layer4_ports(ip::TCP, tcp, judge, short);
        self.layer4_ports(ip::UDP, udp, judge, short);
        self.layer4_ports(ip::SCTP, sctp, judge, short);

        self.a.note("parse: icmpv6");
        self.a.bind(icmp);
        self.need(needed(ip::ICMPV6, 6) as i32, short);
        let (no_tuple, tuple, police) = (self.a.label(), self.a.label(), self.a.label());
        let (allow, spoofed, guards) = (self.allow, self.deny(SpoofedSource), self.guards());
        self.message(Family::V6);
        let a = &mut self.a;
        a.load(Size::B, R4, R2, 0);
        a.load(Size::H, R8, R2, 4);
        self.event(config::ICMPV6_EVENTS);
        let a = &mut self.a;
        a.jump_if(Cond::Ne, R4, i32::from(code::DISCOVERY), police);
        a.load(Size::Dw, R1, Fp, stack::IPV6);
        if guards {
            self.discovery(police);
        } else {
            a.alu(Alu::And, R1, 255 | seen::FRAGMENT);
            a.jump_if(Cond::Eq, R1, 255, allow);
        }
        let a = &mut self.a;
        a.bind(police);
        if guards {
            let proven = a.label();
            a.load(Size::Dw, R1, Fp, stack::MARKS);
            a.alu(Alu::And, R1, mark::UNPROVEN);
            a.jump_if(Cond::Eq, R1, 0, proven);
            a.jump_if(Cond::Ne, R4, i32::from(code::LISTENER), spoofed);
            a.load(Size::B, R1, Fp, stack::REMOTE);
            a.jump_if(Cond::Ne, R1, 0xff, spoofed);
            a.store(Size::Dw, Fp, stack::MARKS, 0);
            a.bind(proven);
        }
        if self.hook != Hook::Translated {
            a.jump_if(Cond::Eq, R4, i32::from(code::ERROR), error);
        }
        let a = &mut self.a;
        a.jump_if(Cond::Ge, R4, i32::from(code::NO_TUPLE), no_tuple);
        a.jump(tuple);
        a.bind(no_tuple);
        a.mov(R8, 0);
        a.bind(tuple);
        self.tuple_icmp(ip::ICMPV6);
        self.a.jump(judge);
    }

    /// For a message of neighbour discovery that the pod sends (S36). It is permitted, dropped, or
    /// goes to `police` with its event code in R4, to be judged as any other. R1: the word
    /// [`stack::IPV6`], R2: a pointer to the message, R7: its offset.
    fn discovery(&mut self, police: Label) {
        let (allow, refuse, size) = (self.allow, self.deny(Discovery), self.a.label());
        let (whole, fragment) = (self.a.label(), self.a.label());
        self.a.note("discovery: what a guarded pod may say");
        let a = &mut self.a;
        a.jump_if(Cond::Set, R1, seen::FRAGMENT, fragment);
        a.alu(Alu::And, R1, 255);
        a.jump_if(Cond::Eq, R1, 255, whole);
        a.jump(police);
        a.bind(fragment);
        self.if_unguarded(police);
        self.a.jump(refuse);
        self.a.bind(whole);
        self.if_unguarded(allow);
        let a = &mut self.a;
        a.load(Size::B, R1, R2, 0);
        for kind in icmp::OF_ROUTERS {
            a.jump_if(Cond::Eq, R1, i32::from(kind), refuse);
        }
        a.jump_if(Cond::Ne, R1, i32::from(icmp::ADVERTISEMENT), size);
        a.note("discovery: the target of an advertisement");
        self.left_at_least(24, refuse);
        self.load_bytes(8, stack::BUFFER, 16, refuse);
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::BUFFER);
        // Is it in fe80::/10? Every pod may speak for such an address of its own, which netpolc
        // does not know, but not for one of the node's.
        a.alu(Alu::And, R1, be16(0xffc0));
        let local = a.label();
        a.jump_if(Cond::Eq, R1, be16(0xfe80), local);
        self.own_v6(stack::BUFFER, size, refuse);
        self.a.note("discovery: of a node's link-local address?");
        self.a.bind(local);
        self.a.load(Size::Dw, R1, Fp, stack::BUFFER);
        self.a.load(Size::Dw, R2, Fp, stack::BUFFER + 8);
        self.on_link(refuse);
        let a = &mut self.a;
        a.note("discovery: its size");
        a.bind(size);
        a.load(Size::W, R3, Fp, stack::END);
        a.alu(Alu::Sub, R3, R7);
        let far = a.label();
        a.jump_if(Cond::SGt, R3, DISCOVERY_BYTES as i32, far);
        a.note("discovery: to this link?");
        a.load(Size::Dw, R1, Fp, stack::REMOTE);
        a.load(Size::Dw, R2, Fp, stack::REMOTE + 8);
        a.mov(R3, R1);
        a.alu(Alu::And, R3, 255);
        a.jump_if(Cond::Eq, R3, 0xff, allow);
        a.mov(R3, R1);
        a.alu(Alu::And, R3, be16(0xffc0));
        a.jump_if(Cond::Eq, R3, be16(0xfe80), allow);
        a.load(Size::B, R3, Fp, stack::WORD_FLAGS);
        a.alu(Alu::And, R3, i32::from(Word::BRIDGED));
        a.jump_if(Cond::Eq, R3, 0, far);
        self.on_link(allow);
        let a = &mut self.a;
        a.bind(far);
        a.load(Size::Dw, R4, Fp, stack::EVENT);
        a.jump(police);
    }

    /// Goes to `yes` where a prefix of `on_link_v6` contains the address in R1 and R2, which is as
    /// in the packet; otherwise runs on. Changes R3-R5.
    fn on_link(&mut self, yes: Label) {
        let a = &mut self.a;
        a.note("table on_link_v6");
        a.map_value(R5, MapId::OnLink, 0);
        for place in (0..on_link::PLACES).map(|i| (i * on_link::SIZE) as i16) {
            let not = a.label();
            a.load(Size::Dw, R3, R5, place + on_link::LENGTH as i16);
            a.jump_if(Cond::Eq, R3, 0, not);
            for (half, address) in [(0, R1), (8, R2)] {
                a.load(Size::Dw, R3, R5, place + on_link::MASK as i16 + half);
                a.alu(Alu::And, R3, address);
                a.load(Size::Dw, R4, R5, place + on_link::PREFIX as i16 + half);
                a.jump_if(Cond::Ne, R3, R4, not);
            }
            a.jump(yes);
            a.bind(not);
        }
    }

    /// Drops what is sent from :: or fe80::/10, except for neighbour and listener discovery, which
    /// the parser of ICMPv6 checks, and DHCPv6. Keeps R3, R5.
    fn unproven_v6(&mut self, to: &Layer4, walk: Option<Label>) {
        let spoofed = self.deny(SpoofedSource);
        let a = &mut self.a;
        a.note("guard: unproven source");
        a.jump_if(Cond::Eq, R5, i32::from(ip::ICMPV6), to.icmp);
        if let Some(walk) = walk {
            self.extension(R5, R4);
            self.a.jump_if(Cond::Ne, R4, 0, walk);
        }
        let a = &mut self.a;
        a.jump_if(Cond::Ne, R5, i32::from(ip::UDP), spoofed);
        self.need(8, spoofed);
        let a = &mut self.a;
        a.load(Size::H, R1, R2, 0);
        a.jump_if(Cond::Ne, R1, be16(DHCPV6.0), spoofed);
        a.load(Size::H, R1, R2, 2);
        a.jump_if(Cond::Ne, R1, be16(DHCPV6.1), spoofed);
        a.load(Size::B, R1, Fp, stack::REMOTE);
        a.jump_if(Cond::Ne, R1, 0xff, spoofed);
        a.store(Size::Dw, Fp, stack::MARKS, 0);
        a.load(Size::W, R3, Fp, stack::END);
        a.jump(to.udp);
    }

    /// From `walk` on: step 4 for the packet itself, and then layer 4.
    fn walk(&mut self, walk: Label, to: &Layer4) {
        let (fragment, after, first) = (self.a.label(), self.a.label(), self.a.label());
        let (malformed, truncated) = (self.refuse_early(Malformed), self.refuse(Truncated));
        self.a.note("parse: extension headers");
        self.a.bind(walk);
        self.a.mov(R8, R5);
        let routed = Some(self.refuse_early(SourceRoute));
        self.extensions(Walk { malformed, truncated, routed, fragment, after });
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::IPV6);
        a.jump_if(Cond::Set, R1, seen::FIRST, first);
        let back = a.here();
        a.mov(R5, R8);
        a.load(Size::W, R3, Fp, stack::END);
        self.dispatch(to, None);
        self.a.jump(to.other);
        self.a.bind(first);
        self.mark_first(back);
        self.fragment_v6(fragment, after);
    }

    /// Walks over extension headers, from the next header in R8 at the offset in R7, and moves both
    /// on. The walk ends behind this code. Changes R0-R5, R9.
    pub(super) fn extensions(&mut self, to: Walk) {
        let (each, fragment, authentication, sized, done) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let a = &mut self.a;
        a.mov(R9, 0);
        a.bind(each);
        // The verifier follows the loop's body once, and not once for each length of a header. R9
        // counts the headers and bounds the loop.
        self.forget(R7, 0x1ffff);
        self.extension(R8, R4);
        let a = &mut self.a;
        a.jump_if(Cond::Eq, R4, 0, done);
        a.jump_if(Cond::Eq, R9, ip::MAX_EXTENSIONS as i32, to.malformed);
        a.alu(Alu::Add, R9, 1);
        a.jump_if(Cond::Eq, R4, i32::from(extension::FRAGMENT), fragment);
        a.store(Size::Dw, Fp, stack::SPARE, R4);
        self.left_at_least(2, to.truncated);
        self.load_bytes(0, stack::BUFFER, 4, to.truncated);
        let a = &mut self.a;
        a.load(Size::B, R1, Fp, stack::BUFFER + 1);
        a.load(Size::Dw, R4, Fp, stack::SPARE);
        a.jump_if(Cond::Eq, R4, i32::from(extension::FOURS), authentication);
        a.alu(Alu::Add, R1, 1);
        a.alu(Alu::Lsh, R1, 3);
        a.bind(sized);
        a.alu(Alu::Add, R7, R1);
        a.load(Size::W, R3, Fp, stack::END);
        a.jump_if(Cond::Gt, R7, R3, to.truncated);
        if let Some(routed) = to.routed {
            let other = a.label();
            a.jump_if(Cond::Ne, R8, i32::from(ip::ROUTING), other);
            a.load(Size::B, R1, Fp, stack::BUFFER + 3);
            a.jump_if(Cond::Ne, R1, 0, routed);
            a.bind(other);
        }
        a.load(Size::B, R8, Fp, stack::BUFFER);
        a.jump(each);
        a.bind(authentication);
        a.alu(Alu::Add, R1, 2);
        a.alu(Alu::Lsh, R1, 2);
        a.jump(sized);

        a.bind(fragment);
        a.load(Size::Dw, R1, Fp, stack::IPV6);
        a.jump_if(Cond::Set, R1, seen::FRAGMENT, to.malformed);
        a.alu(Alu::Or, R1, seen::FRAGMENT);
        a.store(Size::Dw, Fp, stack::IPV6, R1);
        self.left_at_least(8, to.truncated);
        self.load_bytes(0, stack::BUFFER, 8, to.truncated);
        let a = &mut self.a;
        a.load(Size::H, R1, Fp, stack::BUFFER + 2);
        a.swap(R1, 16);
        a.jump(to.fragment);
        a.bind(to.after);
        a.alu(Alu::Add, R7, 8);
        a.load(Size::B, R8, Fp, stack::BUFFER);
        a.jump(each);
        a.bind(done);
    }
}
