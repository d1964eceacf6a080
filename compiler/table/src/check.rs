//! Checks a program against the rules of its tables, and its ids against each other.
//!
//! Errors are what a target may refuse or misunderstand; warnings are entries that do nothing. Not
//! here: whether the entries say what the policies say, which is for the oracle.

use std::{collections::BTreeSet, fmt};

use crate::{
    ActionId, Class, ClassId, EndpointId, Entry, Key, Match, PortClassId, Program, RowId, SetId,
    Table, TableId,
    eval::{self, Pipeline, masked},
    id::{Ip, V4, V6},
    schema::{
        Answer, BaseKey, DirectoryKey, Family, FieldSpec, MatchKind, Named, OwnKey, OwnMacKey,
        PortKey, RowKey, ServiceKey, SetEndpoint, SetPortClass, SetRemote, TriedKey, VerdictKey,
        Word, base_key, directory_key, endpoint_key, family_number,
    },
    text,
};

/// Whether a finding stands in the way of installing the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The program must not be installed.
    Error,
    /// Nothing goes wrong, but the entry does nothing.
    Warning,
}

/// Something that is wrong with one table or entry. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Whether the program must not be installed because of it.
    pub severity: Severity,
    /// The table that it was found in.
    pub table: TableId,
    /// The entry in text form, without origins; None where the whole table is meant.
    pub entry: Option<String>,
    /// What is wrong, in words for people.
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

/// Everything that is wrong with a program, by table, errors before warnings.
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

/// The protocols that have ports in NetworkPolicy, by IP protocol number. Each of their ports must
/// be in an interval.
const WITH_PORTS: [(u8, &str); 3] = [(6, "tcp"), (17, "udp"), (132, "sctp")];

/// The findings so far.
struct Checker<'a> {
    program: &'a Program,
    findings: Vec<Finding>,
}

impl<'a> Checker<'a> {
    fn find(
        &mut self,
        severity: Severity,
        table: TableId,
        at: Option<(&Key, &Entry)>,
        message: impl Into<String>,
    ) {
        let entry =
            at.map(|(key, entry)| text::entry(table, key, &Entry::new(entry.action, entry.params)));
        self.findings.push(Finding { severity, table, entry, message: message.into() });
    }

    /// Checks what one table can tell by itself: its size, and each entry against the schema.
    /// Ranges must not overlap, since a lookup looks at one entry only.
    fn table(&mut self, table: &Table) {
        let (spec, count) = (table.id.spec(), table.entries.len());
        if count as u64 > table.size {
            self.find(
                Severity::Error,
                table.id,
                None,
                format!("has {count} entries, but its size is {}", table.size),
            );
        }
        // The entry whose range reaches furthest so far, with its end. Keys are sorted by their
        // exact fields and then by where the range begins, so an overlap is with this one if with
        // any.
        let mut last: Option<(&Key, &Entry, u32)> = None;
        for (key, entry) in &table.entries {
            let mut problems = Vec::new();
            if key.fields().len() != spec.fields.len() {
                problems.push(format!(
                    "the key has {} fields, but the schema says {}",
                    key.fields().len(),
                    spec.fields.len()
                ));
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
                    self.find(
                        Severity::Error,
                        table.id,
                        Some((key, entry)),
                        format!("overlaps `{other}`"),
                    );
                }
                if beside.is_none_or(|(.., end)| end < *high) {
                    last = Some((key, entry, *high));
                }
            }
        }
    }

    /// Checks that each port of the protocols that have ports is in an interval, unless no verdict
    /// depends on a port. A port outside would have class 0, which is that of protocols without.
    fn ports(&mut self) {
        let ports = &self.program.table(TableId::Port).entries;
        if ports.is_empty() && self.program.table(TableId::Verdict).entries.is_empty() {
            return;
        }
        let ranges = ports.iter().filter(|(k, _)| matches!(k.fields(), [_, Match::Range { .. }]));
        for (key, entry) in ranges {
            let PortKey { protocol, port } = PortKey::of(key);
            if !eval::has_intervals(protocol) && (port.low, port.high) != (0, 0xffff) {
                let message = "the protocol has no ports: the interval is 0-65535";
                self.find(Severity::Error, TableId::Port, Some((key, entry)), message);
            }
        }
        for (number, name) in WITH_PORTS {
            let mut next = 0u32;
            let mut gaps = Vec::new();
            let keys = ports
                .keys()
                .filter(|k| matches!(k.fields(), [_, Match::Range { .. }]))
                .map(PortKey::of);
            for PortKey { port, .. } in keys.filter(|k| k.protocol == number) {
                if port.low > next {
                    gaps.push(format!("{next}-{}", port.low - 1));
                }
                next = next.max(port.high.saturating_add(1));
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

    /// Checks ids across tables: those that lead nowhere, and entries that nothing leads to. Goes
    /// the way of a lookup, and hands on what each table leads to.
    fn ids(&mut self) {
        let sets = self.words();
        self.endpoints();
        self.services();
        let classes: BTreeSet<Class> = self.leaves::<V4>().chain(self.leaves::<V6>()).collect();
        let rows = self.answers(&sets, &classes);
        self.verdicts(&rows);
    }

    fn entries(&self, table: TableId) -> impl Iterator<Item = (&'a Key, &'a Entry)> + use<'a> {
        self.program.table(table).entries.iter()
    }

    /// Checks words, and returns the sets that words of isolated directions name.
    fn words(&mut self) -> BTreeSet<SetId> {
        let mut sets = BTreeSet::new();
        for (key, entry) in self.entries(TableId::Endpoint) {
            for set in Pipeline::ALL.into_iter().filter_map(|p| p.set(Word::of(entry))) {
                sets.insert(set);
                for family in Family::BOTH {
                    if self.program.get(TableId::Base, &base_key(set, family)).is_none() {
                        let message = format!(
                            "set {set} has no base for family {}: it denies everything",
                            family.number()
                        );
                        self.find(Severity::Error, TableId::Endpoint, Some((key, entry)), message);
                    }
                }
            }
            let word = Word::of(entry);
            if word.born_set != SetId::default() && Pipeline::Born.set(word).is_none() {
                let message = "the born set judges nothing, since ingress is not isolated";
                self.find(Severity::Warning, TableId::Endpoint, Some((key, entry)), message);
            }
            if *key == endpoint_key(EndpointId::default()) {
                self.find(
                    Severity::Error,
                    TableId::Endpoint,
                    Some((key, entry)),
                    "endpoint 0 stands for no endpoint",
                );
            }
        }
        sets
    }

    /// Checks that what is keyed by or leads to an endpoint finds its word.
    fn endpoints(&mut self) {
        let program = self.program;
        let known = |endpoint| program.get(TableId::Endpoint, &endpoint_key(endpoint)).is_some();
        for (key, entry) in self.entries(TableId::Interface) {
            let SetEndpoint { endpoint } = SetEndpoint::of(entry);
            if !known(endpoint) {
                let message = format!("endpoint {endpoint} has no word: nothing is isolated");
                self.find(Severity::Warning, TableId::Interface, Some((key, entry)), message);
            }
        }
        for table in [TableId::OwnV4, TableId::OwnV6, TableId::OwnMac] {
            for (key, entry) in self.entries(table) {
                let endpoint = match table {
                    TableId::OwnV4 => OwnKey::of(Family::V4, key).endpoint,
                    TableId::OwnV6 => OwnKey::of(Family::V6, key).endpoint,
                    _ => OwnMacKey::of(key).endpoint,
                };
                if !known(endpoint) {
                    self.find(
                        Severity::Warning,
                        table,
                        Some((key, entry)),
                        "its endpoint has no word",
                    );
                }
            }
        }
    }

    /// Checks that Services have protocols with ports: a lookup without a port never asks for one.
    fn services(&mut self) {
        for family in Family::BOTH {
            let table = TableId::service(family);
            for (key, entry) in self.entries(table) {
                let protocol = ServiceKey::of(family, key).protocol;
                if !WITH_PORTS.iter().any(|(number, _)| *number == protocol) {
                    self.find(
                        Severity::Error,
                        table,
                        Some((key, entry)),
                        "the protocol has no ports",
                    );
                }
            }
        }
    }

    /// Checks that the directory knows the classes of leaves, unless it knows none at all, and
    /// returns the classes that addresses of a family have.
    fn leaves<F: Ip>(&mut self) -> impl Iterator<Item = Class> + use<F> {
        let table = TableId::remote(F::FAMILY);
        let of_family =
            |named: Named| matches!(named, Named::Class(class) if class.family() == F::FAMILY);
        let listed =
            self.entries(TableId::Directory).any(|(key, _)| of_family(DirectoryKey::of(key).named));
        let mut classes = BTreeSet::from([ClassId::default()]);
        for (key, entry) in self.entries(table) {
            let SetRemote::<F> { class, .. } = SetRemote::of(entry);
            let line = directory_key(Named::Class(class.into()));
            let known = self.program.get(TableId::Directory, &line).is_some();
            if listed && class != ClassId::default() && !known {
                let message = format!("the directory does not know class {class}");
                self.find(Severity::Error, table, Some((key, entry)), message);
            }
            classes.insert(class);
        }
        classes.into_iter().map(F::class)
    }

    /// Checks bases and rows, and returns the rows that sets lead to.
    fn answers(&mut self, sets: &BTreeSet<SetId>, classes: &BTreeSet<Class>) -> BTreeSet<RowId> {
        let verdicts = self.entries(TableId::Verdict).map(|(k, _)| VerdictKey::of(k).row);
        let tried = self.entries(TableId::Tried).map(|(k, _)| TriedKey::of(k).row);
        let verdicts: BTreeSet<RowId> = verdicts.chain(tried).collect();
        let mut rows = BTreeSet::new();
        for table in [TableId::Base, TableId::Row] {
            for (key, entry) in self.entries(table) {
                let (set, class) = match table {
                    TableId::Base => (BaseKey::of(key).set, None),
                    _ => (RowKey::of(key).set, Some(RowKey::of(key).class)),
                };
                if !sets.contains(&set) {
                    self.find(
                        Severity::Warning,
                        table,
                        Some((key, entry)),
                        "no endpoint uses this set",
                    );
                }
                if !matches!(family_number(table, key), Some(4 | 6)) {
                    self.find(
                        Severity::Error,
                        table,
                        Some((key, entry)),
                        "the family must be 4 or 6",
                    );
                } else if class.is_some_and(|class| !classes.contains(&class)) {
                    self.find(
                        Severity::Warning,
                        table,
                        Some((key, entry)),
                        "no address has this class",
                    );
                }
                if let Answer::Row(row) = Answer::of(Some(entry))
                    && rows.insert(row)
                    && row != RowId::default()
                    && !verdicts.contains(&row)
                {
                    let message = format!("no verdict belongs to row {row}");
                    self.find(Severity::Error, table, Some((key, entry)), message);
                }
            }
        }
        rows
    }

    /// Checks that verdicts can be met: their row by a set, their port class by a port.
    fn verdicts(&mut self, rows: &BTreeSet<RowId>) {
        let classes = self.entries(TableId::Port).map(|(_, e)| SetPortClass::of(e).port_class);
        let classes: BTreeSet<PortClassId> = classes.chain([PortClassId::default()]).collect();
        let verdicts = self.entries(TableId::Verdict).map(|(key, entry)| {
            let VerdictKey { row, port_class } = VerdictKey::of(key);
            (TableId::Verdict, row, port_class, (key, entry))
        });
        let tried = self.entries(TableId::Tried).map(|(key, entry)| {
            let TriedKey { row, port_class } = TriedKey::of(key);
            (TableId::Tried, row, port_class, (key, entry))
        });
        for (table, row, port_class, at) in verdicts.chain(tried).collect::<Vec<_>>() {
            if !rows.contains(&row) {
                self.find(Severity::Warning, table, Some(at), "no set uses this row");
            }
            if !classes.contains(&port_class) {
                self.find(Severity::Warning, table, Some(at), "no port has this port class");
            }
        }
    }
}

/// What is wrong with one field of a key.
fn field(found: &Match, spec: &FieldSpec) -> Option<String> {
    let (name, width) = (spec.name, spec.width);
    let limit = u128::MAX.checked_shr(128 - u32::from(width)).unwrap_or(0);
    let kind = match found {
        Match::Exact(_) => MatchKind::Exact,
        Match::Lpm { .. } => MatchKind::Lpm,
        Match::Range { .. } => MatchKind::Range,
    };
    if kind != spec.kind {
        return Some(format!(
            "{name} is matched by {}, not {}",
            text::kind(spec.kind),
            text::kind(kind)
        ));
    }
    match *found {
        Match::Lpm { length, .. } if length > width => {
            Some(format!("{name} has {width} bits, but the prefix has {length}"))
        }
        Match::Range { low, high } if low > high => {
            Some(format!("the range of {name} ends before it starts"))
        }
        Match::Range { high, .. } if u128::from(high) > limit => {
            Some(format!("{name} is wider than {width} bits"))
        }
        _ if found.value().get() > limit => Some(format!("{name} is wider than {width} bits")),
        Match::Lpm { value, length } if masked(value, length, width) != value => {
            Some(format!("{name} has bits set beyond its prefix of {length}"))
        }
        _ => None,
    }
}

/// What is wrong with an entry's action and parameters.
fn action(table: TableId, entry: &Entry) -> Vec<String> {
    let (spec, mut problems) = (entry.action.spec(), Vec::new());
    if !table.spec().actions.contains(&entry.action) {
        problems.push(format!("{} is not an action of this table's entries", spec.name));
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
    let known = Word::INGRESS
        | Word::EGRESS
        | Word::RECORD
        | Word::GUARD
        | Word::BRIDGED
        | Word::TRIED_INGRESS
        | Word::TRIED_EGRESS;
    if entry.action == ActionId::SetPolicy && Word::of(entry).flags & !known != 0 {
        problems.push("it has flags without a meaning".into());
    }
    problems
}
