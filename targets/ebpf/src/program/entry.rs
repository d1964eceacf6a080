//! The state tables: how entries are made and refreshed. Every write to a live slot is a
//! compare-and-swap of its meta word.
//!
//! Not here: finding an entry, and what follows from it (`lookup`); the layout of buckets
//! (`layout::state`).

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

/// How many races for a slot a packet may lose before it goes on without an entry.
const MAX_LOST: i32 = 1;
/// A value of [`stack::LOST`] that says: the packet replaces an entry of the same tuple in its
/// slot, so that no second one can come into being, and a lost race means that another packet has
/// replaced it.
pub(super) const RENEWS: i32 = MAX_LOST + 1;

/// The entries of a bucket whose place a new one may take, in the order in which they give way.
#[derive(Clone, Copy)]
enum Wanted {
    /// Entries past their deadline, and slots that were never used.
    Dead,
    /// Entries in phase Closing or Reset.
    Closing,
    /// Entries in phase Replied.
    Replied,
    /// Entries in phase Opening.
    Opening,
}

impl Wanted {
    /// The phase of such entries, or the first one of them.
    fn phase(self) -> Phase {
        match self {
            Wanted::Replied => Phase::Replied,
            Wanted::Opening => Phase::Opening,
            Wanted::Dead | Wanted::Closing => Phase::Closing,
        }
    }
}

impl Generator<'_> {
    /// From `touch` on: moves the phase and deadline of an entry on, and permits the packet (S39).
    /// R2: the address of its meta word, R4: the meta word.
    pub(super) fn touch(&mut self, touch: Label) {
        let second = self.p.clock.ticks(1) as i32;
        let (allow, store) = (self.allow, self.a.label());
        let a = &mut self.a;
        a.note("state: next phase");
        a.bind(touch);
        a.mov(R3, R4);
        a.alu(Alu::Rsh, R3, state::PHASE_SHIFT as i32);
        a.mov(R1, R3);
        // R1 = 1 where the side that did not open the connection sent this packet. The flag says
        // who opened it, and the hook says who sends.
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
        // The next phase comes from a table of [phase][event][side], not from branches.
        a.map_value(R1, MapId::Config, config::AFTER);
        a.alu(Alu::Add, R1, R5);
        a.load(Size::B, R5, R1, 0);
        self.deadline(R5, R1);
        let a = &mut self.a;
        a.jump_if(Cond::Ne, R3, R5, store);
        a.alu32(Alu::Mov, R0, R4);
        a.alu(Alu::Add, R0, second);
        // Where the phase stays and the deadline would move by less than a second, nothing is
        // written: packets of one connection on several processors would contend for the cache
        // line.
        a.jump_if(Cond::Lt, R1, R0, allow);
        a.bind(store);
        a.note("state: refresh");
        a.alu(Alu::Lsh, R5, state::PHASE_SHIFT as i32);
        a.alu(Alu::Or, R1, R5);
        // R1 = deadline | phase. The flags and the tag above the phase stay as they are.
        a.mov(R5, R4);
        a.alu(Alu::Rsh, R5, state::PHASE_SHIFT as i32 + 3);
        a.alu(Alu::Lsh, R5, state::PHASE_SHIFT as i32 + 3);
        a.alu(Alu::Or, R1, R5);
        a.mov(R0, R4);
        // Where it fails, another packet has just changed the entry, and that is good enough.
        a.compare_swap(R2, 0, R1);
        a.jump(allow);
    }

    /// `to` = now + the lifetime of the packet's protocol in phase `phase`. Changes R0.
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

    /// R1 = the set of the ways that are free in the bucket whose meta words are at R2; way 0 is
    /// bit 7. There are no jumps, since a processor cannot predict which ways have expired, and the
    /// verifier would follow every combination. Changes R4.
    fn ways(&mut self) {
        let a = &mut self.a;
        a.mov(R1, 0);
        for way in 0..WAYS as i16 {
            a.alu(Alu::Lsh, R1, 1);
            // The sign bit of deadline - now - 1 says whether the entry has expired.
            a.load(Size::W, R4, R2, way * 8);
            a.alu(Alu::Sub, R4, R7);
            a.alu(Alu::Sub, R4, 1);
            a.alu(Alu::Rsh, R4, 63);
            a.alu(Alu::Or, R1, R4);
        }
    }

    /// R1 = one way of the set in R1 | the size of the set << 4, from a table. Changes R4.
    fn pick(&mut self) {
        let a = &mut self.a;
        a.map_value(R4, MapId::Config, config::PICK);
        a.alu(Alu::And, R1, 255);
        a.alu(Alu::Add, R4, R1);
        a.load(Size::B, R1, R4, 0);
    }

    /// R1 = of the wanted ways of the bucket at R2 the one that would expire first. Of several that
    /// expire in the same tick each is as likely: a fixed choice would take the newest entry again
    /// and again. Goes to `none` where there is none. R0: the hash. There are no jumps, as in
    /// [`Self::ways`]. Changes R0, R4, R5.
    fn oldest(&mut self, wanted: Wanted, none: Label) {
        const NONE: u32 = 40;
        let handshake = self.p.clock.ticks(YIELDING_SECONDS);
        let a = &mut self.a;
        // Three bits of the hash on which no bucket depends give the order in which equal ways are
        // taken.
        a.alu(Alu::Rsh, R0, 45);
        a.alu(Alu::And, R0, 7);
        // R1 is the least candidate so far; at first one that is not wanted.
        a.imm64(R1, 1 << NONE);
        for way in 0..WAYS as i16 {
            // A candidate, to be compared as one number: whether it is not wanted, then its
            // deadline, then its way in this packet's order.
            a.load(Size::W, R4, R2, way * 8);
            a.alu(Alu::Lsh, R4, 3);
            a.mov(R5, R0);
            a.alu(Alu::Xor, R5, i32::from(way));
            a.alu(Alu::Or, R4, R5);
            a.load(Size::W, R5, R2, way * 8 + 4);
            a.alu(Alu::And, R5, 7);
            // R5 = 1 where the entry's phase is not wanted: below Closing, or not equal to the
            // phase.
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
                // A TCP connection that has been answered in the last two minutes may be
                // established without having been seen so (S39). It is not wanted either.
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
            // R1 = the lesser of R1 and R4, as R1 ^ ((R1 ^ R4) * (R4 < R1)).
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
        // Undoes the packet's own order.
        a.alu(Alu::Xor, R1, R0);
        a.alu(Alu::And, R1, 7);
    }

    /// R5 = how many live entries in the tuple's two buckets belong to the remote. There are no
    /// jumps, as in [`Self::ways`]. Leaves R2, R3 at the second bucket. R0: the hash. Changes R1 to
    /// R4.
    fn places_of_remote(&mut self, family: Family) {
        let size = key_size(family) as i16;
        self.a.mov(R5, 0);
        for bucket in 0..2 {
            self.bucket_again(bucket);
            self.a.note("state: places of the remote");
            for way in 0..WAYS as i16 {
                let a = &mut self.a;
                // The sign bit of (difference of the addresses) - 1 says whether they are equal.
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
                // It counts only where that of deadline - now - 1 says that the entry is live.
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

    /// From the bucket in R2, R3 and the way in R1: R2, R3 = the slot, R4 = its meta word. Goes to
    /// `claim`, or to `lost` where the slot is no longer what the scan saw.
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

    /// From `create` on: finds a slot for a new entry. From `claim` on: makes the entry in the slot
    /// at R2, R3, whose meta word is R4. Code that finds no table at all goes to `full`.
    pub(super) fn create(
        &mut self,
        family: Family,
        [create, full]: [Label; 2],
        claim: Label,
        twins: Label,
    ) {
        let (first, second, evict, lost) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let again = self.a.label();
        self.a.bind(create);
        self.opened();
        self.a.bind(again);
        self.bucket_again(0);
        self.a.note("state: a free way of the first bucket");
        self.ways();
        self.pick();
        let a = &mut self.a;
        a.store(Size::Dw, Fp, stack::SPARE, R1);
        // A nearly empty bucket is good enough, and saves a look at the second one.
        a.jump_if(Cond::Ge, R1, 6 << 4, first);
        self.bucket_again(1);
        self.a.note("state: a free way of the emptier bucket");
        self.ways();
        self.pick();
        let a = &mut self.a;
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        let (wanting, fair) = (a.label(), a.label());
        // R4 = how many ways of both are free. The ways that were picked are in the low bits of the
        // sum and add up to less than 16, so that they carry nothing over.
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
        // Little room is left: asks for a larger table, and then keeps one remote from taking the
        // rest.
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
        self.places_of_remote(family);
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::SPARE2);
        a.mov(R4, R5);
        a.load(Size::Dw, R5, Fp, stack::SPARE);
        a.jump_if(Cond::Lt, R4, state::SHARE as i32, fair);
        self.a.bind(evict);
        // The remote has its share already, or no way is free. Established entries never give way.
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

    /// From `claim` on: claims the slot, writes the key, and publishes the entry. `lost` is bound
    /// here, for races that are lost; `again` looks for another slot; `twins` checks whether
    /// another packet made the same entry.
    fn claim(&mut self, family: Family, claim: Label, [lost, again, twins]: [Label; 3]) {
        let allow = self.allow;
        let (hook, busy) = (self.hook, self.p.clock.ticks(2));
        let a = &mut self.a;
        a.note("state: claim the slot");
        a.bind(claim);
        // A busy slot matches no packet. Its deadline frees it should this processor never finish.
        a.imm64(R1, state::BUSY | u64::from(busy));
        a.alu(Alu::Add, R1, R7);
        a.mov(R0, R4);
        a.compare_swap(R2, 0, R1);
        let claimed = a.label();
        a.jump_if(Cond::Eq, R0, R4, claimed);
        a.note("state: another processor was faster");
        a.bind(lost);
        a.load(Size::Dw, R1, Fp, stack::LOST);
        // The packet is permitted all the same. The next packet that opens the connection makes the
        // entry.
        a.jump_if(Cond::Ge, R1, MAX_LOST, allow);
        a.alu(Alu::Add, R1, 1);
        a.store(Size::Dw, Fp, stack::LOST, R1);
        a.jump(again);
        a.bind(claimed);
        a.note("state: key of the new entry");
        // The key's last word: ports and protocol as in R8, and the remote's incarnation above
        // them.
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
                for (offset, at) in [
                    (0, stack::REMOTE),
                    (8, stack::REMOTE + 8),
                    (16, stack::LOCAL),
                    (24, stack::LOCAL + 8),
                ] {
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
        // The flag is the mark's bit, moved to its place in the meta word: no branch is needed.
        let (bit, flag) = match hook {
            Hook::ToPod => (mark::OWN, state::OWN),
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
        // An exchange and not a store: it is in order with the key's stores before it, and with the
        // loads of `twins` after it, on every machine. Of two processors at least one then sees the
        // other's entry.
        a.exchange(R2, 0, R1);
        a.load(Size::Dw, R4, Fp, stack::LOST);
        a.jump_if(Cond::Eq, R4, RENEWS, allow);
        a.store(Size::Dw, Fp, stack::MINE, R2);
        a.jump(twins);
    }

    /// From `twin` on: removes one of two entries of the same tuple, the one at the higher address,
    /// so that all who see both remove the same one. R2: the address of the other entry's meta
    /// word, R4: its meta word, R1: its incarnation.
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
        // Compared with what this packet published: the other one may have removed it, and a third
        // packet may be using the slot.
        a.load(Size::Dw, R0, Fp, stack::SPARE);
        a.compare_swap(R3, 0, R1);
        a.jump(allow);
    }
}
