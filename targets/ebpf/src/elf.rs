//! Generated code as an in-memory ELF object with `.BTF` and `.BTF.ext`, which is what aya loads.
//! The BTF says that the program is a function of a context, and for each note from which
//! instruction on the code belongs to which table, so that the verifier's log names the table
//! (Documentation/bpf/btf.rst of the kernel). The maps' descriptors are in the instructions
//! already, so that no map section and no relocation is needed.
//!
//! Not here: loading the object (`loader`).

use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

use crate::asm::Note;

/// The name of the code's section, from which aya derives the program's type, a TC classifier.
const SECTION: &str = "classifier";
/// The name of the file that the notes' line numbers refer to. There is no such file.
pub const SOURCE: &str = "netpolc";
/// The license that the kernel is told. No program calls a GPL-only helper.
const LICENSE: &str = "Dual MIT/GPL";
/// How each BTF section begins: magic 0xeb9f, version 1, flags 0.
const BTF_HEADER: [u8; 4] = [0x9f, 0xeb, 1, 0];

/// Why an object cannot be made. Each case is a mistake of the generator.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The first note is not at instruction 0, or the notes are not in ascending order.
    #[error("program {0}: notes must begin at instruction 0 and be in ascending order")]
    Notes(String),
    /// The name has more than 15 characters, or others than letters, digits and `_`.
    #[error("{0:?} is not a valid name of a program")]
    Name(String),
    /// The library that writes objects refuses the object.
    #[error("program {0}: {1}")]
    Object(String, object::write::Error),
}

/// The BTF string section.
struct Strings(Vec<u8>);
impl Strings {
    fn add(&mut self, text: &str) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend(text.bytes().filter(|&b| b != 0));
        self.0.push(0);
        at
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// The sections `.BTF` and `.BTF.ext`. The ids of types are 1 int, 2 struct `__sk_buff`, 3 pointer
/// to it, 4 prototype, 5 function.
fn btf(name: &str, notes: &[Note]) -> (Vec<u8>, Vec<u8>) {
    const INT: u32 = 1;
    const PTR: u32 = 2;
    const STRUCT: u32 = 4;
    const FUNC: u32 = 12;
    const FUNC_PROTO: u32 = 13;
    let kind = |kind: u32, count: u32| kind << 24 | count;
    let mut strings = Strings(vec![0]);
    let mut types = vec![strings.add("int"), kind(INT, 0), 4, 1 << 24 | 32]; // signed, 32 bits
    // A struct without members is enough to be the context.
    types.extend([strings.add("__sk_buff"), kind(STRUCT, 0), 192]);
    types.extend([0, kind(PTR, 0), 2]);
    types.extend([0, kind(FUNC_PROTO, 1), 1, strings.add("skb"), 3]);
    // The count of a function is its linkage, and 1 means global.
    types.extend([strings.add(name), kind(FUNC, 1), 4]);
    let (section, file) = (strings.add(SECTION), strings.add(SOURCE));
    // Offsets in .BTF.ext are in bytes; aya divides them for the kernel.
    let functions = words(&[8, section, 1, 0, 5]);
    let mut lines = words(&[16, section, notes.len() as u32]);
    for note in notes {
        lines.extend(words(&[note.insn * 8, file, strings.add(&note.text), note.line << 10 | 1]));
    }
    let types = words(&types);
    let (t, s) = (types.len() as u32, strings.0.len() as u32);
    let btf = [&BTF_HEADER[..], &words(&[24, 0, t, t, s]), &types, &strings.0].concat();
    let (f, l) = (functions.len() as u32, lines.len() as u32);
    let ext = [&BTF_HEADER[..], &words(&[32, 0, f, f, l, f + l, 0]), &functions, &lines].concat();
    (btf, ext)
}

/// The object of one program. `code` is as the kernel takes it, and `notes` name its parts.
///
/// # Errors
/// [`ElfError`] where name or notes are not valid.
pub fn object(name: &str, code: &[u8], notes: &[Note]) -> Result<Vec<u8>, ElfError> {
    if name.is_empty()
        || name.len() > 15
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return Err(ElfError::Name(name.into()));
    }
    if notes.first().is_none_or(|n| n.insn != 0) || notes.windows(2).any(|w| w[0].insn >= w[1].insn)
    {
        return Err(ElfError::Notes(name.into()));
    }
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let mut section = |name: &str, kind, data: &[u8], align| {
        let id = object.add_section(vec![], name.as_bytes().to_vec(), kind);
        object.append_section_data(id, data, align);
        id
    };
    let (btf, ext) = btf(name, notes);
    let text = section(SECTION, SectionKind::Text, code, 8);
    section("license", SectionKind::Data, format!("{LICENSE}\0").as_bytes(), 1);
    section(".BTF", SectionKind::Other, &btf, 8);
    section(".BTF.ext", SectionKind::Other, &ext, 8);
    object.add_symbol(Symbol {
        name: name.into(),
        value: 0,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    object.write().map_err(|e| ElfError::Object(name.into(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(insn: u32) -> Note {
        Note { insn, line: insn + 1, text: format!("step {insn}") }
    }

    #[test]
    fn mistakes_are_named() {
        let code = [0u8; 16];
        assert!(matches!(object("9 x", &code, &[note(0)]), Err(ElfError::Name(_))));
        assert!(matches!(object("x", &code, &[note(1)]), Err(ElfError::Notes(_))));
        assert!(matches!(object("x", &code, &[note(0), note(0)]), Err(ElfError::Notes(_))));
        assert!(object("x", &code, &[note(0), note(1)]).is_ok());
    }
}
