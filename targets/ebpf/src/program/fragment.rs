//! Fragments (S50): the verdicts of first ones are recorded, and later ones get them.
//!
//! Not here: which packets are fragments (`ipv4`, `ipv6`).

use netpolc_table::schema::Family;
use netpolc_target::{
    Hook,
    semantics::{DropReason::*, HAS_PORTS, ip},
};

use super::{
    Generator, NEXT, helper, ipv4::TUNNEL_PROTOCOLS, ipv6::seen, mark, parse::be16, stack,
};
use crate::{
    asm::{Alu, Cond, Label, Reg::*, Size},
    layout::{
        MapId, ROW_PERMIT,
        config::{self, Protocol, asked},
    },
};

impl Generator<'_> {
    /// From `fragment` on: a fragment of IPv4. A first one goes on to `layer4`. R5: the protocol,
    /// R7: the offset of layer 4, R8: the first 8 bytes of the header.
    pub(super) fn fragment_v4(&mut self, fragment: Label, layer4: Label) {
        let (later, back) = (self.a.label(), self.a.label());
        self.a.note("fragment: ipv4");
        self.a.bind(fragment);
        self.unproven_fragment();
        self.fragment_key();
        let a = &mut self.a;
        a.mov(R1, R8);
        a.alu(Alu::Rsh, R1, 32);
        a.alu(Alu::And, R1, 0xffff);
        a.store(Size::W, Fp, stack::FRAGMENT + 4, R1);
        a.alu32(Alu::Mov, R1, R9);
        a.store(Size::Dw, Fp, stack::FRAGMENT + 8, R1);
        a.store(Size::Dw, Fp, stack::FRAGMENT + 16, 0);
        a.mov(R1, R9);
        a.alu(Alu::Rsh, R1, 32);
        a.store(Size::Dw, Fp, stack::FRAGMENT + 24, R1);
        a.store(Size::Dw, Fp, stack::FRAGMENT + 32, 0);
        a.mov(R4, R8);
        a.alu(Alu::Rsh, R4, 48);
        a.alu(Alu::And, R4, be16(ip::FRAGMENT_OFFSET));
        a.jump_if(Cond::Ne, R4, 0, later);
        self.mark_first(back);
        self.a.bind(back);
        self.a.load(Size::W, R3, Fp, stack::END);
        self.a.jump(layer4);
        self.a.bind(later);
        self.a.swap(R4, 16);
        self.later(Family::V4);
    }

    /// From `fragment` on: a fragment header of IPv6, which is in the buffer. Goes on at `after`
    /// unless the packet is a later fragment. R1: offset << 3 | M.
    pub(super) fn fragment_v6(&mut self, fragment: Label, after: Label) {
        let later = self.a.label();
        self.a.note("fragment: ipv6");
        self.a.bind(fragment);
        self.a.mov(R4, R1);
        self.unproven_fragment();
        let a = &mut self.a;
        a.mov(R1, R4);
        a.alu(Alu::And, R1, 0xfff9);
        a.jump_if(Cond::Eq, R1, 0, after); // An atomic fragment is a whole packet.
        a.load(Size::B, R5, Fp, stack::BUFFER);
        self.fragment_key();
        let a = &mut self.a;
        a.load(Size::W, R1, Fp, stack::BUFFER + 4);
        a.store(Size::W, Fp, stack::FRAGMENT + 4, R1);
        for (offset, at) in [
            (8, stack::REMOTE),
            (16, stack::REMOTE + 8),
            (24, stack::LOCAL),
            (32, stack::LOCAL + 8),
        ] {
            a.load(Size::Dw, R1, Fp, at);
            a.store(Size::Dw, Fp, stack::FRAGMENT + offset, R1);
        }
        a.alu(Alu::Rsh, R4, 3);
        a.jump_if(Cond::Ne, R4, 0, later);
        a.load(Size::Dw, R1, Fp, stack::IPV6);
        a.alu(Alu::Or, R1, seen::FIRST);
        a.store(Size::Dw, Fp, stack::IPV6, R1);
        a.jump(after);
        a.bind(later);
        self.later(Family::V6);
    }

    /// Drops a fragment whose source is unproven: the exceptions are whole packets.
    fn unproven_fragment(&mut self) {
        if self.hook == Hook::FromPod {
            self.a.peek(R1, stack::MARKS);
            self.a.jump_if(Cond::Set, R1, mark::UNPROVEN, self.deny[SpoofedSource as usize]);
        }
    }

    /// Stores the first word of the key. R5: the protocol.
    fn fragment_key(&mut self) {
        let direction = match self.hook {
            Hook::ToPod => 0,
            Hook::FromPod => 1,
            Hook::Translated => 2,
        };
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::ENDPOINT);
        a.alu(Alu::Or, R1, direction << 16);
        a.mov(R2, R5);
        a.alu(Alu::Lsh, R2, 24);
        a.alu(Alu::Or, R1, R2);
        a.store(Size::W, Fp, stack::FRAGMENT, R1);
    }

    /// Notes that the verdict is to be recorded, where the direction is isolated and the packet is
    /// not exempt, and goes to `back`. Changes R1 only.
    pub(super) fn mark_first(&mut self, back: Label) {
        self.a.note("fragment: the first one");
        self.if_open(back);
        self.if_exempt(back);
        self.a.store(Size::Dw, Fp, stack::MARKS, mark::FIRST);
        self.a.jump(back);
    }

    /// Judges a later fragment, in the order of step 5. R4: its offset in units of 8 bytes, R5: the
    /// protocol; the key is on the stack.
    fn later(&mut self, family: Family) {
        let (checked, risky, none, some, all) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let (next, drop) = (self.next, self.deny(Fragment));
        self.a.note("fragment: a later one");
        match self.guards() {
            true => self.later_open(),
            false => self.if_open(next),
        }
        self.if_exempt(next);
        let a = &mut self.a;
        // A fragment at offset 8 would overwrite the flags of TCP, or the chunk type of SCTP, that
        // the first one was judged by (RFC 3128).
        a.jump_if(Cond::Ne, R4, 1, checked);
        a.bind(risky);
        a.jump_if(Cond::Eq, R5, i32::from(ip::TCP), drop);
        a.jump_if(Cond::Eq, R5, i32::from(ip::SCTP), drop);
        a.bind(checked);
        a.store(Size::Dw, Fp, stack::SPARE, R5);
        self.now();
        let a = &mut self.a;
        a.mov(R7, R0);
        a.note("table frag");
        a.map(R1, MapId::Frag);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::FRAGMENT));
        a.call(helper::MAP_LOOKUP);
        a.jump_if(Cond::Eq, R0, 0, none);
        a.load(Size::W, R1, R0, 0);
        a.jump_if(Cond::Le, R1, R7, none);
        a.load(Size::W, R1, R0, 4);
        a.jump_if(Cond::Eq, R1, 0, drop);
        if self.hook == Hook::FromPod {
            a.jump_if(Cond::Eq, R1, 1, next);
            self.set_mark();
        }
        let a = &mut self.a;
        a.jump(next);

        a.note("fragment: no record, the same answer for all ports?");
        a.bind(none);
        if family == Family::V6 {
            a.load(Size::Dw, R5, Fp, stack::SPARE);
            for extension in ip::EXTENSIONS {
                a.jump_if(Cond::Eq, R5, i32::from(extension), drop);
            }
        }
        if self.guards() {
            self.a.load(Size::Dw, R5, Fp, stack::SPARE);
            self.if_tunnel_protocol(drop);
        }
        if self.hook == Hook::ToPod {
            let (forwarded, tables) = (self.a.label(), self.a.label());
            self.own_traffic(next, forwarded);
            self.a.note("fragment: from its own address?");
            self.a.bind(forwarded);
            self.own(family, drop, tables);
            self.a.bind(tables);
        }
        self.class(family);
        self.row(self.hook, family);
        self.a.jump_if(Cond::Eq, R1, i32::from(ROW_PERMIT), next);
        self.mask();
        let words = self.p.capacities.port_words;
        let own = self.a.label();
        let a = &mut self.a;
        a.note("table port: all classes of the protocol");
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        for protocol in HAS_PORTS {
            let other = a.label();
            a.jump_if(Cond::Ne, R5, i32::from(protocol), other);
            a.map_value(
                R4,
                MapId::PortClasses,
                Protocol::of(protocol) as usize * words as usize * 8,
            );
            a.jump(all);
            a.bind(other);
        }
        // The port map has one slot for all other protocols without ports, and its message types
        // for the family's own ICMP.
        let (icmp, row) = match family {
            Family::V4 => (ip::ICMP, asked::ICMP),
            Family::V6 => (ip::ICMPV6, asked::ICMPV6),
        };
        let other = a.label();
        a.jump_if(Cond::Ne, R5, i32::from(icmp), other);
        a.map_value(R4, MapId::PortClasses, usize::from(row) * words as usize * 8);
        a.jump(all);
        a.bind(other);
        a.mov(R2, R5);
        a.alu(Alu::And, R2, 255); // Changes nothing, but tells the verifier the bound.
        a.alu(Alu::Add, R2, i32::from(asked::OTHER) << 16);
        a.mov(R4, R3);
        self.port_class();
        self.a.mov(R3, R4);
        self.if_class(next);
        let a = &mut self.a;
        a.jump(own);
        a.bind(all);
        // The row must permit each class that some port of the protocol has: word by word, the
        // row's mask must contain the mask of those classes.
        a.mov(R5, 0);
        a.bind(some);
        a.load(Size::Dw, R1, R4, 0);
        a.load(Size::Dw, R2, R3, 0);
        a.alu(Alu::And, R2, R1);
        a.jump_if(Cond::Ne, R2, R1, own);
        a.alu(Alu::Add, R4, 8);
        a.alu(Alu::Add, R3, 16);
        a.alu(Alu::Add, R5, 1);
        a.jump_if(Cond::Lt, R5, words as i32, some);
        a.jump(next);
        a.bind(own);
        match self.hook {
            Hook::ToPod => a.jump(drop),
            Hook::FromPod | Hook::Translated => self.own_of_fragment(family, next, drop),
        }
    }

    /// Passes a later fragment of a pod whose egress is not isolated, unless the pod is guarded and
    /// the fragment is part of a packet that leads into a tunnel (S45). Runs on where egress is
    /// isolated. R5: the protocol. Changes R1-R3.
    fn later_open(&mut self) {
        let (isolated, open, next, denied) =
            (self.a.label(), self.a.label(), self.next, self.deny(Tunnel));
        self.if_open(open);
        self.a.jump(isolated);
        self.a.bind(open);
        self.if_unguarded(next);
        self.if_tunnel_protocol(denied);
        self.a.jump(next);
        self.a.bind(isolated);
    }

    /// Goes to `tunnel` where all packets of the protocol in R5 lead into a tunnel. Changes R1-R3.
    fn if_tunnel_protocol(&mut self, tunnel: Label) {
        self.a.note("table tunnel: protocol");
        self.a.mov(R1, R5);
        self.a.alu(Alu::And, R1, 255); // Changes nothing, but tells the verifier the bound.
        self.if_tunnel(TUNNEL_PROTOCOLS, tunnel);
    }

    /// As [`Self::own`], for the remote of a fragment. The lookup of the class has used R9, but the
    /// addresses are still in the key.
    fn own_of_fragment(&mut self, family: Family, next: Label, drop: Label) {
        if family == Family::V4 {
            self.a.load(Size::W, R9, Fp, stack::FRAGMENT + 8);
        }
        self.own(family, next, drop);
    }

    /// From `record` on: records the verdict of a first fragment, which is in R7, and goes to
    /// `done`. Keeps R7.
    pub(super) fn record(&mut self, record: Label, done: Label) {
        let (drop, defer) = (self.a.label(), self.a.label());
        self.a.bind(record);
        self.now();
        let a = &mut self.a;
        a.note("fragment: record the verdict");
        a.map_value(R1, MapId::Config, config::FRAGMENT_TICKS);
        a.load(Size::W, R1, R1, 0);
        a.alu(Alu::Add, R0, R1);
        a.store(Size::W, Fp, stack::RECORDED, R0);
        a.mov(R1, 0);
        a.jump_if(Cond::Ne, R7, NEXT, drop);
        a.mov(R1, 1);
        if self.hook == Hook::FromPod {
            a.peek(R2, stack::MARKS);
            a.jump_if(Cond::Set, R2, mark::DEFER, defer);
            a.jump(drop);
            a.bind(defer);
            a.mov(R1, 2);
        }
        a.bind(drop);
        a.store(Size::W, Fp, stack::RECORDED + 4, R1);
        a.map(R1, MapId::Frag);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::FRAGMENT));
        a.mov(R3, Fp);
        a.alu(Alu::Add, R3, i32::from(stack::RECORDED));
        a.mov(R4, 0);
        a.call(helper::MAP_UPDATE);
        a.jump(done);
    }
}
