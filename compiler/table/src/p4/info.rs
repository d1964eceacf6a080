//! P4Info: what a controller has to know of the tables, in the text format of Protocol Buffers.
//!
//! Not here: the entries ([`super::runtime`]).

use std::fmt::{self, Display};

use super::{Bytes, CONTROL, Scope, action_id, action_name, actions, scopes, table_id, tables};
use crate::{
    Program,
    schema::{ActionSpec, FieldSpec, MatchKind, TableSpec},
};

/// A message `p4.config.v1.P4Info` about the tables of a program. Of the program it has the sizes.
pub struct Info<'a>(pub &'a Program);

impl Display for Info<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "# proto-file: p4/config/v1/p4info.proto\n# proto-message: p4.config.v1.P4Info\n",
        )?;
        f.write_str("pkg_info {\n  name: \"netpolc\"\n  arch: \"v1model\"\n}\n")?;
        for spec in tables() {
            table(f, spec, self.0.table(spec.id).size)?;
        }
        actions().try_for_each(|id| action(f, id.spec()))
    }
}

fn preamble(f: &mut fmt::Formatter<'_>, id: u32, name: &str) -> fmt::Result {
    writeln!(f, "  preamble {{\n    id: {id}")?;
    writeln!(f, "    name: \"{CONTROL}.{name}\"\n    alias: \"{name}\"\n  }}")
}

fn table(f: &mut fmt::Formatter<'_>, spec: &'static TableSpec, size: u64) -> fmt::Result {
    f.write_str("tables {\n")?;
    preamble(f, table_id(spec.id), spec.name)?;
    for (i, field) in spec.fields.iter().enumerate() {
        match_field(f, i + 1, field)?;
    }
    for (id, scope) in scopes(spec) {
        let scope = match scope {
            Scope::Both => "",
            Scope::Entries => "    annotations: \"@tableonly\"\n    scope: TABLE_ONLY\n",
            Scope::Default => "    annotations: \"@defaultonly\"\n    scope: DEFAULT_ONLY\n",
        };
        writeln!(f, "  action_refs {{\n    id: {}\n{scope}  }}", action_id(id))?;
    }
    let (default, values) = spec.default;
    writeln!(f, "  const_default_action_id: {}", action_id(default))?;
    writeln!(f, "  initial_default_action {{\n    action_id: {}", action_id(default))?;
    for (i, value) in values.iter().take(default.spec().params.len()).enumerate() {
        let (id, value) = (i + 1, Bytes((*value).into()));
        writeln!(f, "    arguments {{\n      param_id: {id}\n      value: {value}\n    }}")?;
    }
    writeln!(f, "  }}\n  size: {size}\n}}")
}

fn match_field(f: &mut fmt::Formatter<'_>, id: usize, field: &FieldSpec) -> fmt::Result {
    let kind = match field.kind {
        MatchKind::Exact => "EXACT",
        MatchKind::Lpm => "LPM",
        MatchKind::Range => "RANGE",
    };
    writeln!(f, "  match_fields {{\n    id: {id}\n    name: \"{}\"", field.name)?;
    writeln!(f, "    bitwidth: {}\n    match_type: {kind}\n  }}", field.width)
}

fn action(f: &mut fmt::Formatter<'_>, spec: &ActionSpec) -> fmt::Result {
    f.write_str("actions {\n")?;
    preamble(f, action_id(spec.id), &action_name(spec.id))?;
    for (i, (name, width, _)) in spec.params.iter().enumerate() {
        writeln!(f, "  params {{\n    id: {}\n    name: \"{name}\"", i + 1)?;
        writeln!(f, "    bitwidth: {width}\n  }}")?;
    }
    f.write_str("}\n")
}
