//! A program as JSON in a form of netpolc's own, for programs that read tables without a parser of
//! the text form. It is written as it is walked, so that the largest program needs no memory beside
//! it.
//!
//! - A table has its name, size, fields, actions, default and entries; `format` says that this is
//!   no other tool's form. What tools for P4 read is in [`crate::p4`].
//! - Values are what the text form has: numbers as numbers, everything else (addresses, prefixes,
//!   protocols, hexadecimal numbers) as strings. A range is an object with `first` and `last`.
//! - `text` is the entry as [`crate::text`] prints it, `origins` where it comes from.

use std::fmt::Display;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    ActionId, Entry, Key, Match, Program, Table, TableId,
    schema::{ActionSpec, FieldSpec, Format, TableSpec},
    text::{self, Shown},
};

/// What the member `format` says.
pub const FORMAT: &str = "netpolc tables, version 1";

/// The whole program. Equal programs give equal JSON.
pub struct Tables<'a>(pub &'a Program);

/// A sequence that is made while it is written.
struct Each<F>(F);

struct One<'a>(&'a Table);
struct Fields(&'static [FieldSpec]);
struct Params(&'static ActionSpec);
struct Call<'a>(&'a Entry);
struct Arguments<'a>(&'a Entry);
struct Line<'a>(TableId, &'a Key, &'a Entry);
struct Keyed<'a>(&'static TableSpec, &'a Key);
/// As the text form shows it.
struct Text<T>(T);

impl Serialize for Tables<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("format", FORMAT)?;
        map.serialize_entry("tables", &Each(|| self.0.tables().map(One)))?;
        map.serialize_entry("actions", &Each(|| ActionId::ALL.iter().map(|id| Params(id.spec()))))?;
        map.end()
    }
}

impl<I: Iterator<Item: Serialize>, F: Fn() -> I> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0())
    }
}

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Table { id, size, entries } = self.0;
        let spec = id.spec();
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("name", spec.name)?;
        map.serialize_entry("size", size)?;
        map.serialize_entry("fields", &Fields(spec.fields))?;
        let actions = || spec.actions.iter().map(|action| action.spec().name);
        map.serialize_entry("actions", &Each(actions))?;
        map.serialize_entry("default", &Call(&Entry::new(spec.default.0, spec.default.1)))?;
        let lines = || entries.iter().map(|(key, entry)| Line(*id, key, entry));
        map.serialize_entry("entries", &Each(lines))?;
        map.end()
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Field {
            name: &'static str,
            bits: u8,
            #[serde(rename = "match")]
            kind: &'static str,
        }
        let field = |f: &FieldSpec| Field { name: f.name, bits: f.width, kind: text::kind(f.kind) };
        to.collect_seq(self.0.iter().map(field))
    }
}

impl Serialize for Params {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Param {
            name: &'static str,
            bits: u8,
        }
        let params = || self.0.params.iter().map(|&(name, bits, _)| Param { name, bits });
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("name", self.0.name)?;
        map.serialize_entry("params", &Each(params))?;
        map.end()
    }
}

impl Serialize for Call<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("action", self.0.action.spec().name)?;
        map.serialize_entry("params", &Arguments(self.0))?;
        map.end()
    }
}

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for ((name, _, format), value) in self.0.action.spec().params.iter().zip(self.0.params()) {
            match format {
                Format::Decimal => map.serialize_entry(name, value)?,
                _ => map.serialize_entry(name, &Text(Shown((*value).into(), *format)))?,
            }
        }
        map.end()
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Line(table, key, entry) = *self;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("key", &Keyed(table.spec(), key))?;
        map.serialize_entry("action", entry.action.spec().name)?;
        map.serialize_entry("params", &Arguments(entry))?;
        map.serialize_entry("text", &text::entry(table, key, &entry.bare()))?;
        map.serialize_entry("origins", entry.origins.as_slice())?;
        map.end()
    }
}

impl Serialize for Keyed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Range {
            first: u32,
            last: u32,
        }
        let mut map = to.serialize_map(None)?;
        for (field, found) in self.0.fields.iter().zip(self.1.fields()) {
            map.serialize_key(field.name)?;
            match *found {
                Match::Exact(value) if field.format == Format::Decimal => {
                    map.serialize_value(&value.low())?;
                }
                Match::Exact(value) => map.serialize_value(&Text(Shown(value, field.format)))?,
                Match::Lpm { value, length } => {
                    let shown = Shown(value, field.format);
                    map.serialize_value(&Text(format_args!("{shown}/{length}")))?;
                }
                Match::Range { low, high } => {
                    map.serialize_value(&Range { first: low, last: high })?;
                }
            }
        }
        map.end()
    }
}

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}
