//! Packets to Services, after translation: they are judged by the sender's egress set and their
//! present destination, and unmarked (S48).
//!
//! This is a program of its own at the node's other interfaces, and the first part of `to_pod`.
//! Only marked packets come here. Not here: how a packet gets its mark (`policy`, `exits`).

use netpolc_table::schema::{Family, Word};
use netpolc_target::{Hook, semantics::DropReason::*};

use super::{Generator, NEXT, ctx, isolation, mark, stack};
use crate::{
    asm::{Alu, Asm, Cond, Label, Reg::*, Size},
    layout::{config::asked::Of, endpoint},
};

impl Generator<'_> {
    /// Moves the context from R1 to R6, and goes to `marked` where the packet has the mark.
    pub(super) fn translated_first(&mut self, marked: Label) {
        let bit = self.options.mark as i32;
        let a = &mut self.a;
        a.note("entry: is its egress still to be judged?");
        a.mov(R6, R1);
        a.load(Size::W, R1, R6, ctx::MARK);
        a.jump_if(Cond::Set, R1, bit, marked);
    }

    /// From `marked` on: judges a packet that was translated. Where it passes, the program goes on
    /// at `then`, with R6 alone.
    pub(super) fn translated(&mut self, marked: Label, then: Label) {
        // These steps have exits and stack of their own, as if another program ran first: only the
        // assembler is shared.
        let a = std::mem::replace(&mut self.a, Asm::new());
        let mut g = Generator::new(a, Hook::Translated, self.p, self.options);
        g.a.bind(marked);
        g.sender(then);
        g.parse();
        g.exits();
        g.a.jump(then);
        self.a = g.a;
    }

    /// Finds the sender: the pod at whose interface the packet entered the node. Goes to `then`
    /// with packets that the node itself has sent, whose bit is somebody else's.
    fn sender(&mut self, then: Label) {
        let (nobody, forwarded, parse) = (self.a.label(), self.a.label(), self.a.label());
        let (next, policy) = (self.next, self.deny(Policy));
        let a = &mut self.a;
        a.note("translated: the sender");
        a.load(Size::W, R7, R6, ctx::INGRESS_IFINDEX);
        a.jump_if(Cond::Ne, R7, 0, forwarded);
        self.if_socket(then, R1);
        self.a.jump(nobody);
        self.a.bind(forwarded);
        self.endpoint(nobody);
        self.word();
        let a = &mut self.a;
        a.alu(Alu::Rsh, R3, endpoint::FLAGS_SHIFT as i32);
        a.alu(Alu::And, R3, i32::from(Word::EGRESS));
        a.jump_if(Cond::Eq, R3, 0, next);
        a.jump(parse);
        // A marked packet without a sender is dropped, and counted for endpoint 0.
        a.bind(nobody);
        a.store(Size::Dw, Fp, stack::ENDPOINT, 0);
        for word in [stack::MARKS, stack::WORD, stack::CLASS] {
            a.store(Size::Dw, Fp, word, 0);
        }
        a.jump(policy);
        a.bind(parse);
    }

    /// Step T3: by the tables alone, since every packet of the connection comes this way.
    pub(super) fn judge_translated(&mut self, family: Family) {
        let (allow, policy) = (self.allow, self.deny(Policy));
        self.a.note("translated: the sender's egress set");
        self.class(family);
        self.a.store(Size::Dw, Fp, stack::CLASS, R4);
        self.tables(Hook::FromPod, family, Of::Packet, allow);
        self.own(family, allow, policy);
    }

    /// The exits of a packet that passes. The program goes on behind this code.
    pub(super) fn unmark(&mut self, record: Label) {
        let (next, allow, bit) = (self.next, self.allow, self.options.mark as i32);
        let (then, recorded, first) = (self.a.label(), self.a.label(), self.a.label());
        debug_assert!(isolation(self.hook) != 0);
        self.a.note("translated: permitted");
        self.a.bind(allow);
        self.a.peek(R1, stack::MARKS);
        self.a.jump_if(Cond::Set, R1, mark::FIRST, first);
        self.a.note("translated: unmark");
        self.a.bind(next);
        let a = &mut self.a;
        a.load(Size::W, R1, R6, ctx::MARK);
        a.alu32(Alu::And, R1, !bit);
        a.store(Size::W, R6, ctx::MARK, R1);
        a.jump(then);
        a.bind(first);
        a.mov(R7, NEXT);
        self.record(record, recorded);
        let a = &mut self.a;
        a.bind(recorded);
        a.jump_if(Cond::Eq, R7, NEXT, next);
        a.mov(R0, R7);
        a.exit();
        a.bind(then);
    }
}
