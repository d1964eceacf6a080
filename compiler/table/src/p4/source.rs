//! The pipeline as a P4_16 program for v1model. Tables and actions come from the schema; what is
//! around them (headers, parser, and which table is asked when) is the text `v1model.p4` beside
//! this file, which also says what a switch without state cannot do.
//!
//! Not here: P4Info and P4Runtime, which name the same tables and actions by the same ids.

use std::fmt::{self, Display};

use super::{Scope, action_id, action_name, actions, scopes, table_id, tables};
use crate::{
    ActionId, Entry, Key, Match, Program, Table, TableId,
    schema::{ActionSpec, MatchKind, TableSpec},
};

/// How entries come into the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// As constants of the program.
    Const,
    /// At run time, by P4Runtime: the program has none.
    AtRunTime,
}

/// The program in P4_16.
pub struct Source<'a>(pub &'a Program, pub Install);

/// What is around the tables; a line `TABLES` stands for them.
const AROUND: &str = include_str!("v1model.p4");

impl Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Source(program, install) = *self;
        let (before, behind) = AROUND.split_once("    TABLES\n").ok_or(fmt::Error)?;
        f.write_str(before)?;
        for id in actions() {
            action(f, id.spec())?;
        }
        for spec in tables() {
            table(f, spec, program.table(spec.id), install)?;
        }
        f.write_str(behind)
    }
}

/// What an action does with its parameters, in the names of `v1model.p4`. Of some actions the hit
/// alone counts.
fn body(id: ActionId) -> &'static [&'static str] {
    match id {
        ActionId::SetEndpoint => &["meta.endpoint = endpoint;"],
        ActionId::SetPolicy => &[
            "meta.ingress_set = ingress_set;",
            "meta.egress_set = egress_set;",
            "meta.flags = flags;",
        ],
        ActionId::SetRemote => &["meta.class = class;", "meta.incarnation = incarnation;"],
        ActionId::SetPortClass => &["meta.port_class = port_class;"],
        ActionId::SetRow => &["meta.answer = LISTED;", "meta.row = row;"],
        ActionId::Permit => &["meta.answer = PERMIT;"],
        ActionId::Deny => &["meta.answer = DENY;"],
        ActionId::Defer => &["meta.answer = DEFER;"],
        ActionId::SetMac => &["meta.mac = address;"],
        ActionId::Miss
        | ActionId::Own
        | ActionId::Differs
        | ActionId::Tunnel
        | ActionId::OnLink
        | ActionId::Fingerprint => &[],
    }
}

/// What a table's fields are matched against, in the names of `v1model.p4`.
fn looked_up(id: TableId) -> &'static [&'static str] {
    match id {
        TableId::Interface => &["meta.ifindex"],
        TableId::Endpoint | TableId::OwnMac => &["meta.endpoint"],
        TableId::OwnV4 => &["meta.endpoint", "meta.own_v4"],
        TableId::OwnV6 => &["meta.endpoint", "meta.own_v6"],
        TableId::RemoteV4 => &["meta.remote_v4"],
        TableId::RemoteV6 => &["meta.remote_v6"],
        TableId::Port => &["meta.protocol", "meta.asked"],
        TableId::Base => &["meta.set", "meta.family"],
        TableId::Row => &["meta.set", "meta.family", "meta.class"],
        TableId::Verdict | TableId::Tried => &["meta.row", "meta.port_class"],
        TableId::ServiceV4 => &["meta.remote_v4", "meta.protocol", "meta.port"],
        TableId::ServiceV6 => &["meta.remote_v6", "meta.protocol", "meta.port"],
        TableId::Tunnel => &["meta.protocol", "meta.port"],
        TableId::OnLinkV6 => &["meta.remote_v6"],
        TableId::Directory => &[],
    }
}

fn action(f: &mut fmt::Formatter<'_>, spec: &ActionSpec) -> fmt::Result {
    let params: Vec<String> =
        spec.params.iter().map(|(name, width, _)| format!("bit<{width}> {name}")).collect();
    let (id, name) = (action_id(spec.id), action_name(spec.id));
    write!(f, "    @id({id:#010x}) action {name}({}) {{", params.join(", "))?;
    for line in body(spec.id) {
        write!(f, "\n        {line}")?;
    }
    f.write_str(if body(spec.id).is_empty() { " }\n" } else { "\n    }\n" })
}

fn table(
    f: &mut fmt::Formatter<'_>,
    spec: &'static TableSpec,
    table: &Table,
    install: Install,
) -> fmt::Result {
    writeln!(f, "\n    @id({:#010x}) table {} {{\n        key = {{", table_id(spec.id), spec.name)?;
    for (field, found) in spec.fields.iter().zip(looked_up(spec.id)) {
        let kind = match field.kind {
            MatchKind::Exact => "exact",
            MatchKind::Lpm => "lpm",
            MatchKind::Range => "range",
        };
        writeln!(f, "            {found}: {kind} @name(\"{}\");", field.name)?;
    }
    f.write_str("        }\n        actions = {\n")?;
    for (id, scope) in scopes(spec) {
        let scope = match scope {
            Scope::Both => "",
            Scope::Entries => "@tableonly ",
            Scope::Default => "@defaultonly ",
        };
        writeln!(f, "            {scope}{};", action_name(id))?;
    }
    let (default, values) = spec.default;
    let default = Call(&Entry::new(default, values)).to_string();
    writeln!(f, "        }}\n        const default_action = {default};")?;
    writeln!(f, "        size = {};", table.size)?;
    if install == Install::Const && !table.entries.is_empty() {
        f.write_str("        const entries = {\n")?;
        for (key, entry) in &table.entries {
            writeln!(f, "            {}: {};", Keyed(spec, key), Call(entry))?;
        }
        f.write_str("        }\n")?;
    }
    f.write_str("    }\n")
}

/// An action with its arguments.
struct Call<'a>(&'a Entry);

impl Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", action_name(self.0.action))?;
        let params = self.0.action.spec().params.len();
        for (i, value) in self.0.params().iter().take(params).enumerate() {
            write!(f, "{}{value:#x}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

struct Keyed<'a>(&'static TableSpec, &'a Key);

impl Display for Keyed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, (field, found)) in self.0.fields.iter().zip(self.1.fields()).enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match *found {
                Match::Exact(value) => write!(f, "{value:?}")?,
                Match::Lpm { value, length } => {
                    let ones = u128::MAX.checked_shr(128 - u32::from(length)).unwrap_or(0);
                    let mask = ones << (u32::from(field.width) - u32::from(length)).min(127);
                    write!(f, "{value:?} &&& {mask:#x}")?;
                }
                Match::Range { low, high } => write!(f, "{low}..{high}")?,
            }
        }
        f.write_str(")")
    }
}
