//! The two programs of a pod and the one of the node's other interfaces, generated as straight code: what `netpolc_target::semantics` says, over the tables that
//! [`crate::layout`] describes.
//!
//! ```text
//! entry     ifindex -> endpoint -> word                     (here)
//! parse     Ethernet, VLAN, IPv4, IPv6, layer 4             (parse, ipv4, ipv6)
//! guard     is it the pod's own, is it for the pod          (guard)
//! policy    remote -> class -> row -> verdict               (policy)
//! state     connection state: replies, openings             (lookup, entry)
//! fragment, icmp: the rare packets                          (fragment, icmp)
//! translated: packets to Services, after translation        (translated; in front of to_pod, too)
//! exits     allow, deny, refuse: counters, records          (exits)
//! ```
//!
//! One function for each hook, no calls but the kernel's helpers. IPv4 and IPv6 have their own copies of every step. Headers are read by direct packet access; where
//! that does not reach (a header outside the linear part, VLAN tags, extension headers, inner packets), by
//! `bpf_skb_load_bytes`, which never changes the packet.
//!
//! Index computations add disjoint bits and mask swapped bytes: verifiers of Linux 6.1 and before bound a sum, but neither a disjunction nor a byte swap.
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
mod parse;
mod policy;
mod translated;

#[cfg(feature = "measure")]
pub use measure::{Measure, Port, Stage, Vary};
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
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// Of the state tables' hashes.
    pub seed: u64,
    /// Of the kernel.
    pub clock: Clock,
}

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What a measurement leaves out or varies.
    #[cfg(feature = "measure")]
    pub measure: Measure,
    /// The bit of a packet's mark that says that its egress is still to be judged. All programs on a node must have the same.
    pub mark: u32,
    /// How a program knows that a socket of the node is on a packet.
    pub sockets: Sockets,
}

/// How a program knows that a socket of the node is on a packet (S44).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// By the packet: what enforces.
    #[default]
    Packet,
    /// By the first word of `cb`, which a test run can set: the kernel puts a socket on every packet of a
    /// test run, so that one without could not be asked about otherwise.
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
    /// Is everything generated? Less is only for measurements.
    fn is_whole(&self) -> bool {
        #[cfg(feature = "measure")]
        let whole = self.measure.stage == Stage::Full;
        #[cfg(not(feature = "measure"))]
        let whole = true;
        whole
    }
}

/// TCX_NEXT, TC_ACT_UNSPEC: the next program, or the stack.
pub const NEXT: i32 = -1;
/// TC_ACT_SHOT.
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

/// Helper functions; none is GPL-only.
mod helper {
    pub const MAP_LOOKUP: i32 = 1;
    pub const MAP_UPDATE: i32 = 2;
    pub const SKB_LOAD_BYTES: i32 = 26;
    pub const JIFFIES64: i32 = 118;
    pub const RINGBUF_OUTPUT: i32 = 130;
}

/// The stack, by offset from the frame pointer.
mod stack {
    /// u64: the endpoint's word, read once.
    pub const WORD: i16 = -8;
    /// The word's flags.
    pub const WORD_FLAGS: i16 = WORD + 4;
    /// u64: endpoint id.
    pub const ENDPOINT: i16 = -16;
    /// u64: address of the endpoint's record.
    pub const RECORD: i16 = -24;
    /// u64: bits of [`super::mark`].
    pub const MARKS: i16 = -32;
    /// u64: remote's class | incarnation << 16. Read as u16s, as above.
    pub const CLASS: i16 = -40;
    /// u64: event code.
    pub const EVENT: i16 = -48;
    /// u64: row of the port map.
    pub const PROTOCOL: i16 = -56;
    /// u64: where the IP packet ends, from the start of the frame. Read as a u32: the verifier then forgets what it knew of it.
    pub const END: i16 = -64;
    /// u64: who asks the state tables, see [`super::Asks`].
    pub const ASKS: i16 = -72;
    /// u64: hash of the tuple.
    pub const HASH: i16 = -80;
    /// u64: anything, within one step.
    pub const SPARE: i16 = -88;
    /// IPv6: remote address.
    pub const REMOTE: i16 = -120;
    /// IPv6: local address.
    pub const LOCAL: i16 = -104;
    /// 40 bytes for headers read by helper.
    pub const BUFFER: i16 = -160;
    /// 40 bytes: key of the fragment table.
    pub const FRAGMENT: i16 = -200;
    /// 8 bytes: value of the fragment table.
    pub const RECORDED: i16 = -208;
    /// 20 bytes (of 24): key of `own_more` or `service`.
    pub const OWN: i16 = -232;
    /// u64: IPv6, hop limit | fragment header seen << 8.
    pub const IPV6: i16 = -240;
    /// u64: anything, within one step.
    pub const SPARE2: i16 = -248;
    /// u64: races lost for a slot of the state tables.
    pub const LOST: i16 = -256;
    /// u64: address of the slot of the state tables that this packet has filled; 0: none.
    pub const MINE: i16 = -264;
    /// u64: the endpoint's word of `state`: places of the present and the previous table.
    pub const PLACES: i16 = -272;
    /// u64: number of the first bucket of the table that is being looked at.
    pub const FIRST: i16 = -280;
    /// u64: how many buckets it has, less 1.
    pub const MASK: i16 = -288;
    /// u32 each: slot of a chunk, bucket in it.
    pub const INDEX: i16 = -296;
    /// u64 each: address of the tuple's two buckets in the present table.
    pub const BUCKETS: [i16; 2] = [-304, -312];
}

/// Marks of a packet on its way.
mod mark {
    /// The source is not own, but may be an exception.
    pub const UNPROVEN: i32 = 1;
    /// A first fragment whose verdict is to be recorded.
    pub const FIRST: i32 = 2;
    /// Goes on to a Service: the packet's mark is set where it is permitted.
    pub const DEFER: i32 = 4;
    /// The pod's own packet, back from a Service (S47).
    pub const OWN: i32 = 8;
}

/// Who asks the state tables.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Asks {
    /// A packet that policy permits.
    Allowed = 0,
    /// One that it denies: is it a reply?
    Denied = 1,
    /// An ICMP error, about its inner packet.
    Error = 2,
}

/// Word flags that make openings keep state.
const KEEP: i32 = (Word::INGRESS | Word::EGRESS | Word::RECORD) as i32;

/// The direction's isolation flag.
fn isolation(hook: Hook) -> i32 {
    i32::from(match hook {
        Hook::ToPod => Word::INGRESS,
        Hook::FromPod | Hook::Translated => Word::EGRESS,
    })
}

/// A program being generated.
struct Generator<'a> {
    a: Asm,
    p: &'a Parameters,
    options: &'a Options,
    hook: Hook,
    /// Next, whatever else.
    next: Label,
    /// Next; a first fragment's verdict is recorded.
    allow: Label,
    /// Drop, counted; a first fragment's verdict is recorded. By reason.
    deny: Vec<Label>,
    /// Drop where the direction is isolated, else Next. By reason.
    refuse: Vec<Label>,
    /// Drop where the direction is isolated or guarded, else Next. By reason.
    refuse_early: Vec<Label>,
    /// What leads into a tunnel, of the family that is being parsed.
    tunnel: Label,
}

/// Generates the program of a hook.
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

    /// Loads the word's flags into R1.
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

    /// Goes to `label` where a socket of the node is on the packet. Changes `scratch`.
    fn if_socket(&mut self, label: Label, scratch: Reg) {
        match self.options.sockets {
            Sockets::Packet => self.a.load(Size::Dw, scratch, R6, ctx::SK),
            Sockets::Told => self.a.load(Size::W, scratch, R6, ctx::CB),
        }
        self.a.jump_if(Cond::Ne, scratch, 0, label);
    }

    /// Goes to `yes` where the packet came in by the endpoint's own interface, else to `no`. Changes R1, R2, R7.
    fn own_traffic(&mut self, yes: Label, no: Label) {
        self.a.note("own traffic?");
        self.a.load(Size::W, R7, R6, ctx::INGRESS_IFINDEX);
        self.endpoint(no);
        self.a.load(Size::Dw, R1, Fp, stack::ENDPOINT);
        self.a.jump_if(Cond::Eq, R1, R7, yes);
        self.a.jump(no);
    }

    /// Goes to `label` where the hook is the pod's and nothing guards its packets. Changes R1.
    fn if_unguarded(&mut self, label: Label) {
        self.word_flags();
        self.a.alu(Alu::And, R1, i32::from(Word::GUARD | Word::EGRESS));
        self.a.jump_if(Cond::Eq, R1, 0, label);
    }

    /// Are there steps that only a pod's own hook has?
    fn guards(&self) -> bool {
        self.hook == Hook::FromPod && self.options.is_whole()
    }

    /// Goes to `label` where the hook's direction is not isolated. Changes R1.
    fn if_open(&mut self, label: Label) {
        self.word_flags();
        self.a.alu(Alu::And, R1, isolation(self.hook));
        self.a.jump_if(Cond::Eq, R1, 0, label);
    }

    /// Makes the verifier forget all that it knows of `reg` but that it is at most `most` (one less than a power of two), which must
    /// be true: what comes after is then followed once, and not once for each value or way to here. Changes R1, R2.
    fn forget(&mut self, reg: Reg, most: i32) {
        let a = &mut self.a;
        a.load(Size::W, R1, R6, ctx::LEN);
        a.load(Size::W, R2, R6, ctx::LEN);
        a.alu(Alu::Sub, R1, R2); // 0, but the verifier does not see it
        a.alu(Alu::Add, reg, R1);
        a.alu(Alu::And, reg, most);
    }

    /// Leaves now, in ticks, in R0. Changes R1-R5.
    fn now(&mut self) {
        self.a.note("clock");
        self.a.call(helper::JIFFIES64);
        self.a.map_value(R1, MapId::Config, config::TIME_OFFSET);
        self.a.load(Size::Dw, R1, R1, 0);
        self.a.alu(Alu::Add, R0, R1);
        self.a.alu(Alu::Rsh, R0, self.p.clock.shift() as i32);
        self.a.alu32(Alu::Mov, R0, R0);
    }

    /// R7: an interface's index -> its endpoint; goes to `none` where it has none. Changes R1, R2.
    fn endpoint(&mut self, none: Label) {
        let (a, c) = (&mut self.a, &self.p.capacities);
        a.note("table interface: ifindex -> endpoint");
        // Compared, not masked: a mask would let one interface act as another.
        a.mov(R1, R7);
        a.alu(Alu::Rsh, R1, 24);
        a.jump_if(Cond::Ne, R1, 0, none);
        a.mov(R1, R7);
        a.alu(Alu::Rsh, R1, 8);
        a.alu(Alu::And, R1, 0xffff); // changes nothing; the verifier knows it then
        a.alu(Alu::Lsh, R1, 1);
        a.map_value(R2, MapId::InterfaceDir, 0);
        a.alu(Alu::Add, R2, R1);
        a.load(Size::H, R1, R2, 0);
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

    /// R7: an endpoint -> R3: its word; puts what the steps want to know onto the stack. Changes R2.
    fn word(&mut self) {
        let (a, c) = (&mut self.a, &self.p.capacities);
        a.note("table endpoint: endpoint -> word");
        a.alu(Alu::And, R7, c.endpoints as i32 - 1);
        a.store(Size::Dw, Fp, stack::ENDPOINT, R7);
        a.alu(Alu::Lsh, R7, endpoint::SIZE.ilog2() as i32);
        a.map_value(R2, MapId::Endpoint, 0);
        a.alu(Alu::Add, R2, R7);
        a.store(Size::Dw, Fp, stack::RECORD, R2);
        a.load(Size::Dw, R3, R2, endpoint::WORD as i16);
        a.store(Size::Dw, Fp, stack::WORD, R3);
        a.store(Size::Dw, Fp, stack::MARKS, 0);
    }

    /// From the interface to the endpoint's word. A packet of a pod that no policy selects goes no further.
    fn entry(&mut self) {
        let (full, hook) = (self.options.is_whole(), self.hook);
        let next = self.next;
        let a = &mut self.a;
        a.note("entry");
        if !full {
            // The parser reads flags and endpoint only in rare cases; both directions isolated, as in the full program.
            a.imm64(R3, u64::from(Word::INGRESS | Word::EGRESS) << endpoint::FLAGS_SHIFT);
            a.store(Size::Dw, Fp, stack::WORD, R3);
            a.store(Size::Dw, Fp, stack::ENDPOINT, 0);
            a.map_value(R2, MapId::Endpoint, 0);
            a.store(Size::Dw, Fp, stack::RECORD, R2);
            a.store(Size::Dw, Fp, stack::MARKS, 0);
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
            // A pod on a bridge sees frames that are for others (S55).
            let kept = a.label();
            a.jump_if(Cond::Ne, R3, 0, kept);
            self.if_unbridged(next);
            self.a.bind(kept);
        } else {
            a.jump_if(Cond::Eq, R3, 0, next);
        }
    }
}
