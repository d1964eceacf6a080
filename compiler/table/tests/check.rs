//! The checker names every broken rule with table and entry; canonical ids.

mod common;

use std::collections::BTreeMap;

use common::{Random, mutate};
use netpolc_table::{
    ActionId, Class, ClassId, EndpointId, Entry, IfIndex, Incarnation, Key, Match, PortClassId,
    Program, RowId, SetId, TableId,
    check::{self, Severity},
    id::V4,
    schema::*,
    text,
};

/// What the checker says of a program in which `entries` were put.
fn findings(entries: impl IntoIterator<Item = (TableId, Key, Entry)>) -> Vec<String> {
    let mut program = Program::default();
    for (table, key, entry) in entries {
        program.table_mut(table).entries.insert(key, entry);
    }
    check::check(&program).iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_program_and_an_isolated_pod_are_fine() {
    assert_eq!(findings([]), [""; 0]);
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(0),
        born_set: SetId::new(0),
        flags: Word::INGRESS,
    };
    let entries = [
        (TableId::Interface, interface_key(IfIndex::new(5)), set_endpoint(EndpointId::new(1))),
        (TableId::Endpoint, endpoint_key(EndpointId::new(1)), set_policy(word)),
        (TableId::Base, base_key(SetId::new(1), Family::V4), plain(ActionId::Deny)),
        (TableId::Base, base_key(SetId::new(1), Family::V6), plain(ActionId::Permit)),
    ];
    assert_eq!(findings(entries), [""; 0]);
}

#[test]
fn fields_and_actions_that_break_the_schema_are_errors() {
    let leaf = || set_remote(ClassId::<V4>::new(0), Incarnation::new(0));
    let prefix = |value: u32, length| Key::new([Match::Lpm { value: value.into(), length }]);
    let cases: Vec<(TableId, Key, Entry, &str)> = vec![
        (
            TableId::RemoteV4,
            prefix(0x0a000001, 24),
            leaf(),
            "error: table remote_v4: `10.0.0.1/24 -> set_remote(class 0, incarnation 0x0)`: \
             address has bits set beyond its prefix of 24",
        ),
        (
            TableId::RemoteV4,
            prefix(0, 33),
            leaf(),
            "error: table remote_v4: `0.0.0.0/33 -> set_remote(class 0, incarnation 0x0)`: address \
             has 32 bits, but the prefix has 33",
        ),
        (
            TableId::RemoteV4,
            Key::new([Match::exact(1u8)]),
            leaf(),
            "error: table remote_v4: `0.0.0.1 -> set_remote(class 0, incarnation 0x0)`: address is \
             matched by lpm, not exact",
        ),
        (
            TableId::RemoteV6,
            Key::new([]),
            leaf(),
            "error: table remote_v6: `() -> set_remote(class 0, incarnation 0x0)`: the key has 0 \
             fields, but the schema says 1",
        ),
        (
            TableId::Endpoint,
            Key::new([Match::exact(65536u32)]),
            set_policy(Word::default()),
            "error: table endpoint: `65536 -> set_policy(ingress_set 0, egress_set 0, born_set 0, flags 0x0)`: \
             endpoint is wider than 16 bits",
        ),
        (
            TableId::Directory,
            directory_key(Named::Set(SetId::new(1))),
            plain(ActionId::Permit),
            "error: table directory: `2, 1 -> permit`: permit is not an action of this table's \
             entries",
        ),
        (
            TableId::RemoteV4,
            prefix(0, 0),
            Entry::new(ActionId::SetRemote, [0, 1 << 16, 0, 0]),
            "error: table remote_v4: `0.0.0.0/0 -> set_remote(class 0, incarnation 0x10000)`: \
             incarnation is wider than 16 bits",
        ),
        (
            TableId::Directory,
            directory_key(Named::Set(SetId::new(1))),
            Entry::new(ActionId::Fingerprint, [0, 1, 0, 0]),
            "error: table directory: `2, 1 -> fingerprint(value 0x0, param1 1)`: fingerprint has \
             no parameter 1",
        ),
        (
            TableId::Endpoint,
            endpoint_key(EndpointId::new(1)),
            set_policy(Word::flagged(128)),
            "error: table endpoint: `1 -> set_policy(ingress_set 0, egress_set 0, born_set 0, flags 0x80)`: it \
             has flags without a meaning",
        ),
    ];
    for (table, key, entry, message) in cases {
        assert_eq!(findings([(table, key, entry)]), [message]);
    }
    let mut small = Program::default();
    small.table_mut(TableId::OwnV4).size = 1;
    for endpoint in 0..2 {
        small
            .table_mut(TableId::Endpoint)
            .entries
            .insert(endpoint_key(EndpointId::new(endpoint + 1)), set_policy(Word::default()));
        let key = own_key(EndpointId::new(endpoint + 1), "10.0.0.1".parse().unwrap());
        small.table_mut(TableId::OwnV4).entries.insert(key, plain(ActionId::Own));
    }
    let found = check::check(&small);
    assert_eq!(found[0].to_string(), "error: table own_v4: has 2 entries, but its size is 1");
}

#[test]
fn s82_a_born_set_that_judges_nothing_is_a_warning() {
    let mut program = Program::default();
    let base = base_key(SetId::new(1), Family::V4);
    program.table_mut(TableId::Base).entries.insert(base, plain(ActionId::Deny));
    for (flags, expected) in [
        (
            Word::INGRESS,
            "error: table endpoint: `1 -> set_policy(ingress_set 0, egress_set 0, born_set 1, flags 0x1)`: set 1 has no base for family 6",
        ),
        (
            Word::EGRESS,
            "warning: table endpoint: `1 -> set_policy(ingress_set 0, egress_set 0, born_set 1, flags 0x2)`: the born set judges nothing",
        ),
    ] {
        let word = Word { born_set: SetId::new(1), ..Word::flagged(flags) };
        let key = endpoint_key(EndpointId::new(1));
        program.table_mut(TableId::Endpoint).entries.insert(key, set_policy(word));
        let found: Vec<String> = check::check(&program).iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|line| line.starts_with(expected)), "{found:?}");
    }
}

#[test]
fn s27_s32_port_intervals_that_overlap_or_leave_gaps_are_errors() {
    let class = |number| set_port_class(PortClassId::new(number));
    let full = |p| (TableId::Port, port_key(p, 0, 65535), class(1));
    let overlap = [
        (TableId::Port, port_key(6, 0, 80), class(2)),
        (TableId::Port, port_key(6, 80, 65535), class(3)),
        full(17),
        full(132),
    ];
    assert_eq!(
        findings(overlap),
        ["error: table port: `tcp, 80-65535 -> set_port_class(port_class 3)`: overlaps `tcp, \
             0-80 -> set_port_class(port_class 2)`"]
    );
    // S77: a part of a protocol that has neither ports nor messages.
    let told_apart = |last| [(TableId::Port, port_key(50, 0, last), class(2)), full(1), full(58)];
    let ported = || [full(6), full(17), full(132)];
    assert_eq!(findings(ported().into_iter().chain(told_apart(65535))), [] as [&str; 0]);
    assert_eq!(
        findings(ported().into_iter().chain(told_apart(8))),
        ["error: table port: `50, 0-8 -> set_port_class(port_class 2)`: the protocol has no \
             ports: the interval is 0-65535"]
    );
    let gap = [
        (TableId::Port, port_key(6, 1, 80), class(2)),
        (TableId::Port, port_key(6, 90, 65534), class(3)),
        full(17),
    ];
    assert_eq!(
        findings(gap),
        [
            "error: table port: tcp: no interval holds the ports 0-0, 81-89, 65535-65535",
            "error: table port: sctp: no interval holds the ports 0-65535"
        ]
    );
    let wide = (
        TableId::Port,
        Key::new([Match::exact(6u8), Match::Range { low: 0, high: 65536 }]),
        class(1),
    );
    assert_eq!(
        findings([wide, full(17), full(132)]),
        ["error: table port: `tcp, 0-65536 -> set_port_class(port_class 1)`: port is wider than \
             16 bits"]
    );
}

#[test]
fn ids_that_lead_nowhere_are_errors_and_entries_nothing_reaches_are_warnings() {
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(2),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    let permit = || plain(ActionId::Permit);
    let found = findings([
        (TableId::Interface, interface_key(IfIndex::new(1)), set_endpoint(EndpointId::new(9))),
        (TableId::Endpoint, endpoint_key(EndpointId::new(1)), set_policy(word)),
        (
            TableId::OwnV4,
            own_key(EndpointId::new(3), "10.0.0.1".parse().unwrap()),
            plain(ActionId::Own),
        ),
        (
            TableId::RemoteV4,
            remote_key("10.0.0.1".parse().unwrap(), 32),
            set_remote(ClassId::<V4>::new(2), Incarnation::new(0)),
        ),
        (TableId::Port, port_key(6, 0, 65535), set_port_class(PortClassId::new(1))),
        (TableId::Port, port_key(17, 0, 65535), set_port_class(PortClassId::new(1))),
        (TableId::Port, port_key(132, 0, 65535), set_port_class(PortClassId::new(1))),
        (TableId::Base, base_key(SetId::new(1), Family::V4), permit()),
        (TableId::Base, base_key(SetId::new(1), Family::V6), permit()),
        (TableId::Base, base_key(SetId::new(2), Family::V4), set_row(RowId::new(5))),
        (TableId::Row, row_key(SetId::new(1), ClassId::<V4>::new(3)), permit()),
        (TableId::Row, row_key(SetId::new(8), ClassId::<V4>::new(2)), permit()),
        (TableId::Verdict, verdict_key(RowId::new(6), PortClassId::new(1)), permit()),
        (TableId::Verdict, verdict_key(RowId::new(6), PortClassId::new(7)), permit()),
        (
            TableId::Directory,
            directory_key(Named::Class(Class::new(Family::V4, 3))),
            fingerprint(1u64),
        ),
    ]);
    let expected = [
        "warning: table interface: `1 -> set_endpoint(endpoint 9)`: endpoint 9 has no word: \
         nothing is isolated",
        "error: table endpoint: `1 -> set_policy(ingress_set 1, egress_set 2, born_set 0, flags 0x3)`: set 2 \
         has no base for family 6: it denies everything",
        "warning: table own_v4: `3, 10.0.0.1 -> own`: its endpoint has no word",
        "error: table remote_v4: `10.0.0.1/32 -> set_remote(class 2, incarnation 0x0)`: the \
         directory does not know class 2",
        "error: table base: `2, 4 -> set_row(row 5)`: no verdict belongs to row 5",
        "warning: table row: `1, 4, 3 -> permit`: no address has this class",
        "warning: table row: `8, 4, 2 -> permit`: no endpoint uses this set",
        "warning: table verdict: `6, 1 -> permit`: no set uses this row",
        "warning: table verdict: `6, 7 -> permit`: no set uses this row",
        "warning: table verdict: `6, 7 -> permit`: no port has this port class",
    ];
    assert_eq!(found, expected);
    assert!(check::check(&Program::default()).iter().all(|f| f.severity == Severity::Warning));
}

/// The same program under other ids.
fn shuffled(random: &mut Random, program: &Program) -> Program {
    let mut name = |n: u16| -> BTreeMap<u16, u16> {
        let mut ids: Vec<u16> = (1..=n).map(|i| i * 3 + 1).collect();
        for i in (1..ids.len()).rev() {
            ids.swap(i, random.below(i + 1));
        }
        [(0, 0)].into_iter().chain((1..).zip(ids)).collect()
    };
    let (sets, classes, rows, pcs) = (name(8), name(8), name(8), name(8));
    let set = |id: SetId| SetId::new(sets[&id.get()]);
    let class = |id: Class| Class::new(id.family(), classes[&id.get()]);
    let row = |id: RowId| RowId::new(rows[&id.get()]);
    let pc = |id: PortClassId| PortClassId::new(pcs[&id.get()]);
    let rename = |table: TableId, k: &Key, e: &Entry| {
        let answer = |e: &Entry| Answer::of(Some(e)).row().map_or(e.clone(), |id| set_row(row(id)));
        let leaf = |family| {
            let leaf = Leaf::of(family, e);
            set_remote(class(leaf.class), leaf.incarnation)
        };
        match table {
            TableId::Endpoint => {
                let word = Word::of(e);
                let [ingress_set, egress_set, born_set] = word.sets().map(set);
                (k.clone(), set_policy(Word { ingress_set, egress_set, born_set, ..word }))
            }
            TableId::RemoteV4 => (k.clone(), leaf(Family::V4)),
            TableId::RemoteV6 => (k.clone(), leaf(Family::V6)),
            TableId::Port => (k.clone(), set_port_class(pc(SetPortClass::of(e).port_class))),
            TableId::Base => (base_key(set(BaseKey::of(k).set), BaseKey::of(k).family), answer(e)),
            TableId::Row => {
                (row_key(set(RowKey::of(k).set), class(RowKey::of(k).class)), answer(e))
            }
            TableId::Verdict => {
                let verdict = VerdictKey::of(k);
                (verdict_key(row(verdict.row), pc(verdict.port_class)), e.clone())
            }
            TableId::Tried => {
                let tried = TriedKey::of(k);
                (tried_key(row(tried.row), pc(tried.port_class)), e.clone())
            }
            TableId::Directory => {
                let named = match DirectoryKey::of(k).named {
                    Named::Set(id) => Named::Set(set(id)),
                    Named::Class(id) => Named::Class(class(id)),
                    other => other,
                };
                (directory_key(named), e.clone())
            }
            _ => (k.clone(), e.clone()),
        }
    };
    let mut out = program.clone();
    for &table in TableId::ALL {
        let entries = &mut out.table_mut(table).entries;
        let renamed = std::mem::take(entries).into_iter().map(|(key, entry)| {
            let (key, after) = rename(table, &key, &entry);
            (key, after.with(entry.origins))
        });
        *entries = renamed.collect();
    }
    out
}

/// Removes what no packet reaches: nothing tells such ids apart.
fn prune(program: &mut Program) {
    let rows = |program: &Program, table| -> Vec<RowId> {
        let entries = program.table(table).entries.values();
        entries.filter_map(|e| Answer::of(Some(e)).row()).collect()
    };
    let words = program.table(TableId::Endpoint).entries.values().map(Word::of);
    let sets: Vec<SetId> = words.flat_map(|word| [word.ingress_set, word.egress_set]).collect();
    program.table_mut(TableId::Base).entries.retain(|k, _| sets.contains(&BaseKey::of(k).set));
    program.table_mut(TableId::Row).entries.retain(|k, _| sets.contains(&RowKey::of(k).set));
    let rows = [rows(program, TableId::Base), rows(program, TableId::Row)].concat();
    let pcs = program.table(TableId::Port).entries.values().map(|e| SetPortClass::of(e).port_class);
    let pcs: Vec<PortClassId> = pcs.chain([PortClassId::default()]).collect();
    let used = |k: VerdictKey| rows.contains(&k.row) && pcs.contains(&k.port_class);
    program.table_mut(TableId::Verdict).entries.retain(|k, _| used(VerdictKey::of(k)));
    let used = |k: TriedKey| rows.contains(&k.row) && pcs.contains(&k.port_class);
    program.table_mut(TableId::Tried).entries.retain(|k, _| used(TriedKey::of(k)));
}

#[test]
fn programs_equal_up_to_ids_are_equal_in_canonical_form() {
    let mut random = Random::new(11);
    for i in 0..300 {
        let mut program = Program::default();
        mutate(&mut random, &mut program, 50);
        for set in 1u16..4 {
            let class = |family| Named::Class(Class::new(family, set));
            let kinds =
                [(Named::Set(SetId::new(set)), 1), (class(Family::V4), 2), (class(Family::V6), 3)];
            for (named, salt) in kinds {
                // Classes that no address has can be told apart by nothing but their fingerprints.
                if i % 2 == 0 || matches!(named, Named::Class(_)) {
                    let print = fingerprint(u64::from(set) * 7919 % 5 + salt);
                    program
                        .table_mut(TableId::Directory)
                        .entries
                        .insert(directory_key(named), print);
                }
            }
        }
        prune(&mut program);
        let other = shuffled(&mut random, &program);
        let (a, b) = (program.canonical(), other.canonical());
        assert!(a == b, "{i}:\n{}\n{}", text::print(&a), text::print(&b));
        assert_eq!(a, a.canonical());
        assert!(common::answers(&a) == common::answers(&program), "{i}");
    }
}
