//! The text form: exact round trips, errors that name their place, and a parser that never panics.
//! How it looks: `testbed/filetests`.

mod common;

use std::time::{Duration, Instant};

use common::{Random, mutate};
use netpolc_table::{
    ActionId, Entry, Key, Match, Origin, Program, TableId, id::*, schema::*, text,
};

fn example() -> Program {
    let mut program = Program::default();
    let rule = |peer, port| Origin::Rule { policy: "shop/ui".into(), rule: 0, peer, port };
    let mut put = |table, key, entry: Entry| {
        program.table_mut(table).entries.insert(key, entry);
    };
    put(TableId::Interface, interface_key(IfIndex::new(7)), set_endpoint(EndpointId::new(1)));
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(0),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::GUARD,
    };
    put(TableId::Endpoint, endpoint_key(EndpointId::new(1)), set_policy(word));
    put(
        TableId::OwnV6,
        own_key(EndpointId::new(1), "fd00::7".parse().unwrap()),
        plain(ActionId::Own).from([Origin::Pod { pod: "shop/ui-1".into() }]),
    );
    let prefix = remote_key("10.0.0.0".parse().unwrap(), 24);
    put(
        TableId::RemoteV4,
        prefix,
        set_remote(ClassId::<V4>::new(3), Incarnation::new(0))
            .from([rule(Some(1), None), rule(Some(0), None)]),
    );
    put(TableId::Port, port_key(6, 0, 79), set_port_class(PortClassId::new(1)));
    put(TableId::Port, port_key(132, 80, 65535), set_port_class(PortClassId::new(2)));
    put(
        TableId::Base,
        base_key(SetId::new(1), Family::V4),
        plain(ActionId::Deny).from([Origin::Isolates { policy: "shop/ui".into() }]),
    );
    let node = Origin::Implied { reason: "own node (S45)".into() };
    put(
        TableId::Row,
        row_key(SetId::new(1), ClassId::<V4>::new(3)),
        set_row(RowId::new(1)).from([node, Origin::Node { node: "a".into() }]),
    );
    put(
        TableId::Verdict,
        verdict_key(RowId::new(1), PortClassId::new(2)),
        plain(ActionId::Permit).from([rule(Some(1), Some(0))]),
    );
    put(TableId::Directory, directory_key(Named::Set(SetId::new(1))), fingerprint(0xdead_beef_u64));
    program
}

#[test]
fn what_prints_parses_back_to_itself() {
    assert_eq!(text::parse(&text::print(&example())).unwrap(), example());
    let mut random = Random::new(1);
    for _ in 0..200 {
        let mut program = Program::default();
        mutate(&mut random, &mut program, 60);
        program.table_mut(TableId::Row).size = random.next();
        assert_eq!(text::parse(&text::print(&program)).unwrap(), program);
    }
}

#[test]
fn programs_that_break_the_rules_of_their_tables_print_and_parse_too() {
    let mut program = example();
    let names = [
        "pod",
        "isolated",
        "a b",
        "",
        "x\"y\\z",
        "line\nbreak",
        "ümläut",
        "a//b",
        "rule",
        "isolates",
        "pod/x",
        "a;b#c",
    ];
    let origins = names.iter().flat_map(|n| {
        let n: std::sync::Arc<str> = (*n).into();
        let rule = Origin::Rule { policy: n.clone(), rule: 9, peer: None, port: Some(1) };
        [
            rule,
            Origin::Isolates { policy: n.clone() },
            Origin::Pod { pod: n.clone() },
            Origin::ByDefault,
            Origin::Implied { reason: n },
        ]
    });
    let odd = [
        (TableId::RemoteV4, Key::new([])),
        (TableId::RemoteV4, Key::new([Match::exact(1u128 << 90)])),
        (TableId::RemoteV4, Key::new([Match::Range { low: 9, high: 1 }])),
        (
            TableId::RemoteV6,
            Key::new([Match::Lpm { value: u128::MAX.into(), length: 255 }, Match::exact(5u8)]),
        ),
        (TableId::Port, Key::new([Match::Lpm { value: 6u8.into(), length: 3 }])),
        (
            TableId::Port,
            Key::new([
                Match::exact(u128::MAX),
                Match::exact(3u8),
                Match::exact(4u8),
                Match::exact(5u8),
            ]),
        ),
    ];
    for (i, (table, key)) in odd.into_iter().enumerate() {
        let entry = Entry::new(ActionId::ALL[i], [u64::MAX, 0, 3, 0]).from(origins.clone());
        program.table_mut(table).entries.insert(key, entry);
    }
    let printed = text::print(&program);
    assert_eq!(text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")), program);
}

#[test]
fn errors_name_line_column_and_what_was_expected() {
    let head = "table port size 8 key protocol/8:exact, port/16:range default \
        set_port_class(port_class 0)";
    let cases = [
        ("tabel x", "line 1, column 1: expected `table`, found `tabel x`"),
        (
            "table x",
            "line 1, column 7: expected a table's name (interface, endpoint, own_v4, own_v6, \
             remote_v4, remote_v6, port, base, row, verdict, tried, service_v4, service_v6, \
             tunnel, on_link_v6, own_mac, directory), found `x`",
        ),
        ("table port\nsize many", "line 2, column 6: expected a size in entries, found `many`"),
        (
            "table port size 8 key x",
            "line 1, column 19: expected `key protocol/8:exact, port/16:range default \
             set_port_class(port_class 0)`, found `key x`",
        ),
        ("HEAD {\n  tcp, 0-1 => miss", "line 2, column 12: expected `->`, found `=> miss`"),
        (
            "HEAD {\n  // what\n  tpc, 0-1 -> miss\n}",
            "line 3, column 3: expected an entry (protocol first) or `}`: a protocol: tcp, udp, \
             sctp or a number, found `tpc, 0-1 -> miss`",
        ),
        (
            "HEAD {\n  tcp, 0-x -> miss\n}",
            "line 2, column 10: expected the last number of a range, of 32 bits, found `x -> miss`",
        ),
        (
            "HEAD {\n  tcp, 0-1 -> drop\n}",
            "line 2, column 15: expected an action (miss, set_endpoint, set_policy, own, \
             set_remote, set_port_class, set_row, permit, deny, differs, defer, tunnel, on_link, \
             set_mac, fingerprint), found `drop`",
        ),
        (
            "HEAD {\n  tcp, 0-1 -> set_port_class(1)\n}",
            "line 2, column 30: expected `port_class`, found `1)`",
        ),
        ("HEAD {\n  tcp, 0-1 -> permit # a/b\n}", "line 3, column 1: expected `rule[`, found `}`"),
        (
            "HEAD {\n  tcp, 0-1 -> permit\n",
            "line 3, column 1: expected an entry (protocol first) or `}`, found the end of the \
             line",
        ),
        (
            "HEAD {\n  tcp, 1-1 -> permit\n  6, 1-1 -> permit\n}",
            "line 3, column 3: expected another key: this one is there already, found `6, 1-1 -> \
             permit`",
        ),
        (
            "HEAD {}\nHEAD {}",
            "line 2, column 7: expected another table than port, which is there already, found \
             `port size 8 key protocol`",
        ),
    ];
    for (input, message) in cases {
        let error = text::parse(&input.replace("HEAD", head)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn the_parser_never_panics_on_damaged_text() {
    let mut random = Random::new(7);
    let pieces = [
        "table",
        "->",
        "/",
        "-",
        ",",
        "#",
        ";",
        "\"",
        "\\u{",
        "}",
        "{",
        "0x",
        "99999999999",
        "tcp",
        "//",
        "\n",
        "é",
        "rule[",
        "param2",
    ];
    let seed = text::print(&example());
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let mut damaged: Vec<char> = seed.chars().collect();
        for _ in 0..random.below(4) + 1 {
            let at = random.below(damaged.len().max(1));
            match random.below(4) {
                0 => drop(damaged.drain(at..(at + random.below(12)).min(damaged.len()))),
                1 => drop(damaged.splice(at..at, random.pick(&pieces).chars())),
                2 => damaged.truncate(at.max(1)),
                _ if damaged.is_empty() => damaged.push('t'),
                _ => damaged[at] = char::from(random.below(128) as u8),
            }
        }
        text::fuzz_parse(&damaged.into_iter().collect::<String>());
    }
}
