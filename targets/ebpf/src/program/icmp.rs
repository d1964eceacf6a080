//! ICMP errors, which are judged by the packet that they quote (S35).
//!
//! Not here: what an entry of the inner packet's connection means (`lookup`).

use netpolc_table::schema::Family;
use netpolc_target::{
    Hook,
    semantics::{DropReason::*, ip, quotation},
};

use super::{Asks, Generator, ipv6::Walk, mark, parse::be16, stack};
use crate::{
    asm::{Alu, Cond, Label, Reg::*, Size},
    layout::config::{self, Protocol, asked, code},
};

/// Where the buffer holds the 8 bytes after the inner header.
const INNER: i16 = stack::BUFFER + 24;

impl Generator<'_> {
    /// From `error` on: judges an ICMP error. Goes to `state` with the tuple of the inner packet.
    /// R7: the offset of the ICMP header.
    pub(super) fn error(&mut self, family: Family, error: Label, state: Label) {
        let (allow, bad) = (self.allow, self.deny(IcmpError));
        self.a.note("icmp error");
        self.a.bind(error);
        self.if_open(allow);
        self.if_exempt(allow);
        if self.hook == Hook::ToPod {
            // Finding out who sent the packet overwrites the register that holds the offset.
            self.a.store(Size::Dw, Fp, stack::SPARE2, R7);
            self.refuse_forged(family);
            self.a.load(Size::Dw, R7, Fp, stack::SPARE2);
            self.forget(R7, 0x1ffff);
        }
        let a = &mut self.a;
        a.peek(R1, stack::MARKS);
        // An error that is cut into fragments quotes more than can be checked.
        a.jump_if(Cond::Set, R1, mark::FIRST, bad);
        if self.hook == Hook::FromPod {
            a.note("icmp error: how much does it quote?");
            a.load(Size::W, R3, Fp, stack::END);
            a.alu(Alu::Sub, R3, R7);
            a.jump_if(Cond::SGt, R3, 8 + quotation(family.number()) as i32, bad);
        }
        match family {
            Family::V4 => self.inner_v4(bad),
            Family::V6 => self.inner_v6(bad),
        }
        self.a.note("icmp error: inner tuple");
        self.left_at_least(8, bad);
        self.a.store(Size::Dw, Fp, stack::SPARE, R5);
        self.load_bytes(0, INNER, 8, bad);
        self.a.load(Size::Dw, R5, Fp, stack::SPARE);
        self.inner_tuple(family, bad, state);
    }

    /// Reads an inner header of IPv4. R5 = its protocol, R7 = the offset of what follows it, R9 =
    /// its addresses.
    fn inner_v4(&mut self, bad: Label) {
        self.left_at_least(28, bad);
        self.load_bytes(8, stack::BUFFER, 20, bad);
        let (local, remote) = match self.hook {
            Hook::ToPod => (12, 16),
            Hook::FromPod | Hook::Translated => (16, 12),
        };
        let a = &mut self.a;
        a.note("icmp error: inner ipv4 header");
        a.load(Size::B, R1, Fp, stack::BUFFER);
        a.mov(R2, R1);
        a.alu(Alu::And, R2, 0xf0);
        a.jump_if(Cond::Ne, R2, 0x40, bad);
        a.alu(Alu::And, R1, 15);
        a.jump_if(Cond::Lt, R1, 5, bad);
        a.load(Size::H, R2, Fp, stack::BUFFER + 6);
        a.alu(Alu::And, R2, be16(ip::FRAGMENT_OFFSET));
        a.jump_if(Cond::Ne, R2, 0, bad);
        a.alu(Alu::Lsh, R1, 2);
        a.alu(Alu::Add, R7, R1);
        a.alu(Alu::Add, R7, 8);
        a.load(Size::W, R1, Fp, stack::BUFFER + local);
        a.alu32(Alu::Mov, R2, R9);
        a.alu(Alu::Rsh, R9, 32);
        a.jump_if(Cond::Ne, R1, R9, bad);
        if self.hook == Hook::FromPod {
            // A pod may send an error only to the sender of the packet that it quotes.
            a.load(Size::W, R3, Fp, stack::BUFFER + remote);
            a.jump_if(Cond::Ne, R2, R3, bad);
        }
        a.load(Size::W, R9, Fp, stack::BUFFER + remote);
        a.alu(Alu::Lsh, R1, 32);
        a.alu(Alu::Or, R9, R1);
        a.load(Size::B, R5, Fp, stack::BUFFER + 9);
    }

    /// Reads an inner header of IPv6, as [`Self::inner_v4`] does. The remote address on the stack
    /// becomes the inner one.
    fn inner_v6(&mut self, bad: Label) {
        self.left_at_least(48, bad);
        self.load_bytes(8, stack::BUFFER, 40, bad);
        let (local, remote) = match self.hook {
            Hook::ToPod => (8, 24),
            Hook::FromPod | Hook::Translated => (24, 8),
        };
        let a = &mut self.a;
        a.note("icmp error: inner ipv6 header");
        a.load(Size::B, R1, Fp, stack::BUFFER);
        a.alu(Alu::And, R1, 0xf0);
        a.jump_if(Cond::Ne, R1, 0x60, bad);
        for half in [0, 8] {
            a.load(Size::Dw, R1, Fp, stack::BUFFER + local + half);
            a.load(Size::Dw, R2, Fp, stack::LOCAL + half);
            a.jump_if(Cond::Ne, R1, R2, bad);
            a.load(Size::Dw, R1, Fp, stack::BUFFER + remote + half);
            if self.hook == Hook::FromPod {
                a.load(Size::Dw, R2, Fp, stack::REMOTE + half);
                a.jump_if(Cond::Ne, R1, R2, bad);
            }
            a.store(Size::Dw, Fp, stack::REMOTE + half, R1);
        }
        a.load(Size::B, R8, Fp, stack::BUFFER + 6);
        a.alu(Alu::Add, R7, 48);
        a.store(Size::Dw, Fp, stack::IPV6, 0);
        let (fragment, after, done) = (a.label(), a.label(), a.label());
        a.note("icmp error: inner extension headers");
        self.extensions(Walk { malformed: bad, truncated: bad, routed: None, fragment, after });
        let a = &mut self.a;
        a.mov(R5, R8);
        a.jump(done);
        a.bind(fragment);
        a.alu(Alu::Rsh, R1, 3);
        a.jump_if(Cond::Ne, R1, 0, bad);
        a.jump(after);
        a.bind(done);
    }

    /// Makes the tuple of the inner packet. R5: its protocol; the 8 bytes after its header are in
    /// the buffer.
    fn inner_tuple(&mut self, family: Family, bad: Label, state: Label) {
        let (known, icmp) = (self.a.label(), self.a.label());
        let number = match family {
            Family::V4 => ip::ICMP,
            Family::V6 => ip::ICMPV6,
        };
        let a = &mut self.a;
        // The inner packet went the other way: its source is the local side of an error that comes
        // to the pod.
        a.load(Size::W, R8, Fp, INNER);
        a.mov(R4, R5);
        a.alu(Alu::Lsh, R4, 32);
        if self.hook == Hook::FromPod {
            self.exchange_ports(R8, R1);
        }
        let a = &mut self.a;
        a.alu(Alu::Or, R8, R4);
        a.jump_if(Cond::Eq, R5, i32::from(number), icmp);
        for with_ports in [ip::TCP, ip::UDP, ip::SCTP] {
            let not = self.a.label();
            self.a.jump_if(Cond::Ne, R5, i32::from(with_ports), not);
            self.protocol(Protocol::of(with_ports));
            self.a.jump(known);
            self.a.bind(not);
        }
        self.a.mov(R8, R4);
        self.other(asked::OTHER);
        self.a.jump(known);

        let a = &mut self.a;
        a.note("icmp error: about icmp");
        a.bind(icmp);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(INNER));
        self.message(family);
        let a = &mut self.a;
        a.load(Size::B, R4, Fp, INNER);
        self.event(if family == Family::V4 { config::ICMP_EVENTS } else { config::ICMPV6_EVENTS });
        let a = &mut self.a;
        // An error about an error has no tuple either.
        a.jump_if(Cond::Ge, R4, i32::from(code::NO_TUPLE), bad);
        a.load(Size::H, R8, Fp, INNER + 4);
        self.tuple_icmp(number);
        self.a.bind(known);
        self.class(family);
        let a = &mut self.a;
        a.store(Size::Dw, Fp, stack::CLASS, R4);
        // Stored by a register, since old verifiers do not track constants that are stored
        // directly.
        a.mov(R1, Asks::Error as i32);
        a.store(Size::Dw, Fp, stack::ASKS, R1);
        a.jump(state);
    }
}
