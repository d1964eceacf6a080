//! What any target does with tables: it gives back what was written, and refuses what does not fit
//! without a trace. Not here: packets (`cases`).

use netpolc_table::{
    ActionId, Class, ClassId, EndpointId, Entry, IfIndex, Incarnation, Key, Match, PortClassId,
    Program, RowId, SetId, TableId, Write,
    id::{V4, V6},
    schema::{self, Family, Named, Word},
};

use super::{
    Report, Subject,
    world::{A, Policy, switch, world},
};
use crate::{Error, Frame, Hook, Mark, Target, Verdict, frame::Packet, semantics::ip};

/// Writes a program into an empty target, each entry after those that it refers to.
///
/// # Errors
/// What the first write that fails returns.
pub fn fill<T: Target + ?Sized>(target: &mut T, program: &Program) -> Result<(), Error> {
    let order = |t: &TableId| match t {
        TableId::Endpoint => 1,
        TableId::Interface => 2,
        _ => 0,
    };
    let mut tables: Vec<TableId> = TableId::ALL.to_vec();
    tables.sort_by_key(order);
    for table in tables {
        for (key, entry) in &program.table(table).entries {
            target.write(&Write::put(table, key.clone(), entry.clone()))?;
        }
    }
    Ok(())
}

/// Empties a target, each entry before those that it refers to, and waits for a grace period.
///
/// # Errors
/// What the first call that fails returns.
pub fn clear<T: Target + ?Sized>(target: &mut T) -> Result<(), Error> {
    let held = target.read()?;
    let first = [TableId::Interface, TableId::Endpoint];
    let rest = TableId::ALL.iter().copied().filter(|t| !first.contains(t));
    for table in first.into_iter().chain(rest) {
        let remove: Vec<Key> = held.table(table).entries.keys().cloned().collect();
        if !remove.is_empty() {
            target.write(&Write { table, remove, put: vec![] })?;
        }
    }
    target.settle()
}

/// Entries of every table, some at the edges of their fields as far as the target's limits allow.
fn full_width(target: &dyn Target) -> Program {
    let limits = target.capabilities();
    let last = |limit: u32| (limit.min(1 << 16) - 1) as u16;
    let (endpoint, pc) = (EndpointId::new(last(limits.endpoints)), last(limits.port_classes));
    let [set_before, set] = [1, 0].map(|n| SetId::new(last(limits.sets) - n));
    // The two largest row values are reserved by targets whose rows are 16 bits wide.
    let [row_before, row] = [1, 0].map(|n| RowId::new(last(limits.rows).min(0xfffd) - n));
    let mut program = world(Policy::Some, Policy::Friends);
    let mut put = |table, key: Key, entry: Entry| program.apply(&Write::put(table, key, entry));
    let flags = Word::INGRESS | Word::EGRESS | Word::RECORD | Word::GUARD | Word::TRIED;
    put(
        TableId::Interface,
        schema::interface_key(IfIndex::new(0x00ff_fffe)),
        schema::set_endpoint(endpoint),
    );
    let word = Word { ingress_set: set, egress_set: set_before, born_set: SetId::new(0), flags };
    put(TableId::Endpoint, schema::endpoint_key(endpoint), schema::set_policy(word));
    for (family, class) in
        [(Family::V4, last(limits.classes_v4)), (Family::V6, last(limits.classes_v6))]
    {
        let all = if family == Family::V4 { "0.0.0.0" } else { "::" }.parse().expect("an address");
        let ones = if family == Family::V4 {
            "255.255.255.255"
        } else {
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        };
        let ones = ones.parse().expect("an address");
        put(TableId::own(family), schema::own_key(endpoint, ones), schema::plain(ActionId::Own));
        let remote = TableId::remote(family);
        put(
            remote,
            schema::remote_key(all, 0),
            schema::set_remote(Class::new(family, class), Incarnation::default()),
        );
        put(
            remote,
            schema::remote_key(ones, family.bits()),
            schema::set_remote(Class::new(family, class - 1), Incarnation::new(0xffff)),
        );
        // Every length, nested.
        for length in 1..family.bits() {
            let prefix = if family == Family::V4 {
                std::net::IpAddr::from((0xc0a8_5a5au32 & u32::MAX << (32 - length)).to_be_bytes())
            } else {
                let bits =
                    0x2001_0db8_5a5a_5a5a_a5a5_a5a5_1234_5679_u128 & u128::MAX << (128 - length);
                std::net::IpAddr::from(bits.to_be_bytes())
            };
            let class = Class::new(family, 1 + u16::from(length % 3));
            put(
                remote,
                schema::remote_key(prefix, length),
                schema::set_remote(class, Incarnation::default()),
            );
        }
        let service = schema::service_key(ones, ip::SCTP, 0xffff);
        put(TableId::service(family), service, schema::plain(ActionId::Defer));
        put(TableId::Base, schema::base_key(set, family), schema::set_row(row));
        put(
            TableId::Row,
            schema::row_key(set, Class::new(family, class)),
            schema::plain(ActionId::Deny),
        );
        put(TableId::Row, schema::row_key(set, Class::new(family, 0)), schema::set_row(row_before));
        put(TableId::Base, schema::base_key(set_before, family), schema::plain(ActionId::Permit));
    }
    for pc in [0, 1, pc - 1, pc].map(PortClassId::new) {
        put(TableId::Verdict, schema::verdict_key(row, pc), schema::plain(ActionId::Permit));
        put(TableId::Tried, schema::tried_key(row, pc), schema::plain(ActionId::Differs));
    }
    put(
        TableId::Tried,
        schema::tried_key(row_before, PortClassId::new(1)),
        schema::plain(ActionId::Differs),
    );
    put(
        TableId::Verdict,
        schema::verdict_key(row_before, PortClassId::default()),
        schema::plain(ActionId::Permit),
    );
    for kind in 1..=Named::LAST_KIND {
        let key = schema::directory_key(Named::new(kind, 1));
        put(TableId::Directory, key, schema::fingerprint(0xfedc_ba98_7654_3210));
    }
    program
}

pub(super) fn run<T: Subject>(make: &mut impl FnMut() -> T, report: &mut Report) {
    read_back(&mut make(), report);
    replace_and_remove(&mut make(), report);
    refusals(&mut make(), report);
    split_ports(&mut make(), report);
}

/// Compares what a target holds with what it should hold.
fn compare(target: &dyn Target, expected: &Program, case: &str, step: usize, report: &mut Report) {
    let held = match target.read() {
        Ok(held) => held,
        Err(error) => return report.fail_error(case, step, "read", &error),
    };
    for table in expected.tables() {
        let got = &held.table(table.id).entries;
        for (key, entry) in &table.entries {
            let same = got.get(key).is_some_and(|e| e.same_action(entry));
            if !same {
                let what = format!("read {} {key:?}", table.id.spec().name);
                return report.fail(case, step, &what, entry, got.get(key));
            }
        }
        if let Some((key, entry)) = got.iter().find(|(k, _)| !table.entries.contains_key(*k)) {
            return report.fail(
                case,
                step,
                &format!("read {} {key:?}", table.id.spec().name),
                "no entry",
                entry,
            );
        }
    }
}

fn read_back(target: &mut dyn Subject, report: &mut Report) {
    let case = "tables: what is written is read back";
    report.cases += 1;
    compare(target, &Program::default(), case, 0, report);
    let program = full_width(target);
    match fill(target, &program) {
        Ok(()) => compare(target, &program, case, 1, report),
        Err(error) => report.fail_error(case, 1, "fill", &error),
    }
}

fn replace_and_remove(target: &mut dyn Subject, report: &mut Report) {
    let case = "tables: entries are replaced and removed";
    report.cases += 1;
    let mut expected = full_width(target);
    let mut act = |step: usize, write: &Write, expected: &mut Program, target: &mut dyn Subject| {
        expected.apply(write);
        match target.write(write) {
            Ok(()) => compare(target, expected, case, step, report),
            Err(error) => report.fail_error(case, step, "write", &error),
        }
    };
    if fill(target, &expected).is_err() {
        return; // told by read_back
    }
    let nested = |length| schema::remote_key("10.2.0.0".parse().expect("an address"), length);
    let network_v6 = schema::remote_key("fd00:2::".parse().expect("an address"), 32);
    let host = schema::remote_key("10.2.0.0".parse().expect("an address"), 32);
    let moved = schema::set_policy(Word {
        ingress_set: SetId::new(3),
        flags: Word::INGRESS,
        ..Word::default()
    });
    let writes = [
        Write::put(
            TableId::RemoteV4,
            nested(16),
            schema::set_remote(ClassId::<V4>::new(1), Incarnation::default()),
        ),
        Write::put(
            TableId::RemoteV4,
            host.clone(),
            schema::set_remote(ClassId::<V4>::new(2), Incarnation::new(9)),
        ),
        Write::remove(TableId::RemoteV4, nested(16)),
        Write::put(
            TableId::RemoteV4,
            nested(15),
            schema::set_remote(ClassId::<V4>::new(4), Incarnation::default()),
        ),
        Write::remove(TableId::RemoteV4, host),
        Write::remove(TableId::RemoteV6, network_v6),
        Write::put(TableId::Endpoint, schema::endpoint_key(EndpointId::new(1)), moved),
        Write::remove(TableId::Row, schema::row_key(SetId::new(2), ClassId::<V4>::new(1))),
        Write::put(
            TableId::Row,
            schema::row_key(SetId::new(2), ClassId::<V6>::new(1)),
            schema::plain(ActionId::Permit),
        ),
        Write::put(
            TableId::Base,
            schema::base_key(SetId::new(2), Family::V6),
            schema::plain(ActionId::Permit),
        ),
        Write::remove(TableId::Verdict, schema::verdict_key(RowId::new(4), PortClassId::new(5))),
        Write::remove(TableId::Interface, schema::interface_key(IfIndex::new(101))),
        Write::remove(
            TableId::OwnV6,
            schema::own_key(EndpointId::new(1), "fd00::1".parse().expect("an address")),
        ),
        Write::remove(
            TableId::ServiceV4,
            schema::service_key("10.96.0.1".parse().expect("an address"), ip::TCP, 80),
        ),
        // Removing what is not there is no error: a retry after a half-known failure does it.
        Write::remove(TableId::Interface, schema::interface_key(IfIndex::new(101))),
    ];
    for (i, write) in writes.iter().enumerate() {
        act(i, write, &mut expected, target);
    }
    for (i, table) in TableId::ALL.iter().enumerate() {
        let remove = expected.table(*table).entries.keys().cloned().collect();
        let write = Write { table: *table, remove, put: vec![] };
        act(writes.len() + i, &write, &mut expected, target);
    }
}

fn refusals(target: &mut dyn Subject, report: &mut Report) {
    let case = "S33 S59 tables: what does not fit is refused without a trace";
    report.cases += 1;
    let program = world(Policy::Some, Policy::Open);
    if fill(target, &program).is_err() {
        return;
    }
    let limits = target.capabilities().clone();
    let mut full: Vec<Write> = vec![];
    let over = |limit: u32| u16::try_from(limit).ok();
    if let Some(n) = over(limits.endpoints).map(EndpointId::new) {
        full.push(Write::put(
            TableId::Interface,
            schema::interface_key(IfIndex::new(9)),
            schema::set_endpoint(n),
        ));
        full.push(Write::put(
            TableId::Endpoint,
            schema::endpoint_key(n),
            schema::set_policy(Word::default()),
        ));
        let own = schema::own_key(n, "10.9.9.9".parse().expect("an address"));
        full.push(Write::put(TableId::OwnV4, own, schema::plain(ActionId::Own)));
    }
    if let Some(n) = over(limits.sets).map(SetId::new) {
        let word = Word { ingress_set: n, flags: Word::INGRESS, ..Word::default() };
        full.push(Write::put(
            TableId::Endpoint,
            schema::endpoint_key(EndpointId::new(1)),
            schema::set_policy(word),
        ));
        full.push(Write::put(
            TableId::Base,
            schema::base_key(n, Family::V4),
            schema::plain(ActionId::Permit),
        ));
        full.push(Write::put(
            TableId::Row,
            schema::row_key(n, ClassId::<V6>::new(1)),
            schema::plain(ActionId::Permit),
        ));
    }
    if let Some(n) = over(limits.classes_v4).map(ClassId::<V4>::new) {
        let key = schema::remote_key("10.0.1.1".parse().expect("an address"), 32);
        full.push(Write::put(
            TableId::RemoteV4,
            key,
            schema::set_remote(n, Incarnation::default()),
        ));
    }
    if let Some(n) = over(limits.classes_v6).map(ClassId::<V6>::new) {
        let key = schema::remote_key("fd00:1::1".parse().expect("an address"), 128);
        full.push(Write::put(
            TableId::RemoteV6,
            key,
            schema::set_remote(n, Incarnation::default()),
        ));
        full.push(Write::put(
            TableId::Row,
            schema::row_key(SetId::new(1), n),
            schema::plain(ActionId::Permit),
        ));
    }
    if let Some(n) = over(limits.rows).map(RowId::new) {
        full.push(Write::put(
            TableId::Base,
            schema::base_key(SetId::new(1), Family::V4),
            schema::set_row(n),
        ));
        full.push(Write::put(
            TableId::Verdict,
            schema::verdict_key(n, PortClassId::new(1)),
            schema::plain(ActionId::Permit),
        ));
    }
    if let Some(n) = over(limits.port_classes).map(PortClassId::new) {
        full.push(Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(4), n),
            schema::plain(ActionId::Permit),
        ));
        // The first half of this write would fit.
        full.push(Write {
            table: TableId::Port,
            remove: vec![schema::port_key(6, 0, 79)],
            put: vec![
                (schema::port_key(6, 0, 9), schema::set_port_class(PortClassId::new(1))),
                (schema::port_key(6, 10, 79), schema::set_port_class(n)),
            ],
        });
    }
    let refused = full.len();
    for (i, write) in full.iter().enumerate() {
        match target.write(write) {
            Err(Error::Full { table, .. }) if table == write.table => {}
            other => report.fail(case, i, "a write past a limit", "Error::Full", other),
        }
        compare(target, &program, case, i, report);
    }
    let senseless = [
        Write::put(
            TableId::Port,
            schema::port_key(6, 70, 90),
            schema::set_port_class(PortClassId::new(1)),
        ),
        Write::put(
            TableId::Port,
            Key::new([Match::exact(6u8)]),
            schema::set_port_class(PortClassId::new(1)),
        ),
        Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(1), PortClassId::new(1)),
            schema::plain(ActionId::Own),
        ),
        Write::put(
            TableId::ServiceV4,
            schema::service_key("10.96.0.1".parse().expect("an address"), ip::ICMP, 80),
            schema::plain(ActionId::Defer),
        ),
        Write::put(
            TableId::RemoteV4,
            schema::remote_key("10.0.0.1".parse().expect("an address"), 8),
            schema::set_remote(ClassId::<V4>::new(1), Incarnation::default()),
        ),
    ];
    for (i, write) in senseless.iter().enumerate() {
        match target.write(write) {
            Err(Error::Invalid { table, .. }) if table == write.table => {}
            other => report.fail(
                case,
                refused + i,
                "a write that makes no sense",
                "Error::Invalid",
                other,
            ),
        }
        compare(target, &program, case, refused + i, report);
    }
}

/// A split of an interval is one write; packets on both sides of the split see the new classes.
fn split_ports(target: &mut dyn Subject, report: &mut Report) {
    let case = "S57 tables: a port interval splits in one write";
    report.cases += 1;
    let program = world(Policy::Some, Policy::Open);
    if fill(target, &program).is_err() {
        return;
    }
    let split = Write {
        table: TableId::Port,
        remove: vec![schema::port_key(6, 81, 0xffff)],
        put: vec![
            (schema::port_key(6, 81, 442), schema::set_port_class(PortClassId::new(3))),
            (schema::port_key(6, 443, 443), schema::set_port_class(PortClassId::new(2))),
            (schema::port_key(6, 444, 0xffff), schema::set_port_class(PortClassId::new(3))),
        ],
    };
    let judge = |target: &mut dyn Subject, port: u16| {
        let (friend, a) =
            ("10.0.1.1".parse::<std::net::IpAddr>(), "10.0.0.1".parse::<std::net::IpAddr>());
        let bytes = Packet::new(friend.expect("an address"), a.expect("an address"))
            .tcp(4000, port, 2)
            .build();
        target.packet(
            Hook::ToPod,
            &Frame {
                interface: A.interface,
                arrival: super::world::UPLINK.into(),
                mark: Mark::Clear,
                bytes,
            },
        )
    };
    let check =
        |target: &mut dyn Subject, step: usize, wanted: &[(u16, Verdict)], report: &mut Report| {
            for &(port, expected) in wanted {
                report.packets += 1;
                match judge(target, port) {
                    Ok(got) if got == expected => {}
                    got => report.fail(case, step, &format!("port {port}"), expected, got),
                }
            }
        };
    use Verdict::{Drop, Next};
    check(target, 0, &[(79, Drop), (80, Next), (81, Drop), (443, Drop), (65535, Drop)], report);
    if let Err(error) = target.write(&split) {
        report.fail_error(case, 1, "write", &error);
    }
    check(
        target,
        1,
        &[(0, Drop), (80, Next), (442, Drop), (443, Next), (444, Drop), (65535, Drop)],
        report,
    );
    if let Err(error) = target.write(&switch(A, Policy::Nothing, Policy::Open)) {
        report.fail_error(case, 2, "write", &error);
    }
    check(target, 2, &[(80, Drop), (443, Drop)], report);
}
