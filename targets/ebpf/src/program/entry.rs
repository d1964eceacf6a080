//! The state tables: entries made and refreshed. All writes to a live slot are compare-and-swaps of its meta word.

use netpolc_table::schema::Family;
use netpolc_target::{
    Hook,
    semantics::{Phase, YIELDING_SECONDS},
};

use super::{Generator, ctx, mark, stack};
use crate::{
    asm::{
        Alu, Cond, Label,
        Reg::{self, *},
        Size,
    },
    layout::{
        MapId, config,
        state::{self, WAYS},
    },
    pool::key_size,
};

/// Races for a slot that a packet may lose before it goes on without an entry.
const MAX_LOST: i32 = 1;
/// In place of that number: the packet makes its entry where one of the same tuple stands, so that
/// there is no second one.
pub(super) const RENEWS: i32 = MAX_LOST + 1;

/// Which ways of a bucket a scan looks for.
#[derive(Clone, Copy)]
enum Wanted {
    /// Past their deadline.
    Dead,
    /// Closing or reset.
    Closing,
    /// Answered, but not established.
    Replied,
    /// Not answered.
    Opening,
}

impl Wanted {
    /// Which phase, where it is one alone.
    fn phase(self) -> Phase {
        match self {
            Wanted::Replied => Phase::Replied,
            Wanted::Opening => Phase::Opening,
            Wanted::Dead | Wanted::Closing => Phase::Closing,
        }
    }
}

impl Generator<'_> {
    /// R2: meta's address, R4: meta. Moves phase and deadline on, then permits. S39.
    pub(super) fn touch(&mut self, touch: Label) {
        let second = self.p.clock.ticks(1) as i32;
        let (allow, store) = (self.allow, self.a.label());
        let a = &mut self.a;
        a.note("state: next phase");
        a.bind(touch);
        a.mov(R3, R4);
        a.alu(Alu::Rsh, R3, state::PHASE_SHIFT as i32);
        a.mov(R1, R3);
        // R1 = 1 where the other side sent this packet.
        a.alu(Alu::Rsh, R1, (state::FROM_POD.trailing_zeros() - state::PHASE_SHIFT) as i32);
        a.alu(Alu::And, R1, 1);
        if self.hook == Hook::FromPod {
            a.alu(Alu::Xor, R1, 1);
        }
        a.alu(Alu::And, R3, 7);
        a.load(Size::Dw, R5, Fp, stack::EVENT);
        a.alu(Alu::And, R5, 7);
        a.alu(Alu::Lsh, R5, 1);
        a.alu(Alu::Add, R5, R1);
        a.mov(R1, R3);
        a.alu(Alu::Lsh, R1, 4);
        a.alu(Alu::Add, R5, R1);
        a.map_value(R1, MapId::Config, config::AFTER);
        a.alu(Alu::Add, R1, R5);
        a.load(Size::B, R5, R1, 0);
        self.deadline(R5, R1);
        let a = &mut self.a;
        a.jump_if(Cond::Ne, R3, R5, store);
        a.alu32(Alu::Mov, R0, R4);
        a.alu(Alu::Add, R0, second);
        a.jump_if(Cond::Lt, R1, R0, allow); // at most once a second
        a.bind(store);
        a.note("state: refresh");
        a.alu(Alu::Lsh, R5, state::PHASE_SHIFT as i32);
        a.alu(Alu::Or, R1, R5);
        a.mov(R5, R4);
        a.alu(Alu::Rsh, R5, state::PHASE_SHIFT as i32 + 3);
        a.alu(Alu::Lsh, R5, state::PHASE_SHIFT as i32 + 3);
        a.alu(Alu::Or, R1, R5);
        a.mov(R0, R4);
        a.compare_swap(R2, 0, R1); // where it fails, another processor did it just now
        a.jump(allow);
    }

    /// `to` = now + lifetime in phase `phase`. Changes R0.
    fn deadline(&mut self, phase: Reg, to: Reg) {
        let a = &mut self.a;
        a.load(Size::Dw, R0, Fp, stack::PROTOCOL);
        a.alu(Alu::And, R0, 7);
        a.alu(Alu::Lsh, R0, 3);
        a.alu(Alu::And, phase, 7);
        a.alu(Alu::Add, R0, phase);
        a.alu(Alu::Lsh, R0, 2);
        a.map_value(to, MapId::Config, config::LIFETIMES);
        a.alu(Alu::Add, to, R0);
        a.load(Size::W, to, to, 0);
        a.alu(Alu::Add, to, R7);
    }

    /// R2: a bucket's meta words -> R1: set of the ways that are free, bit 7 - way. Without jumps:
    /// which ways are dead cannot be predicted, and the verifier would follow every combination.
    /// Changes R4.
    fn ways(&mut self) {
        let a = &mut self.a;
        a.mov(R1, 0);
        for way in 0..WAYS as i16 {
            a.alu(Alu::Lsh, R1, 1);
            // deadline - now - 1 < 0
            a.load(Size::W, R4, R2, way * 8);
            a.alu(Alu::Sub, R4, R7);
            a.alu(Alu::Sub, R4, 1);
            a.alu(Alu::Rsh, R4, 63);
            a.alu(Alu::Or, R1, R4);
        }
    }

    /// R1: set of ways -> R1: one of them | size of the set << 4. Changes R4.
    fn pick(&mut self) {
        let a = &mut self.a;
        a.map_value(R4, MapId::Config, config::PICK);
        a.alu(Alu::And, R1, 255);
        a.alu(Alu::Add, R4, R1);
        a.load(Size::B, R1, R4, 0);
    }

    /// R2: a bucket's meta words, R0: the hash -> R1: of the wanted ways the one that would expire
    /// first, of several any of them alike: a certain one would be the newest again and again. Goes
    /// to `none` where there is none. Without jumps, as in [`Self::ways`]. Changes R0, R4, R5.
    fn oldest(&mut self, wanted: Wanted, none: Label) {
        const NONE: u32 = 40;
        let handshake = self.p.clock.ticks(YIELDING_SECONDS);
        let a = &mut self.a;
        // Bits of the hash that no place depends on.
        a.alu(Alu::Rsh, R0, 45);
        a.alu(Alu::And, R0, 7);
        a.imm64(R1, 1 << NONE);
        for way in 0..WAYS as i16 {
            // Deadline, then the way in an order of this packet's own, then whether it is not
            // wanted.
            a.load(Size::W, R4, R2, way * 8);
            a.alu(Alu::Lsh, R4, 3);
            a.mov(R5, R0);
            a.alu(Alu::Xor, R5, i32::from(way));
            a.alu(Alu::Or, R4, R5);
            a.load(Size::W, R5, R2, way * 8 + 4);
            a.alu(Alu::And, R5, 7);
            if matches!(wanted, Wanted::Closing) {
                a.alu(Alu::Sub, R5, wanted.phase() as i32);
                a.alu(Alu::Rsh, R5, 63);
            } else {
                a.alu(Alu::Xor, R5, wanted.phase() as i32);
                a.alu(Alu::Sub, R5, 1);
                a.alu(Alu::Rsh, R5, 63);
                a.alu(Alu::Xor, R5, 1);
            }
            a.alu(Alu::Lsh, R5, NONE as i32);
            a.alu(Alu::Or, R4, R5);
            if matches!(wanted, Wanted::Replied) {
                // (most - (deadline - now)) < 0: a handshake of TCP that may just have been.
                a.mov(R5, R7);
                a.alu(Alu::Add, R5, handshake as i32);
                a.store(Size::Dw, Fp, stack::SPARE, R4);
                a.load(Size::W, R4, R2, way * 8);
                a.alu(Alu::Sub, R5, R4);
                a.alu(Alu::Rsh, R5, 63);
                a.alu(Alu::Lsh, R5, NONE as i32);
                a.load(Size::Dw, R4, Fp, stack::SPARE);
                a.alu(Alu::Or, R4, R5);
            }
            // The lesser of R1 and R4.
            a.mov(R5, R4);
            a.alu(Alu::Sub, R5, R1);
            a.alu(Alu::Rsh, R5, 63);
            a.alu(Alu::Xor, R4, R1);
            a.alu(Alu::Mul, R4, R5);
            a.alu(Alu::Xor, R1, R4);
        }
        a.mov(R4, R1);
        a.alu(Alu::Rsh, R4, NONE as i32);
        a.jump_if(Cond::Ne, R4, 0, none);
        a.alu(Alu::Xor, R1, R0);
        a.alu(Alu::And, R1, 7);
    }

    /// R5 = how many live entries of the tuple's two buckets are the remote's; without jumps, as in [`Self::ways`].
    /// R0: the hash. Changes R1 to R4.
    fn places_of_remote(&mut self, family: Family) {
        let size = key_size(family) as i16;
        self.a.mov(R5, 0);
        for bucket in 0..2 {
            self.bucket_again(bucket);
            self.a.note("state: places of the remote");
            for way in 0..WAYS as i16 {
                let a = &mut self.a;
                // (difference of the addresses) - 1 < 0
                match family {
                    Family::V4 => {
                        a.load(Size::W, R1, R3, way * size);
                        a.alu32(Alu::Xor, R1, R9);
                    }
                    Family::V6 => {
                        a.load(Size::Dw, R1, R3, way * size);
                        a.load(Size::Dw, R4, Fp, stack::REMOTE);
                        a.alu(Alu::Xor, R1, R4);
                        a.load(Size::Dw, R4, Fp, stack::REMOTE + 8);
                        a.store(Size::Dw, Fp, stack::BUFFER, R1);
                        a.load(Size::Dw, R1, R3, way * size + 8);
                        a.alu(Alu::Xor, R1, R4);
                        a.load(Size::Dw, R4, Fp, stack::BUFFER);
                        a.alu(Alu::Or, R1, R4);
                        a.mov(R4, R1);
                        a.alu(Alu::Rsh, R4, 32);
                        a.alu32(Alu::Or, R1, R4);
                    }
                }
                a.alu(Alu::Sub, R1, 1);
                // and not deadline - now - 1 < 0
                a.load(Size::W, R4, R2, way * 8);
                a.alu(Alu::Sub, R4, R7);
                a.alu(Alu::Sub, R4, 1);
                a.alu(Alu::Xor, R4, -1);
                a.alu(Alu::And, R1, R4);
                a.alu(Alu::Rsh, R1, 63);
                a.alu(Alu::Add, R5, R1);
            }
        }
    }

    /// R2, R3: bucket, R1: way -> R2, R3: slot, R4: its meta word. Then to `claim`, or to `lost` where the slot is not
    /// what it was a moment ago.
    fn slot(&mut self, family: Family, wanted: Wanted, claim: Label, lost: Label) {
        let size = key_size(family);
        let a = &mut self.a;
        a.alu(Alu::And, R1, 7);
        a.alu(Alu::Lsh, R1, 3);
        a.alu(Alu::Add, R2, R1);
        a.alu(Alu::Mul, R1, (size / 8) as i32);
        a.alu(Alu::Add, R3, R1);
        a.load(Size::Dw, R4, R2, 0);
        match wanted {
            Wanted::Dead => {
                a.alu32(Alu::Mov, R1, R4);
                a.jump_if(Cond::Gt, R1, R7, lost);
            }
            Wanted::Closing | Wanted::Replied | Wanted::Opening => {
                a.mov(R1, R4);
                a.alu(Alu::Rsh, R1, state::PHASE_SHIFT as i32);
                a.alu(Alu::And, R1, 7);
                let cond = if matches!(wanted, Wanted::Closing) { Cond::Lt } else { Cond::Ne };
                a.jump_if(cond, R1, wanted.phase() as i32, lost);
            }
        }
        a.jump(claim);
    }

    /// From `create` on: a slot for a new entry; from `claim` on: R2, R3 slot, R4 its meta word, makes the entry there.
    /// At `full` there is no table.
    pub(super) fn create(&mut self, family: Family, [create, full]: [Label; 2], claim: Label, twins: Label) {
        let (first, second, evict, lost) = (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let again = self.a.label();
        self.a.bind(create);
        self.a.bind(again);
        self.bucket_again(0);
        self.a.note("state: a free way of the first bucket");
        self.ways();
        self.pick();
        let a = &mut self.a;
        a.store(Size::Dw, Fp, stack::SPARE, R1);
        a.jump_if(Cond::Ge, R1, 6 << 4, first); // nearly empty: good enough
        self.bucket_again(1);
        self.a.note("state: a free way of the emptier bucket");
        self.ways();
        self.pick();
        let a = &mut self.a;
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        let (wanting, fair) = (a.label(), a.label());
        // Free ways of both; those that were picked add up to less than 16.
        a.mov(R4, R1);
        a.alu(Alu::Add, R4, R5);
        a.alu(Alu::Rsh, R4, 4);
        a.jump_if(Cond::Le, R4, state::WANTING as i32, wanting);
        a.bind(fair);
        a.jump_if(Cond::Gt, R1, R5, second);
        self.bucket_again(0);
        self.a.load(Size::Dw, R1, Fp, stack::SPARE);
        self.a.bind(first);
        self.a.bind(second);
        self.slot(family, Wanted::Dead, claim, lost);

        self.a.bind(wanting);
        self.a.store(Size::Dw, Fp, stack::SPARE2, R1);
        self.want_room(family);
        self.bucket_again(1);
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::SPARE2);
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        a.mov(R4, R1);
        a.alu(Alu::Add, R4, R5);
        a.alu(Alu::Rsh, R4, 4);
        a.jump_if(Cond::Gt, R4, state::SCARCE as i32, fair);
        a.jump_if(Cond::Eq, R4, 0, evict);
        self.places_of_remote(family); // leaves R2, R3 at the second bucket
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::SPARE2);
        a.mov(R4, R5);
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        a.jump_if(Cond::Lt, R4, state::SHARE as i32, fair);
        self.a.bind(evict);
        for wanted in [Wanted::Closing, Wanted::Replied, Wanted::Opening] {
            for bucket in 0..2 {
                let none = self.a.label();
                self.bucket_again(bucket);
                self.a.note("state: an entry that yields its place");
                self.oldest(wanted, none);
                self.slot(family, wanted, claim, lost);
                self.a.bind(none);
            }
        }
        self.a.bind(full);
        self.full();
        self.claim(family, claim, [lost, again, twins]);
    }

    /// `lost`: is here; `again`: where another slot is looked for; `twins`: sees whether another was
    /// as fast.
    fn claim(&mut self, family: Family, claim: Label, [lost, again, twins]: [Label; 3]) {
        let allow = self.allow;
        let (hook, busy) = (self.hook, self.p.clock.ticks(2));
        let a = &mut self.a;
        a.note("state: claim the slot");
        a.bind(claim);
        a.imm64(R1, state::BUSY | u64::from(busy));
        a.alu(Alu::Add, R1, R7);
        a.mov(R0, R4);
        a.compare_swap(R2, 0, R1);
        let claimed = a.label();
        a.jump_if(Cond::Eq, R0, R4, claimed);
        a.note("state: another processor was faster");
        a.bind(lost);
        a.load(Size::Dw, R1, Fp, stack::LOST);
        a.jump_if(Cond::Ge, R1, MAX_LOST, allow); // permitted all the same; its next opening makes the entry
        a.alu(Alu::Add, R1, 1);
        a.store(Size::Dw, Fp, stack::LOST, R1);
        a.jump(again);
        a.bind(claimed);
        a.note("state: key of the new entry");
        a.load(Size::H, R1, Fp, stack::CLASS + 2);
        a.alu(Alu::Lsh, R1, 48);
        a.alu(Alu::Or, R1, R8);
        match family {
            Family::V4 => {
                a.store(Size::Dw, R3, 0, R9);
                a.store(Size::Dw, R3, 8, R1);
            }
            Family::V6 => {
                a.store(Size::Dw, R3, 32, R1);
                for (offset, at) in
                    [(0, stack::REMOTE), (8, stack::REMOTE + 8), (16, stack::LOCAL), (24, stack::LOCAL + 8)]
                {
                    a.load(Size::Dw, R1, Fp, at);
                    a.store(Size::Dw, R3, offset, R1);
                }
            }
        }
        a.note("state: publish the new entry");
        a.mov(R5, Phase::Opening as i32);
        self.deadline(R5, R1);
        let a = &mut self.a;
        let flags = match hook {
            Hook::ToPod => 0,
            Hook::FromPod | Hook::Translated => state::FROM_POD,
        };
        a.imm64(R4, flags | (Phase::Opening as u64) << state::PHASE_SHIFT);
        a.alu(Alu::Or, R1, R4);
        if hook == Hook::ToPod {
            let (born, forwarded) = (a.label(), a.label());
            a.load(Size::W, R4, R6, ctx::INGRESS_IFINDEX);
            a.jump_if(Cond::Ne, R4, 0, forwarded);
            self.if_socket(born, R4);
            let a = &mut self.a;
            a.jump(forwarded);
            a.bind(born);
            a.imm64(R4, state::BORN);
            a.alu(Alu::Or, R1, R4);
            a.bind(forwarded);
        }
        let a = &mut self.a;
        let (bit, flag) = match hook {
            Hook::ToPod => (mark::OWN, state::BORN),
            Hook::FromPod | Hook::Translated => (mark::DEFER, state::DEFERRED),
        };
        a.load(Size::Dw, R4, Fp, stack::MARKS);
        a.alu(Alu::And, R4, bit);
        a.alu(Alu::Lsh, R4, (flag.trailing_zeros() - bit.trailing_zeros()) as i32);
        a.alu(Alu::Or, R1, R4);
        a.load(Size::Dw, R4, Fp, stack::HASH);
        a.alu(Alu::Rsh, R4, state::TAG_SHIFT as i32);
        a.alu(Alu::Lsh, R4, state::TAG_SHIFT as i32);
        a.alu(Alu::Or, R1, R4);
        a.store(Size::Dw, Fp, stack::SPARE, R1);
        a.exchange(R2, 0, R1); // in order with the stores before and the loads after it, on every machine
        a.load(Size::Dw, R4, Fp, stack::LOST);
        a.jump_if(Cond::Eq, R4, RENEWS, allow);
        a.store(Size::Dw, Fp, stack::MINE, R2);
        a.jump(twins);
    }

    /// From `twin` on: R1: incarnation, R2: another entry of the tuple whose entry this packet just
    /// made, R4 its meta word. Of two the one with the lower address stays, for whoever sees both.
    pub(super) fn twin(&mut self, twin: Label) {
        let (allow, mine) = (self.allow, self.a.label());
        let a = &mut self.a;
        a.note("state: two entries of one tuple");
        a.bind(twin);
        a.load(Size::H, R5, Fp, stack::CLASS + 2);
        a.jump_if(Cond::Ne, R1, R5, allow);
        a.mov(R1, 0);
        a.load(Size::Dw, R3, Fp, stack::MINE);
        a.jump_if(Cond::Lt, R2, R3, mine);
        a.mov(R0, R4);
        a.compare_swap(R2, 0, R1);
        a.jump(allow);
        a.bind(mine);
        a.load(Size::Dw, R0, Fp, stack::SPARE); // unless the other one did it, and a third fills the slot
        a.compare_swap(R3, 0, R1);
        a.jump(allow);
    }
}
