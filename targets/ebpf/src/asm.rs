//! A typed eBPF assembler: registers, labels, symbolic maps, and notes that become line info.
//!
//! Not here: what is generated (`program`), how it is printed (`disasm`) and packed for the loader
//! (`elf`). Encodings: Documentation/bpf/standardization/instruction-set.rst of the kernel.

use crate::layout::MapId;

/// A register. R1-R5 do not survive a helper call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    /// The frame pointer, read-only.
    Fp,
}

impl Reg {
    /// The register with this number; numbers beyond 10 mean the frame pointer.
    pub(crate) fn of(number: u8) -> Self {
        use Reg::*;
        [R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Fp][usize::from(number.min(10))]
    }
}

/// Width of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 bytes.
    W = 0x00,
    /// 2 bytes.
    H = 0x08,
    /// 1 byte.
    B = 0x10,
    /// 8 bytes.
    Dw = 0x18,
}

/// An arithmetic operation, by its bits in the operation code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Or = 0x40,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Xor = 0xa0,
    Mov = 0xb0,
    /// Shifts right and repeats the sign.
    Arsh = 0xc0,
}

/// The condition of a jump. Comparisons are unsigned where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cond {
    /// `==`
    Eq = 0x10,
    /// `>`
    Gt = 0x20,
    /// `>=`
    Ge = 0x30,
    /// `& != 0`
    Set = 0x40,
    /// `!=`
    Ne = 0x50,
    /// `>`, signed
    SGt = 0x60,
    /// `>=`, signed
    SGe = 0x70,
    /// `<`
    Lt = 0xa0,
    /// `<=`
    Le = 0xb0,
    /// `<=`, signed
    SLe = 0xd0,
}

/// The second operand. A constant is sign-extended to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Src {
    K(i32),
    R(Reg),
}
impl From<i32> for Src {
    fn from(k: i32) -> Self {
        Src::K(k)
    }
}
impl From<Reg> for Src {
    fn from(r: Reg) -> Self {
        Src::R(r)
    }
}

/// A place in the code to jump to. It may be used before it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A map that an instruction refers to. Its descriptor is filled in when the code becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapRef {
    /// One of the maps that the layout describes.
    Table(MapId),
    /// A map of a benchmark's own, by a number that the benchmark chooses.
    Extra(u8),
}
impl From<MapId> for MapRef {
    fn from(map: MapId) -> Self {
        MapRef::Table(map)
    }
}

/// The first slot of a two-slot load, beyond a plain constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapUse {
    /// The map itself, for helpers (BPF_PSEUDO_MAP_FD).
    Map(MapRef),
    /// The address of a one-element array's value (BPF_PSEUDO_MAP_VALUE); the offset is in the
    /// second slot.
    Value(MapRef),
}

/// One 8-byte slot of code. A two-slot load takes two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insn {
    /// The operation code.
    pub code: u8,
    /// The registers: dst | src << 4.
    pub regs: u8,
    /// The distance of a jump in slots, or the offset of an address in bytes.
    pub off: i16,
    /// The constant operand.
    pub imm: i32,
    /// The map whose descriptor takes the place of `imm`; None in all instructions but loads of
    /// maps.
    pub map: Option<MapUse>,
}

/// From instruction `insn` on, the code belongs to `text`; `line` is the step's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Index of a slot, never the second one of a two-slot load.
    pub insn: u32,
    /// Rising with the order of notes as written, so that a log can be found in a listing.
    pub line: u32,
    /// The name of the table or step.
    pub text: String,
}

/// A finished program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// All slots of the program.
    pub insns: Vec<Insn>,
    /// The notes in order, of which the first is at slot 0.
    pub notes: Vec<Note>,
}

impl Code {
    /// The program as the kernel takes it, with the maps' descriptors filled in.
    pub fn bytes(&self, descriptor: impl Fn(MapRef) -> i32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.insns.len() * 8);
        for i in &self.insns {
            let imm = match i.map {
                Some(MapUse::Map(map) | MapUse::Value(map)) => descriptor(map),
                None => i.imm,
            };
            bytes.extend([i.code, i.regs]);
            bytes.extend(i.off.to_le_bytes());
            bytes.extend(imm.to_le_bytes());
        }
        bytes
    }

    /// The note that slot `insn` belongs to; None before the first note.
    pub fn note_of(&self, insn: u32) -> Option<&Note> {
        self.notes.iter().rev().find(|n| n.insn <= insn)
    }

    /// The maps that the program uses, each once, in the order of [`MapRef`].
    pub fn maps(&self) -> Vec<MapRef> {
        let uses =
            self.insns.iter().filter_map(|i| i.map.map(|(MapUse::Map(m) | MapUse::Value(m))| m));
        uses.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }
}

/// Why code cannot be assembled. Each case is a mistake of the generator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AsmError {
    /// A label that a jump goes to was never bound.
    #[error("the jump at instruction {at} ({note}) goes to a label that was never bound")]
    Unbound {
        /// The slot of the jump.
        at: usize,
        /// The note that the jump belongs to.
        note: String,
    },
    /// A jump goes further than the 32,767 slots that its field can hold.
    #[error("the jump at instruction {at} ({note}) is too far: {distance}")]
    TooFar {
        /// The slot of the jump.
        at: usize,
        /// The note that the jump belongs to.
        note: String,
        /// The distance in slots.
        distance: i64,
    },
}

/// Code under construction.
#[derive(Debug, Default)]
pub struct Asm {
    insns: Vec<Insn>,
    labels: Vec<Option<usize>>,
    fixups: Vec<(usize, Label)>,
    notes: Vec<Note>,
    lines: u32,
}

impl Asm {
    /// Begins an empty program.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, code: u8, dst: Reg, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn { code, regs: dst as u8 | src << 4, off, imm, map: None });
    }

    fn with_src(&mut self, code: u8, dst: Reg, src: Src, off: i16) {
        match src {
            Src::K(k) => self.push(code, dst, 0, off, k),
            Src::R(r) => self.push(code | 0x08, dst, r as u8, off, 0),
        }
    }

    /// Names the table or step that the following instructions come from.
    pub fn note(&mut self, text: impl Into<String>) {
        self.lines += 1;
        let (insn, line, text) = (self.insns.len() as u32, self.lines, text.into());
        match self.notes.last_mut() {
            Some(last) if last.insn == insn => *last = Note { insn, line, text },
            _ => self.notes.push(Note { insn, line, text }),
        }
    }

    /// A new label, to be bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Binds a label to the next instruction. Panics where it is bound already.
    pub fn bind(&mut self, label: Label) {
        assert!(self.labels[label.0].replace(self.insns.len()).is_none(), "label bound twice");
    }

    /// A new label, bound here.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Whether any jump goes to this label. The verifier refuses a program with a block that
    /// nothing reaches, so that blocks are generated only where they are used.
    pub fn used(&self, label: Label) -> bool {
        self.fixups.iter().any(|(_, l)| *l == label)
    }

    /// `dst = dst op src`, 64 bits.
    pub fn alu(&mut self, op: Alu, dst: Reg, src: impl Into<Src>) {
        self.with_src(0x07 | op as u8, dst, src.into(), 0);
    }

    /// As [`Asm::alu`] on the low 32 bits; the upper half of `dst` becomes zero.
    pub fn alu32(&mut self, op: Alu, dst: Reg, src: impl Into<Src>) {
        self.with_src(0x04 | op as u8, dst, src.into(), 0);
    }

    /// `dst = src`.
    pub fn mov(&mut self, dst: Reg, src: impl Into<Src>) {
        self.alu(Alu::Mov, dst, src);
    }

    /// Converts the big-endian value in the low `bits` (16, 32, 64) of `dst` to host order, or
    /// back, and clears the upper bits.
    pub fn swap(&mut self, dst: Reg, bits: i32) {
        self.push(0xdc, dst, 0, 0, bits);
    }

    /// As [`Asm::swap`] of 16 bits, for an index. The mask changes nothing, but verifiers of Linux
    /// 6.1 and before know no bound of a swapped value without it.
    pub fn swap_index(&mut self, dst: Reg) {
        self.swap(dst, 16);
        self.alu(Alu::And, dst, 0xffff);
    }

    /// `dst = *(base + off)`, zero-extended.
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.push(0x61 | size as u8, dst, base as u8, off, 0);
    }

    /// Loads a word from the stack to branch by it. The exclusive or with 0 makes it another value
    /// for the verifier. Otherwise each branch would tell the verifier something about the word on
    /// the stack, and it would follow all code behind once for each case.
    pub fn peek(&mut self, dst: Reg, off: i16) {
        self.load(Size::Dw, dst, Reg::Fp, off);
        self.alu(Alu::Xor, dst, 0);
    }

    /// `*(base + off) = src`.
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: impl Into<Src>) {
        match src.into() {
            Src::K(k) => self.push(0x62 | size as u8, base, 0, off, k),
            Src::R(r) => self.push(0x63 | size as u8, base, r as u8, off, 0),
        }
    }

    /// `*(u64 *)(base + off) += src`, atomically.
    pub fn atomic_add(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(0xdb, base, src as u8, off, 0);
    }

    /// Compares the u64 at `base + off` with R0, and stores `src` there where they are equal,
    /// atomically. R0 becomes what was there. Needs Linux 5.12.
    pub fn compare_swap(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(0xdb, base, src as u8, off, 0xf1);
    }

    /// Exchanges `src` with the u64 at `base + off`, atomically and in order with all accesses
    /// before and after. Needs Linux 5.12.
    pub fn exchange(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(0xdb, base, src as u8, off, 0xe1);
    }

    /// Loads a 64-bit constant (two slots).
    pub fn imm64(&mut self, dst: Reg, value: u64) {
        self.push(0x18, dst, 0, 0, value as i32);
        self.insns.push(Insn { imm: (value >> 32) as i32, ..Insn::default() });
    }

    /// Loads a map, as the argument of a helper (two slots).
    pub fn map(&mut self, dst: Reg, map: impl Into<MapRef>) {
        self.push(0x18, dst, 1, 0, 0);
        self.insns.last_mut().expect("just pushed").map = Some(MapUse::Map(map.into()));
        self.insns.push(Insn::default());
    }

    /// Loads the address of a one-element array's value, plus `off` bytes (two slots).
    pub fn map_value(&mut self, dst: Reg, map: impl Into<MapRef>, off: usize) {
        self.push(0x18, dst, 2, 0, 0);
        self.insns.last_mut().expect("just pushed").map = Some(MapUse::Value(map.into()));
        self.insns.push(Insn { imm: off as i32, ..Insn::default() });
    }

    /// Jumps to where the label is bound, be that before or behind.
    pub fn jump(&mut self, to: Label) {
        self.fixups.push((self.insns.len(), to));
        self.push(0x05, Reg::R0, 0, 0, 0);
    }

    /// Jumps where `dst cond src`, 64 bits.
    pub fn jump_if(&mut self, cond: Cond, dst: Reg, src: impl Into<Src>, to: Label) {
        self.fixups.push((self.insns.len(), to));
        self.with_src(0x05 | cond as u8, dst, src.into(), 0);
    }

    /// As [`Asm::jump_if`], comparing the low 32 bits.
    pub fn jump32_if(&mut self, cond: Cond, dst: Reg, src: impl Into<Src>, to: Label) {
        self.fixups.push((self.insns.len(), to));
        self.with_src(0x06 | cond as u8, dst, src.into(), 0);
    }

    /// Calls a helper: arguments in R1-R5, result in R0.
    pub fn call(&mut self, helper: i32) {
        self.push(0x85, Reg::R0, 0, 0, helper);
    }

    /// Returns R0.
    pub fn exit(&mut self) {
        self.push(0x95, Reg::R0, 0, 0, 0);
    }

    /// Resolves the labels and returns the program.
    ///
    /// # Errors
    /// [`AsmError`] where a label was never bound or a jump is too far.
    pub fn finish(mut self) -> Result<Code, AsmError> {
        let note = |at: usize| {
            self.notes
                .iter()
                .rev()
                .find(|n| n.insn as usize <= at)
                .map(|n| n.text.clone())
                .unwrap_or_default()
        };
        for (at, label) in &self.fixups {
            let Some(to) = self.labels[label.0] else {
                return Err(AsmError::Unbound { at: *at, note: note(*at) });
            };
            let distance = to as i64 - *at as i64 - 1;
            self.insns[*at].off = i16::try_from(distance).map_err(|_| AsmError::TooFar {
                at: *at,
                note: note(*at),
                distance,
            })?;
        }
        Ok(Code { insns: self.insns, notes: self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::{Reg::*, *};

    #[test]
    fn encodes_as_the_instruction_set_says() {
        let mut a = Asm::new();
        a.note("all");
        let end = a.label();
        a.mov(R1, -1);
        a.alu32(Alu::Add, R2, R3);
        a.load(Size::H, R4, R5, -2);
        a.store(Size::Dw, Fp, -8, 7);
        a.jump_if(Cond::Set, R1, 4, end);
        a.map_value(R2, MapId::Mask, 16);
        a.bind(end);
        a.exit();
        let bytes = a.finish().unwrap().bytes(|map| if map == MapId::Mask.into() { 5 } else { 0 });
        let slots: Vec<u64> =
            bytes.chunks(8).map(|c| u64::from_be_bytes(c.try_into().unwrap())).collect();
        assert_eq!(
            slots,
            [
                0xb701_0000_ffff_ffff,
                0x0c32_0000_0000_0000,
                0x6954_feff_0000_0000,
                0x7a0a_f8ff_0700_0000,
                0x4501_0200_0400_0000,
                0x1822_0000_0500_0000,
                0x0000_0000_1000_0000,
                0x9500_0000_0000_0000,
            ]
        );
    }

    #[test]
    fn a_bad_jump_names_its_step() {
        let mut a = Asm::new();
        a.note("table port");
        let nowhere = a.label();
        a.jump(nowhere);
        assert_eq!(a.finish(), Err(AsmError::Unbound { at: 0, note: "table port".into() }));

        let mut a = Asm::new();
        a.note("far");
        let end = a.label();
        a.jump(end);
        for _ in 0..40000 {
            a.mov(R0, 0);
        }
        a.bind(end);
        a.exit();
        assert!(matches!(a.finish(), Err(AsmError::TooFar { at: 0, distance: 40000, .. })));
    }
}
