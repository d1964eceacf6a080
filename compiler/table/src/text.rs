//! The text form of a program: printed here, parsed in `parse`.
//!
//! ```text
//! table remote_v4 size 1048576 key address/32:lpm default set_remote(class 0, incarnation 0x0) {
//!   10.0.0.0/24 -> set_remote(class 3, incarnation 0x0)  # shop/ui rule[0] peer[1]
//! }
//! ```
//!
//! A table's key names each field with its width in bits and its match kind; an entry gives the
//! values in that order: a number, address or protocol name, with `/length` for a prefix and
//! `first-last` for a range. What follows `#` is where the entry comes from and part of the text;
//! `//` starts a comment. Tables and entries stand in canonical order. Every program prints so that
//! it parses back to itself, also one that breaks its tables' rules (see [`crate::check`]): what a
//! field's format cannot show prints as a number.

use std::{
    fmt::{self, Display, Write},
    net::{Ipv4Addr, Ipv6Addr},
};

pub use crate::parse::{ParseError, parse};
use crate::{
    Entry, Key, Match, Origin, Program, Table, Value,
    schema::{Format, MatchKind, TableSpec},
};

/// The whole program as text, which [`parse`] reads back. Ends with a line
/// break.
pub fn print(program: &Program) -> String {
    let mut out = String::new();
    for table in program.tables() {
        // Writing to a string cannot fail.
        let _ = print_table(&mut out, table);
    }
    out
}

/// Prints one table with its header.
///
/// # Errors
/// Only `out` can fail: writing to a `String` never does.
pub fn print_table(out: &mut impl Write, table: &Table) -> fmt::Result {
    write!(out, "{} size {} {} {{", Head(table.id.spec()), table.size, Tail(table.id.spec()))?;
    for (key, entry) in &table.entries {
        write!(out, "\n  {}", Line { spec: table.id.spec(), key, entry: Some(entry) })?;
    }
    out.write_str(if table.entries.is_empty() { "}\n" } else { "\n}\n" })
}

/// An entry as it stands in the text form.
pub fn entry(table: crate::TableId, key: &Key, entry: &Entry) -> String {
    Line { spec: table.spec(), key, entry: Some(entry) }.to_string()
}

/// A key as it stands in the text form.
pub fn key(table: crate::TableId, key: &Key) -> String {
    Line { spec: table.spec(), key, entry: None }.to_string()
}

/// An action with its parameters as it stands in the text form.
pub fn action(entry: &Entry) -> String {
    Call(entry).to_string()
}

/// Parses anything and checks what must hold for it: no panic, and what parses prints back to
/// itself. For fuzzing.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz_parse(text: &str) {
    match parse(text) {
        Ok(program) => {
            let printed = print(&program);
            let again = parse(&printed)
                .unwrap_or_else(|e| panic!("what was printed does not parse: {e}\n{printed}"));
            assert!(again == program, "not the same after printing:\n{printed}");
        }
        Err(error) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error}");
        }
    }
}

/// `table NAME`
pub(crate) struct Head(pub &'static TableSpec);
/// `key ... default ...`
pub(crate) struct Tail(pub &'static TableSpec);
struct Line<'a> {
    spec: &'static TableSpec,
    key: &'a Key,
    entry: Option<&'a Entry>,
}
struct Call<'a>(&'a Entry);
pub(crate) struct Shown(pub Value, pub Format);
struct Name<'a>(&'a str);

pub(crate) const PROTOCOLS: [(&str, u64); 3] = [("tcp", 6), ("udp", 17), ("sctp", 132)];
/// Words that a bare name must not be.
pub(crate) const WORDS: [&str; 9] =
    ["isolates", "isolated", "tier", "group", "tried", "pod", "node", "implied", "table"];

/// The name of a match kind in a header.
pub(crate) fn kind(kind: MatchKind) -> &'static str {
    match kind {
        MatchKind::Exact => "exact",
        MatchKind::Lpm => "lpm",
        MatchKind::Range => "range",
    }
}

/// May this stand in a name without quotes?
pub(crate) fn bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-')
}

impl Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}", self.0.name)
    }
}

impl Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, field) in self.0.fields.iter().enumerate() {
            let start = if i == 0 { "key " } else { ", " };
            write!(f, "{start}{}/{}:{}", field.name, field.width, kind(field.kind))?;
        }
        let (action, params) = self.0.default;
        write!(f, " default {}", Call(&Entry::new(action, params)))
    }
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.fields().is_empty() {
            f.write_str("()")?;
        }
        for (i, field) in self.key.fields().iter().enumerate() {
            let format = self.spec.fields.get(i).map_or(Format::Decimal, |f| f.format);
            f.write_str(if i == 0 { "" } else { ", " })?;
            match *field {
                Match::Exact(value) => Shown(value, format).fmt(f)?,
                Match::Lpm { value, length } => write!(f, "{}/{length}", Shown(value, format))?,
                Match::Range { low, high } => write!(f, "{low}-{high}")?,
            }
        }
        let Some(entry) = self.entry else { return Ok(()) };
        write!(f, " -> {}", Call(entry))?;
        for (i, origin) in entry.origins.as_slice().iter().enumerate() {
            f.write_str(if i == 0 { "  # " } else { "; " })?;
            print_origin(f, origin)?;
        }
        Ok(())
    }
}

fn print_origin(f: &mut fmt::Formatter<'_>, origin: &Origin) -> fmt::Result {
    match origin {
        Origin::Isolates { policy } => write!(f, "isolates {}", Name(policy)),
        Origin::ByDefault => write!(f, "isolated by default"),
        Origin::Rule { policy, rule, peer, port } => {
            write!(f, "{} rule[{rule}]", Name(policy))?;
            peer.map_or(Ok(()), |i| write!(f, " peer[{i}]"))?;
            port.map_or(Ok(()), |i| write!(f, " port[{i}]"))
        }
        Origin::Tier { tier, policy, rule, action } => {
            write!(f, "tier {tier} {} rule[{rule}] {action}", Name(policy))
        }
        Origin::Group { group, rule } => {
            write!(f, "group {}", Name(group))?;
            rule.as_ref().map_or(Ok(()), |rule| write!(f, " {}", Name(rule)))
        }
        Origin::Tried { policy } => write!(f, "tried {}", Name(policy)),
        Origin::Pod { pod } => write!(f, "pod {}", Name(pod)),
        Origin::Node { node } => write!(f, "node {}", Name(node)),
        Origin::Implied { reason } => write!(f, "implied {}", Name(reason)),
    }
}

impl Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.0.action.spec();
        f.write_str(spec.name)?;
        let mut start = "(";
        for (i, &value) in self.0.params.iter().enumerate() {
            match spec.params.get(i) {
                Some((name, _, format)) => {
                    write!(f, "{start}{name} {}", Shown(value.into(), *format))?
                }
                None if value != 0 => write!(f, "{start}param{i} {value}")?,
                None => continue,
            }
            start = ", ";
        }
        f.write_str(if start == "(" { "" } else { ")" })
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.get();
        match self.1 {
            Format::Ipv4 if number <= u32::MAX.into() => Ipv4Addr::from_bits(number as u32).fmt(f),
            Format::Ipv6 => Ipv6Addr::from_bits(number).fmt(f),
            Format::Ipv4 | Format::Hex => write!(f, "{number:#x}"),
            Format::Protocol => match PROTOCOLS.iter().find(|(_, n)| u128::from(*n) == number) {
                Some((name, _)) => f.write_str(name),
                None => number.fmt(f),
            },
            Format::Decimal => number.fmt(f),
        }
    }
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comment = self.0.contains("//");
        if !self.0.is_empty() && self.0.chars().all(bare) && !comment && !WORDS.contains(&self.0) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}
