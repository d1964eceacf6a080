//! The exits, at which every way through a program ends: Next, Drop, the mark, and the record of a
//! first fragment.
//!
//! Not here: the exits of packets that were translated ([`super::translated`]).

use netpolc_table::schema::Word;
use netpolc_target::{Hook, Noted, semantics::DropReason};

use super::{Generator, NEXT, SHOT, ctx, isolation, mark, stack};
use crate::asm::{Alu, Cond, Reg::*, Size};

impl Generator<'_> {
    /// Generates all exits. A block that nothing jumps to is left out, since the verifier refuses
    /// it.
    pub(super) fn exits(&mut self) {
        let (next, allow, hook) = (self.next, self.allow, self.hook);
        let isolated = isolation(hook);
        let guarded = if hook == Hook::FromPod { i32::from(Word::GUARD) } else { 0 };
        for reason in DropReason::ALL {
            let (deny, refuse, early) =
                (self.deny(reason), self.refuse(reason), self.refuse_early(reason));
            if self.a.used(early) {
                self.a.note(format!("refuse where isolated or guarded: {}", reason.name()));
                self.a.bind(early);
                self.if_unproven();
                self.word_flags();
                self.a.jump_if(Cond::Set, R1, isolated | guarded, deny);
                self.a.jump(next);
            }
            if self.a.used(refuse) {
                self.a.note(format!("refuse where isolated: {}", reason.name()));
                self.a.bind(refuse);
                self.if_unproven();
                self.word_flags();
                self.a.jump_if(Cond::Set, R1, isolated, deny);
                self.a.jump(next);
            }
        }
        // Each reason loads its number and joins one common way, which keeps the counter's code
        // short.
        let (drop, record) = (self.a.label(), self.a.label());
        for reason in DropReason::ALL {
            let deny = self.deny(reason);
            if self.a.used(deny) {
                self.a.note(format!("drop: {}", reason.name()));
                self.a.bind(deny);
                if reason == DropReason::Policy && self.compares() {
                    let plain = self.a.label();
                    self.a.peek(R1, stack::MARKS);
                    self.a.alu(Alu::And, R1, mark::WOULD_PERMIT);
                    self.a.jump_if(Cond::Eq, R1, 0, plain);
                    self.count_compared();
                    self.a.bind(plain);
                }
                self.a.mov(R1, reason as i32);
                self.a.jump(drop);
            }
        }
        if self.a.used(drop) {
            self.a.bind(drop);
            self.note();
            let a = &mut self.a;
            // R7 is the verdict that a first fragment's record gets.
            a.mov(R7, SHOT);
            a.peek(R1, stack::MARKS);
            a.jump_if(Cond::Set, R1, mark::FIRST, record);
            a.note("drop");
            a.mov(R0, SHOT);
            a.exit();
        }
        if hook == Hook::Translated {
            return self.unmark(record);
        }
        // The common exit comes first: most packets are neither fragments nor on their way to a
        // Service.
        let rare = self.a.label();
        if self.a.used(allow) {
            let a = &mut self.a;
            a.note("permit");
            a.bind(allow);
            a.peek(R1, stack::MARKS);
            let all = mark::FIRST | mark::DEFER | mark::WOULD_DENY | mark::OPENED;
            a.jump_if(Cond::Set, R1, all, rare);
        }
        self.a.note("next");
        self.a.bind(next);
        self.a.mov(R0, NEXT);
        self.a.exit();
        if self.a.used(rare) {
            let deferred = self.a.label();
            self.a.bind(rare);
            if self.compares() {
                let (plain, known, done) = (self.a.label(), self.a.label(), self.a.label());
                self.a.alu(Alu::And, R1, mark::WOULD_DENY);
                self.a.jump_if(Cond::Eq, R1, 0, plain);
                self.count_compared();
                self.a.bind(plain);
                self.a.peek(R1, stack::MARKS);
                self.a.alu(Alu::And, R1, mark::OPENED);
                self.a.jump_if(Cond::Eq, R1, 0, known);
                self.a.mov(R1, Noted::Opened.slot() as i32);
                self.note();
                self.a.bind(known);
                self.a.peek(R1, stack::MARKS);
                self.a.alu(Alu::And, R1, mark::FIRST | mark::DEFER);
                self.a.jump_if(Cond::Ne, R1, 0, done);
                self.a.jump(next);
                self.a.bind(done);
            }
            self.a.mov(R7, NEXT);
            if hook == Hook::FromPod {
                self.a.note("goes on to a Service");
                self.a.jump_if(Cond::Set, R1, mark::DEFER, deferred);
                self.a.jump(record);
                self.a.bind(deferred);
                self.set_mark();
                self.a.peek(R1, stack::MARKS);
                self.a.jump_if(Cond::Set, R1, mark::FIRST, record);
                self.a.mov(R0, NEXT);
                self.a.exit();
            } else {
                self.a.jump(record);
            }
        }
        if self.a.used(record) {
            let done = self.a.label();
            self.record(record, done);
            self.a.bind(done);
            self.a.mov(R0, R7);
            self.a.exit();
        }
    }

    /// A packet whose source is unproven is refused whatever else is wrong with it, so that nothing
    /// leaves under a foreign address. Changes R1.
    fn if_unproven(&mut self) {
        if self.hook == Hook::FromPod {
            let spoofed = self.deny(DropReason::SpoofedSource);
            self.a.peek(R1, stack::MARKS);
            self.a.jump_if(Cond::Set, R1, mark::UNPROVEN, spoofed);
        }
    }

    /// Sets the bit of the packet's mark that defers its judgement. Changes R1.
    pub(super) fn set_mark(&mut self) {
        let bit = self.options.mark as i32;
        let a = &mut self.a;
        a.load(Size::W, R1, R6, ctx::MARK);
        a.alu32(Alu::Or, R1, bit);
        a.store(Size::W, R6, ctx::MARK, R1);
    }
}
