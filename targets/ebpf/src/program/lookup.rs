//! The state tables: finding a tuple's entry, and what follows from it.

use netpolc_table::schema::{Family, Word};
use netpolc_target::{
    Hook,
    semantics::{DropReason::*, Phase},
};

use super::{Asks, Generator, mark, stack};
use crate::{
    asm::{
        Alu, Cond, Label,
        Reg::{self, *},
        Size,
    },
    layout::{
        MapId,
        config::code,
        state::{self, K1, K2},
    },
};

/// The state maps of a family and the size of a key.
pub(super) fn maps(family: Family) -> (MapId, MapId, usize) {
    match family {
        Family::V4 => (MapId::StateV4Meta, MapId::StateV4Key, state::KEY_V4),
        Family::V6 => (MapId::StateV6Meta, MapId::StateV6Key, state::KEY_V6),
    }
}

impl Generator<'_> {
    /// From `entry` on: finds the entry of the tuple and does what `stack::ASKS` wants. `last`: a denied
    /// packet that no entry lets through.
    pub(super) fn state(&mut self, family: Family, entry: Label, last: Label) {
        let (found, absent, create, touch, claim) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let (again, rescan, twin) = (self.a.label(), self.a.label(), self.a.label());
        self.a.note("state");
        self.a.bind(entry);
        self.a.store(Size::Dw, Fp, stack::LOST, 0);
        self.a.bind(again);
        self.now();
        self.a.mov(R7, R0);
        self.hash(family);
        self.a.store(Size::Dw, Fp, stack::HASH, R0);
        self.a.store(Size::Dw, Fp, stack::MINE, 0);
        self.a.bind(rescan);
        for bucket in 0..2 {
            self.bucket(family, bucket, R2, R3);
            self.scan(family, found);
            if bucket == 0 {
                self.a.load(Size::Dw, R0, Fp, stack::HASH);
            }
        }

        let (allow, orphan, unknown, half) = (self.allow, self.a.label(), self.deny(IcmpError), self.a.label());
        let a = &mut self.a;
        a.note("state: no live entry");
        a.bind(absent);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Eq, R1, Asks::Denied as i32, last);
        a.jump_if(Cond::Eq, R1, Asks::Error as i32, orphan);
        a.jump_if(Cond::Eq, R1, Asks::Twin as i32, allow);
        a.load(Size::Dw, R1, Fp, stack::EVENT);
        a.jump_if(Cond::Le, R1, i32::from(code::DATAGRAM), create);
        a.jump(allow);
        self.a.note("icmp error: about what needs no entry?");
        self.a.bind(orphan);
        self.if_open_by_tables(self.hook, family, half);
        self.a.jump(unknown);
        self.a.bind(half);
        self.if_open_by_tables(self.hook.other(), family, allow);
        self.a.jump(unknown);

        self.found(family, [found, twin], [absent, last], touch, claim);
        self.touch(touch);
        self.create(family, create, claim, [again, rescan]);
        self.twin(twin);
    }

    /// R0 = hash of the tuple. Changes R1-R3.
    fn hash(&mut self, family: Family) {
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
                words.extend([(K1, Some(stack::REMOTE + 8)), (K2, Some(stack::LOCAL + 8)), (K1, None), (K2, None)]);
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

    /// R0: hash -> `meta`, `key`: the bucket's parts. Changes R1.
    pub(super) fn bucket(&mut self, family: Family, bucket: usize, meta: Reg, key: Reg) {
        let (metas, keys, size) = maps(family);
        let c = &self.p.capacities;
        let a = &mut self.a;
        a.note(["state: first bucket", "state: second bucket"][bucket]);
        a.mov(R1, R0);
        if bucket == 1 {
            a.alu(Alu::Rsh, R1, 24);
        }
        a.alu(Alu::And, R1, c.state_buckets as i32 - 1);
        a.load(Size::Dw, meta, Fp, stack::ENDPOINT);
        a.alu(Alu::And, meta, c.endpoints as i32 - 1);
        a.alu(Alu::Lsh, meta, c.state_buckets.ilog2() as i32);
        a.alu(Alu::Add, R1, meta);
        a.alu(Alu::Lsh, R1, (state::WAYS * 8).ilog2() as i32);
        a.map_value(meta, metas, 0);
        a.alu(Alu::Add, meta, R1);
        a.alu(Alu::Lsh, R1, (size / 8).ilog2() as i32);
        a.map_value(key, keys, 0);
        a.alu(Alu::Add, key, R1);
    }

    /// R2, R3: a bucket. Goes to `found` with R2, R3 moved to the entry, R4 its meta word, R1 its incarnation. Changes R0, R1, R4, R5.
    fn scan(&mut self, family: Family, found: Label) {
        let size = maps(family).2 as i16;
        let ways = state::WAYS as i16;
        let matches: Vec<(Label, Label)> = (0..ways).map(|_| (self.a.label(), self.a.label())).collect();
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
            a.jump_if(Cond::Le, R1, R7, *resume); // its deadline has come
            match family {
                Family::V4 => {
                    a.load(Size::Dw, R1, R3, way * size);
                    a.jump_if(Cond::Ne, R1, R9, *resume);
                    a.load(Size::Dw, R0, R3, way * size + 8);
                }
                Family::V6 => {
                    for (offset, at) in
                        [(8, stack::REMOTE + 8), (0, stack::REMOTE), (24, stack::LOCAL + 8), (16, stack::LOCAL)]
                    {
                        a.load(Size::Dw, R1, R3, way * size + offset);
                        a.load(Size::Dw, R0, Fp, at);
                        a.jump_if(Cond::Ne, R1, R0, *resume);
                    }
                    a.load(Size::Dw, R0, R3, way * size + 32);
                }
            }
            a.alu(Alu::Xor, R0, R8); // leaves the incarnation in the upper 16 bits where the rest is equal
            a.mov(R1, R0);
            a.alu(Alu::Lsh, R1, 16);
            a.jump_if(Cond::Ne, R1, 0, *resume);
            // The key may have been written while it was read: still the same entry, and not busy?
            a.load(Size::Dw, R1, R2, way * 8);
            a.alu(Alu::Xor, R1, R4);
            a.alu(Alu::Rsh, R1, state::FROM_POD.trailing_zeros() as i32);
            a.jump_if(Cond::Ne, R1, 0, *resume);
            a.mov(R1, R4);
            a.alu(Alu::Rsh, R1, 32);
            a.jump_if(Cond::Set, R1, (state::BUSY >> 32) as i32, *resume);
            // The entry that this packet has just made is none that was found.
            a.mov(R1, R2);
            a.alu(Alu::Add, R1, i32::from(way * 8));
            a.load(Size::Dw, R5, Fp, stack::MINE);
            let other = a.label();
            a.jump_if(Cond::Ne, R1, R5, other);
            a.mov(R5, R4); // the tag again
            a.alu(Alu::Rsh, R5, state::TAG_SHIFT as i32);
            a.jump(*resume);
            a.bind(other);
            a.mov(R5, R4);
            a.alu(Alu::Rsh, R5, state::TAG_SHIFT as i32);
            a.mov(R1, R0);
            a.alu(Alu::Rsh, R1, 48);
            // The way's number plus the difference of two equal tags, so that the verifier does not know which way it is
            // and follows what comes after once.
            a.mov(R0, R4);
            a.alu(Alu::Rsh, R0, state::TAG_SHIFT as i32);
            a.alu(Alu::Sub, R0, R5);
            a.alu(Alu::Add, R0, i32::from(way));
            a.alu(Alu::And, R0, 7);
            a.alu(Alu::Lsh, R0, 3);
            a.alu(Alu::Add, R2, R0);
            a.alu(Alu::Lsh, R0, i32::from(size / 8).ilog2() as i32);
            a.alu(Alu::Add, R3, R0);
            a.jump(found);
        }
        a.bind(absent);
    }

    /// R1: incarnation, R2: meta's address, R3: key's address, R4: meta.
    fn found(
        &mut self,
        family: Family,
        [found, twin]: [Label; 2],
        [absent, last]: [Label; 2],
        touch: Label,
        claim: Label,
    ) {
        let (dead, denied, error, crossing, judge, reopen) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let (allow, icmp, mine) = (self.allow, self.deny(IcmpError), self.a.label());
        let from_pod = (state::FROM_POD >> 32) as i32;
        let born = (state::BORN >> 32) as i32;
        let deferred = (state::DEFERRED >> 32) as i32;
        let a = &mut self.a;
        a.note("state: the same remote as then? (S43)");
        a.bind(found);
        a.load(Size::H, R5, Fp, stack::CLASS + 2);
        a.jump_if(Cond::Ne, R1, R5, dead);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Eq, R1, Asks::Twin as i32, twin);
        a.jump_if(Cond::Eq, R1, Asks::Denied as i32, denied);
        a.jump_if(Cond::Eq, R1, Asks::Error as i32, error);
        a.note("state: permitted, live entry");
        a.load(Size::Dw, R1, Fp, stack::EVENT);
        a.jump_if(Cond::Ne, R1, i32::from(code::OPEN), touch);
        a.mov(R1, R4);
        a.alu(Alu::Rsh, R1, state::PHASE_SHIFT as i32);
        a.alu(Alu::And, R1, 7);
        a.jump_if(Cond::Ge, R1, Phase::Closing as i32, claim);
        a.jump(touch);

        a.note("state: another incarnation");
        a.bind(dead);
        a.load(Size::Dw, R1, Fp, stack::ASKS);
        a.jump_if(Cond::Ne, R1, Asks::Allowed as i32, absent);
        a.load(Size::Dw, R1, Fp, stack::EVENT);
        a.jump_if(Cond::Le, R1, i32::from(code::DATAGRAM), claim);
        a.jump(allow);

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
        a.load(Size::Dw, R5, Fp, stack::EVENT);
        a.jump_if(Cond::Eq, R5, i32::from(code::OPEN), crossing);
        a.bind(judge);
        a.jump_if(Cond::Set, R1, born | deferred, touch);
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
            a.load(Size::Dw, R5, Fp, stack::EVENT);
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
        a.jump_if(Cond::Set, R1, born, allow);
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

    /// No room: refuses a new connection where the pod is isolated, but for those that the node opens.
    pub(super) fn full(&mut self) {
        let (full, allow) = (self.deny(StateFull), self.allow);
        self.a.note("state: no room");
        self.if_born(allow);
        self.word_flags();
        self.a.jump_if(Cond::Set, R1, i32::from(Word::INGRESS | Word::EGRESS), full);
        self.a.jump(allow);
    }
}
