//! Step 2, Ethernet and VLAN tags, and how bytes of the packet are read.
//!
//! The common frame, which has no tag and whose headers are linear, is read directly. All others
//! take the slow path, which reads by helper and then continues at the same place. Not here: the
//! headers of IP (`ipv4`, `ipv6`).

use netpolc_target::semantics::{DropReason::*, ether};

use super::{Generator, ctx, helper, stack};
use crate::asm::{
    Alu, Cond, Label,
    Reg::{self, *},
    Size,
};

/// A 16-bit number as a load of its two bytes in the packet gives it.
pub(super) const fn be16(n: u16) -> i32 {
    n.to_be() as i32
}

impl Generator<'_> {
    /// Goes to `short` where fewer than `bytes` bytes of the packet are left from R7 on. Changes
    /// R1, and leaves the packet's end in R3.
    pub(super) fn left_at_least(&mut self, bytes: i32, short: Label) {
        let a = &mut self.a;
        a.mov(R1, R7);
        a.alu(Alu::Add, R1, bytes);
        a.load(Size::W, R3, Fp, stack::END);
        a.jump_if(Cond::Gt, R1, R3, short);
    }

    /// Reads `len` bytes at offset R7 + `offset` of the frame into the stack at `to`. Goes to
    /// `short` where the frame ends before. Changes R0-R5.
    pub(super) fn load_bytes(&mut self, offset: i32, to: i16, len: i32, short: Label) {
        let a = &mut self.a;
        a.mov(R1, R6);
        a.mov(R2, R7);
        if offset != 0 {
            a.alu(Alu::Add, R2, offset);
        }
        a.mov(R3, Fp);
        a.alu(Alu::Add, R3, i32::from(to));
        a.mov(R4, len);
        a.call(helper::SKB_LOAD_BYTES);
        a.jump_if(Cond::Ne, R0, 0, short);
    }

    /// R2 = a pointer to the `len` bytes at offset R7: in the packet where they are linear, else in
    /// the stack's buffer. Goes to `short` where there are fewer. Keeps R5.
    pub(super) fn layer4(&mut self, len: i32, short: Label) {
        let (slow, done) = (self.a.label(), self.a.label());
        let a = &mut self.a;
        a.load(Size::W, R2, R6, ctx::DATA);
        a.load(Size::W, R3, R6, ctx::DATA_END);
        // The verifier needs a bound. Only a packet with very long extension headers exceeds it.
        a.jump_if(Cond::Gt, R7, 4095, slow);
        a.alu(Alu::Add, R2, R7);
        a.mov(R4, R2);
        a.alu(Alu::Add, R4, len);
        a.jump_if(Cond::Le, R4, R3, done);
        a.bind(slow);
        a.store(Size::Dw, Fp, stack::SPARE, R5);
        self.load_bytes(0, stack::BUFFER, len, short);
        let a = &mut self.a;
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::BUFFER));
        a.bind(done);
    }

    /// Exchanges the two ports in `to`: source | destination << 16 becomes destination | source <<
    /// 16. Changes `scratch`.
    pub(super) fn exchange_ports(&mut self, to: Reg, scratch: Reg) {
        self.a.mov(scratch, to);
        self.a.alu32(Alu::Rsh, scratch, 16);
        self.a.alu32(Alu::Lsh, to, 16);
        self.a.alu(Alu::Or, to, scratch);
    }

    /// Step 2, and everything that follows from it.
    pub(super) fn parse(&mut self) {
        let (slow, v4, v6) = (self.a.label(), self.a.label(), self.a.label());
        let (v4_header, v6_header) = (self.a.label(), self.a.label());
        let a = &mut self.a;
        a.note("parse: ethernet");
        a.load(Size::W, R2, R6, ctx::DATA);
        a.load(Size::W, R3, R6, ctx::DATA_END);
        a.mov(R4, R2);
        a.alu(Alu::Add, R4, 34);
        a.jump_if(Cond::Gt, R4, R3, slow);
        a.load(Size::H, R5, R2, 12);
        a.jump_if(Cond::Eq, R5, be16(ether::IPV6), v6);
        a.jump_if(Cond::Ne, R5, be16(ether::IPV4), slow);
        a.bind(v4);
        a.mov(R7, 14);
        a.load(Size::Dw, R8, R2, 14);
        a.load(Size::B, R5, R2, 14 + 9);
        a.load(Size::Dw, R9, R2, 14 + 12);
        self.ipv4(v4_header);

        let a = &mut self.a;
        a.note("parse: ipv6, linear");
        a.bind(v6);
        a.mov(R4, R2);
        a.alu(Alu::Add, R4, 54);
        a.jump_if(Cond::Gt, R4, R3, slow);
        a.mov(R7, 14);
        self.ipv6(v6_header);

        self.slow(slow, v4_header, v6_header);
    }

    /// The slow path: reads the headers by helper, behind up to two tags.
    fn slow(&mut self, slow: Label, v4_header: Label, v6_header: Label) {
        let short = self.refuse_early(Truncated);
        let (next, not_ip) = (self.next, self.refuse_early(NotIp));
        let (v4, v6) = (self.a.label(), self.a.label());
        let arp = if self.guards() { self.a.label() } else { next };
        self.a.bind(slow);
        self.a.note("parse: ethernet, by helper");
        self.a.mov(R7, 0);
        for tag in 0..=ether::MAX_TAGS {
            let tagged = self.a.label();
            self.load_bytes(12, stack::BUFFER, 2, short);
            let a = &mut self.a;
            a.load(Size::H, R5, Fp, stack::BUFFER);
            a.jump_if(Cond::Eq, R5, be16(ether::IPV4), v4);
            a.jump_if(Cond::Eq, R5, be16(ether::IPV6), v6);
            a.jump_if(Cond::Eq, R5, be16(ether::ARP), arp);
            if tag == ether::MAX_TAGS {
                a.jump(not_ip);
                break;
            }
            a.jump_if(Cond::Eq, R5, be16(ether::VLAN), tagged);
            a.jump_if(Cond::Ne, R5, be16(ether::QINQ), not_ip);
            a.bind(tagged);
            a.note("parse: vlan tag");
            a.alu(Alu::Add, R7, 4);
        }
        if arp != next {
            self.arp(arp);
        }
        self.a.note("parse: ipv4, by helper");
        self.a.bind(v4);
        self.a.alu(Alu::Add, R7, 14);
        // Both kinds of frames and all numbers of tags continue with the same code, which the
        // verifier should follow once.
        self.forget(R7, 31);
        self.load_bytes(0, stack::BUFFER, 20, short);
        let a = &mut self.a;
        a.load(Size::Dw, R8, Fp, stack::BUFFER);
        a.load(Size::B, R5, Fp, stack::BUFFER + 9);
        a.load(Size::W, R9, Fp, stack::BUFFER + 16);
        a.alu(Alu::Lsh, R9, 32);
        a.load(Size::W, R1, Fp, stack::BUFFER + 12);
        a.alu(Alu::Or, R9, R1);
        a.jump(v4_header);

        self.a.note("parse: ipv6, by helper");
        self.a.bind(v6);
        self.a.alu(Alu::Add, R7, 14);
        self.forget(R7, 31);
        self.load_bytes(0, stack::BUFFER, 40, short);
        self.a.mov(R2, Fp);
        // The parser of IPv6 expects a pointer to the frame, in which the header begins at 14.
        self.a.alu(Alu::Add, R2, i32::from(stack::BUFFER) - 14);
        self.a.jump(v6_header);
    }
}
