//! The P4_16 program is of the language, and its tables, keys, actions and entries are those of the
//! schema. What reads it is a reader of our own (`p4_reader`), which says what it does not check.

mod p4_reader;

use std::collections::BTreeSet;

use netpolc_table::{
    Class, ClassId, EndpointId, Program, SetId, TableId,
    id::{V4, V6},
    p4::{self, Install, Source},
    schema::{self, Family, MatchKind, base_key, port_key, remote_key, row_key, set_remote},
};

use p4_reader::Reader;

/// A program with entries of every kind of match, and prefixes of every length that is special.
fn program() -> Program {
    let mut program = Program::default();
    let mut put = |id: TableId, key, entry| drop(program.table_mut(id).entries.insert(key, entry));
    for (address, length) in [("0.0.0.0", 0), ("10.0.0.0", 8), ("10.1.2.3", 32)] {
        let class = Class::V4(ClassId::<V4>::new(7));
        let key = remote_key(address.parse().unwrap(), length);
        put(TableId::RemoteV4, key, set_remote(class, Default::default()));
    }
    for (address, length) in [("::", 0), ("2001:db8::", 32), ("fd00::1", 128)] {
        let class = Class::V6(ClassId::<V6>::new(65535));
        let key = remote_key(address.parse().unwrap(), length);
        put(TableId::RemoteV6, key, set_remote(class, Default::default()));
    }
    let intervals = [(0, 79), (80, 80), (81, 65535)];
    for (number, (first, last)) in (1..).zip(intervals) {
        put(
            TableId::Port,
            port_key(6, first, last),
            schema::set_port_class(netpolc_table::PortClassId::new(number)),
        );
    }
    put(
        TableId::Base,
        base_key(SetId::new(1), Family::V4),
        schema::plain(netpolc_table::ActionId::Deny),
    );
    put(
        TableId::Row,
        row_key(SetId::new(1), ClassId::<V4>::new(7)),
        schema::set_row(netpolc_table::RowId::new(3)),
    );
    put(
        TableId::Tunnel,
        schema::tunnel_key(17, 4789),
        schema::plain(netpolc_table::ActionId::Tunnel),
    );
    put(
        TableId::OwnMac,
        schema::own_mac_key(EndpointId::new(1)),
        schema::set_mac([2, 0, 0, 0, 0, 1]),
    );
    program
}

#[test]
fn the_program_is_of_the_language_and_has_the_schemas_tables() {
    let program = program();
    for (install, has_entries) in [(Install::Const, true), (Install::AtRunTime, false)] {
        let source = Source(&program, install).to_string();
        let read = Reader::read(&source);
        let names: Vec<&str> = p4::tables().map(|spec| spec.name).collect();
        assert_eq!(read.tables.len(), names.len());
        for spec in p4::tables() {
            let table = &read.tables[spec.name];
            assert_eq!(table.id, p4::table_id(spec.id), "{}", spec.name);
            let kinds = |kind| match kind {
                MatchKind::Exact => "exact",
                MatchKind::Lpm => "lpm",
                MatchKind::Range => "range",
            };
            let fields = spec.fields.iter();
            let fields: Vec<(u32, String, String)> =
                fields.map(|f| (f.width.into(), kinds(f.kind).into(), f.name.into())).collect();
            assert_eq!(table.keys, fields, "{}", spec.name);
            assert!(fields.iter().filter(|(_, kind, _)| kind == "lpm").count() <= 1);
            let expected = if has_entries { program.table(spec.id).entries.len() } else { 0 };
            assert_eq!(table.entries, expected, "{}", spec.name);
            let applied = read.applied.iter().filter(|name| **name == spec.name).count();
            assert_eq!(applied, 1, "{} is asked once", spec.name);
        }
        let ids: BTreeSet<u32> = read.actions.values().map(|(id, _)| *id).collect();
        assert_eq!(ids, p4::actions().map(p4::action_id).collect());
        assert!(source.contains("There is no connection state here"));
    }
}

#[test]
fn the_reader_refuses_what_is_not_so() {
    let source = Source(&program(), Install::Const).to_string();
    Reader::read(&source);
    for (right, wrong) in [
        ("meta.class = class;", "meta.class = clas;"),
        ("meta.class = class;", "meta.mac = class;"),
        ("const default_action = miss();", "const default_action = permit();"),
        (": lpm", ": longest"),
        ("80..80", "80..65536"),
        ("0xa000000 &&& 0xff000000", "0xa000001 &&& 0xff000000"),
        ("row.apply();", "rows.apply();"),
        ("transition accept;", "transition accepted;"),
        ("hdr.ipv6.source[127:118] == 0x3fa", "hdr.ipv6.source[128:118] == 0x3fa"),
        ("if (meta.answer != PERMIT) {", "if (meta.answer) {"),
        ("    apply { }\n", "    apply { \n"),
    ] {
        assert!(source.contains(right), "{right}");
        let broken = source.replacen(right, wrong, 1);
        let refused = std::panic::catch_unwind(|| drop(Reader::read(&broken))).is_err();
        assert!(refused, "{wrong} is taken");
    }
}
