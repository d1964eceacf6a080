//! Random programs over a small universe, and the judge of updates between them.
#![allow(dead_code)]

use std::net::IpAddr;

use netpolc_table::{
    ActionId, Class, EndpointId, IfIndex, Incarnation, Key, Origin, Phase, Plan, PortClassId,
    Program, RowId, SetId, TableId,
    eval::{self, Pipeline, Verdict},
    schema::*,
};

/// A seeded generator (xorshift64*): enough for tests, the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

pub const ENDPOINTS: [EndpointId; 3] = [EndpointId::new(1), EndpointId::new(2), EndpointId::new(3)];
pub const PREFIXES: [(&str, u8); 11] = [
    ("0.0.0.0", 0),
    ("10.0.0.0", 8),
    ("10.0.0.0", 16),
    ("10.0.0.0", 24),
    ("10.0.0.128", 25),
    ("10.0.0.1", 32),
    ("10.0.1.0", 24),
    ("10.0.1.1", 32),
    ("::", 0),
    ("fd00::", 64),
    ("fd00::1", 128),
];
pub const ADDRESSES: [&str; 9] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.129",
    "10.0.1.1",
    "10.0.1.2",
    "10.1.0.1",
    "11.0.0.1",
    "fd00::1",
    "fd00::2",
];
pub const BOUNDARIES: [u16; 4] = [80, 81, 443, 8080];
pub const PORTS: [(u8, Option<u16>); 11] = [
    (6, Some(0)),
    (6, Some(80)),
    (6, Some(81)),
    (6, Some(443)),
    (6, Some(65535)),
    (17, Some(53)),
    (17, Some(443)),
    (1, None),
    (1, Some(0x303)),
    (47, None),
    (50, None),
];

/// Protocols without ports are told apart, or they are among all others again.
fn apart(random: &mut Random, program: &mut Program, protocol: u8, classes: usize) {
    let entries = &mut program.table_mut(TableId::Port).entries;
    entries.retain(|key, _| PortKey::of(key).protocol != protocol);
    if random.chance(40) {
        return;
    }
    let edges: &[u16] = if protocol == 1 { &[0x303, 0x304, 0x800] } else { &[] };
    let mut first = 0;
    for edge in edges.iter().filter(|_| random.chance(50)).collect::<Vec<_>>() {
        let class = set_port_class(PortClassId::new(random.below(classes) as u16 + 1));
        entries.insert(port_key(protocol, first, edge - 1), class);
        first = *edge;
    }
    let class = set_port_class(PortClassId::new(random.below(classes) as u16 + 1));
    entries.insert(port_key(protocol, first, 65535), class);
}

/// A full cover of a protocol's ports by random intervals with random classes.
fn ports(random: &mut Random, program: &mut Program, protocol: u8, classes: usize) {
    let old: Vec<Key> = program.table(TableId::Port).entries.keys().cloned().collect();
    let entries = &mut program.table_mut(TableId::Port).entries;
    for key in old.iter().filter(|k| PortKey::of(k).protocol == protocol) {
        entries.remove(key);
    }
    let mut first = 0;
    for boundary in BOUNDARIES.into_iter().filter(|_| random.chance(50)).collect::<Vec<_>>() {
        let class = random.below(classes) as u16 + 1;
        entries.insert(
            port_key(protocol, first, boundary - 1),
            set_port_class(PortClassId::new(class)),
        );
        first = boundary;
    }
    let class = random.below(classes) as u16 + 1;
    entries.insert(port_key(protocol, first, 65535), set_port_class(PortClassId::new(class)));
}

/// Changes about `strength` percent of what can be in a program.
pub fn mutate(random: &mut Random, program: &mut Program, strength: usize) {
    for endpoint in ENDPOINTS {
        if random.chance(strength) {
            let mut set = || SetId::new(random.below(4) as u16);
            let (ingress_set, egress_set, born_set) = (set(), set(), set());
            let word = Word { ingress_set, egress_set, born_set, flags: random.below(16) as u8 };
            if random.chance(15) {
                program.table_mut(TableId::Endpoint).entries.remove(&endpoint_key(endpoint));
            } else {
                program
                    .table_mut(TableId::Endpoint)
                    .entries
                    .insert(endpoint_key(endpoint), set_policy(word));
            }
        }
        for table in [TableId::OwnV4, TableId::Interface] {
            let key = match table {
                TableId::Interface => interface_key(IfIndex::new(endpoint.get().into())),
                _ => own_key(endpoint, ADDRESSES[random.below(3)].parse().unwrap()),
            };
            if random.chance(strength) {
                let value = if table == TableId::Interface {
                    set_endpoint(random.pick(&ENDPOINTS))
                } else {
                    plain(ActionId::Own)
                };
                program.table_mut(table).entries.insert(key, value);
            } else if random.chance(strength) {
                program.table_mut(table).entries.remove(&key);
            }
        }
    }
    for (address, length) in PREFIXES {
        if random.chance(strength) {
            let address: IpAddr = address.parse().unwrap();
            let table = TableId::remote(Family::of(address));
            let (key, class) = (
                remote_key(address, length),
                Class::new(Family::of(address), random.below(4) as u16),
            );
            if random.chance(30) {
                program.table_mut(table).entries.remove(&key);
            } else {
                program
                    .table_mut(table)
                    .entries
                    .insert(key, set_remote(class, Incarnation::new(random.below(2) as u16)));
            }
        }
    }
    for protocol in [6, 17] {
        if random.chance(strength) {
            ports(random, program, protocol, 4);
        }
    }
    for protocol in [1, 47] {
        if random.chance(strength) {
            apart(random, program, protocol, 4);
        }
    }
    let act = |random: &mut Random| match random.below(8) {
        0 => plain(ActionId::Permit),
        1 => plain(ActionId::Deny),
        n => set_row(RowId::new(n as u16 % 4 + 1)),
    };
    for set in 1..4u16 {
        for family in Family::BOTH {
            if random.chance(strength / 2) {
                let entry = act(random);
                program
                    .table_mut(TableId::Base)
                    .entries
                    .insert(base_key(SetId::new(set), family), entry);
            }
            for class in 0..4 {
                let key = row_key(SetId::new(set), Class::new(family, class));
                if random.chance(strength) {
                    let entry = act(random);
                    program.table_mut(TableId::Row).entries.insert(key, entry);
                } else if random.chance(strength / 2) {
                    program.table_mut(TableId::Row).entries.remove(&key);
                }
            }
        }
    }
    for (row, pc) in (1..5u16).flat_map(|row| (0..5u16).map(move |pc| (row, pc))) {
        if random.chance(strength) {
            let key = verdict_key(RowId::new(row), PortClassId::new(pc));
            if program.table_mut(TableId::Verdict).entries.remove(&key).is_none() {
                let origin = Origin::Rule {
                    policy: "ns/p".into(),
                    rule: row.into(),
                    peer: None,
                    port: Some(pc.into()),
                };
                let entry = plain(ActionId::Permit).from([origin]);
                program.table_mut(TableId::Verdict).entries.insert(key, entry);
            }
        }
        if random.chance(strength / 4) {
            let key = tried_key(RowId::new(row), PortClassId::new(pc));
            if program.table_mut(TableId::Tried).entries.remove(&key).is_none() {
                let origin = Origin::Tried { policy: "ns/tried".into() };
                let entry = plain(ActionId::Differs).from([origin]);
                program.table_mut(TableId::Tried).entries.insert(key, entry);
            }
        }
    }
}

/// Something that is asked of a program.
#[derive(Clone, Debug)]
pub enum Asked {
    /// An endpoint's packet from this source (S55).
    Source(EndpointId, IpAddr, (IpAddr, u16)),
    /// A packet of an endpoint.
    Endpoint(EndpointId, Pipeline, IpAddr, (u8, Option<u16>)),
    /// The same of whatever endpoint an interface leads to.
    Interface(Key, Pipeline, IpAddr, (u8, Option<u16>)),
}

impl Asked {
    fn answer(&self, program: &Program) -> Verdict {
        match self {
            Asked::Source(endpoint, source, (remote, port)) => {
                let own = program.get(TableId::OwnV4, &own_key(*endpoint, *source)).is_some();
                let guarded = eval::word(program, *endpoint).flags & Word::GUARD != 0;
                match eval::verdict(program, Pipeline::FromPod, *endpoint, *remote, 6, Some(*port))
                {
                    Verdict::Permit if own || !guarded => Verdict::Permit,
                    _ => Verdict::Deny,
                }
            }
            Asked::Endpoint(endpoint, pipeline, address, (protocol, port)) => {
                eval::verdict(program, *pipeline, *endpoint, *address, *protocol, *port)
            }
            Asked::Interface(key, pipeline, address, (protocol, port)) => {
                match program.get(TableId::Interface, key) {
                    Some(e) => eval::verdict(
                        program,
                        *pipeline,
                        SetEndpoint::of(e).endpoint,
                        *address,
                        *protocol,
                        *port,
                    ),
                    None => Verdict::Permit,
                }
            }
        }
    }
}

fn all() -> impl Iterator<Item = Asked> {
    let sources = sources().map(|(e, source, to)| Asked::Source(e, source, to));
    sources.chain(
        questions().map(|(e, pipeline, address, port)| Asked::Endpoint(e, pipeline, address, port)),
    )
}

/// All answers a program gives, in a fixed order; first those that depend on the source, too (S55).
pub fn answers(program: &Program) -> Vec<Verdict> {
    all().map(|asked| asked.answer(program)).collect()
}

/// What an update must answer as before or as after it. An endpoint that goes while its interface
/// becomes another's has no packets of its own after it: they are asked about by their interface.
fn asked(old: &Program, new: &Program) -> Vec<Asked> {
    let gone = |e: EndpointId| {
        let has = |p: &Program| p.get(TableId::Endpoint, &endpoint_key(e)).is_some();
        has(old) && !has(new)
    };
    let interfaces = old.table(TableId::Interface).entries.iter();
    let handed: Vec<(Key, EndpointId)> = interfaces
        .map(|(key, entry)| (key.clone(), SetEndpoint::of(entry).endpoint))
        .filter(|(key, e)| {
            gone(*e)
                && new
                    .get(TableId::Interface, key)
                    .is_some_and(|n| SetEndpoint::of(n).endpoint != *e)
        })
        .collect();
    let by_interface = |e: EndpointId| handed.iter().any(|(_, of)| *of == e);
    let mut asked: Vec<Asked> = all()
        .filter(|asked| match asked {
            Asked::Source(e, ..) | Asked::Endpoint(e, ..) => !by_interface(*e),
            Asked::Interface(..) => true,
        })
        .collect();
    // Of one that was there before, what it answers meanwhile is its own.
    let fresh = |key: &Key| {
        let successor = new.get(TableId::Interface, key).map(|e| SetEndpoint::of(e).endpoint);
        successor.is_some_and(|e| old.get(TableId::Endpoint, &endpoint_key(e)).is_none())
    };
    for (key, endpoint) in handed.iter().filter(|(key, _)| fresh(key)) {
        let packets = questions().filter(|(e, ..)| e == endpoint);
        asked.extend(packets.map(|(_, pipeline, address, port)| {
            Asked::Interface(key.clone(), pipeline, address, port)
        }));
    }
    asked
}

/// Endpoint, source, remote and TCP port.
pub fn sources() -> impl Iterator<Item = (EndpointId, IpAddr, (IpAddr, u16))> {
    let address = |i: usize| ADDRESSES[i].parse::<IpAddr>().unwrap();
    let remotes = [(address(0), 80), (address(3), 443)];
    ENDPOINTS
        .into_iter()
        .flat_map(move |e| (0..3).flat_map(move |s| remotes.map(|r| (e, address(s), r))))
}

/// Endpoint, pipeline, remote, and protocol with destination port.
pub fn questions() -> impl Iterator<Item = (EndpointId, Pipeline, IpAddr, (u8, Option<u16>))> {
    let addresses: Vec<IpAddr> = ADDRESSES.iter().map(|a| a.parse().unwrap()).collect();
    ENDPOINTS.into_iter().flat_map(move |e| {
        let addresses = addresses.clone();
        Pipeline::ALL.into_iter().flat_map(move |p| {
            addresses
                .clone()
                .into_iter()
                .flat_map(move |a| PORTS.into_iter().map(move |port| (e, p, a, port)))
        })
    })
}

/// Runs a plan on `old`, judging every question after every write: the old answer or the new one,
/// and never back. Returns what it ends with, and the states in between.
pub fn run(old: &Program, new: &Program, plan: &Plan, what: &str) -> (Program, Vec<Program>) {
    let asked = asked(old, new);
    let judge = |program: &Program| {
        asked.iter().map(|question| question.answer(program)).collect::<Vec<_>>()
    };
    let (before, after) = (judge(old), judge(new));
    let mut switched = vec![false; before.len()];
    let (mut state, mut states) = (old.clone(), vec![]);
    let mut last = Phase::Refine;
    for (i, (phase, write)) in plan.steps.iter().enumerate() {
        assert!(*phase >= last, "{what}: step {i} goes back to {phase:?}");
        last = *phase;
        state.apply(write);
        let cover = |p: u8| {
            let keys = state.table(TableId::Port).entries.keys();
            keys.map(PortKey::of)
                .filter(move |k| k.protocol == p)
                .map(|k| k.port)
                .collect::<Vec<_>>()
        };
        for protocol in [6, 17] {
            for pair in cover(protocol).windows(2) {
                let (a, b) = (format!("{:?}", pair[0]), format!("{:?}", pair[1]));
                let joined = pair[0].high + 1 == pair[1].low;
                assert!(joined, "{what}: step {i}: {a} then {b}");
            }
        }
        let now = judge(&state);
        for (q, question) in asked.iter().enumerate() {
            let (b, a, n) = (before[q], after[q], now[q]);
            let context = || {
                format!(
                    "{what}: after step {i} {phase:?} {write:?}\n{question:?}: old {b:?} new {a:?} \
                     now {n:?}"
                )
            };
            assert!(n == a || (n == b && !switched[q]), "{}", context());
            switched[q] |= n == a && a != b;
        }
        states.push(state.clone());
    }
    (state, states)
}

/// Packets under way while a plan runs: each reads its tables one after the other, from states of
/// which the next is never older, and within one stretch between two grace periods.
pub fn in_flight(
    old: &Program,
    new: &Program,
    plan: &Plan,
    states: &[Program],
    random: &mut Random,
    what: &str,
) {
    let mut stretches = vec![vec![old]];
    for (i, (phase, _)) in plan.steps.iter().enumerate() {
        let begins = i > 0 && *phase != plan.steps[i - 1].0 || i == 0;
        if begins && phase.settles() {
            let last = *stretches.last().unwrap().last().unwrap();
            stretches.push(vec![last]);
        }
        stretches.last_mut().unwrap().push(&states[i]);
    }
    for (endpoint, pipeline, address, (protocol, port)) in questions() {
        // An endpoint that goes, packets and all, does so without a grace period.
        if new.get(TableId::Endpoint, &endpoint_key(endpoint)).is_none() {
            continue;
        }
        let judge = |p: &Program| eval::verdict(p, pipeline, endpoint, address, protocol, port);
        let allowed = [judge(old), judge(new)];
        let stretch = &stretches[random.below(stretches.len())];
        for _ in 0..4 {
            let mut at: Vec<usize> = (0..6).map(|_| random.below(stretch.len())).collect();
            at.sort_unstable();
            let read: Vec<&Program> = at.iter().map(|i| stretch[*i]).collect();
            let class = eval::remote(read[1], address).class;
            let asked = eval::asked(Family::of(address), protocol, port);
            let pc = eval::port_class(read[2], protocol, asked);
            let verdict = match pipeline.set(eval::word(read[0], endpoint)) {
                None => Verdict::Permit,
                Some(set) => {
                    let family = Family::of(address);
                    let base = read[3].get(TableId::Base, &base_key(set, family));
                    let found = read[4].get(TableId::Row, &row_key(set, class)).or(base);
                    match Answer::of(found) {
                        Answer::Permit => Verdict::Permit,
                        Answer::Row(row)
                            if read[5].get(TableId::Verdict, &verdict_key(row, pc)).is_some() =>
                        {
                            Verdict::Permit
                        }
                        _ => Verdict::Deny,
                    }
                }
            };
            let asked = (endpoint, pipeline, address, protocol, port);
            assert!(
                allowed.contains(&verdict),
                "{what}: {asked:?} reading states {at:?}: {verdict:?}, not of {allowed:?}"
            );
        }
    }
}
