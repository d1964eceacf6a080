//! Generated code as text: one instruction per line, under the notes that say where it comes from,
//! with the names of maps.
//!
//! ```text
//! table row: rows_v4
//!    87  r1 = *(u16 *)(fp - 8)
//!    88  r1 &= 255
//! ```

use std::fmt::Write as _;

use crate::asm::{Code, Insn, MapRef, MapUse, Reg};

/// A program as text. Instructions that a jump goes to have a `>` before their number.
pub fn listing(code: &Code) -> String {
    let mut text = String::new();
    let mut notes = code.notes.iter().peekable();
    let width = code.insns.len().to_string().len().max(4);
    let targets = targets(code);
    let mut at = 0;
    while at < code.insns.len() {
        while let Some(note) = notes.next_if(|n| n.insn as usize <= at) {
            let _ = writeln!(text, "{}", note.text);
        }
        let wide = code.insns[at].code == 0x18;
        let line = instruction(code, at);
        let mark = if targets.contains(&at) { '>' } else { ' ' };
        let _ = writeln!(text, " {mark}{at:width$}  {line}");
        at += if wide { 2 } else { 1 };
    }
    text
}

/// The instructions that jumps go to.
fn targets(code: &Code) -> std::collections::BTreeSet<usize> {
    let jumps = code.insns.iter().enumerate().filter(|(_, i)| is_jump(i));
    jumps.filter_map(|(at, i)| usize::try_from(at as i64 + 1 + i64::from(i.off)).ok()).collect()
}

fn is_jump(i: &Insn) -> bool {
    matches!(i.code & 7, 5 | 6) && !matches!(i.code & 0xf0, 0x80 | 0x90)
}

fn map_name(map: MapRef) -> String {
    match map {
        MapRef::Table(map) => map.name().into(),
        MapRef::Extra(number) => format!("extra{number}"),
    }
}

fn helper_name(number: i32) -> String {
    match number {
        1 => "bpf_map_lookup_elem".into(),
        2 => "bpf_map_update_elem".into(),
        26 => "bpf_skb_load_bytes".into(),
        118 => "bpf_jiffies64".into(),
        _ => format!("helper {number}"),
    }
}

fn reg(number: u8) -> String {
    match Reg::of(number) {
        Reg::Fp => "fp".into(),
        r => format!("r{}", r as u8),
    }
}

/// The name of the low 32 bits of a register.
fn half(number: u8) -> String {
    format!("w{number}")
}

fn place(size: u8, base: u8, off: i16) -> String {
    let bits = ["u32", "u16", "u8", "u64"][usize::from(size >> 3 & 3)];
    let (sign, off) = (if off < 0 { '-' } else { '+' }, off.unsigned_abs());
    format!("*({bits} *)({} {sign} {off})", reg(base))
}

/// One instruction as text, of which `at` is the first slot. Panics where there is no such slot.
pub fn instruction(code: &Code, at: usize) -> String {
    let i = &code.insns[at];
    let (dst, src) = (i.regs & 15, i.regs >> 4);
    let to = at as i64 + 1 + i64::from(i.off);
    let operand = |narrow: bool| match i.code & 8 {
        0 => i.imm.to_string(),
        _ if narrow => half(src),
        _ => reg(src),
    };
    let operator = ["+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>="];
    let condition = ["", "==", ">", ">=", "&", "!=", "s>", "s>=", "", "", "<", "<=", "s<", "s<="];
    match (i.code & 7, i.code & 0xf0) {
        _ if i.code == 0x18 => match i.map {
            Some(MapUse::Map(map)) => format!("{} = map {}", reg(dst), map_name(map)),
            Some(MapUse::Value(map)) => {
                let off = code.insns[at + 1].imm;
                let off = if off == 0 { String::new() } else { format!(" + {off}") };
                format!("{} = &{}{off}", reg(dst), map_name(map))
            }
            None => {
                let value = u64::from(i.imm as u32) | (code.insns[at + 1].imm as u32 as u64) << 32;
                format!("{} = {value:#x}", reg(dst))
            }
        },
        (1, _) => format!("{} = {}", reg(dst), place(i.code & 0x18, src, i.off)),
        (2, _) => format!("{} = {}", place(i.code & 0x18, dst, i.off), i.imm),
        (3, 0xd0) if i.imm == 0xf1 => {
            format!("r0 = cmpxchg({}, r0, {})", place(0x18, dst, i.off), reg(src))
        }
        (3, 0xd0) if i.imm == 0xe1 => {
            format!("{0} = xchg({1}, {0})", reg(src), place(0x18, dst, i.off))
        }
        (3, 0xd0) => format!("lock {} += {}", place(0x18, dst, i.off), reg(src)),
        (3, _) => format!("{} = {}", place(i.code & 0x18, dst, i.off), reg(src)),
        (4, 0xd0) => format!("{0} = be{1} {0}", reg(dst), i.imm),
        (class @ (4 | 7), op) => {
            let narrow = class == 4;
            let name = if narrow { half(dst) } else { reg(dst) };
            let operator = match op {
                0xa0 => "^=",
                0xb0 => "=",
                0xc0 => "s>>=",
                _ => operator[usize::from(op >> 4 & 7)],
            };
            format!("{name} {operator} {}", operand(narrow))
        }
        (_, 0x80) => format!("call {}", helper_name(i.imm)),
        (_, 0x90) => "exit".into(),
        (_, 0x00) => format!("goto {to}"),
        (class, op) => {
            let narrow = class == 6;
            let name = if narrow { half(dst) } else { reg(dst) };
            format!(
                "if {name} {} {} goto {to}",
                condition[usize::from(op >> 4) % condition.len()],
                operand(narrow)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        asm::{Alu, Asm, Cond, Reg::*, Size},
        layout::MapId,
    };

    #[test]
    fn prints_what_was_assembled() {
        let mut a = Asm::new();
        a.note("table port");
        let end = a.label();
        a.map_value(R3, MapId::Port, 8);
        a.load(Size::H, R1, R3, -2);
        a.alu32(Alu::And, R1, 7);
        a.jump_if(Cond::Set, R1, 1, end);
        a.jump32_if(Cond::SGe, R1, R2, end);
        a.compare_swap(R2, 0, R1);
        a.imm64(R1, 1 << 32);
        a.note("verdict");
        a.bind(end);
        a.swap(R1, 16);
        a.call(118);
        a.exit();
        let expected = "\
table port
     0  r3 = &port + 8
     2  r1 = *(u16 *)(r3 - 2)
     3  w1 &= 7
     4  if r1 & 1 goto 9
     5  if w1 s>= w2 goto 9
     6  r0 = cmpxchg(*(u64 *)(r2 + 0), r0, r1)
     7  r1 = 0x100000000
verdict
 >   9  r1 = be16 r1
    10  call bpf_jiffies64
    11  exit
";
        assert_eq!(listing(&a.finish().unwrap()), expected);
    }
}
