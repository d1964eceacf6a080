//! The guard: what a pod may claim of itself, and which packets to it are meant for others (S36,
//! S47, S55). It checks hardware addresses, ARP, sources and destinations.
//!
//! Not here: neighbour discovery ([`super::ipv6`]), and what policies say ([`super::policy`]).

use netpolc_target::{
    Hook,
    semantics::{DropReason::*, ether},
};

use super::{Generator, ctx, mark, parse::be16, stack};
use crate::{
    asm::{Alu, Cond, Label, Reg::*, Size},
    layout::endpoint,
};

impl Generator<'_> {
    /// Where the pod's hardware address is known, drops what the pod sends from another one, and
    /// what comes to it under another one (S55). R2: the address of the endpoint's record. R3 = the
    /// word. Changes R0-R7.
    pub(super) fn hardware(&mut self) {
        let (at, reason) = match self.hook {
            Hook::ToPod => (0, ForeignDestination),
            Hook::FromPod | Hook::Translated => (6, SpoofedSource),
        };
        let (slow, read, done, denied) =
            (self.a.label(), self.a.label(), self.a.label(), self.deny(reason));
        self.a.note("table own_mac");
        self.a.load(Size::Dw, R4, R2, endpoint::OWN_MAC as i16);
        self.a.jump_if(Cond::Eq, R4, 0, done);
        if self.hook == Hook::FromPod {
            self.if_unguarded(done);
        }
        let a = &mut self.a;
        a.load(Size::W, R2, R6, ctx::DATA);
        a.load(Size::W, R5, R6, ctx::DATA_END);
        a.mov(R1, R2);
        a.alu(Alu::Add, R1, 14);
        a.jump_if(Cond::Gt, R1, R5, slow);
        a.load(Size::W, R5, R2, at);
        a.load(Size::H, R1, R2, at + 4);
        a.bind(read);
        if self.hook == Hook::ToPod {
            a.mov(R2, R5);
            // The lowest bit of the first byte says that the frame is for many.
            a.alu(Alu::And, R2, 1);
            a.jump_if(Cond::Ne, R2, 0, done);
        }
        a.alu(Alu::Lsh, R1, 32);
        a.alu(Alu::Or, R5, R1);
        a.jump_if(Cond::Ne, R5, R4, denied);
        a.jump(done);
        a.bind(slow);
        a.mov(R7, 0);
        self.load_bytes(0, stack::BUFFER, 14, done);
        let a = &mut self.a;
        a.load(Size::Dw, R2, Fp, stack::RECORD);
        a.load(Size::Dw, R4, R2, endpoint::OWN_MAC as i16);
        // Unlike the packet, the stack may be read at aligned offsets only, and the address may
        // begin at
        // an odd multiple of 2.
        a.load(Size::H, R5, Fp, stack::BUFFER + at);
        a.load(Size::H, R1, Fp, stack::BUFFER + at + 2);
        a.alu(Alu::Lsh, R1, 16);
        a.alu(Alu::Or, R5, R1);
        a.load(Size::H, R1, Fp, stack::BUFFER + at + 4);
        a.jump(read);
        a.bind(done);
        a.load(Size::Dw, R3, Fp, stack::WORD);
    }

    /// From `arp` on: lets a guarded pod speak ARP for its own
    /// address only (S36). The body begins 14 bytes behind the offset in R7.
    pub(super) fn arp(&mut self, arp: Label) {
        const SENDER: i16 = 14;
        let (next, short) = (self.next, self.deny(Truncated));
        let (malformed, spoofed) = (self.deny(Malformed), self.deny(SpoofedSource));
        self.a.note("guard: arp");
        self.a.bind(arp);
        self.if_unguarded(next);
        self.load_bytes(14, stack::BUFFER, 28, short);
        let a = &mut self.a;
        for (at, half) in [(0, 0x0001), (2, ether::IPV4), (4, 0x0604)] {
            a.load(Size::H, R1, Fp, stack::BUFFER + at);
            a.jump_if(Cond::Ne, R1, be16(half), malformed);
        }
        let hardware = a.label();
        a.load(Size::Dw, R2, Fp, stack::RECORD);
        a.load(Size::Dw, R3, R2, endpoint::OWN_MAC as i16);
        a.jump_if(Cond::Eq, R3, 0, hardware);
        a.load(Size::Dw, R1, Fp, stack::BUFFER + 8);
        a.alu(Alu::Lsh, R1, 16);
        a.alu(Alu::Rsh, R1, 16);
        a.jump_if(Cond::Ne, R1, R3, spoofed);
        a.bind(hardware);
        a.load(Size::H, R1, Fp, stack::BUFFER + SENDER);
        a.load(Size::H, R2, Fp, stack::BUFFER + SENDER + 2);
        a.alu(Alu::Lsh, R2, 16);
        a.alu(Alu::Or, R1, R2);
        a.jump_if(Cond::Eq, R1, 0, next); // 0.0.0.0 is the sender of a probe.
        a.load(Size::Dw, R2, Fp, stack::RECORD);
        a.load(Size::W, R3, R2, endpoint::OWN_V4 as i16);
        a.jump_if(Cond::Eq, R1, R3, next);
        self.own_more_v4(next, spoofed);
    }

    /// Drops what a guarded pod sends from an address that is not its own; 0.0.0.0 becomes unproven
    /// (S55). Keeps R4, R5, R7-R9.
    pub(super) fn guard_v4(&mut self) {
        let (done, spoofed) = (self.a.label(), self.deny(SpoofedSource));
        self.a.note("guard: table own_v4");
        self.if_unguarded(done);
        self.local_v4(done, |g, _| {
            g.a.jump_if(Cond::Ne, R1, 0, spoofed);
            g.a.store(Size::Dw, Fp, stack::MARKS, mark::UNPROVEN);
        });
    }

    /// Checks that the address of the pod's side is one of its own. Where it is not, the code of
    /// `foreign` follows, with the address in R1. It may drop the packet, jump to the label that it
    /// gets, or run on; both of the latter let the packet go on. Binds `done`. Keeps R4, R5, R7-R9.
    fn local_v4(&mut self, done: Label, foreign: impl FnOnce(&mut Self, Label)) {
        let (miss, on) = (self.a.label(), self.a.label());
        let a = &mut self.a;
        a.mov(R1, R9);
        a.alu(Alu::Rsh, R1, 32);
        self.own_first_v4(done);
        let a = &mut self.a;
        a.store(Size::Dw, Fp, stack::SPARE, R4);
        a.store(Size::Dw, Fp, stack::SPARE2, R5);
        self.own_more_v4(on, miss);
        let a = &mut self.a;
        a.bind(miss);
        a.mov(R1, R9);
        a.alu(Alu::Rsh, R1, 32);
        foreign(self, on);
        let a = &mut self.a;
        a.bind(on);
        a.load(Size::Dw, R4, Fp, stack::SPARE);
        // The verifier may not know the bounds of a value that it reloads. The mask changes
        // nothing: R4 is the header's length field, of 4 bits.
        a.alu(Alu::And, R4, 15);
        a.load(Size::Dw, R5, Fp, stack::SPARE2);
        a.bind(done);
    }

    /// Drops what a guarded pod sends from an address that is not its own; :: and fe80::/10 become
    /// unproven (S55). Keeps R7, R8.
    pub(super) fn guard_v6(&mut self) {
        let (done, miss, spoofed) = (self.a.label(), self.a.label(), self.deny(SpoofedSource));
        self.a.note("guard: table own_v6");
        self.if_unguarded(done);
        self.own_v6(stack::LOCAL, done, miss);
        let a = &mut self.a;
        a.bind(miss);
        let unproven = a.label();
        a.load(Size::Dw, R1, Fp, stack::LOCAL);
        a.mov(R2, R1);
        a.alu(Alu::And, R2, be16(0xffc0));
        a.jump_if(Cond::Eq, R2, be16(0xfe80), unproven);
        a.load(Size::Dw, R2, Fp, stack::LOCAL + 8);
        a.alu(Alu::Or, R1, R2);
        a.jump_if(Cond::Ne, R1, 0, spoofed);
        a.bind(unproven);
        self.a.store(Size::Dw, Fp, stack::MARKS, mark::UNPROVEN);
        self.a.bind(done);
    }

    /// Goes to `label` where the pod's hardware address is not known, as is the case for pods that
    /// hang on no bridge. Changes R2, R3.
    pub(super) fn if_unbridged(&mut self, label: Label) {
        let a = &mut self.a;
        a.load(Size::Dw, R2, Fp, stack::RECORD);
        a.load(Size::Dw, R3, R2, endpoint::OWN_MAC as i16);
        a.jump_if(Cond::Eq, R3, 0, label);
    }

    /// Drops what comes to a pod on a bridge and is for another IPv4 address (S55). Keeps R4, R5.
    pub(super) fn meant_v4(&mut self) {
        let (done, foreign) = (self.a.label(), self.deny(ForeignDestination));
        self.a.note("is it for the pod? table own_v4");
        self.if_unbridged(done);
        self.local_v4(done, |g, many| {
            let a = &mut g.a;
            a.mov(R2, R1);
            a.alu(Alu::And, R2, 0xf0);
            a.jump_if(Cond::Eq, R2, 0xe0, many);
            a.alu(Alu::Add, R1, 1);
            a.alu(Alu::Rsh, R1, 32);
            a.jump_if(Cond::Eq, R1, 0, foreign); // Only 255.255.255.255 carries into bit 32.
        });
    }

    /// Drops what comes to a pod on a bridge and is for another IPv6 address (S55).
    pub(super) fn meant_v6(&mut self) {
        let (done, miss, foreign) = (self.a.label(), self.a.label(), self.deny(ForeignDestination));
        self.a.note("is it for the pod?");
        self.if_unbridged(done);
        self.own_v6(stack::LOCAL, done, miss);
        let a = &mut self.a;
        a.bind(miss);
        a.load(Size::Dw, R1, Fp, stack::LOCAL);
        a.mov(R2, R1);
        a.alu(Alu::And, R2, 0xff);
        a.jump_if(Cond::Eq, R2, 0xff, done);
        a.alu(Alu::And, R1, be16(0xffc0));
        a.jump_if(Cond::Ne, R1, be16(0xfe80), foreign);
        a.bind(done);
    }
}
