//! The comparison with what is only tried (S85): the bit beside the verdict's, and the counter of
//! packets for which it is set.
//!
//! Pods about which nothing is tried pay one test of a flag. For the others everything here comes
//! in front of the judgement, which then runs as always: whatever is found here, no verdict
//! changes. A datagram may be the answer to another one, which only its entry tells. So it gets a
//! mark that says what is to be counted where it leaves the program, and that an entry takes away.
//!
//! Not here: whether a direction needs entries because of it (`policy`, `if_needed`).

use netpolc_table::schema::Family;
use netpolc_target::{Hook, Noted};

use super::{Generator, helper, isolation, mark, stack, trial};
use crate::{
    asm::{Alu, Cond, Label, Reg::*, Size},
    layout::{
        MapId, ROW_PERMIT,
        config::{asked::Of, code},
    },
};

/// BPF_NOEXIST: the key must be new.
const NEW: i32 = 1;

impl Generator<'_> {
    /// Goes to `compare` where something is only tried in the hook's direction. Changes R1.
    pub(super) fn if_tried(&mut self, compare: Label) {
        self.word_flags();
        self.a.jump_if(Cond::Set, R1, trial(self.hook), compare);
    }

    /// From `compare` on: looks at the packet, and goes back to `judge` in any case. R5 and R8 as
    /// in the judgement; keeps R8, R9 of IPv4, and the stack.
    pub(super) fn compare(&mut self, family: Family, compare: Label, judge: Label) {
        let (back, permits, mark_it) = (self.a.label(), self.a.label(), self.a.label());
        let (hook, isolated) = (self.hook, isolation(self.hook));
        self.a.note("compare with what is only tried");
        self.a.bind(compare);
        self.a.peek(R1, stack::EVENT);
        self.a.jump_if(Cond::Gt, R1, i32::from(code::DATAGRAM), back);
        self.if_born(back);
        if hook == Hook::ToPod {
            // Its own traffic, or a forged source: no policy is asked about either (S47).
            let other = self.a.label();
            self.own(family, back, other);
            self.a.bind(other);
        }
        self.a.load(Size::Dw, R5, Fp, stack::PROTOCOL);
        self.class(family);
        self.a.store(Size::Dw, Fp, stack::CLASS, R4);
        self.row(hook, family);
        let a = &mut self.a;
        a.jump_if(Cond::Eq, R1, i32::from(ROW_PERMIT), back);
        a.mov(R0, R1);
        self.place(hook, Of::Packet);
        let a = &mut self.a;
        a.alu(Alu::Lsh, R0, 16);
        a.alu(Alu::Or, R0, R2);
        a.store(Size::W, Fp, stack::COMPARED, R0);
        a.note("table tried: the port class's bit");
        a.load(Size::Dw, R0, R3, 8);
        a.load(Size::Dw, R4, R3, 0);
        a.alu(Alu::And, R2, 63);
        a.alu(Alu::Rsh, R0, R2);
        a.alu(Alu::Rsh, R4, R2);
        a.alu(Alu::And, R0, 1);
        a.jump_if(Cond::Eq, R0, 0, back);
        // An opening is never an answer.
        let datagram = a.label();
        a.peek(R1, stack::EVENT);
        a.jump_if(Cond::Ne, R1, i32::from(code::OPEN), datagram);
        self.count_compared();
        self.a.jump(back);
        self.a.bind(datagram);
        self.word_flags();
        let a = &mut self.a;
        a.alu(Alu::And, R1, isolated);
        a.jump_if(Cond::Eq, R1, 0, permits);
        a.jump_if(Cond::Set, R4, 1, permits);
        a.mov(R2, mark::WOULD_PERMIT);
        a.jump(mark_it);
        a.bind(permits);
        a.mov(R2, mark::WOULD_DENY);
        a.bind(mark_it);
        a.load(Size::Dw, R1, Fp, stack::MARKS);
        a.alu(Alu::Or, R1, R2);
        a.store(Size::Dw, Fp, stack::MARKS, R1);
        a.bind(back);
        a.load(Size::Dw, R5, Fp, stack::PROTOCOL);
        a.jump(judge);
    }

    /// Counts the packet under the key on the stack, and notes it. Changes R0-R5 and R7.
    pub(super) fn count_compared(&mut self) {
        let (known, done) = (self.a.label(), self.a.label());
        let a = &mut self.a;
        a.note("counter: packets that differ");
        a.map(R1, MapId::Compared);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::COMPARED));
        a.call(helper::MAP_LOOKUP);
        a.jump_if(Cond::Ne, R0, 0, known);
        a.store(Size::Dw, Fp, stack::SPARE, 1);
        a.map(R1, MapId::Compared);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::COMPARED));
        a.mov(R3, Fp);
        a.alu(Alu::Add, R3, i32::from(stack::SPARE));
        a.mov(R4, NEW);
        a.call(helper::MAP_UPDATE);
        a.jump(done);
        a.bind(known);
        a.mov(R1, 1);
        a.atomic_add(R0, 0, R1);
        a.bind(done);
        a.mov(R1, Noted::Differs.slot() as i32);
        self.note();
    }

    /// Goes to `differs` where what is only tried in `direction` would answer otherwise; otherwise
    /// runs on. Reads class and protocol from the stack. Changes R1-R5.
    pub(super) fn if_differs(&mut self, direction: Hook, family: Family, differs: Label) {
        let same = self.a.label();
        self.word_flags();
        self.a.alu(Alu::And, R1, trial(direction));
        self.a.jump_if(Cond::Eq, R1, 0, same);
        self.a.load(Size::H, R4, Fp, stack::CLASS);
        self.a.load(Size::Dw, R5, Fp, stack::PROTOCOL);
        self.row(direction, family);
        self.a.jump_if(Cond::Eq, R1, i32::from(ROW_PERMIT), same);
        self.place(direction, Of::Question);
        let a = &mut self.a;
        a.load(Size::Dw, R1, R3, 8);
        a.alu(Alu::And, R2, 63);
        a.alu(Alu::Rsh, R1, R2);
        a.jump_if(Cond::Set, R1, 1, differs);
        a.bind(same);
    }

    /// From `answers` on: a permitted datagram with an entry, whose meta word is in R4, is no
    /// opening where the other side opened the connection. Goes to `touch`. Changes R1, R5.
    pub(super) fn answers(&mut self, answers: Label, touch: Label, from_pod: i32) {
        let ours = self.a.label();
        let a = &mut self.a;
        a.bind(answers);
        a.mov(R1, R4);
        a.alu(Alu::Rsh, R1, 32);
        a.alu(Alu::And, R1, from_pod);
        match self.hook {
            // Opened by the pod: an answer to it.
            Hook::ToPod => a.jump_if(Cond::Eq, R1, 0, ours),
            _ => a.jump_if(Cond::Ne, R1, 0, ours),
        }
        a.load(Size::Dw, R1, Fp, stack::MARKS);
        a.alu(Alu::And, R1, !mark::WOULD_DENY);
        a.store(Size::Dw, Fp, stack::MARKS, R1);
        a.bind(ours);
        a.jump(touch);
    }
}
