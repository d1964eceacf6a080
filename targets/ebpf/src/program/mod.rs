//! Generates the two programs of a pod's interface and the one of the node's other interfaces: what
//! `netpolc_target::semantics` says, as straight code over the tables that [`crate::layout`]
//! describes.
//!
//! ```text
//! entry     ifindex -> endpoint -> word                     (here)
//! parse     Ethernet, VLAN, IPv4, IPv6, layer 4             (parse, ipv4, ipv6)
//! guard     is it the pod's own, is it for the pod          (guard)
//! policy    remote -> class -> row -> verdict               (policy)
//! compare   would what is only tried answer otherwise?      (compare)
//! state     connection state: replies, openings             (lookup, entry)
//! fragment, icmp: the rare packets                          (fragment, icmp)
//! translated: packets to Services, after translation        (translated; in front of to_pod, too)
//! exits     allow, deny, refuse: counters                   (exits)
//! note      counters and records of packets                 (note)
//! ```
//! Each hook is one function that calls nothing but the kernel's helpers. IPv4 and IPv6 have their
//! own copies of every step. Headers are read by direct packet access. Where that does not reach (a
//! header outside the linear part, VLAN tags, extension headers, inner packets), they are read by
//! `bpf_skb_load_bytes`, which never changes the packet.
//!
//! Much of the code looks roundabout because of the verifier. Two rules explain most of it:
//!
//! - Indices are sums of disjoint bits and masks of swapped bytes, because verifiers of Linux 6.1
//!   and before bound a sum, but neither a disjunction nor a byte swap.
//! - The verifier follows code once for each state that it distinguishes, up to a million
//!   instructions. Where many ways meet, values are therefore made unknown to it
//!   (`Generator::forget`, `Asm::peek`, constants read from a map), so that it follows the rest
//!   once.
//!
//! Not here: attaching and loading (`attach`, `loader`), and what the maps hold
//! ([`crate::layout`]).
//!
//! # Registers from the policy stage on
//!
//! | register | IPv4 | IPv6 |
//! |---|---|---|
//! | R6 | context | context |
//! | R7 | offset of layer 4; in the state stage: now, in ticks | the same |
//! | R8 | local port, remote port << 16 (as in the packet), protocol << 32 | the same |
//! | R9 | remote address, local address << 32 (as in the packet) | (on the stack) |
//! | R0-R5 | scratch | scratch |

mod compare;
mod entry;
mod exits;
mod fragment;
mod guard;
mod icmp;
mod ipv4;
mod ipv6;
mod lookup;
#[cfg(feature = "measure")]
mod measure;
mod note;
mod parse;
mod policy;
mod translated;

#[cfg(feature = "measure")]
pub use measure::{Measure, Port, Records, Stage, Vary};
use netpolc_table::schema::Word;
use netpolc_target::{
    Hook,
    semantics::{DEFERRED_MARK, DropReason},
};

use crate::{
    asm::{
        Alu, Asm, AsmError, Code, Cond, Label,
        Reg::{self, *},
        Size,
    },
    layout::{Capacities, Clock, MapId, config, endpoint},
};

/// What is fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The sizes of the maps, which the code contains as masks and shifts.
    pub capacities: Capacities,
    /// The number that is mixed into the hashes of connections and IPv6 addresses.
    pub seed: u64,
    /// The kernel's jiffies per second, by which time becomes ticks.
    pub clock: Clock,
}

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What a measurement leaves out of the program, or varies.
    #[cfg(feature = "measure")]
    pub measure: Measure,
    /// The bit of a packet's mark that says that its egress is still to be judged. All programs on
    /// a node must use the same bit.
    pub mark: u32,
    /// How a program learns whether a socket of the node is on a packet.
    pub sockets: Sockets,
}

/// How a program learns whether a socket of the node is on a packet (S44).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// From the packet itself. Programs that enforce use this.
    #[default]
    Packet,
    /// From the first word of `cb`, which a test run can set. The kernel puts a socket on every
    /// packet of a test run, so that a query about a packet without one is possible only this way.
    Told,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            #[cfg(feature = "measure")]
            measure: Measure::default(),
            mark: DEFERRED_MARK,
            sockets: Sockets::Packet,
        }
    }
}

impl Options {
    /// Whether packets are recorded, as always but in measurements.
    fn records(&self) -> bool {
        #[cfg(feature = "measure")]
        let records = self.measure.records == Records::Kept;
        #[cfg(not(feature = "measure"))]
        let records = true;
        records
    }

    /// Whether the whole program is generated, as always but in measurements.
    fn is_whole(&self) -> bool {
        #[cfg(feature = "measure")]
        let whole = self.measure.stage == Stage::Full;
        #[cfg(not(feature = "measure"))]
        let whole = true;
        whole
    }
}

/// The return value that passes a packet on to the next program, or to the stack: `TCX_NEXT`, which
/// equals `TC_ACT_UNSPEC`.
pub const NEXT: i32 = -1;
/// The return value that drops a packet: `TC_ACT_SHOT`.
pub const SHOT: i32 = 2;

/// Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h).
mod ctx {
    pub const LEN: i16 = 0;
    pub const MARK: i16 = 8;
    pub const INGRESS_IFINDEX: i16 = 36;
    pub const IFINDEX: i16 = 40;
    pub const CB: i16 = 48;
    pub const DATA: i16 = 76;
    pub const DATA_END: i16 = 80;
    pub const SK: i16 = 168;
}

/// The numbers of the kernel's helpers that programs call; none is GPL-only.
mod helper {
    pub const MAP_LOOKUP: i32 = 1;
    pub const MAP_UPDATE: i32 = 2;
    pub const SKB_LOAD_BYTES: i32 = 26;
    pub const JIFFIES64: i32 = 118;
    pub const KTIME_GET_NS: i32 = 5;
    pub const RINGBUF_OUTPUT: i32 = 130;
    pub const RINGBUF_RESERVE: i32 = 131;
    pub const RINGBUF_SUBMIT: i32 = 132;
}

/// The stack, by offset from the frame pointer.
mod stack {
    /// u64: the endpoint's word, read once.
    pub const WORD: i16 = -8;
    /// u8: the flags in the endpoint's word.
    pub const WORD_FLAGS: i16 = WORD + 4;
    /// u64: the endpoint's id.
    pub const ENDPOINT: i16 = -16;
    /// u64: the address of the endpoint's record.
    pub const RECORD: i16 = -24;
    /// u64: the bits of [`super::mark`], and above them the key of the map `compared`.
    pub const MARKS: i16 = -32;
    /// u32: that key, where [`super::mark::WOULD_DENY`] or [`super::mark::WOULD_PERMIT`] is set.
    pub const COMPARED: i16 = MARKS + 4;
    /// u64: the remote's class | incarnation << 16. Read as two u16.
    pub const CLASS: i16 = -40;
    /// u64: the event code ([`crate::layout::config::code`]).
    pub const EVENT: i16 = -48;
    /// u64: the protocol's word ([`crate::layout::config::asked::Of`]).
    pub const PROTOCOL: i16 = -56;
    /// u64: where the IP packet ends, from the start of the frame. Read as a u32, so that the
    /// verifier forgets what it knew of it.
    pub const END: i16 = -64;
    /// u64: why the state tables are asked ([`super::Asks`]).
    pub const ASKS: i16 = -72;
    /// u64: the hash of the tuple.
    pub const HASH: i16 = -80;
    /// u64: scratch space, within one step.
    pub const SPARE: i16 = -88;
    /// 16 bytes, IPv6 only: the remote address.
    pub const REMOTE: i16 = -120;
    /// 16 bytes, IPv6 only: the local address.
    pub const LOCAL: i16 = -104;
    /// 40 bytes: headers that a helper has read.
    pub const BUFFER: i16 = -160;
    /// 40 bytes: the key of the fragment table.
    pub const FRAGMENT: i16 = -200;
    /// 8 bytes: the value of the fragment table.
    pub const RECORDED: i16 = -208;
    /// 20 bytes (of 24): the key of `own_more` or `service`.
    pub const OWN: i16 = -232;
    /// u64, IPv6 only: the hop limit, and the bits of [`super::ipv6::seen`].
    pub const IPV6: i16 = -240;
    /// u64: scratch space, within one step.
    pub const SPARE2: i16 = -248;
    /// u64: how many races for a slot of the state tables this packet has lost.
    pub const LOST: i16 = -256;
    /// u64: the address of the slot of the state tables that this packet has filled; 0 where it has
    /// filled none.
    pub const MINE: i16 = -264;
    /// u64: the endpoint's word of `state`: places of the present and the previous table.
    pub const PLACES: i16 = -272;
    /// u64: the number of the first bucket of the table that is being searched.
    pub const FIRST: i16 = -280;
    /// u64: one less than the number of its buckets.
    pub const MASK: i16 = -288;
    /// u32 each: the slot of a chunk, and a bucket in it.
    pub const INDEX: i16 = -296;
    /// u64 each: the addresses of the tuple's two buckets in the present table.
    pub const BUCKETS: [i16; 2] = [-304, -312];
}

/// What is noted of a packet on its way through the program. Not the kernel's mark of the packet.
mod mark {
    /// The source is not the pod's own, but may be one of the exceptions (S55).
    pub const UNPROVEN: i32 = 1;
    /// The packet is a first fragment whose verdict is to be recorded.
    pub const FIRST: i32 = 2;
    /// The packet goes on to a Service: its mark is set where it is permitted.
    pub const DEFER: i32 = 4;
    /// The packet is the pod's own, back from a Service (S47).
    pub const OWN: i32 = 8;
    /// The packet is a datagram that is permitted, unless it is an answer, and that what is only
    /// tried would deny (S85).
    pub const WOULD_DENY: i32 = 16;
    /// The packet is a datagram that the tables deny, and that what is only tried would permit.
    pub const WOULD_PERMIT: i32 = 32;
    /// The packet opens a connection, if it is permitted (S87).
    pub const OPENED: i32 = 64;
}

/// Why the state tables are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Asks {
    /// For a packet that the tables permit: is an entry to be made or refreshed?
    Allowed = 0,
    /// For a packet that the tables deny: is it a reply?
    Denied = 1,
    /// For an ICMP error: does its inner packet belong to a permitted connection?
    Error = 2,
    /// For a permitted datagram that needs no entry: is it an answer? (S85)
    Compared = 3,
}

/// The flags of a word with which openings keep state.
const KEEP: i32 = (Word::INGRESS | Word::EGRESS | Word::RECORD | Word::TRIED) as i32;

/// The flag that says whether something is only tried in the direction of a hook.
fn trial(hook: Hook) -> i32 {
    i32::from(match hook {
        Hook::ToPod => Word::TRIED_INGRESS,
        Hook::FromPod | Hook::Translated => Word::TRIED_EGRESS,
    })
}

/// The flag that says whether the direction of a hook is isolated.
fn isolation(hook: Hook) -> i32 {
    i32::from(match hook {
        Hook::ToPod => Word::INGRESS,
        Hook::FromPod | Hook::Translated => Word::EGRESS,
    })
}

/// A program that is being generated, with the exits that every step may jump to.
struct Generator<'a> {
    a: Asm,
    p: &'a Parameters,
    options: &'a Options,
    hook: Hook,
    /// Next, without a record.
    next: Label,
    /// Next, with the record and the mark that are due.
    allow: Label,
    /// By reason: Drop, counted, with the record that is due.
    deny: Vec<Label>,
    /// By reason: Drop where the direction is isolated, else Next.
    refuse: Vec<Label>,
    /// By reason: Drop where the direction is isolated or guarded, else Next.
    refuse_early: Vec<Label>,
    /// What to do with a packet that leads into a tunnel; each family has its own.
    tunnel: Label,
}

/// Generates the program of a hook.
///
/// # Errors
/// An error where the code cannot be assembled, which is a mistake of the generator.
pub fn generate(hook: Hook, parameters: &Parameters, options: &Options) -> Result<Code, AsmError> {
    let mut g = Generator::new(Asm::new(), hook, parameters, options);
    let (judged, marked) = (g.a.label(), g.a.label());
    #[cfg(feature = "measure")]
    if options.measure.stage == Stage::Empty {
        return g.nothing();
    }
    match (hook, options.is_whole()) {
        (Hook::Translated, _) => {
            g.translated_first(marked);
            g.a.bind(judged);
            g.a.mov(R0, NEXT);
            g.a.exit();
            g.translated(marked, judged);
            return g.a.finish();
        }
        // A packet to a pod may come from another pod by way of a Service without leaving the node.
        // The steps of `translated` therefore come first.
        (Hook::ToPod, true) => {
            g.translated_first(marked);
            g.a.bind(judged);
            g.entry();
            g.parse();
            g.exits();
            g.translated(marked, judged);
            return g.a.finish();
        }
        _ => {
            g.a.note("context");
            g.a.mov(R6, R1);
            g.entry();
            g.parse();
        }
    }
    g.exits();
    g.a.finish()
}

impl<'a> Generator<'a> {
    fn new(mut a: Asm, hook: Hook, p: &'a Parameters, options: &'a Options) -> Self {
        let (next, allow, tunnel) = (a.label(), a.label(), a.label());
        let mut labels = || DropReason::ALL.iter().map(|_| a.label()).collect::<Vec<_>>();
        let (deny, refuse, refuse_early) = (labels(), labels(), labels());
        Self { a, p, options, hook, next, allow, deny, refuse, refuse_early, tunnel }
    }
}

impl Generator<'_> {
    fn deny(&self, reason: DropReason) -> Label {
        self.deny[reason as usize]
    }

    fn refuse(&self, reason: DropReason) -> Label {
        self.refuse[reason as usize]
    }

    fn refuse_early(&self, reason: DropReason) -> Label {
        self.refuse_early[reason as usize]
    }

    /// R1 = the flags of the endpoint's word.
    fn word_flags(&mut self) {
        self.a.load(Size::B, R1, Fp, stack::WORD_FLAGS);
    }

    /// Goes to `label` where the packet was born on this node (S44). Changes R1.
    fn if_born(&mut self, label: Label) {
        if self.hook == Hook::ToPod {
            let forwarded = self.a.label();
            self.a.load(Size::W, R1, R6, ctx::INGRESS_IFINDEX);
            self.a.jump_if(Cond::Ne, R1, 0, forwarded);
            self.if_socket(label, R1);
            self.a.bind(forwarded);
        }
    }

    /// Goes to `exempt` where the packet was born on this node and nobody judges it (S44). A packet
    /// that is born and gated (S82) runs on like any other, with the born set in the place of the
    /// ingress set. Changes R1.
    fn if_exempt(&mut self, exempt: Label) {
        if self.hook == Hook::ToPod {
            let other = self.a.label();
            self.a.load(Size::W, R1, R6, ctx::INGRESS_IFINDEX);
            self.a.jump_if(Cond::Ne, R1, 0, other);
            self.socket(R1);
            self.a.jump_if(Cond::Eq, R1, 0, other);
            self.born_set(R1, exempt);
            self.a.bind(other);
        }
    }

    /// Puts the word's born set into the place of its ingress set, in the copy on the stack alone.
    /// Goes to `none` where the word has no born set. Changes `scratch`.
    fn born_set(&mut self, scratch: Reg, none: Label) {
        let a = &mut self.a;
        a.note("the set of what is born on the node");
        a.load(Size::Dw, scratch, Fp, stack::WORD);
        a.alu(Alu::Rsh, scratch, endpoint::BORN_SHIFT as i32);
        a.jump_if(Cond::Eq, scratch, 0, none);
        a.store(Size::H, Fp, stack::WORD, scratch);
    }

    /// Goes to `label` where a socket of the node is on the packet. Changes `scratch`.
    fn if_socket(&mut self, label: Label, scratch: Reg) {
        self.socket(scratch);
        self.a.jump_if(Cond::Ne, scratch, 0, label);
    }

    /// `to` = the socket of the node that is on the packet; 0 where there is none.
    fn socket(&mut self, to: Reg) {
        match self.options.sockets {
            Sockets::Packet => self.a.load(Size::Dw, to, R6, ctx::SK),
            Sockets::Told => self.a.load(Size::W, to, R6, ctx::CB),
        }
    }

    /// Goes to `yes` where the packet came in by an interface of the endpoint itself (S47), else to
    /// `no`. Changes R1, R2, R7.
    fn own_traffic(&mut self, yes: Label, no: Label) {
        self.a.note("own traffic?");
        self.a.load(Size::W, R7, R6, ctx::INGRESS_IFINDEX);
        self.endpoint(no);
        self.a.load(Size::Dw, R1, Fp, stack::ENDPOINT);
        self.a.jump_if(Cond::Eq, R1, R7, yes);
        self.a.jump(no);
    }

    /// Goes to `label` where nothing guards the pod's packets. Changes R1.
    fn if_unguarded(&mut self, label: Label) {
        self.word_flags();
        self.a.alu(Alu::And, R1, i32::from(Word::GUARD | Word::EGRESS));
        self.a.jump_if(Cond::Eq, R1, 0, label);
    }

    /// Whether the program has the steps that guard what a pod sends.
    fn guards(&self) -> bool {
        self.hook == Hook::FromPod && self.options.is_whole()
    }

    /// Goes to `label` where the hook's direction is not isolated. Changes R1.
    fn if_open(&mut self, label: Label) {
        self.word_flags();
        self.a.alu(Alu::And, R1, isolation(self.hook));
        self.a.jump_if(Cond::Eq, R1, 0, label);
    }

    /// Makes the verifier forget all that it knows of `reg`, except that it is at most `most` (one
    /// less than a power of two), which must be true. It then follows the code behind once, and not
    /// once for each value or way that leads here. Changes R1, R2.
    fn forget(&mut self, reg: Reg, most: i32) {
        let a = &mut self.a;
        a.load(Size::W, R1, R6, ctx::LEN);
        a.load(Size::W, R2, R6, ctx::LEN);
        // Always 0. The verifier does not know that both loads give the same, so that the sum may
        // be anything, until the mask bounds it.
        a.alu(Alu::Sub, R1, R2);
        a.alu(Alu::Add, reg, R1);
        a.alu(Alu::And, reg, most);
    }

    /// R0 = the time in ticks. Changes R1-R5.
    fn now(&mut self) {
        self.a.note("clock");
        self.a.call(helper::JIFFIES64);
        self.a.map_value(R1, MapId::Config, config::TIME_OFFSET);
        self.a.load(Size::Dw, R1, R1, 0);
        self.a.alu(Alu::Add, R0, R1);
        self.a.alu(Alu::Rsh, R0, self.p.clock.shift() as i32);
        // Time in entries has 32 bits.
        self.a.alu32(Alu::Mov, R0, R0);
    }

    /// R7 = the endpoint of the interface whose index is in R7. Goes to `none` where it has none.
    /// Changes R1, R2.
    fn endpoint(&mut self, none: Label) {
        let (a, c) = (&mut self.a, &self.p.capacities);
        a.note("table interface: ifindex -> endpoint");
        // An index beyond the directory is compared and not masked: a mask would let one interface
        // act as another.
        a.mov(R1, R7);
        a.alu(Alu::Rsh, R1, 24);
        a.jump_if(Cond::Ne, R1, 0, none);
        a.mov(R1, R7);
        a.alu(Alu::Rsh, R1, 8);
        a.alu(Alu::And, R1, 0xffff); // Changes nothing, but tells the verifier the bound.
        a.alu(Alu::Lsh, R1, 1);
        a.map_value(R2, MapId::InterfaceDir, 0);
        a.alu(Alu::Add, R2, R1);
        a.load(Size::H, R1, R2, 0);
        // The mask changes nothing, since user space stores no block beyond the capacity. Where
        // there is no block the directory says 0, and block 0 holds zeros.
        a.alu(Alu::And, R1, c.interface_blocks as i32 - 1);
        a.alu(Alu::Lsh, R1, 8);
        a.alu(Alu::And, R7, 255);
        a.alu(Alu::Add, R1, R7);
        a.alu(Alu::Lsh, R1, 1);
        a.map_value(R2, MapId::InterfaceBlock, 0);
        a.alu(Alu::Add, R2, R1);
        a.load(Size::H, R7, R2, 0);
        a.jump_if(Cond::Eq, R7, 0, none);
    }

    /// R3 = the word of the endpoint in R7. Puts what later steps need onto the stack. Changes R1,
    /// R2.
    fn word(&mut self) {
        let (a, c) = (&mut self.a, &self.p.capacities);
        a.note("table endpoint: endpoint -> word");
        a.alu(Alu::And, R7, c.endpoints as i32 - 1);
        a.store(Size::Dw, Fp, stack::ENDPOINT, R7);
        a.alu(Alu::Lsh, R7, endpoint::SIZE.ilog2() as i32);
        a.map_value(R2, MapId::Endpoint, 0);
        a.alu(Alu::Add, R2, R7);
        a.store(Size::Dw, Fp, stack::RECORD, R2);
        // The word is read once: an update that changes it meanwhile must not let a packet see the
        // sets of one word and the flags of another.
        a.load(Size::Dw, R3, R2, endpoint::WORD as i16);
        a.store(Size::Dw, Fp, stack::WORD, R3);
        // 0, which the verifier must not know: it would follow the judgement once for packets with
        // marks of the comparison and once for the others.
        a.mov(R1, R3);
        a.alu(Alu::Rsh, R1, 56);
        a.store(Size::Dw, Fp, stack::MARKS, R1);
        a.store(Size::Dw, Fp, stack::CLASS, R1);
    }

    /// From the interface to the endpoint's word. A packet goes on at once where the pod neither
    /// keeps state nor is guarded.
    fn entry(&mut self) {
        let (full, hook) = (self.options.is_whole(), self.hook);
        let next = self.next;
        let a = &mut self.a;
        a.note("entry");
        if !full {
            // A measurement of the parser alone. It reads flags and endpoint in rare cases only;
            // both directions are isolated, so that no packet leaves early.
            a.imm64(R3, u64::from(Word::INGRESS | Word::EGRESS) << endpoint::FLAGS_SHIFT);
            a.store(Size::Dw, Fp, stack::WORD, R3);
            a.store(Size::Dw, Fp, stack::ENDPOINT, 0);
            a.map_value(R2, MapId::Endpoint, 0);
            a.store(Size::Dw, Fp, stack::RECORD, R2);
            a.store(Size::Dw, Fp, stack::MARKS, 0);
            a.store(Size::Dw, Fp, stack::CLASS, 0);
            return;
        }
        a.load(Size::W, R7, R6, ctx::IFINDEX);
        self.endpoint(next);
        self.word();
        self.hardware();
        let a = &mut self.a;
        a.alu(Alu::Rsh, R3, endpoint::FLAGS_SHIFT as i32);
        let guard = if hook == Hook::FromPod { i32::from(Word::GUARD) } else { 0 };
        a.alu(Alu::And, R3, KEEP | guard);
        if hook == Hook::ToPod {
            // A pod on a bridge sees frames that are for others (S55), which are dropped even where
            // the pod is not isolated.
            let kept = a.label();
            a.jump_if(Cond::Ne, R3, 0, kept);
            self.if_unbridged(next);
            self.a.bind(kept);
        } else {
            a.jump_if(Cond::Eq, R3, 0, next);
        }
    }
}
