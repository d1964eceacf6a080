//! The state tables: how a tuple's entry is found, and what follows from it.
//!
//! Not here: making and refreshing entries (`entry`), where tables stand (`pool`).

use netpolc_table::schema::{Family, Word};
use netpolc_target::{
    Hook,
    semantics::{DropReason::*, Phase},
};

use super::{Asks, Generator, entry::RENEWS, helper, mark, stack};
use crate::{
    asm::{Alu, Cond, Label, Reg::*, Size},
    layout::{
        MapId,
        config::code,
        state::{self, K1, K2},
    },
    pool::{key_size, map_of},
};

/// Which of an endpoint's tables of connections is searched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// The table that new entries are made in.
    Present,
    /// The table from which entries are being moved to the present one.
    Previous,
}

/// Which entry a scan ignores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// None: every entry of the tuple is found.
    None,
    /// The one that this packet has just made.
    Mine,
}

impl Generator<'_> {
    /// From `entry` on: finds the entry of the tuple and does what [`stack::ASKS`] says. A denied
    /// packet that no entry lets through goes to `last`.
    pub(super) fn state(&mut self, family: Family, entry: Label, last: Label) {
        let (found, absent, create, touch, claim) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let twins = self.a.label();
        self.a.note("state");
        self.a.bind(entry);
        self.a.store(Size::Dw, Fp, stack::LOST, 0);
        self.now();
        self.a.mov(R7, R0);
        self.hash(family);
        self.a.store(Size::Dw, Fp, stack::HASH, R0);
        self.places(family);
        let none = self.a.label();
        for which in [Which::Present, Which::Previous] {
            if which == Which::Previous {
                // Only a table that is being moved has a previous one.
                self.a.load(Size::W, R1, Fp, stack::PLACES + 4);
                self.a.jump_if(Cond::Eq, R1, 0, absent);
            }
            self.table(which);
            if which == Which::Previous {
                self.a.load(Size::Dw, R0, Fp, stack::HASH);
            }
            for bucket in 0..2 {
                self.bucket(family, bucket, which, none);
                self.scan(family, found, Skip::None);
            }
        }
        self.a.jump(absent);

        let (allow, orphan, unknown, half) =
            (self.allow, self.a.label(), self.deny(IcmpError), self.a.label());
        let (full, homeless) = (self.a.label(), self.a.label());
        let a = &mut self.a;
        a.note("state: no table");
        a.bind(none);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Ne, R1, Asks::Allowed as i32, absent);
        self.if_opening(homeless);
        self.a.bind(homeless);
        self.opened();
        let a = &mut self.a;
        a.jump(full);
        a.note("state: no live entry");
        a.bind(absent);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Eq, R1, Asks::Denied as i32, last);
        a.jump_if(Cond::Eq, R1, Asks::Error as i32, orphan);
        if self.compares() {
            self.a.jump_if(Cond::Eq, R1, Asks::Compared as i32, allow);
        }
        self.if_opening(create);
        self.a.note("icmp error: about what needs no entry?");
        self.a.bind(orphan);
        self.if_open_by_tables(self.hook, family, half);
        self.a.jump(unknown);
        self.a.bind(half);
        self.if_open_by_tables(self.hook.other(), family, allow);
        self.a.jump(unknown);

        self.found(family, found, [absent, last], touch, claim);
        self.touch(touch);
        self.create(family, [create, full], claim, twins);
        self.twins(family, twins);
    }

    /// For a permitted packet without an entry: goes to `opening` where the packet would make one,
    /// else permits it. Changes R1.
    fn if_opening(&mut self, opening: Label) {
        let allow = self.allow;
        self.a.peek(R1, stack::EVENT);
        self.a.jump_if(Cond::Le, R1, i32::from(code::DATAGRAM), opening);
        self.a.jump(allow);
    }

    /// From `twins` on: searches for an entry of the same tuple that another processor has made
    /// meanwhile. Of two that publish theirs, at least one sees the other's.
    fn twins(&mut self, family: Family, twins: Label) {
        let (allow, twin) = (self.allow, self.a.label());
        self.a.bind(twins);
        for bucket in 0..2 {
            self.bucket_again(bucket);
            self.scan(family, twin, Skip::Mine);
        }
        self.a.jump(allow);
        self.twin(twin);
    }

    /// R0 = the hash of the tuple, the same as [`state::Tuple::hash`] computes. Changes R1-R3.
    pub(super) fn hash(&mut self, family: Family) {
        let seed = self.p.seed;
        let a = &mut self.a;
        a.note("state: hash of the tuple");
        a.imm64(R0, seed);
        let mut words: Vec<(u64, Option<i16>)> = vec![];
        match family {
            Family::V4 => {
                a.alu(Alu::Xor, R0, R9);
                words.extend([(K1, None), (K2, None)]);
            }
            Family::V6 => {
                a.load(Size::Dw, R1, Fp, stack::REMOTE);
                a.alu(Alu::Xor, R0, R1);
                words.extend([
                    (K1, Some(stack::REMOTE + 8)),
                    (K2, Some(stack::LOCAL + 8)),
                    (K1, None),
                    (K2, None),
                ]);
            }
        }
        let last = words.len() - 1;
        for (i, (k, next)) in words.into_iter().enumerate() {
            a.imm64(R1, k);
            a.alu(Alu::Mul, R0, R1);
            a.mov(R1, R0);
            a.alu(Alu::Rsh, R1, 32);
            a.alu(Alu::Xor, R0, R1);
            match next {
                Some(at) => {
                    a.load(Size::Dw, R1, Fp, at);
                    a.alu(Alu::Xor, R0, R1);
                }
                None if i != last => a.alu(Alu::Xor, R0, R8),
                None => {}
            }
        }
    }

    /// Puts the endpoint's word of the map `state` onto the stack, both places at once: present and
    /// previous table must belong together. Changes R1, R2.
    fn places(&mut self, family: Family) {
        self.a.note("table of connections: where it stands");
        self.places_of(family, 0);
        let a = &mut self.a;
        a.load(Size::Dw, R1, R2, 0);
        a.store(Size::Dw, Fp, stack::PLACES, R1);
    }

    /// R2 = the address of the family's word in the half of the endpoint's record that begins at
    /// `half`. Changes R1.
    pub(super) fn places_of(&mut self, family: Family, half: usize) {
        let at = half + if family == Family::V6 { 8 } else { 0 };
        let a = &mut self.a;
        a.load(Size::Dw, R1, Fp, stack::ENDPOINT);
        a.alu(Alu::And, R1, state::ENDPOINTS as i32 - 1);
        a.alu(Alu::Lsh, R1, state::RECORD.ilog2() as i32);
        a.map_value(R2, MapId::State, at);
        a.alu(Alu::Add, R2, R1);
    }

    /// Puts the number of the table's first bucket, and the mask for the numbers of its buckets,
    /// onto the stack. Changes R1 to R3.
    fn table(&mut self, which: Which) {
        let at = stack::PLACES + if which == Which::Previous { 4 } else { 0 };
        let a = &mut self.a;
        a.note("table of connections");
        a.load(Size::W, R1, Fp, at);
        a.mov(R3, R1);
        a.alu(Alu::And, R3, 31);
        a.mov(R2, 1);
        a.alu(Alu::Lsh, R2, R3);
        a.alu(Alu::Sub, R2, 1);
        a.store(Size::Dw, Fp, stack::MASK, R2);
        a.alu(Alu::Rsh, R1, state::Place::FIRST as i32);
        a.store(Size::Dw, Fp, stack::FIRST, R1);
    }

    /// R2 = the address of a bucket's meta words, R3 = that of its keys, R0 = the hash. The address
    /// of a bucket of the present table is kept on the stack. Goes to `none` where there is no such
    /// table. Changes R1, R4, R5.
    fn bucket(&mut self, family: Family, bucket: usize, which: Which, none: Label) {
        let a = &mut self.a;
        a.note(["state: first bucket", "state: second bucket"][bucket]);
        if bucket == 1 {
            a.load(Size::Dw, R0, Fp, stack::HASH);
            a.alu(Alu::Rsh, R0, 24);
        }
        a.load(Size::Dw, R2, Fp, stack::MASK);
        a.alu(Alu::And, R0, R2);
        a.load(Size::Dw, R2, Fp, stack::FIRST);
        a.alu(Alu::Add, R0, R2);
        a.mov(R2, R0);
        // The number of a bucket has the slot of its chunk above, and its place in the chunk below.
        // The kernel inlines both lookups, since all chunks are arrays of one shape.
        a.alu(Alu::Rsh, R2, i32::from(state::CHUNK_LOG));
        a.store(Size::W, Fp, stack::INDEX, R2);
        a.alu(Alu::And, R0, state::CHUNK as i32 - 1);
        a.store(Size::W, Fp, stack::INDEX + 4, R0);
        a.map(R1, map_of(family));
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::INDEX));
        a.call(helper::MAP_LOOKUP);
        a.jump_if(Cond::Eq, R0, 0, none);
        a.mov(R1, R0);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::INDEX + 4));
        a.call(helper::MAP_LOOKUP);
        a.jump_if(Cond::Eq, R0, 0, none);
        if which == Which::Present {
            a.store(Size::Dw, Fp, stack::BUCKETS[bucket], R0);
        }
        a.mov(R2, R0);
        a.mov(R3, R0);
        a.alu(Alu::Add, R3, state::KEYS as i32);
        a.load(Size::Dw, R0, Fp, stack::HASH);
    }

    /// As [`Self::bucket`], for a bucket of the present table that was found before: R2, R3, and R0
    /// the hash.
    pub(super) fn bucket_again(&mut self, bucket: usize) {
        let a = &mut self.a;
        a.load(Size::Dw, R2, Fp, stack::BUCKETS[bucket]);
        a.mov(R3, R2);
        a.alu(Alu::Add, R3, state::KEYS as i32);
        a.load(Size::Dw, R0, Fp, stack::HASH);
    }

    /// Asks for a larger table, unless a request is waiting already. Changes R0 to R5.
    pub(super) fn want_room(&mut self, family: Family) {
        let said = self.a.label();
        self.a.note("state: little room");
        self.places_of(family, state::WANTED);
        let a = &mut self.a;
        a.load(Size::Dw, R1, R2, 0);
        a.jump_if(Cond::Ne, R1, 0, said);
        a.mov(R1, 1);
        // Of several packets that come here at once, only the first one wakes user space.
        a.exchange(R2, 0, R1);
        a.jump_if(Cond::Ne, R1, 0, said);
        a.store(Size::Dw, Fp, stack::BUFFER, 0);
        a.map(R1, MapId::Wanted);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::BUFFER));
        a.mov(R3, 8);
        a.mov(R4, 0);
        a.call(helper::RINGBUF_OUTPUT);
        a.bind(said);
    }

    /// Searches the bucket at R2, R3. Goes to `found` with R2, R3 moved to the entry, R4 its meta
    /// word and R1 its incarnation. Changes R0, R1, R4, R5.
    fn scan(&mut self, family: Family, found: Label, skip: Skip) {
        let size = key_size(family) as i16;
        let ways = state::WAYS as i16;
        // First the tags of all ways, which are in one cache line; a key is read only where its tag
        // matches. The code for keys stands behind that for tags, so that a bucket without a match
        // runs straight through.
        let matches: Vec<(Label, Label)> =
            (0..ways).map(|_| (self.a.label(), self.a.label())).collect();
        let absent = self.a.label();
        let a = &mut self.a;
        a.note("state: tags of the bucket");
        a.mov(R5, R0);
        a.alu(Alu::Rsh, R5, state::TAG_SHIFT as i32);
        for (way, (check, resume)) in (0..).zip(&matches) {
            a.load(Size::Dw, R4, R2, way * 8);
            a.mov(R1, R4);
            a.alu(Alu::Rsh, R1, state::TAG_SHIFT as i32);
            a.jump_if(Cond::Eq, R1, R5, *check);
            a.bind(*resume);
        }
        a.jump(absent);
        for (way, (check, resume)) in (0..).zip(&matches) {
            a.note(format!("state: key of way {way}"));
            a.bind(*check);
            a.alu32(Alu::Mov, R1, R4);
            a.jump_if(Cond::Le, R1, R7, *resume); // The entry has expired.
            match family {
                Family::V4 => {
                    a.load(Size::Dw, R1, R3, way * size);
                    a.jump_if(Cond::Ne, R1, R9, *resume);
                    a.load(Size::Dw, R0, R3, way * size + 8);
                }
                Family::V6 => {
                    for (offset, at) in [
                        (8, stack::REMOTE + 8),
                        (0, stack::REMOTE),
                        (24, stack::LOCAL + 8),
                        (16, stack::LOCAL),
                    ] {
                        a.load(Size::Dw, R1, R3, way * size + offset);
                        a.load(Size::Dw, R0, Fp, at);
                        a.jump_if(Cond::Ne, R1, R0, *resume);
                    }
                    a.load(Size::Dw, R0, R3, way * size + 32);
                }
            }
            // Where ports and protocol are equal, only the incarnation is left, in the upper 16
            // bits.
            a.alu(Alu::Xor, R0, R8);
            a.mov(R1, R0);
            a.alu(Alu::Lsh, R1, 16);
            a.jump_if(Cond::Ne, R1, 0, *resume);
            // The key may have been rewritten while it was read. The entry is still the same where
            // tag and flags of its meta word are, and it is not busy.
            a.load(Size::Dw, R1, R2, way * 8);
            a.alu(Alu::Xor, R1, R4);
            a.alu(Alu::Rsh, R1, state::FROM_POD.trailing_zeros() as i32);
            a.jump_if(Cond::Ne, R1, 0, *resume);
            a.mov(R1, R4);
            a.alu(Alu::Rsh, R1, 32);
            a.jump_if(Cond::Set, R1, (state::BUSY >> 32) as i32, *resume);
            if skip == Skip::Mine {
                a.mov(R1, R2);
                a.alu(Alu::Add, R1, i32::from(way * 8));
                a.load(Size::Dw, R5, Fp, stack::MINE);
                let other = a.label();
                a.jump_if(Cond::Ne, R1, R5, other);
                // R5 held the tag, which the rest of the scan needs again.
                a.mov(R5, R4);
                a.alu(Alu::Rsh, R5, state::TAG_SHIFT as i32);
                a.jump(*resume);
                a.bind(other);
                a.mov(R5, R4);
                a.alu(Alu::Rsh, R5, state::TAG_SHIFT as i32);
            }
            a.mov(R1, R0);
            a.alu(Alu::Rsh, R1, 48);
            // R0 = the way's number, plus the difference of two equal tags. The verifier does not
            // know that the difference is 0, so that it does not know the way, and follows the code
            // behind once for all ways.
            a.mov(R0, R4);
            a.alu(Alu::Rsh, R0, state::TAG_SHIFT as i32);
            a.alu(Alu::Sub, R0, R5);
            a.alu(Alu::Add, R0, i32::from(way));
            a.alu(Alu::And, R0, 7);
            a.alu(Alu::Lsh, R0, 3);
            a.alu(Alu::Add, R2, R0);
            a.alu(Alu::Mul, R0, i32::from(size / 8));
            a.alu(Alu::Add, R3, R0);
            a.jump(found);
        }
        a.bind(absent);
    }

    /// From `found` on: what a live entry means for the packet. R1: the entry's incarnation, R2:
    /// the address of its meta word, R3: that of its key, R4: its meta word. The rows of the
    /// judgement in `semantics`, by what was asked.
    fn found(
        &mut self,
        family: Family,
        found: Label,
        [absent, last]: [Label; 2],
        touch: Label,
        claim: Label,
    ) {
        let (dead, denied, error, crossing, judge, reopen) = (
            self.a.label(),
            self.a.label(),
            self.a.label(),
            self.a.label(),
            self.a.label(),
            self.a.label(),
        );
        let (allow, icmp, mine, renew) =
            (self.allow, self.deny(IcmpError), self.a.label(), self.a.label());
        let from_pod = (state::FROM_POD >> 32) as i32;
        let born = (state::BORN >> 32) as i32;
        let own = (state::OWN >> 32) as i32;
        let deferred = (state::DEFERRED >> 32) as i32;
        let a = &mut self.a;
        a.note("state: the same remote as then? (S43)");
        a.bind(found);
        a.load(Size::H, R5, Fp, stack::CLASS + 2);
        a.jump_if(Cond::Ne, R1, R5, dead);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Eq, R1, Asks::Denied as i32, denied);
        a.jump_if(Cond::Eq, R1, Asks::Error as i32, error);
        a.note("state: permitted, live entry");
        let answers = a.label();
        if self.compares() {
            self.a.peek(R1, stack::MARKS);
            self.a.jump_if(Cond::Set, R1, mark::WOULD_DENY, answers);
        }
        let a = &mut self.a;
        a.peek(R1, stack::EVENT);
        a.jump_if(Cond::Ne, R1, i32::from(code::OPEN), touch);
        a.mov(R1, R4);
        a.alu(Alu::Rsh, R1, state::PHASE_SHIFT as i32);
        a.alu(Alu::And, R1, 7);
        a.jump_if(Cond::Lt, R1, Phase::Closing as i32, touch);
        a.bind(renew);
        self.opened();
        let a = &mut self.a;
        // A connection that is over begins anew in the same slot: whoever is faster makes the same
        // entry. Stored by a register, since old verifiers do not track constants that are stored
        // directly.
        a.mov(R1, RENEWS);
        a.store(Size::Dw, Fp, stack::LOST, R1);
        a.jump(claim);

        if self.compares() {
            self.answers(answers, touch, from_pod);
        }
        let a = &mut self.a;
        a.note("state: another incarnation");
        a.bind(dead);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Ne, R1, Asks::Allowed as i32, absent);
        self.if_opening(renew);
        let a = &mut self.a;

        a.note("state: denied, live entry: opened by the other side?");
        a.bind(denied);
        a.mov(R1, R4);
        a.alu(Alu::Rsh, R1, 32);
        match self.hook {
            Hook::ToPod => {
                a.mov(R5, R1);
                a.alu(Alu::And, R5, from_pod);
                a.jump_if(Cond::Eq, R5, 0, last);
            }
            Hook::FromPod | Hook::Translated => a.jump_if(Cond::Set, R1, from_pod, mine),
        }
        a.peek(R5, stack::EVENT);
        a.jump_if(Cond::Eq, R5, i32::from(code::OPEN), crossing);
        a.bind(judge);
        a.jump_if(Cond::Set, R1, own | deferred, touch);
        self.opener_set(born, touch);
        let a = &mut self.a;
        // Judging the opener's direction by the tables needs the registers.
        a.store(Size::Dw, Fp, stack::SPARE, R2);
        a.store(Size::Dw, Fp, stack::SPARE2, R4);
        let service = self.a.label();
        self.permits(self.hook.other(), family, reopen, service);
        self.a.bind(service);
        match self.hook {
            Hook::ToPod => self.service(family, reopen, last),
            Hook::FromPod | Hook::Translated => self.a.jump(last),
        }
        let a = &mut self.a;
        a.bind(reopen);
        a.load(Size::Dw, R2, Fp, stack::SPARE);
        a.load(Size::Dw, R4, Fp, stack::SPARE2);
        a.jump(touch);
        a.note("state: crossing SYNs");
        a.bind(crossing);
        a.mov(R5, R1);
        a.alu(Alu::And, R5, 7);
        a.jump_if(Cond::Eq, R5, Phase::Opening as i32, judge);
        a.jump(last);
        if self.hook == Hook::FromPod {
            a.note("state: denied, the pod's own connection: to a Service?");
            a.bind(mine);
            a.peek(R5, stack::EVENT);
            a.jump_if(Cond::Eq, R5, i32::from(code::OPEN), last);
            a.alu(Alu::And, R1, deferred);
            a.jump_if(Cond::Eq, R1, 0, last);
            a.load(Size::Dw, R1, Fp, stack::MARKS);
            a.alu(Alu::Or, R1, mark::DEFER);
            a.store(Size::Dw, Fp, stack::MARKS, R1);
            a.jump(touch);
        }

        a.note("icmp error: live entry, its opener's direction");
        a.bind(error);
        a.mov(R1, R4);
        a.alu(Alu::Rsh, R1, 32);
        a.jump_if(Cond::Set, R1, own, allow);
        self.opener_set(born, allow);
        let a = &mut self.a;
        let pod = a.label();
        a.jump_if(Cond::Set, R1, from_pod, pod);
        self.permits(Hook::ToPod, family, allow, icmp);
        self.a.bind(pod);
        if self.hook == Hook::ToPod {
            let service = self.a.label();
            self.a.jump_if(Cond::Set, R1, deferred, allow);
            self.permits(Hook::FromPod, family, allow, service);
            self.a.bind(service);
            self.service(family, allow, icmp);
        } else {
            self.permits(Hook::FromPod, family, allow, icmp);
        }
    }

    /// For an entry whose flags are in R1: goes to `permitted` where a packet opened it that was
    /// born on the node and that nobody judges. Where the born set judges it, that stands in the
    /// place of the ingress set from here on. Changes R5.
    fn opener_set(&mut self, born: i32, permitted: Label) {
        let judged = self.a.label();
        self.a.mov(R5, R1);
        self.a.alu(Alu::And, R5, born);
        self.a.jump_if(Cond::Eq, R5, 0, judged);
        self.born_set(R5, permitted);
        self.a.bind(judged);
    }

    /// For an opening that finds no room: drops it where the pod is isolated, unless it is exempt:
    /// that reaches the pod in any case (S44).
    pub(super) fn full(&mut self) {
        let (full, allow) = (self.deny(StateFull), self.allow);
        self.a.note("state: no room");
        self.if_exempt(allow);
        self.word_flags();
        self.a.jump_if(Cond::Set, R1, i32::from(Word::INGRESS | Word::EGRESS), full);
        self.a.jump(allow);
    }
}
