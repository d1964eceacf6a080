//! The stateless verdict: remote -> class -> row, port -> port class, and the row's bit for it. And
//! which packets pass without it.
//!
//! Not here: connections (`lookup`, `entry`), and what a pod may claim of itself (`guard`).

use netpolc_table::{
    TableId,
    schema::{Family, Word},
};
use netpolc_target::{Hook, semantics::DropReason::*};

use super::{Asks, Generator, KEEP, helper, isolation, mark, stack};
use crate::{
    asm::{Alu, Cond, Label, Reg::*, Size},
    layout::{
        MapId, OWN_MORE_KEY, ROW_PERMIT, SERVICE_KEY,
        config::{
            self,
            asked::{self, Of},
            code,
        },
        endpoint, exact, exact_multiplier,
        state::K1,
        trie,
    },
};

impl Generator<'_> {
    /// Step 8 up to where state comes in. R5: the protocol's word; R8 (and R9 or the stack) as
    /// the module's header says; the event is on the stack. The code from `error` on, for ICMP
    /// errors, stands here too.
    pub(super) fn judge(&mut self, family: Family, error: Label) {
        if self.hook == Hook::Translated {
            return self.judge_translated(family);
        }
        let (late, allowed, denied, kept, state) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let allow = self.allow;
        let (compare, compared) = (self.a.label(), self.a.label());
        if self.compares() {
            self.a.note("anything tried?");
            self.if_tried(compare);
            self.a.bind(compared);
        }
        self.a.note("isolated? born here?");
        // Where the direction is open, or the node itself sends what nobody judges, the tables need
        // not be asked. Only the other direction may need an entry.
        self.if_open(late);
        self.if_exempt(late);
        if self.hook == Hook::ToPod {
            self.refuse_forged(family);
            self.a.load(Size::Dw, R5, Fp, stack::PROTOCOL);
        }
        self.class(family);
        self.a.store(Size::Dw, Fp, stack::CLASS, R4);
        self.tables(self.hook, family, Of::Packet, allowed);
        match self.hook {
            Hook::ToPod => self.a.jump(denied),
            Hook::FromPod | Hook::Translated => self.own(family, allowed, denied),
        }

        let (policy, last) = (self.deny(Policy), self.a.label());
        let a = &mut self.a;
        a.note("denied by the tables: a reply?");
        a.bind(denied);
        a.peek(R1, stack::EVENT);
        a.jump_if(Cond::Ge, R1, i32::from(code::NO_TUPLE), policy);
        let ask = a.label();
        a.jump_if(Cond::Ne, R1, i32::from(code::OPEN), ask);
        // An opening is never a reply, unless two SYNs of TCP cross each other. TCP is row 0.
        a.peek(R1, stack::PROTOCOL);
        a.alu(Alu::And, R1, 7);
        a.jump_if(Cond::Ne, R1, 0, last);
        a.bind(ask);
        // Stored by a register, since old verifiers do not track constants that are stored
        // directly.
        a.mov(R1, Asks::Denied as i32);
        a.store(Size::Dw, Fp, stack::ASKS, R1);
        a.jump(state);

        a.note("permitted: anything to keep?");
        a.bind(allowed);
        a.peek(R1, stack::EVENT);
        // Data of TCP in a permitted direction touches no entry: established connections are not
        // looked up at all.
        a.jump_if(Cond::Eq, R1, i32::from(code::DATA), allow);
        a.jump_if(Cond::Lt, R1, i32::from(code::NO_TUPLE), kept);
        a.jump(allow);

        a.note("permitted without tables: anything to keep?");
        a.bind(late);
        a.peek(R1, stack::EVENT);
        a.jump_if(Cond::Eq, R1, i32::from(code::DATA), allow);
        a.jump_if(Cond::Ge, R1, i32::from(code::NO_TUPLE), allow);
        self.word_flags();
        self.a.alu(Alu::And, R1, KEEP);
        self.a.jump_if(Cond::Eq, R1, 0, allow);
        self.class(family);
        let a = &mut self.a;
        a.store(Size::Dw, Fp, stack::CLASS, R4);
        a.bind(kept);
        let unneeded = a.label();
        self.if_needed(family, if self.compares() { unneeded } else { allow });
        let a = &mut self.a;
        a.store(Size::Dw, Fp, stack::ASKS, Asks::Allowed as i32);
        a.jump(state);
        if self.compares() {
            let a = &mut self.a;
            a.note("needs no entry: an opening, or an answer?");
            a.bind(unneeded);
            let datagram = a.label();
            a.peek(R1, stack::EVENT);
            a.jump_if(Cond::Ne, R1, i32::from(code::OPEN), datagram);
            self.opened();
            let a = &mut self.a;
            a.jump(allow);
            a.bind(datagram);
            self.seen(family);
            let a = &mut self.a;
            a.peek(R1, stack::MARKS);
            a.alu(Alu::And, R1, mark::WOULD_DENY);
            a.jump_if(Cond::Eq, R1, 0, allow);
            // Stored by a register, since old verifiers do not track constants that are stored
            // directly.
            a.mov(R1, Asks::Compared as i32);
            a.store(Size::Dw, Fp, stack::ASKS, R1);
            a.jump(state);
        }

        if self.compares() {
            self.compare(family, compare, compared);
        }
        self.error(family, error, state);
        self.state(family, state, last);
        self.last(family, last, allowed, policy);
    }

    /// Whether the program has the steps that compare with what is only tried.
    pub(super) fn compares(&self) -> bool {
        self.hook != Hook::Translated && self.options.is_whole()
    }

    /// For a permitted packet that would open a connection: goes to `unneeded` where no judgement
    /// will need to know who opened it. This stands before the search in the state tables, where
    /// the verifier has few ways to follow.
    fn if_needed(&mut self, family: Family, unneeded: Label) {
        let yes = self.a.label();
        let hook = self.hook.other();
        self.a.note("is an entry needed?");
        self.word_flags();
        let a = &mut self.a;
        a.jump_if(Cond::Set, R1, i32::from(Word::RECORD), yes);
        a.peek(R2, stack::EVENT);
        a.jump_if(Cond::Gt, R2, i32::from(code::DATAGRAM), yes);
        if self.hook == Hook::FromPod {
            a.peek(R3, stack::MARKS);
            a.jump_if(Cond::Set, R3, mark::DEFER, yes);
        }
        let datagram = a.label();
        a.jump_if(Cond::Eq, R2, i32::from(code::DATAGRAM), datagram);
        // Where the other direction is isolated, a real opening needs an entry.
        a.alu(Alu::And, R1, isolation(hook));
        a.jump_if(Cond::Eq, R1, 0, unneeded);
        a.jump(yes);
        a.bind(datagram);
        if self.compares() {
            // So that the answer is known as one.
            self.if_differs(hook, family, yes);
        }
        // A datagram needs one only where the other direction's tables would not permit the answer
        // by themselves.
        self.if_open_by_tables(hook, family, unneeded);
        self.a.bind(yes);
    }

    /// Goes to `open` where `direction` is not isolated or its tables permit the tuple; otherwise
    /// runs on. Changes R1-R5.
    pub(super) fn if_open_by_tables(&mut self, direction: Hook, family: Family, open: Label) {
        self.word_flags();
        let a = &mut self.a;
        a.alu(Alu::And, R1, isolation(direction));
        a.jump_if(Cond::Eq, R1, 0, open);
        a.load(Size::H, R4, Fp, stack::CLASS);
        a.load(Size::Dw, R5, Fp, stack::PROTOCOL);
        self.tables(direction, family, Of::Question, open);
    }

    /// From `last` on: the tables deny the packet, and no entry lets it through. It goes on as if
    /// it were permitted where it is the pod's own packet, back from a Service (S47), or goes to a
    /// Service (S48).
    fn last(&mut self, family: Family, last: Label, allowed: Label, policy: Label) {
        let (found, mark) =
            (self.a.label(), if self.hook == Hook::ToPod { mark::OWN } else { mark::DEFER });
        self.a.bind(last);
        if self.hook == Hook::ToPod {
            self.own_traffic(found, policy);
        } else {
            let a = &mut self.a;
            a.note("is every interface covered?");
            a.map_value(R1, MapId::Config, config::HOLD);
            a.load(Size::Dw, R1, R1, 0);
            a.jump_if(Cond::Ne, R1, 0, policy);
            self.service(family, found, policy);
        }
        let a = &mut self.a;
        a.bind(found);
        a.load(Size::Dw, R1, Fp, stack::MARKS);
        a.alu(Alu::Or, R1, mark);
        a.store(Size::Dw, Fp, stack::MARKS, R1);
        a.jump(allowed);
    }

    /// Drops a packet to the pod that claims to come from the pod itself, unless it is the pod's
    /// own traffic (S47). Keeps R8, R9.
    pub(super) fn refuse_forged(&mut self, family: Family) {
        let (claims, honest, spoofed) = (self.a.label(), self.a.label(), self.deny(SpoofedSource));
        self.a.note("from its own address?");
        self.own(family, claims, honest);
        self.a.bind(claims);
        self.own_traffic(honest, spoofed);
        self.a.bind(honest);
    }

    /// Goes to `yes` where the remote's address and port belong to a Service, else to `no`. Changes
    /// R0-R5.
    pub(super) fn service(&mut self, family: Family, yes: Label, no: Label) {
        const { assert!(SERVICE_KEY == 20) };
        let a = &mut self.a;
        a.note(format!("table {}", TableId::service(family).spec().name));
        match family {
            Family::V4 => {
                a.store(Size::W, Fp, stack::OWN, R9);
                for word in [4, 8, 12] {
                    a.store(Size::W, Fp, stack::OWN + word, 0);
                }
            }
            Family::V6 => {
                for half in [0, 8] {
                    a.load(Size::Dw, R1, Fp, stack::REMOTE + half);
                    a.store(Size::Dw, Fp, stack::OWN + half, R1);
                }
            }
        }
        // The key's last word: the remote's port as in the packet, the protocol, the family.
        a.mov(R1, R8);
        a.alu(Alu::Rsh, R1, 16);
        a.alu(Alu::And, R1, 0x00ff_ffff);
        a.alu(Alu::Or, R1, i32::from(family.number()) << 24);
        a.store(Size::W, Fp, stack::OWN + 16, R1);
        a.map(R1, MapId::Service);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::OWN));
        a.call(helper::MAP_LOOKUP);
        a.jump_if(Cond::Ne, R0, 0, yes);
        a.jump(no);
    }

    /// R4 = class | incarnation << 16 of the remote. Changes R0-R3; for IPv6 R7 and R9 too. Keeps
    /// R5.
    pub(super) fn class(&mut self, family: Family) {
        match family {
            Family::V4 => self.class_v4(),
            Family::V6 => self.class_v6(),
        }
    }

    fn class_v4(&mut self) {
        let done = self.a.label();
        let a = &mut self.a;
        let mask = self.p.capacities.remote_v4_blocks as i32 - 1;
        a.note("table remote_v4: first 16 bits");
        a.map_value(R3, MapId::RemoteV4, 0);
        a.mov(R1, R9);
        a.swap(R1, 32);
        a.mov(R2, R1);
        // By 32 bits, since older verifiers do not know that a swap of 32 bits leaves 32 bits.
        a.alu32(Alu::Rsh, R2, 16);
        a.alu(Alu::Lsh, R2, 2);
        a.alu(Alu::Add, R2, R3);
        a.load(Size::W, R4, R2, 0);
        for (step, shift) in (0..trie::STEPS_V4).zip([8, 0]) {
            a.note(format!("table remote_v4: bits {} to {}", 16 + 8 * step, 23 + 8 * step));
            // Bit 31, the sign, says that the slot is a pointer.
            a.jump32_if(Cond::SGe, R4, 0, done);
            a.alu32(Alu::And, R4, mask);
            a.alu(Alu::Lsh, R4, 8);
            a.mov(R2, R1);
            if shift != 0 {
                a.alu(Alu::Rsh, R2, shift);
            }
            a.alu(Alu::And, R2, 255);
            a.alu(Alu::Add, R4, R2);
            a.alu(Alu::Lsh, R4, 2);
            a.mov(R2, R3);
            a.alu(Alu::Add, R2, R4);
            a.load(Size::W, R4, R2, 0);
        }
        a.bind(done);
    }

    fn class_v6(&mut self) {
        // The order of the search: the two buckets of the address's group, in which the address
        // stands alone or the group has a block; then the trie with the shorter prefixes.
        let (hit, done, block, shorter) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let (c, seed) = (&self.p.capacities, self.p.seed);
        let a = &mut self.a;
        a.note("table remote_v6: hash of the group");
        a.load(Size::Dw, R1, Fp, stack::REMOTE);
        a.load(Size::Dw, R2, Fp, stack::REMOTE + 8);
        a.imm64(R3, seed);
        a.alu(Alu::Xor, R3, R1);
        a.mov(R4, R3);
        a.alu(Alu::Rsh, R4, 32);
        a.alu(Alu::Xor, R3, R4);
        a.imm64(R4, K1);
        a.alu(Alu::Mul, R3, R4);
        a.mov(R4, R2);
        a.alu(Alu::Lsh, R4, 8);
        a.alu(Alu::Xor, R3, R4);
        a.mov(R4, R3);
        a.alu(Alu::Rsh, R4, 32);
        a.alu(Alu::Xor, R3, R4);
        a.imm64(R4, exact_multiplier(seed));
        a.alu(Alu::Mul, R3, R4);
        a.mov(R4, R3);
        a.alu(Alu::Rsh, R4, 32);
        a.alu(Alu::Xor, R3, R4);
        for bucket in 0..2 {
            a.note(
                ["table remote_v6: /128, first bucket", "table remote_v6: /128, second bucket"]
                    [bucket],
            );
            if bucket == 0 {
                a.mov(R7, R3);
            } else {
                a.alu(Alu::Rsh, R3, 32);
                a.mov(R7, R3);
            }
            a.alu(Alu::And, R7, c.remote_v6_buckets as i32 - 1);
            a.alu(Alu::Lsh, R7, exact::SIZE.ilog2() as i32);
            a.map_value(R9, MapId::RemoteV6Exact, 0);
            a.alu(Alu::Add, R9, R7);
            for way in 0..exact::WAYS as i16 {
                let not = a.label();
                a.load(Size::Dw, R0, R9, way * 16 + 8);
                a.alu(Alu::Xor, R0, R2);
                a.mov(R4, R0);
                // The difference without the last byte of the address: 0 where the groups are the
                // same.
                a.alu(Alu::Lsh, R4, 8);
                a.jump_if(Cond::Ne, R4, 0, not);
                a.load(Size::Dw, R4, R9, way * 16);
                a.jump_if(Cond::Ne, R4, R1, not);
                a.load(Size::W, R4, R9, exact::VALUES as i16 + way * 4);
                a.jump_if(Cond::Eq, R4, 0, not);
                a.jump_if(Cond::Set, R4, exact::BLOCK as i32, block);
                a.jump_if(Cond::Eq, R0, 0, hit);
                a.bind(not);
            }
        }
        a.jump(shorter);
        a.note("table remote_v6: /128, block of the group");
        a.bind(block);
        a.alu(Alu::Rsh, R4, 16);
        a.alu(Alu::And, R4, c.remote_v6_leaves as i32 - 1);
        a.alu(Alu::Lsh, R4, 8);
        a.load(Size::B, R0, Fp, stack::REMOTE + 15);
        a.alu(Alu::Add, R4, R0);
        a.alu(Alu::Lsh, R4, 2);
        a.map_value(R9, MapId::RemoteV6Leaf, 0);
        a.alu(Alu::Add, R9, R4);
        a.load(Size::W, R4, R9, 0);
        a.jump_if(Cond::Ne, R4, 0, hit);
        a.bind(shorter);
        a.note("table remote_v6: first 16 bits");
        a.map_value(R9, MapId::RemoteV6, 0);
        a.load(Size::H, R0, Fp, stack::REMOTE);
        a.swap_index(R0);
        a.alu(Alu::Lsh, R0, 2);
        a.alu(Alu::Add, R0, R9);
        a.load(Size::W, R4, R0, 0);
        for step in 0..trie::STEPS_V6 as i16 {
            a.note(format!("table remote_v6: bits {} to {}", 16 + 8 * step, 23 + 8 * step));
            a.jump32_if(Cond::SGe, R4, 0, done);
            a.alu32(Alu::And, R4, c.remote_v6_blocks as i32 - 1);
            a.alu(Alu::Lsh, R4, 8);
            a.load(Size::B, R0, Fp, stack::REMOTE + 2 + step);
            a.alu(Alu::Add, R4, R0);
            a.alu(Alu::Lsh, R4, 2);
            a.mov(R0, R9);
            a.alu(Alu::Add, R0, R4);
            a.load(Size::W, R4, R0, 0);
        }
        a.jump(done);
        a.bind(hit);
        a.alu(Alu::Sub, R4, 1); // Stored as class + 1, so that 0 means empty.
        a.bind(done);
    }

    /// R1 = the row that the set of `direction` has for the class in R4. Changes R2, R3.
    pub(super) fn row(&mut self, direction: Hook, family: Family) {
        let c = &self.p.capacities;
        let (map, classes) = match family {
            Family::V4 => (MapId::RowsV4, c.classes_v4),
            Family::V6 => (MapId::RowsV6, c.classes_v6),
        };
        let a = &mut self.a;
        a.note(format!("table row: {}", map.name()));
        // The masks change nothing, since user space stores no id beyond the capacities; they tell
        // the verifier the bounds.
        a.load(Size::H, R1, Fp, stack::WORD + if direction == Hook::ToPod { 0 } else { 2 });
        a.alu(Alu::And, R1, c.sets as i32 - 1);
        a.alu(Alu::Lsh, R1, classes.ilog2() as i32);
        a.mov(R2, R4);
        a.alu(Alu::And, R2, classes as i32 - 1);
        a.alu(Alu::Add, R1, R2);
        a.alu(Alu::Lsh, R1, 1);
        a.map_value(R3, map, 0);
        a.alu(Alu::Add, R3, R1);
        a.load(Size::H, R1, R3, 0);
    }

    /// R3 = the address of the first word pair of the mask of the row in R1. Changes R1.
    pub(super) fn mask(&mut self) {
        let c = &self.p.capacities;
        let a = &mut self.a;
        a.note("table verdict: mask of the row");
        a.alu(Alu::And, R1, c.rows as i32 - 1);
        a.alu(Alu::Lsh, R1, c.port_words.ilog2() as i32 + 4);
        a.map_value(R3, MapId::Mask, 0);
        a.alu(Alu::Add, R3, R1);
    }

    /// Goes to `permit` where the tables of `direction` permit the class in R4 and the destination
    /// port in R8 of the protocol in R5, or, where that has no ports, the slot in R5 that is asked
    /// for `of`. Otherwise runs on. Changes R1-R3.
    pub(super) fn tables(&mut self, direction: Hook, family: Family, of: Of, permit: Label) {
        self.named(direction, family, of, permit, permit);
    }

    /// As [`Self::tables`], but goes to `whole` where the row permits everything, so that no rule
    /// names the port.
    pub(super) fn named(
        &mut self,
        direction: Hook,
        family: Family,
        of: Of,
        permit: Label,
        whole: Label,
    ) {
        self.row(direction, family);
        self.a.jump_if(Cond::Eq, R1, i32::from(ROW_PERMIT), whole);
        self.port_slot(direction, of);
        self.port_class();
        self.mask();
        self.if_class(permit);
    }

    /// R2 = the slot of the port map for the destination port in R8 of the protocol in R5, or,
    /// where that has no ports, the slot in R5 that is asked for `of`. Changes R3.
    fn port_slot(&mut self, direction: Hook, of: Of) {
        let a = &mut self.a;
        a.note("table port: protocol, destination port -> port class");
        // R8 has the local port below and the remote port above.
        a.mov(R2, R8);
        if direction == Hook::FromPod {
            a.alu(Alu::Rsh, R2, 16);
        }
        a.swap(R2, 16);
        // No port is added where the protocol has none. There is no branch, behind which the
        // verifier would follow everything twice.
        a.mov(R3, R5);
        a.alu(Alu::Arsh, R3, 63);
        a.alu(Alu::And, R2, R3);
        a.mov(R3, R5);
        a.alu(Alu::Rsh, R3, of as i32);
        a.alu(Alu::Add, R2, R3);
        a.alu(Alu::And, R2, asked::SLOT);
    }

    /// R2 = the port class in the slot of the port map whose number is in R2. Changes R3.
    pub(super) fn port_class(&mut self) {
        let a = &mut self.a;
        a.alu(Alu::Lsh, R2, 1);
        a.map_value(R3, MapId::Port, 0);
        a.alu(Alu::Add, R3, R2);
        a.load(Size::H, R2, R3, 0);
    }

    /// R2 = the port class that is asked for, and R3 = the address of the word pair that has its
    /// bits, in the mask of the row in R1. Changes R1.
    pub(super) fn place(&mut self, direction: Hook, of: Of) {
        self.port_slot(direction, of);
        self.port_class();
        self.mask();
        self.pair();
    }

    /// R3, the address of a row's mask, becomes that of the word pair with the bits of the port
    /// class in R2. Changes R1.
    fn pair(&mut self) {
        let words = self.p.capacities.port_words as i32;
        let a = &mut self.a;
        a.note("table verdict: the port class's bit");
        a.mov(R1, R2);
        // Pair pc / 64, bit pc % 64.
        a.alu(Alu::Rsh, R1, 6);
        a.alu(Alu::And, R1, words - 1);
        a.alu(Alu::Lsh, R1, 4);
        a.alu(Alu::Add, R3, R1);
    }

    /// Goes to `permit` where the row's mask, whose address is in R3, permits the port class in R2;
    /// otherwise runs on. Changes R1-R3.
    pub(super) fn if_class(&mut self, permit: Label) {
        self.pair();
        let a = &mut self.a;
        a.load(Size::Dw, R1, R3, 0);
        a.alu(Alu::And, R2, 63);
        a.alu(Alu::Rsh, R1, R2);
        a.jump_if(Cond::Set, R1, 1, permit);
    }

    /// Goes to `yes` where `direction` permits the remote now (S41), because it is not isolated, or
    /// by its tables, or because the pod sends to itself; else to `no`. Reads class and protocol
    /// from the stack. Changes R0-R5.
    pub(super) fn permits(&mut self, direction: Hook, family: Family, yes: Label, no: Label) {
        self.a.note("judge again");
        self.if_open_by_tables(direction, family, yes);
        match direction {
            Hook::ToPod => self.a.jump(no),
            Hook::FromPod | Hook::Translated => self.own(family, yes, no),
        }
    }

    /// Goes to `yes` where the remote is one of the pod's own addresses (S47), else to `no`.
    /// Changes R0-R5.
    pub(super) fn own(&mut self, family: Family, yes: Label, no: Label) {
        match family {
            Family::V4 => {
                self.a.note("table own_v4: remote");
                self.a.alu32(Alu::Mov, R1, R9);
                self.own_first_v4(yes);
                self.own_more_v4(yes, no);
            }
            Family::V6 => self.own_v6(stack::REMOTE, yes, no),
        }
    }

    /// Goes to `yes` where the address in R1 is the one in the endpoint's record. R2 = the address
    /// of the record. Changes R3.
    pub(super) fn own_first_v4(&mut self, yes: Label) {
        let other = self.a.label();
        let a = &mut self.a;
        a.load(Size::Dw, R2, Fp, stack::RECORD);
        a.load(Size::W, R3, R2, endpoint::OWN_V4 as i16);
        a.jump_if(Cond::Ne, R1, R3, other);
        a.jump_if(Cond::Ne, R1, 0, yes); // The record says 0 where there is no address.
        a.bind(other);
    }

    /// Goes to `yes` where the address in R1 is one of the endpoint's further IPv4 addresses, else
    /// to `no`. R2: the address of the record.
    pub(super) fn own_more_v4(&mut self, yes: Label, no: Label) {
        let a = &mut self.a;
        a.load(Size::W, R3, R2, endpoint::OWN_FLAGS as i16);
        a.alu(Alu::And, R3, endpoint::HAS_MORE as i32);
        a.jump_if(Cond::Eq, R3, 0, no);
        a.store(Size::W, Fp, stack::OWN + 4, R1);
        for offset in [8, 12, 16] {
            a.store(Size::W, Fp, stack::OWN + offset, 0);
        }
        self.own_more(4, yes, no);
    }

    /// Goes to `yes` where the IPv6 address on the stack at `address` is one of the pod's own, else
    /// to `no`. Changes R0-R5.
    pub(super) fn own_v6(&mut self, address: i16, yes: Label, no: Label) {
        let more = self.a.label();
        let a = &mut self.a;
        a.note("table own_v6");
        a.load(Size::Dw, R2, Fp, stack::RECORD);
        a.load(Size::W, R3, R2, endpoint::OWN_FLAGS as i16);
        a.jump_if(Cond::Eq, R3, 0, no);
        for half in [8, 0] {
            a.load(Size::Dw, R4, Fp, address + half);
            a.load(Size::Dw, R5, R2, endpoint::OWN_V6 as i16 + half);
            a.jump_if(Cond::Ne, R4, R5, more);
        }
        // The address in the record counts only with its flag: without it, it may be half
        // overwritten.
        a.jump_if(Cond::Set, R3, endpoint::HAS_V6 as i32, yes);
        a.bind(more);
        a.alu(Alu::And, R3, endpoint::HAS_MORE as i32);
        a.jump_if(Cond::Eq, R3, 0, no);
        for word in [0, 4, 8, 12] {
            a.load(Size::W, R4, Fp, address + word);
            a.store(Size::W, Fp, stack::OWN + 4 + word, R4);
        }
        self.own_more(6, yes, no);
    }

    fn own_more(&mut self, family: i32, yes: Label, no: Label) {
        const { assert!(OWN_MORE_KEY == 20) };
        let a = &mut self.a;
        a.note("table own: further addresses");
        a.load(Size::Dw, R1, Fp, stack::ENDPOINT);
        a.alu(Alu::Or, R1, family << 16);
        a.store(Size::W, Fp, stack::OWN, R1);
        a.map(R1, MapId::OwnMore);
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, i32::from(stack::OWN));
        a.call(helper::MAP_LOOKUP);
        a.jump_if(Cond::Ne, R0, 0, yes);
        a.jump(no);
    }
}
