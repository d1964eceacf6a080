//! What several tests need: seeded numbers, random writes, a pod, namespaces and pins.
#![allow(dead_code)]

use std::net::IpAddr;

use netpolc_table::{
    ActionId, Class, EndpointId, Entry, IfIndex, Incarnation, Key, PortClassId, Program, RowId,
    SetId, TableId, Write,
    schema::{self, Family, Named, PortKey, Word},
};
use netpolc_target_ebpf::{Capacities, Ebpf};

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// The seed of a test: `NETPOLC_SEED`, or a fixed one.
pub fn seed() -> u64 {
    std::env::var("NETPOLC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// An address from few, so that prefixes nest and collide.
pub fn address(rng: &mut Rng, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let low = rng.next() as u32 & 0x0001_0307;
            IpAddr::V4((0x0a00_0000 | low | if rng.one_in(4) { 0x8000_0000 } else { 0 }).into())
        }
        Family::V6 => {
            let low = (u128::from(rng.next()) << 64 | u128::from(rng.next()))
                & 0x1_0000_0001_0000_0003_0007_0000_0003;
            IpAddr::V6((0x2001_0db8 << 96 | low).into())
        }
    }
}

/// A prefix of any length around such an address.
pub fn prefix(rng: &mut Rng, family: Family) -> (IpAddr, u8) {
    let bits = u32::from(family.bits());
    let length = match rng.below(4) {
        0 => family.bits(),
        1 => rng.below(u64::from(bits) + 1) as u8,
        2 => *rng.pick(&[8, 16, 24, 32, 30, 25, 17]),
        _ => (bits - rng.below(12) as u32) as u8,
    };
    let value = match address(rng, family) {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    };
    let mask = if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) };
    let value = value & mask;
    let address = if family == Family::V4 {
        IpAddr::V4(((value >> 96) as u32).into())
    } else {
        IpAddr::V6(value.into())
    };
    (address, length)
}

/// A write that fits `Capacities::small`, against what `program` holds.
pub fn write(rng: &mut Rng, program: &Program) -> Write {
    let table = *rng.pick(TableId::ALL);
    let mut write = Write { table, remove: vec![], put: vec![] };
    let held: Vec<&Key> = program.table(table).entries.keys().collect();
    for _ in 0..rng.below(3) {
        if !held.is_empty() {
            write.remove.push((*rng.pick(&held)).clone());
        }
    }
    for _ in 0..rng.below(4) {
        let (key, entry) = put(rng, table);
        write.put.push((key, entry));
    }
    if table == TableId::Port {
        disjoint(&mut write, program);
    }
    write
}

/// Keeps only intervals that overlap nothing.
fn disjoint(write: &mut Write, program: &Program) {
    let span = |key: &Key| {
        let PortKey { protocol, port } = PortKey::of(key);
        (protocol, port.low, port.high)
    };
    let mut kept: Vec<Key> = program
        .table(TableId::Port)
        .entries
        .keys()
        .filter(|k| !write.remove.contains(k))
        .cloned()
        .collect();
    write.put.retain(|(key, _)| {
        let (p, low, high) = span(key);
        let clash = kept.iter().any(|k| {
            let (q, l, h) = span(k);
            k != key && p == q && low <= h && l <= high
        });
        if !clash {
            kept.push(key.clone());
        }
        !clash
    });
}

fn family(rng: &mut Rng) -> Family {
    *rng.pick(&Family::BOTH)
}

fn row_action(rng: &mut Rng) -> Entry {
    match rng.below(4) {
        0 => schema::plain(ActionId::Permit),
        1 => schema::plain(ActionId::Deny),
        _ => schema::set_row(RowId::new(1 + rng.below(6) as u16)),
    }
}

/// Makes endpoint 1 the pod behind an interface. The first write is the endpoint's word, and the
/// last one is the interface, so that nothing of it is judged before.
pub fn pod(ifindex: IfIndex, word: Word, own: &[IpAddr]) -> Vec<Write> {
    let id = EndpointId::new(1);
    let word = Write::put(TableId::Endpoint, schema::endpoint_key(id), schema::set_policy(word));
    let own = own.iter().map(|&address| {
        let table = TableId::own(Family::of(address));
        Write::put(table, schema::own_key(id, address), schema::plain(ActionId::Own))
    });
    let interface =
        Write::put(TableId::Interface, schema::interface_key(ifindex), schema::set_endpoint(id));
    [word].into_iter().chain(own).chain([interface]).collect()
}

/// Everything as small as it can be, so that any capacity is soon used up.
pub fn tiny() -> Capacities {
    Capacities {
        interface_blocks: 2,
        endpoints: 2,
        sets: 2,
        classes_v4: 2,
        classes_v6: 2,
        rows: 2,
        port_words: 1,
        remote_v4_blocks: 512,
        remote_v6_blocks: 512,
        remote_v6_buckets: 16,
        remote_v6_leaves: 16,
        fragments: 16,
        more_addresses: 16,
        services: 16,
    }
}

/// An entry for a table.
pub fn put(rng: &mut Rng, table: TableId) -> (Key, Entry) {
    let endpoint = EndpointId::new(1 + rng.below(5) as u16);
    let set = SetId::new(1 + rng.below(5) as u16);
    match table {
        TableId::Interface => {
            let ifindex = *rng.pick(&[2, 3, 255, 256, 257, 70_000, 16_777_215]);
            (schema::interface_key(IfIndex::new(ifindex)), schema::set_endpoint(endpoint))
        }
        TableId::Endpoint => {
            let word = Word {
                ingress_set: SetId::new(rng.below(6) as u16),
                egress_set: SetId::new(rng.below(6) as u16),
                born_set: SetId::new(rng.below(6) as u16),
                flags: rng.below(128) as u8,
            };
            (schema::endpoint_key(endpoint), schema::set_policy(word))
        }
        TableId::OwnV4 => {
            (schema::own_key(endpoint, address(rng, Family::V4)), schema::plain(ActionId::Own))
        }
        TableId::OwnV6 => {
            (schema::own_key(endpoint, address(rng, Family::V6)), schema::plain(ActionId::Own))
        }
        TableId::RemoteV4 | TableId::RemoteV6 => {
            let family = if table == TableId::RemoteV4 { Family::V4 } else { Family::V6 };
            let (address, length) = prefix(rng, family);
            let incarnation =
                if length == family.bits() && rng.one_in(2) { rng.next() as u16 } else { 0 };
            (schema::remote_key(address, length), {
                let class = Class::new(family, rng.below(5) as u16);
                schema::set_remote(class, Incarnation::new(incarnation))
            })
        }
        TableId::Port if rng.one_in(4) => {
            let (protocol, first, last) = *rng.pick(&[
                (1, 0, 0x7ff),
                (1, 0x800, 0x8ff),
                (58, 0x8000, 0x8000),
                (58, 0, 0xffff),
                (0, 0, 0xffff),
                (47, 0, 0xffff),
                (50, 0, 0xffff),
                (51, 0, 0xffff),
                (255, 0, 0xffff),
            ]);
            let class = PortClassId::new(rng.below(130) as u16);
            (schema::port_key(protocol, first, last), schema::set_port_class(class))
        }
        TableId::Port => {
            let first = *rng.pick(&[0u16, 1, 22, 80, 443, 1000, 8080, 65535]);
            let last = first.saturating_add(rng.below(500) as u16);
            let key = schema::port_key(*rng.pick(&[6, 17, 132]), first, last);
            (key, schema::set_port_class(PortClassId::new(rng.below(130) as u16)))
        }
        TableId::Base => (schema::base_key(set, family(rng)), row_action(rng)),
        TableId::Row => {
            (schema::row_key(set, Class::new(family(rng), rng.below(5) as u16)), row_action(rng))
        }
        TableId::Verdict => {
            let key = schema::verdict_key(
                RowId::new(1 + rng.below(6) as u16),
                PortClassId::new(rng.below(130) as u16),
            );
            (key, schema::plain(ActionId::Permit))
        }
        TableId::Tried => {
            let key = schema::tried_key(
                RowId::new(1 + rng.below(6) as u16),
                PortClassId::new(rng.below(130) as u16),
            );
            (key, schema::plain(ActionId::Differs))
        }
        TableId::ServiceV4 | TableId::ServiceV6 => {
            let family = if table == TableId::ServiceV4 { Family::V4 } else { Family::V6 };
            let (protocol, port) = (*rng.pick(&[6, 17, 132]), rng.below(4) as u16);
            (
                schema::service_key(address(rng, family), protocol, port),
                schema::plain(ActionId::Defer),
            )
        }
        TableId::Tunnel => {
            let (protocol, port) =
                *rng.pick(&[(17, 4789), (17, 8472), (17, 0), (4, 0), (47, 0), (255, 0)]);
            (schema::tunnel_key(protocol, port), schema::plain(ActionId::Tunnel))
        }
        TableId::OnLinkV6 => {
            let prefix = *rng.pick(&["::", "fd00::", "fd00:0:0:1::", "2001:db8::"]);
            let length = if prefix == "::" { 0 } else { *rng.pick(&[64, 112]) };
            (schema::on_link_key(prefix.parse().unwrap(), length), schema::plain(ActionId::OnLink))
        }
        TableId::OwnMac => {
            let mac = *rng.pick(&[
                [2, 0, 0, 0, 0, 1],
                [0xff; 6],
                [0, 0, 0, 0, 0, 1],
                [0x80, 1, 2, 3, 4, 5],
            ]);
            (schema::own_mac_key(EndpointId::new(1 + rng.below(6) as u16)), schema::set_mac(mac))
        }
        TableId::Directory => {
            let kind = 1 + rng.below(u64::from(Named::LAST_KIND)) as u8;
            let key = schema::directory_key(Named::new(kind, *rng.pick(&[0, 1, 65535])));
            (key, schema::fingerprint(rng.next() | 1))
        }
    }
}

/// Makes a network namespace of this thread's own; call it in a thread of its own.
pub fn own_network() {
    // SAFETY: no pointers.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "needs root: {}", std::io::Error::last_os_error());
    sh("ip link set lo up");
}

/// Runs a command line in this thread's namespaces.
pub fn sh(line: &str) {
    let out = std::process::Command::new("sh").args(["-ec", line]).output().expect("sh");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A directory for pins, emptied before and after.
pub struct PinDir(pub std::path::PathBuf);

impl PinDir {
    pub fn new(name: &str) -> Self {
        let dir = Self(format!("/sys/fs/bpf/netpolc_test_{}_{name}", std::process::id()).into());
        Ebpf::remove(&dir.0).expect("nothing there yet");
        dir
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let removed = Ebpf::remove(&self.0);
        if !std::thread::panicking() {
            removed.expect("removed");
            assert!(!self.0.exists());
        }
    }
}
