//! Checks a program against the rules of its tables, and its ids against each other.
//!
//! Errors are what a target may refuse or misunderstand; warnings are entries that do nothing. What the
//! entries mean against the policies is for the oracle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    ActionId, Entry, Key, Match, Program, Table, TableId,
    eval::{Pipeline, masked},
    schema::{Family, FieldSpec, IdKind, MatchKind, Word, base_key, directory_key, endpoint_key, word_of},
    text,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The program must not be installed.
    Error,
    /// Nothing goes wrong, but something is useless.
    Warning,
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The table.
    pub table: TableId,
    /// The entry in text form; None where the whole table is meant.
    pub entry: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        write!(f, "{severity}: table {}: ", self.table.spec().name)?;
        self.entry.iter().try_for_each(|entry| write!(f, "`{entry}`: "))?;
        f.write_str(&self.message)
    }
}

/// All findings, by table and entry.
pub fn check(program: &Program) -> Vec<Finding> {
    let mut checker = Checker { program, findings: Vec::new() };
    for table in program.tables() {
        checker.table(table);
    }
    checker.ports();
    checker.ids();
    checker.findings.sort_by_key(|f| (f.table, f.severity));
    checker.findings
}

/// Protocols whose ports must be covered.
const WITH_PORTS: [(u8, &str); 3] = [(6, "tcp"), (17, "udp"), (132, "sctp")];

struct Checker<'a> {
    program: &'a Program,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn find(&mut self, severity: Severity, table: TableId, at: Option<(&Key, &Entry)>, message: impl Into<String>) {
        let entry = at.map(|(key, entry)| text::entry(table, key, &Entry::new(entry.action, entry.params)));
        self.findings.push(Finding { severity, table, entry, message: message.into() });
    }

    fn table(&mut self, table: &Table) {
        let (spec, count) = (table.id.spec(), table.entries.len());
        if count as u64 > table.size {
            self.find(Severity::Error, table.id, None, format!("{count} entries, but its size is {}", table.size));
        }
        let mut last: Option<(&Key, &Entry, u32)> = None;
        for (key, entry) in &table.entries {
            let mut problems = Vec::new();
            if key.fields().len() != spec.fields.len() {
                problems.push(format!("{} fields, but the key has {}", key.fields().len(), spec.fields.len()));
            }
            problems.extend(key.fields().iter().zip(spec.fields).filter_map(|(m, f)| field(m, f)));
            problems.extend(action(table.id, entry));
            for problem in problems {
                self.find(Severity::Error, table.id, Some((key, entry)), problem);
            }
            if let Some(Match::Range { low, high }) = key.fields().last() {
                let others = |k: &Key| k.fields()[..k.fields().len() - 1].to_vec();
                let beside = last.filter(|(k, ..)| others(k) == others(key));
                if let Some((k, e, end)) = beside
                    && end >= *low
                {
                    let other = text::entry(table.id, k, &Entry::new(e.action, e.params));
                    self.find(Severity::Error, table.id, Some((key, entry)), format!("overlaps `{other}`"));
                }
                if beside.is_none_or(|(.., end)| end < *high) {
                    last = Some((key, entry, *high));
                }
            }
        }
    }

    /// Every port of the protocols that have ports is in one interval.
    fn ports(&mut self) {
        let ports = &self.program.table(TableId::Port).entries;
        if ports.is_empty() && self.program.table(TableId::Verdict).entries.is_empty() {
            return;
        }
        for (number, name) in WITH_PORTS {
            let mut next = 0u32;
            let mut gaps = Vec::new();
            for key in ports.keys().filter(|k| k.fields().len() == 2 && k.value(0).get() == number.into()) {
                if let Match::Range { low, high } = key.fields()[1] {
                    if low > next {
                        gaps.push(format!("{next}-{}", low - 1));
                    }
                    next = next.max(high.saturating_add(1));
                }
            }
            if next <= 0xffff {
                gaps.push(format!("{next}-65535"));
            }
            if !gaps.is_empty() {
                let message = format!("{name}: no interval holds the ports {}", gaps.join(", "));
                self.find(Severity::Error, TableId::Port, None, message);
            }
        }
    }

    /// Ids that lead nowhere, and entries that nothing leads to.
    fn ids(&mut self) {
        use Severity::{Error, Warning};
        let program = self.program;
        let id = |key: &Key, i: usize| key.fields().get(i).map_or(0, |f| f.value().low() as u16);
        let entries = |table: TableId| program.table(table).entries.iter();

        let mut sets = BTreeSet::new();
        for (key, entry) in entries(TableId::Endpoint) {
            for set in Pipeline::BOTH.into_iter().filter_map(|p| p.set(word_of(entry))) {
                sets.insert(set);
                for family in Family::BOTH {
                    if program.get(TableId::Base, &base_key(set, family)).is_none() {
                        let message =
                            format!("set {set} has no base for family {}: it denies everything", family.number());
                        self.find(Error, TableId::Endpoint, Some((key, entry)), message);
                    }
                }
            }
            if key.fields().first().is_some_and(|f| f.value().get() == 0) {
                self.find(Error, TableId::Endpoint, Some((key, entry)), "endpoint 0 means none");
            }
        }
        for (key, entry) in entries(TableId::Interface) {
            let endpoint = entry.params[0] as u16;
            if program.get(TableId::Endpoint, &endpoint_key(endpoint)).is_none() {
                let message = format!("endpoint {endpoint} has no word: nothing is isolated");
                self.find(Warning, TableId::Interface, Some((key, entry)), message);
            }
        }
        for table in [TableId::OwnV4, TableId::OwnV6, TableId::OwnMac] {
            for (key, entry) in entries(table) {
                if program.get(TableId::Endpoint, &endpoint_key(id(key, 0))).is_none() {
                    self.find(Warning, table, Some((key, entry)), "of no endpoint");
                }
            }
        }
        for table in [TableId::ServiceV4, TableId::ServiceV6] {
            for (key, entry) in entries(table) {
                if !WITH_PORTS.iter().any(|(number, _)| u16::from(*number) == id(key, 1)) {
                    self.find(Error, table, Some((key, entry)), "a protocol without ports");
                }
            }
        }
        let mut classes: BTreeMap<Family, BTreeSet<u16>> = BTreeMap::new();
        for family in Family::BOTH {
            let kind = if family == Family::V4 { IdKind::ClassV4 } else { IdKind::ClassV6 };
            let listed = entries(TableId::Directory).any(|(key, _)| id(key, 0) == kind as u16);
            for (key, entry) in entries(TableId::remote(family)) {
                let class = entry.params[0] as u16;
                classes.entry(family).or_default().insert(class);
                let known = || program.get(TableId::Directory, &directory_key(kind, class.into())).is_some();
                if listed && class != 0 && !known() {
                    let message = format!("the directory does not know class {class}");
                    self.find(Error, TableId::remote(family), Some((key, entry)), message);
                }
            }
            classes.entry(family).or_default().insert(0);
        }
        let (mut rows, verdicts) = (BTreeSet::new(), entries(TableId::Verdict).map(|(k, _)| id(k, 0)));
        let verdicts: BTreeSet<u16> = verdicts.collect();
        for table in [TableId::Base, TableId::Row] {
            for (key, entry) in entries(table) {
                if !sets.contains(&id(key, 0)) {
                    self.find(Warning, table, Some((key, entry)), "no endpoint uses this set");
                }
                let family = if id(key, 1) == 4 { Family::V4 } else { Family::V6 };
                if ![4, 6].contains(&id(key, 1)) {
                    self.find(Error, table, Some((key, entry)), "a family is 4 or 6");
                } else if table == TableId::Row && !classes[&family].contains(&id(key, 2)) {
                    self.find(Warning, table, Some((key, entry)), "no address has this class");
                }
                let row = entry.params[0] as u16;
                if entry.action == ActionId::SetRow && rows.insert(row) && row != 0 && !verdicts.contains(&row) {
                    self.find(Error, table, Some((key, entry)), format!("no verdict belongs to row {row}"));
                }
            }
        }
        let classes = entries(TableId::Port).map(|(_, e)| e.params[0] as u16).chain([0]).collect::<BTreeSet<_>>();
        for (key, entry) in entries(TableId::Verdict) {
            if !rows.contains(&id(key, 0)) {
                self.find(Warning, TableId::Verdict, Some((key, entry)), "no set uses this row");
            }
            if !classes.contains(&id(key, 1)) {
                self.find(Warning, TableId::Verdict, Some((key, entry)), "no port has this port class");
            }
        }
    }
}

fn field(found: &Match, spec: &FieldSpec) -> Option<String> {
    let (name, width) = (spec.name, spec.width);
    let limit = u128::MAX.checked_shr(128 - u32::from(width)).unwrap_or(0);
    let kind = match found {
        Match::Exact(_) => MatchKind::Exact,
        Match::Lpm { .. } => MatchKind::Lpm,
        Match::Range { .. } => MatchKind::Range,
    };
    if kind != spec.kind {
        return Some(format!("{name} is matched by {}, not {}", text::kind(spec.kind), text::kind(kind)));
    }
    match *found {
        Match::Lpm { length, .. } if length > width => Some(format!("{name} has {width} bits, the prefix {length}")),
        Match::Range { low, high } if low > high => Some(format!("the range of {name} ends before it starts")),
        Match::Range { high, .. } if u128::from(high) > limit => Some(format!("{name} is wider than {width} bits")),
        _ if found.value().get() > limit => Some(format!("{name} is wider than {width} bits")),
        Match::Lpm { value, length } if masked(value, length, width) != value => {
            Some(format!("{name} has bits set beyond its prefix of {length}"))
        }
        _ => None,
    }
}

fn action(table: TableId, entry: &Entry) -> Vec<String> {
    let (spec, mut problems) = (entry.action.spec(), Vec::new());
    if !table.spec().actions.contains(&entry.action) {
        problems.push(format!("{} is no action of this table's entries", spec.name));
    }
    for (i, &value) in entry.params.iter().enumerate() {
        match spec.params.get(i) {
            Some((name, width, _)) if u128::from(value) >> width != 0 => {
                problems.push(format!("{name} is wider than {width} bits"));
            }
            None if value != 0 => problems.push(format!("{} has no parameter {i}", spec.name)),
            _ => (),
        }
    }
    let known = Word::INGRESS | Word::EGRESS | Word::RECORD | Word::GUARD | Word::BRIDGED;
    if entry.action == ActionId::SetPolicy && word_of(entry).flags & !known != 0 {
        problems.push("flags that mean nothing".into());
    }
    problems
}
