//! What is counted and recorded of packets (S87): counters, budgets, and the ring buffer of
//! records.
//!
//! Established, permitted packets never come here. Not here: which packets are noted (`exits`,
//! `compare`, and wherever [`super::mark::OPENED`] is set).

use netpolc_table::schema::Family;
use netpolc_target::{Hook, Noted, record::SNAPSHOT, semantics::DATAGRAM_SECONDS};

use super::{Generator, ctx, helper, mark, stack};
use crate::{
    asm::{Alu, Cond, Reg::*, Size},
    layout::{MapId, config, record, seen},
};

/// BPF_RB_NO_WAKEUP: whoever reads the records looks for them by itself. Waking it would take
/// longer than everything else here.
const NO_WAKEUP: i32 = 1;

impl Generator<'_> {
    /// Says that the packet opens a connection, which is noted where it leaves the program if it
    /// is permitted. Changes R1.
    pub(super) fn opened(&mut self) {
        let a = &mut self.a;
        a.note("opens a connection");
        a.peek(R1, stack::MARKS);
        a.alu32(Alu::Or, R1, mark::OPENED);
        a.store(Size::W, Fp, stack::MARKS, R1);
    }

    /// A permitted datagram that needs no entry: it opens something where its tuple did not come
    /// lately. Keeps R8 and R9. Changes R0 to R3.
    pub(super) fn seen(&mut self, family: Family) {
        let endpoints = self.p.capacities.endpoints as i32;
        let (known, new) = (self.a.label(), self.a.label());
        self.hash(family);
        let a = &mut self.a;
        a.note("a datagram: did its tuple come lately?");
        a.load(Size::Dw, R1, Fp, stack::ENDPOINT);
        a.alu(Alu::And, R1, endpoints - 1);
        a.alu(Alu::Lsh, R1, seen::CELLS_LOG as i32);
        a.mov(R2, R0);
        a.alu(Alu::And, R2, seen::CELLS as i32 - 1);
        a.alu(Alu::Add, R1, R2);
        a.alu(Alu::Lsh, R1, 3);
        a.map_value(R3, MapId::Seen, 0);
        a.alu(Alu::Add, R3, R1);
        a.map_value(R1, MapId::Config, config::SECONDS);
        a.load(Size::H, R1, R1, 0);
        a.alu(Alu::Rsh, R0, seen::TIME_BITS as i32);
        a.alu(Alu::Lsh, R0, seen::TIME_BITS as i32);
        a.alu(Alu::Or, R0, R1);
        a.load(Size::Dw, R2, R3, 0);
        a.jump_if(Cond::Eq, R2, R0, known);
        a.store(Size::Dw, R3, 0, R0);
        a.mov(R1, R0);
        a.alu(Alu::Xor, R1, R2);
        a.alu(Alu::Rsh, R1, seen::TIME_BITS as i32);
        a.jump_if(Cond::Ne, R1, 0, new);
        a.alu(Alu::Sub, R0, R2);
        a.alu(Alu::And, R0, (1 << seen::TIME_BITS) - 1);
        a.jump_if(Cond::Le, R0, DATAGRAM_SECONDS as i32, known);
        a.bind(new);
        self.opened();
        self.a.bind(known);
    }

    /// Counts the packet, and records it where there is budget and room. R1: the slot of what is
    /// noted ([`Noted::slot`]). Changes R0 to R5 and R7.
    pub(super) fn note(&mut self) {
        let hook = self.hook;
        let endpoints = self.p.capacities.endpoints as i32;
        let (done, ready, submit) = (self.a.label(), self.a.label(), self.a.label());
        let whole = self.a.label();
        let a = &mut self.a;
        a.note("counter: endpoint, direction, what is noted");
        a.load(Size::Dw, R2, Fp, stack::ENDPOINT);
        a.alu(Alu::And, R2, endpoints - 1);
        a.alu(Alu::Lsh, R2, 1);
        a.alu(Alu::Add, R2, i32::from(hook != Hook::ToPod));
        a.alu(Alu::Lsh, R2, Noted::SLOTS.ilog2() as i32);
        a.alu(Alu::Add, R2, R1);
        a.alu(Alu::Lsh, R2, 3);
        a.map_value(R3, MapId::Counter, 0);
        a.alu(Alu::Add, R3, R2);
        a.mov(R1, 1);
        a.atomic_add(R3, 0, R1);
        if !self.options.records() {
            return;
        }
        let a = &mut self.a;
        a.note("record: is there budget?");
        a.map_value(R3, MapId::Budget, 0);
        a.alu(Alu::Add, R3, R2);
        a.load(Size::W, R1, R3, 0);
        a.jump32_if(Cond::SGe, R1, 1, ready);
        a.jump(done);
        a.bind(ready);
        a.mov(R1, -1);
        a.atomic_add(R3, 0, R1);
        a.note("record: room in the ring");
        a.alu(Alu::Rsh, R2, 3);
        a.store(Size::Dw, Fp, stack::SPARE, R2);
        a.map(R1, MapId::Records);
        a.mov(R2, record::SIZE as i32);
        a.mov(R3, 0);
        a.call(helper::RINGBUF_RESERVE);
        a.jump_if(Cond::Eq, R0, 0, done);
        a.mov(R7, R0);
        a.call(helper::KTIME_GET_NS);
        a.note("record: what was decided");
        a.store(Size::Dw, R7, record::TIME as i16, R0);
        a.load(Size::Dw, R1, Fp, stack::WORD);
        a.store(Size::Dw, R7, record::WORD as i16, R1);
        a.load(Size::Dw, R1, Fp, stack::SPARE);
        a.store(Size::W, R7, record::COUNTER as i16, R1);
        a.load(Size::W, R1, Fp, stack::CLASS);
        a.store(Size::W, R7, record::CLASS as i16, R1);
        a.map_value(R1, MapId::Config, config::EPOCH);
        a.load(Size::W, R1, R1, 0);
        a.store(Size::W, R7, record::EPOCH as i16, R1);
        a.mov(R1, hook as i32);
        a.store(Size::W, R7, record::HOOK as i16, R1);
        a.note("record: how the packet begins");
        a.load(Size::W, R4, R6, ctx::LEN);
        a.store(Size::W, R7, record::LENGTH as i16, R4);
        a.jump_if(Cond::Le, R4, SNAPSHOT as i32, whole);
        a.mov(R4, SNAPSHOT as i32);
        a.bind(whole);
        a.store(Size::W, R7, record::SNAPPED as i16, R4);
        // Older verifiers learn from this comparison, not from one with 0, that it is 1 at least.
        a.jump_if(Cond::Lt, R4, 1, submit);
        a.mov(R1, R6);
        a.mov(R2, 0);
        a.mov(R3, R7);
        a.alu(Alu::Add, R3, record::FRAME as i32);
        a.call(helper::SKB_LOAD_BYTES);
        a.bind(submit);
        a.mov(R1, R7);
        a.mov(R2, NO_WAKEUP);
        a.call(helper::RINGBUF_SUBMIT);
        a.bind(done);
    }
}
