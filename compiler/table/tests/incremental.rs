//! `delta::order` as an incremental compiler uses it: programs whose ids keep their meaning, from a
//! small model of policies that changes at random.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use common::{ADDRESSES, ENDPOINTS, PREFIXES, Random};
use netpolc_table::{ActionId, Entry, Key, Phase, Program, TableId, delta, id::*, schema::*};

/// Rules: a peer, and TCP ports or all.
type Rules = BTreeSet<(u8, Option<(u16, u16)>)>;

/// What is to be compiled.
#[derive(Clone, Default)]
struct Model {
    /// By endpoint: rules for ingress, for egress, and for what is born on the node. None: not
    /// isolated.
    endpoints: BTreeMap<EndpointId, [Option<Rules>; 3]>,
    /// The peers that the addresses of a prefix are.
    peers: BTreeMap<usize, BTreeSet<u8>>,
}

/// Ids by content, kept while the content lives; a freed id rests for one compile.
#[derive(Default)]
struct Ids<C> {
    known: BTreeMap<C, u16>,
    resting: BTreeSet<u16>,
    used: BTreeSet<C>,
}

impl<C: Ord + Clone> Ids<C> {
    fn get(&mut self, content: C) -> u16 {
        self.used.insert(content.clone());
        let taken: BTreeSet<u16> = self.known.values().chain(&self.resting).copied().collect();
        *self.known.entry(content).or_insert_with(|| (1..).find(|id| !taken.contains(id)).unwrap())
    }

    fn sweep(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.resting =
            self.known.iter().filter(|(c, _)| !used.contains(c)).map(|(_, id)| *id).collect();
        self.known.retain(|c, _| used.contains(c));
    }
}

#[derive(Default)]
struct Compiler {
    sets: Ids<Rules>,
    classes: [Ids<BTreeSet<u8>>; 2],
    rows: Ids<(Rules, BTreeSet<(u16, u16)>)>,
    ports: Ids<(u8, u16)>,
}

fn prefix(i: usize) -> (IpAddr, u8) {
    (PREFIXES[i].0.parse().unwrap(), PREFIXES[i].1)
}

fn covers(a: usize, b: usize) -> bool {
    let ((x, l), (y, m)) = (prefix(a), prefix(b));
    let bits = |a: IpAddr| netpolc_table::Value::from(a).get();
    let width = u32::from(Family::of(x).bits());
    let host = width - u32::from(l);
    Family::of(x) == Family::of(y)
        && l <= m
        && (host == width || bits(x) >> host == bits(y) >> host)
}

impl Compiler {
    fn compile(&mut self, model: &Model) -> Program {
        let mut program = Program::default();
        let mut put = |table: TableId, key: Key, entry: Entry| {
            program.table_mut(table).entries.insert(key, entry);
        };
        let live: BTreeSet<Rules> = model.endpoints.values().flatten().flatten().cloned().collect();
        let atoms: BTreeSet<u8> = live.iter().flatten().map(|(peer, _)| *peer).collect();
        let ranges = live.iter().flatten().filter_map(|(_, ports)| *ports);
        let firsts: BTreeSet<u16> =
            ranges.flat_map(|(low, high)| [low, high + 1]).chain([0]).collect();
        let mut intervals = Vec::new();
        for protocol in [6, 17, 132] {
            let firsts: Vec<u16> =
                firsts.iter().copied().filter(|f| protocol == 6 || *f == 0).collect();
            for (i, &first) in firsts.iter().enumerate() {
                let last = firsts.get(i + 1).map_or(65535, |next| next - 1);
                let pc = PortClassId::new(self.ports.get((protocol, first)));
                intervals.push((protocol, first, pc));
                put(TableId::Port, port_key(protocol, first, last), set_port_class(pc));
            }
        }
        let mut classes: [BTreeMap<u16, BTreeSet<u8>>; 2] = Default::default();
        for (&i, own) in &model.peers {
            let (address, length) = prefix(i);
            let family = Family::of(address);
            let all = model.peers.iter().filter(|(j, _)| covers(**j, i)).flat_map(|(_, p)| p);
            let class: BTreeSet<u8> = all.filter(|p| atoms.contains(p)).copied().collect();
            let id =
                if class.is_empty() { 0 } else { self.classes[family as usize].get(class.clone()) };
            classes[family as usize].insert(id, class);
            let remote = set_remote(Class::new(family, id), Incarnation::new(own.len() as u16));
            put(TableId::remote(family), remote_key(address, length), remote);
        }
        for (family, classes) in Family::BOTH.into_iter().zip(&classes) {
            for (&id, class) in classes.iter().filter(|(id, _)| **id != 0) {
                let print = class.iter().fold(1u64, |n, p| n * 31 + u64::from(*p));
                put(
                    TableId::Directory,
                    directory_key(Named::Class(Class::new(family, id))),
                    fingerprint(print),
                );
            }
            for rules in &live {
                let set = SetId::new(self.sets.get(rules.clone()));
                put(TableId::Base, base_key(set, family), plain(ActionId::Deny));
                for (&id, class) in classes {
                    let hits: Vec<_> =
                        rules.iter().filter(|(peer, _)| class.contains(peer)).collect();
                    if hits.iter().any(|(_, ports)| ports.is_none()) {
                        put(
                            TableId::Row,
                            row_key(set, Class::new(family, id)),
                            plain(ActionId::Permit),
                        );
                    } else if !hits.is_empty() {
                        let ranges: BTreeSet<(u16, u16)> =
                            hits.iter().filter_map(|(_, ports)| *ports).collect();
                        let row = RowId::new(self.rows.get((rules.clone(), ranges.clone())));
                        put(TableId::Row, row_key(set, Class::new(family, id)), set_row(row));
                        let inside = |first: u16| {
                            ranges.iter().any(|(low, high)| (*low..=*high).contains(&first))
                        };
                        for (_, first, pc) in intervals.iter().filter(|(p, ..)| *p == 6) {
                            if inside(*first) {
                                put(
                                    TableId::Verdict,
                                    verdict_key(row, *pc),
                                    plain(ActionId::Permit),
                                );
                            }
                        }
                    }
                }
            }
        }
        for (&endpoint, directions) in &model.endpoints {
            let [ingress, egress, born] = directions
                .each_ref()
                .map(|d| d.as_ref().map(|r| SetId::new(self.sets.get(r.clone()))));
            let flag = |set: Option<SetId>, flag: u8| set.map_or(0, |_| flag);
            let word = Word {
                ingress_set: ingress.unwrap_or_default(),
                egress_set: egress.unwrap_or_default(),
                born_set: born.unwrap_or_default(),
                flags: flag(ingress, Word::INGRESS) | flag(egress, Word::EGRESS) | Word::GUARD,
            };
            put(TableId::Endpoint, endpoint_key(endpoint), set_policy(word));
            put(
                TableId::Interface,
                interface_key(IfIndex::new(endpoint.get().into())),
                set_endpoint(endpoint),
            );
            let own: IpAddr = ADDRESSES[usize::from(endpoint.get()) - 1].parse().unwrap();
            put(TableId::OwnV4, own_key(endpoint, own), plain(ActionId::Own));
        }
        self.sets.sweep();
        self.rows.sweep();
        self.ports.sweep();
        self.classes.iter_mut().for_each(Ids::sweep);
        program
    }
}

fn rules(random: &mut Random) -> Rules {
    let ports = [None, Some((80, 80)), Some((80, 442)), Some((443, 8079)), Some((81, 8079))];
    (0..random.below(4)).map(|_| (random.below(4) as u8, random.pick(&ports))).collect()
}

/// One event, or several at once: policies that change for one or all, pods and addresses that come
/// and go.
fn change(random: &mut Random, model: &mut Model) {
    for _ in 0..=random.below(3) {
        match random.below(6) {
            0 => {
                // A policy changes: all endpoints with the same rules get the same other ones.
                let live: Vec<Rules> =
                    model.endpoints.values().flatten().flatten().cloned().collect();
                if let Some(old) = live.get(random.below(live.len().max(1))) {
                    let new = random.chance(80).then(|| rules(random));
                    model
                        .endpoints
                        .values_mut()
                        .flatten()
                        .filter(|r| r.as_ref() == Some(old))
                        .for_each(|r| *r = new.clone());
                }
            }
            1 | 2 => {
                let endpoint = random.pick(&ENDPOINTS);
                let mut direction = || random.chance(70).then(|| rules(random));
                let directions = [direction(), direction(), direction()];
                model.endpoints.insert(endpoint, directions);
            }
            3 if random.chance(30) => drop(model.endpoints.remove(&random.pick(&ENDPOINTS))),
            // Two endpoints swap their rules: both sets stay, and are left and joined at once.
            3 => {
                let (a, b) = (random.pick(&ENDPOINTS), random.pick(&ENDPOINTS));
                if let (Some(x), Some(y)) =
                    (model.endpoints.get(&a).cloned(), model.endpoints.get(&b).cloned())
                {
                    model.endpoints.insert(a, y);
                    model.endpoints.insert(b, x);
                }
            }
            _ => {
                for _ in 0..random.below(4) {
                    let prefix = random.below(PREFIXES.len());
                    if random.chance(30) {
                        model.peers.remove(&prefix);
                    } else {
                        let peers =
                            (0..random.below(3) + 1).map(|_| random.below(4) as u8).collect();
                        model.peers.insert(prefix, peers);
                    }
                }
            }
        }
    }
}

#[test]
fn s57_no_packet_sees_a_mix_in_an_incremental_update() {
    let mut phases = BTreeSet::new();
    for seed in 0..60 {
        let mut random = Random::new(seed + 500);
        let (mut compiler, mut model, mut old) =
            (Compiler::default(), Model::default(), Program::default());
        for event in 0..12 {
            change(&mut random, &mut model);
            let new = compiler.compile(&model);
            let (changes, what) = (delta::diff(&old, &new), format!("seed {seed} event {event}"));
            let plan = delta::order(&new, &changes).unwrap();
            let (end, states) = common::run(&old, &new, &plan, &what);
            common::in_flight(&old, &new, &plan, &states, &mut random, &what);
            assert!(end == new, "{what}: {:?}", delta::diff(&end, &new));
            phases.extend(plan.steps.iter().map(|(phase, write)| (*phase, write.table)));
            let errors = netpolc_table::check::check(&new);
            assert!(
                errors.iter().all(|f| f.severity != netpolc_table::check::Severity::Error),
                "{what}: {}",
                errors[0]
            );
            old = new;
        }
    }
    assert!(
        phases.contains(&(Phase::Merge, TableId::Port))
            && phases.contains(&(Phase::Refine, TableId::Port))
    );
    assert!(
        phases.contains(&(Phase::Coarsen, TableId::RemoteV4)),
        "no address ever changed class by way of another"
    );
}

#[test]
fn a_small_event_makes_few_writes() {
    let (mut compiler, mut model) = (Compiler::default(), Model::default());
    let allow = Some(Rules::from([(1, Some((80, 80)))]));
    model.endpoints.insert(EndpointId::new(1), [allow, None, None]);
    model.peers.insert(5, BTreeSet::from([1]));
    let old = compiler.compile(&model);
    model.peers.insert(7, BTreeSet::from([1]));
    let new = compiler.compile(&model);
    let plan = delta::order(&new, &delta::diff(&old, &new)).unwrap();
    let tables: Vec<_> = plan.steps.iter().map(|(phase, write)| (*phase, write.table)).collect();
    assert_eq!(tables, [(Phase::Switch, TableId::RemoteV4)]);
}
