//! Steps 3, 5 (the branch alone) and 6 of IPv4: header, guard, layer 4. The parsers of layer 4
//! serve IPv6 too.
//!
//! Not here: fragments (`fragment`), ICMP errors (`icmp`), and reading bytes of the packet
//! (`parse`).

use netpolc_table::schema::Family;
use netpolc_target::{
    Hook,
    semantics::{DHCP, DHCPV6, DropReason::*, SOURCE_ROUTES, ip, needed},
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
        config::{
            self, Protocol,
            asked::{self, Of},
            code,
        },
    },
};

/// The word of the tunnel map at which the bits of IP protocols begin.
pub(super) const TUNNEL_PROTOCOLS: usize = 65536 / 64;

impl Generator<'_> {
    /// From `header` on. R5: the protocol, R7: the offset of the header, R8: its first 8 bytes, R9:
    /// source | destination << 32.
    pub(super) fn ipv4(&mut self, header: Label) {
        let (super_packet, ended, layer4, judge) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let (fragment, error, options, routed) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        self.tunnel = self.a.label();
        let (bad, short) = (self.refuse(Malformed), self.refuse(Truncated));
        let early = self.refuse_early(Malformed);
        self.a.note("parse: ipv4 header");
        self.a.bind(header);
        let a = &mut self.a;
        a.mov(R1, R8);
        a.alu(Alu::And, R1, 0xf0);
        a.jump_if(Cond::Ne, R1, 0x40, early);
        a.mov(R4, R8);
        a.alu(Alu::And, R4, 15);
        a.jump_if(Cond::Lt, R4, 5, early);
        if self.hook != Hook::ToPod {
            // From here on R9 is remote | local << 32, whatever the direction.
            a.mov(R1, R9);
            a.alu(Alu::Rsh, R1, 32);
            a.alu(Alu::Lsh, R9, 32);
            a.alu(Alu::Or, R9, R1);
            if self.guards() {
                self.guard_v4();
            }
        } else if self.options.is_whole() {
            self.meant_v4();
        }
        let a = &mut self.a;
        a.note("parse: ipv4 lengths");
        a.alu(Alu::Lsh, R4, 2);
        a.load(Size::W, R2, R6, ctx::LEN);
        a.alu(Alu::Add, R7, R4);
        a.jump_if(Cond::Gt, R7, R2, short);
        a.mov(R3, R8);
        a.alu(Alu::Rsh, R3, 16);
        a.swap(R3, 16);
        a.jump_if(Cond::Eq, R3, 0, super_packet);
        a.jump_if(Cond::Lt, R3, R4, bad);
        a.alu(Alu::Sub, R3, R4);
        a.alu(Alu::Add, R3, R7);
        a.jump_if(Cond::Gt, R3, R2, short);
        a.bind(ended);
        a.store(Size::Dw, Fp, stack::END, R3);
        a.jump_if(Cond::Ne, R4, 20, options);
        a.bind(routed);
        a.mov(R1, R8);
        a.alu(Alu::Rsh, R1, 48);
        a.alu(Alu::And, R1, be16(ip::MORE_FRAGMENTS | ip::FRAGMENT_OFFSET));
        let to = if self.options.is_whole() { fragment } else { self.next };
        a.jump_if(Cond::Ne, R1, 0, to);
        a.bind(layer4);
        self.layer4_v4(judge, error);

        let a = &mut self.a;
        a.note("parse: ipv4 super-packet");
        a.bind(super_packet);
        a.mov(R1, R2);
        a.alu(Alu::Sub, R1, R7);
        a.alu(Alu::Add, R1, R4);
        a.jump_if(Cond::Le, R1, 65535, bad);
        a.mov(R3, R2);
        a.jump(ended);

        // Rare ways stand behind the common one, which runs straight through.
        self.options_v4(options, routed);
        self.a.bind(judge);
        #[cfg(feature = "measure")]
        self.vary(Family::V4);
        if !self.options.is_whole() {
            self.a.jump(self.next);
            if self.a.used(error) {
                self.a.bind(error);
                self.a.jump(self.next);
            }
            return;
        }
        let again = self.a.label();
        self.a.bind(again);
        self.judge(Family::V4, error);
        self.tunnel(Family::V4, again);
        self.fragment_v4(fragment, layer4);
    }

    /// From `options` on: refuses source routes (S49), and otherwise goes to `back`, with R3 the
    /// end of the packet and R5, R7 to R9 as they were. R4: the header's length, R7: where it ends.
    fn options_v4(&mut self, options: Label, back: Label) {
        let (each, one, done) = (self.a.label(), self.a.label(), self.a.label());
        let (malformed, short) = (self.refuse(Malformed), self.refuse(Truncated));
        let routed = self.refuse_early(SourceRoute);
        const KEPT: [(i16, Reg); 4] =
            [(stack::SPARE, R5), (stack::SPARE2, R8), (stack::HASH, R9), (stack::MINE, R7)];
        let a = &mut self.a;
        a.note("parse: ipv4 options");
        a.bind(options);
        for (at, reg) in KEPT {
            a.store(Size::Dw, Fp, at, reg);
        }
        a.mov(R8, R7);
        a.alu(Alu::Sub, R7, R4);
        a.alu(Alu::Add, R7, 20);
        a.mov(R9, 0);
        a.bind(each);
        // Each round begins with an offset that the verifier does not know, so that it follows the
        // loop's body once, and not once for each length of an option.
        self.forget(R7, 0x1ffff);
        let a = &mut self.a;
        a.jump_if(Cond::Ge, R7, R8, done);
        // There are at most 40 bytes of options. The count bounds the loop for the verifier.
        a.jump_if(Cond::Eq, R9, 40, malformed);
        a.alu(Alu::Add, R9, 1);
        self.load_bytes(0, stack::BUFFER, 1, short);
        let a = &mut self.a;
        a.load(Size::B, R4, Fp, stack::BUFFER);
        a.jump_if(Cond::Eq, R4, 0, done);
        a.jump_if(Cond::Eq, R4, 1, one);
        for kind in SOURCE_ROUTES {
            a.jump_if(Cond::Eq, R4, i32::from(kind), routed);
        }
        a.mov(R1, R7);
        a.alu(Alu::Add, R1, 2);
        a.jump_if(Cond::Gt, R1, R8, malformed);
        self.load_bytes(1, stack::BUFFER, 1, short);
        let a = &mut self.a;
        a.load(Size::B, R1, Fp, stack::BUFFER);
        a.jump_if(Cond::Lt, R1, 2, malformed);
        a.alu(Alu::Add, R7, R1);
        a.jump_if(Cond::Gt, R7, R8, malformed);
        a.jump(each);
        a.bind(one);
        a.alu(Alu::Add, R7, 1);
        a.jump(each);
        a.bind(done);
        for (at, reg) in KEPT {
            a.load(Size::Dw, reg, Fp, at);
        }
        self.forget(R7, 255);
        self.a.load(Size::W, R3, Fp, stack::END);
        self.a.jump(back);
    }

    /// Parses layer 4. R3: the end, R5: the protocol, R7: the offset of layer 4. Goes to `judge`
    /// with R5 the protocol's word, R8 as the module's header says, and event and protocol on
    /// the stack.
    fn layer4_v4(&mut self, judge: Label, error: Label) {
        let short = self.refuse(Truncated);
        let labels: [Label; 4] = std::array::from_fn(|_| self.a.label());
        let [tcp, udp, sctp, icmp] = labels;
        self.a.note("parse: layer 4");
        if self.guards() {
            self.unproven_v4(udp);
        }
        let a = &mut self.a;
        a.jump_if(Cond::Eq, R5, i32::from(ip::TCP), tcp);
        a.jump_if(Cond::Eq, R5, i32::from(ip::UDP), udp);
        a.jump_if(Cond::Eq, R5, i32::from(ip::ICMP), icmp);
        a.jump_if(Cond::Eq, R5, i32::from(ip::SCTP), sctp);
        self.layer4_other(judge);
        self.layer4_ports(ip::TCP, tcp, judge, short);
        self.layer4_ports(ip::UDP, udp, judge, short);
        self.layer4_ports(ip::SCTP, sctp, judge, short);

        self.a.note("parse: icmp");
        self.a.bind(icmp);
        self.need(needed(ip::ICMP, 4) as i32, short);
        self.message(Family::V4);
        let a = &mut self.a;
        let tuple = a.label();
        a.load(Size::B, R4, R2, 0);
        a.load(Size::H, R8, R2, 4);
        self.event(config::ICMP_EVENTS);
        let judged = self.hook != Hook::Translated;
        let a = &mut self.a;
        // At the hook `translated` an error is judged as any other packet (step T3).
        if judged {
            a.jump_if(Cond::Eq, R4, i32::from(code::ERROR), error);
        }
        a.jump_if(Cond::Ne, R4, i32::from(code::NO_TUPLE), tuple);
        a.mov(R8, 0);
        a.bind(tuple);
        self.tuple_icmp(ip::ICMP);
        self.a.jump(judge);
    }

    /// Drops what is sent from 0.0.0.0, except for DHCP requests. Keeps R3, R5.
    fn unproven_v4(&mut self, udp: Label) {
        let proven = self.a.label();
        let spoofed = self.deny(SpoofedSource);
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::MARKS);
        a.alu(Alu::And, R1, mark::UNPROVEN);
        a.jump_if(Cond::Eq, R1, 0, proven);
        a.note("guard: 0.0.0.0 for DHCP");
        a.jump_if(Cond::Ne, R5, i32::from(ip::UDP), spoofed);
        self.need(8, spoofed);
        let a = &mut self.a;
        a.load(Size::H, R1, R2, 0);
        a.jump_if(Cond::Ne, R1, be16(DHCP.0), spoofed);
        a.load(Size::H, R1, R2, 2);
        a.jump_if(Cond::Ne, R1, be16(DHCP.1), spoofed);
        a.store(Size::Dw, Fp, stack::MARKS, 0);
        a.load(Size::W, R3, Fp, stack::END);
        a.jump(udp);
        a.note("parse: layer 4");
        a.bind(proven);
    }

    /// R2 = a pointer to the first `len` bytes of layer 4. Goes to `short` where fewer lie before
    /// the packet's end, which is in R3.
    pub(super) fn need(&mut self, len: i32, short: Label) {
        self.a.mov(R4, R7);
        self.a.alu(Alu::Add, R4, len);
        self.a.jump_if(Cond::Gt, R4, R3, short);
        self.layer4(len, short);
    }

    /// R4 = the event code of the byte in R4, from a table of the config map; stored on the stack
    /// too. Changes R1.
    pub(super) fn event(&mut self, table: usize) {
        self.a.map_value(R1, MapId::Config, table);
        self.a.alu(Alu::Add, R1, R4);
        self.a.load(Size::B, R4, R1, 0);
        self.a.store(Size::Dw, Fp, stack::EVENT, R4);
    }

    /// R5 = the protocol's word ([`asked`]); stored on the stack too. It is read from a map, as the
    /// number in R8 is, so that the verifier does not know it, and follows the code behind once and
    /// not once for each protocol.
    pub(super) fn protocol(&mut self, protocol: Protocol) {
        self.word_of(protocol as u8);
    }

    /// The same by the row of the port map.
    fn word_of(&mut self, row: u8) {
        self.a.map_value(R5, MapId::Config, config::WORDS + 8 * usize::from(row));
        self.a.load(Size::Dw, R5, R5, 0);
        self.a.store(Size::Dw, Fp, stack::PROTOCOL, R5);
    }

    /// From `label` on: the parser of TCP, UDP or SCTP, which have their ports in the same place.
    pub(super) fn layer4_ports(&mut self, number: u8, label: Label, judge: Label, short: Label) {
        let protocol = Protocol::of(number);
        self.a.note(format!("parse: {}", ["tcp", "udp", "sctp"][protocol as usize]));
        self.a.bind(label);
        self.need(needed(number, 4) as i32, short);
        let a = &mut self.a;
        a.load(Size::W, R8, R2, 0);
        match protocol {
            Protocol::Tcp => {
                a.load(Size::B, R4, R2, 13);
                self.event(config::TCP_EVENTS);
            }
            Protocol::Sctp => {
                a.load(Size::B, R4, R2, 12);
                self.event(config::SCTP_EVENTS);
            }
            _ => self.datagram(),
        }
        if self.hook == Hook::ToPod {
            self.exchange_ports(R8, R1);
        }
        self.tail(protocol as usize);
        self.protocol(protocol);
        if protocol == Protocol::Udp && self.guards() {
            self.dhcp_answer();
            let a = &mut self.a;
            a.note("table tunnel: UDP port");
            a.alu32(Alu::Mov, R1, R8);
            a.alu(Alu::Rsh, R1, 16);
            self.if_tunnel(0, self.tunnel);
        }
        self.a.jump(judge);
    }

    /// Drops the answers of a DHCP server, which a guarded pod is not (S36). R8: the ports. Changes
    /// R1.
    fn dhcp_answer(&mut self) {
        let (unguarded, spoofed) = (self.a.label(), self.deny(SpoofedSource));
        self.a.note("guard: an answer of a DHCP server");
        for (client, server) in [DHCP, DHCPV6] {
            let other = self.a.label();
            let ports = u32::from(server.to_be()) | u32::from(client.to_be()) << 16;
            self.a.alu32(Alu::Mov, R1, R8);
            self.a.jump_if(Cond::Ne, R1, ports as i32, other);
            self.if_unguarded(unguarded);
            self.a.jump(spoofed);
            self.a.bind(other);
        }
        self.a.bind(unguarded);
    }

    /// Goes to `tunnel` where the bit in R1 of the tunnel map, counted from word `from` on, is set.
    /// Changes R1-R3.
    pub(super) fn if_tunnel(&mut self, from: usize, tunnel: Label) {
        let a = &mut self.a;
        a.mov(R2, R1);
        a.alu(Alu::And, R2, 63);
        a.alu(Alu::Rsh, R1, 6);
        a.alu(Alu::Lsh, R1, 3);
        a.map_value(R3, MapId::Tunnel, 8 * from);
        a.alu(Alu::Add, R3, R1);
        a.load(Size::Dw, R1, R3, 0);
        a.alu(Alu::Rsh, R1, R2);
        a.jump_if(Cond::Set, R1, 1, tunnel);
    }

    /// For a packet to the port of a tunnel (S45): goes to `judge` where a rule that names ports
    /// permits it, or where nothing guards the pod, and drops it otherwise.
    pub(super) fn tunnel(&mut self, family: Family, judge: Label) {
        if !self.guards() {
            return;
        }
        let (tunnel, denied) = (self.tunnel, self.deny(Tunnel));
        self.a.note("guard: into a tunnel");
        self.a.bind(tunnel);
        self.if_unguarded(judge);
        self.if_open(denied);
        self.class(family);
        self.named(Hook::FromPod, family, Of::Packet, judge, denied);
        self.a.jump(denied);
    }

    /// Puts a protocol's number into R8, read from a map as in [`Self::protocol`]. Changes R1.
    fn tail(&mut self, place: usize) {
        self.a.map_value(R1, MapId::Config, config::TAILS + 8 * place);
        self.a.load(Size::Dw, R1, R1, 0);
        self.a.alu(Alu::Or, R8, R1);
    }

    fn datagram(&mut self) {
        self.a.map_value(R4, MapId::Config, config::DATAGRAM_EVENT);
        self.a.load(Size::B, R4, R4, 0);
        self.a.store(Size::Dw, Fp, stack::EVENT, R4);
    }

    /// The parser of all other protocols, which have no ports. R5: the protocol.
    pub(super) fn layer4_other(&mut self, judge: Label) {
        let icmp = self.a.label();
        self.a.note("parse: other protocol");
        self.datagram();
        let a = &mut self.a;
        a.mov(R8, R5);
        a.alu(Alu::Lsh, R8, 32);
        self.tail(7);
        let a = &mut self.a;
        // ICMP over IPv6 and ICMPv6 over IPv4 come here and live as long as ICMP does. The port map
        // has nothing in their slots.
        a.jump_if(Cond::Eq, R5, i32::from(ip::ICMP), icmp);
        a.jump_if(Cond::Eq, R5, i32::from(ip::ICMPV6), icmp);
        self.other(asked::OTHER);
        if self.guards() {
            let a = &mut self.a;
            a.note("table tunnel: protocol");
            a.mov(R1, R8);
            a.alu(Alu::Rsh, R1, 32);
            a.alu(Alu::And, R1, 255);
            let (tunnel, denied) = (a.label(), self.deny(Tunnel));
            self.if_tunnel(TUNNEL_PROTOCOLS, tunnel);
            self.a.jump(judge);
            // A row may permit protocols without ports, but no rule names one (S45).
            self.a.note("guard: a protocol that leads into a tunnel");
            self.a.bind(tunnel);
            self.if_unguarded(judge);
            self.a.jump(denied);
        } else {
            self.a.jump(judge);
        }
        self.a.bind(icmp);
        self.other(asked::ICMP_ABROAD);
        self.a.jump(judge);
    }

    /// As [`Self::protocol`], for a protocol without ports whose number is in R8: the port map is
    /// asked about that, also of its question. Changes R1.
    pub(super) fn other(&mut self, row: u8) {
        self.word_of(row);
        let a = &mut self.a;
        a.mov(R1, R8);
        a.alu(Alu::Rsh, R1, 32);
        a.alu(Alu::And, R1, 255);
        a.alu(Alu::Lsh, R1, Of::Packet as i32);
        a.alu(Alu::Or, R5, R1);
        a.alu(Alu::Lsh, R1, Of::Question as i32 - Of::Packet as i32);
        a.alu(Alu::Or, R5, R1);
        a.store(Size::Dw, Fp, stack::PROTOCOL, R5);
    }

    /// As [`Self::protocol`], for the message of the family's ICMP to which R2 points: the port map
    /// is asked about its type and code, and about those of its question. Changes R0, R1, R3, R4.
    pub(super) fn message(&mut self, family: Family) {
        let (row, questions) = match family {
            Family::V4 => (asked::ICMP, config::ICMP_QUESTIONS),
            Family::V6 => (asked::ICMPV6, config::ICMPV6_QUESTIONS),
        };
        self.word_of(row);
        let a = &mut self.a;
        a.note("icmp: type and code");
        a.load(Size::B, R3, R2, 0);
        a.load(Size::B, R4, R2, 1);
        a.map_value(R0, MapId::Config, questions);
        a.alu(Alu::Add, R0, R3);
        a.load(Size::B, R1, R0, 0);
        for (kind, of) in [(R3, Of::Packet), (R1, Of::Question)] {
            a.alu(Alu::Lsh, kind, 8);
            a.alu(Alu::Or, kind, R4);
            a.alu(Alu::Lsh, kind, of as i32);
            a.alu(Alu::Or, R5, kind);
        }
        a.store(Size::Dw, Fp, stack::PROTOCOL, R5);
    }

    /// Makes the identifier in R8, or 0, both ports of the tuple. R5 = what [`Self::message`] has
    /// put onto the stack.
    pub(super) fn tuple_icmp(&mut self, number: u8) {
        let a = &mut self.a;
        a.mov(R1, R8);
        a.alu(Alu::Lsh, R1, 16);
        a.alu(Alu::Or, R8, R1);
        self.tail(Protocol::Icmp as usize + usize::from(number == ip::ICMPV6));
        self.a.load(Size::Dw, R5, Fp, stack::PROTOCOL);
    }
}
