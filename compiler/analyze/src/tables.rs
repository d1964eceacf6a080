//! What tables permit, read from the tables alone.
//!
//! Here: what a set permits with a class of addresses, and everything that a program permits its
//! endpoints, by addresses. Not here: what is decided around the tables (`compare` lists it), and
//! what policies permit (`side`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use netpolc_policy::Direction;
use netpolc_table::{
    Class, EndpointId, PortClassId, Program, RowId, SetId, TableId, eval,
    schema::{Answer, EndpointKey, Family, PortKey, Prefix, SetPortClass, VerdictKey},
};

use crate::{
    compare::pipeline,
    region::{RegionId, Regions},
    traffic::{Interner, TrafficId, TrafficSet},
};

/// What the tables permit an endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permitted {
    /// Nothing isolates the endpoint: everything with everybody.
    Everything,
    /// With these addresses this traffic, and nothing else.
    Only(Vec<(Vec<IpNetwork>, TrafficSet)>),
}

/// What a program permits each of its endpoints, by direction.
pub fn permitted(program: &Program) -> BTreeMap<(EndpointId, Direction), Permitted> {
    let by_class = by_class(program);
    let mut traffic = Interner::default();
    let mut tables = Tables::of(program);
    let mut of_sets: HashMap<SetId, Permitted> = HashMap::new();
    let mut all = BTreeMap::new();
    for key in program.table(TableId::Endpoint).entries.keys() {
        let EndpointKey { endpoint } = EndpointKey::of(key);
        for direction in Direction::BOTH {
            let permitted = match pipeline(direction).set(eval::word(program, endpoint)) {
                None => Permitted::Everything,
                Some(set) => of_sets
                    .entry(set)
                    .or_insert_with(|| of_set(&mut tables, &mut traffic, &by_class, set))
                    .clone(),
            };
            all.insert((endpoint, direction), permitted);
        }
    }
    all
}

/// The addresses of each class of addresses.
fn by_class(program: &Program) -> (Regions, BTreeMap<Class, BTreeSet<RegionId>>) {
    let keys = Family::BOTH.into_iter().flat_map(|family| {
        let entries = program.table(TableId::remote(family)).entries.keys();
        entries.filter_map(move |key| {
            let Prefix { address, length } = Prefix::<IpAddr>::of(family, key);
            IpNetwork::new(address, length).ok()
        })
    });
    let regions = Regions::of_prefixes(keys);
    let mut classes: BTreeMap<Class, BTreeSet<RegionId>> = BTreeMap::new();
    for region in regions.ids() {
        let class = eval::remote(program, regions.prefix(region).network()).class;
        classes.entry(class).or_default().insert(region);
    }
    (regions, classes)
}

fn of_set(
    tables: &mut Tables<'_>,
    traffic: &mut Interner,
    (regions, classes): &(Regions, BTreeMap<Class, BTreeSet<RegionId>>),
    set: SetId,
) -> Permitted {
    let mut with: BTreeMap<TrafficId, BTreeSet<RegionId>> = BTreeMap::new();
    for (class, of_class) in classes {
        let id = tables.permitted(traffic, Some(set), *class);
        with.entry(id).or_default().extend(of_class);
    }
    with.remove(&TrafficId::NOTHING);
    let with = with.into_iter();
    Permitted::Only(with.map(|(id, r)| (regions.addresses(&r), traffic.get(id).clone())).collect())
}

/// What a program permits, as sets of traffic.
pub(crate) struct Tables<'p> {
    program: &'p Program,
    /// The traffic of each port class, for both families: the ICMP of the other one has none.
    classes: [HashMap<PortClassId, TrafficSet>; 2],
    rows: HashMap<RowId, Vec<PortClassId>>,
    known: HashMap<(SetId, Class), TrafficId>,
}

impl<'p> Tables<'p> {
    pub fn of(program: &'p Program) -> Self {
        let classes = Family::BOTH.map(|family| {
            let mut classes: HashMap<PortClassId, TrafficSet> = HashMap::new();
            let mut named = TrafficSet::nothing();
            for (key, entry) in &program.table(TableId::Port).entries {
                let PortKey { protocol, port } = PortKey::of(key);
                if matches!((protocol, family), (1, Family::V6) | (58, Family::V4)) {
                    continue;
                }
                let set = TrafficSet::numbered(protocol, port.low as u16, port.high as u16);
                named = named.union(&set);
                let class = classes.entry(SetPortClass::of(entry).port_class).or_default();
                *class = class.union(&set);
            }
            let rest = classes.entry(PortClassId::default()).or_default();
            *rest = rest.union(&TrafficSet::everything().minus(&named));
            classes
        });
        let mut rows: HashMap<RowId, Vec<PortClassId>> = HashMap::new();
        for key in program.table(TableId::Verdict).entries.keys() {
            let VerdictKey { row, port_class } = VerdictKey::of(key);
            rows.entry(row).or_default().push(port_class);
        }
        Self { program, classes, rows, known: HashMap::new() }
    }

    /// What a set permits with a class of addresses; everything where there is no set.
    pub fn permitted(
        &mut self,
        traffic: &mut Interner,
        set: Option<SetId>,
        class: Class,
    ) -> TrafficId {
        let Some(set) = set else { return TrafficId::EVERYTHING };
        if let Some(known) = self.known.get(&(set, class)) {
            return *known;
        }
        let permitted = match Answer::of(eval::answer(self.program, set, class)) {
            Answer::Permit => TrafficId::EVERYTHING,
            Answer::Deny => TrafficId::NOTHING,
            Answer::Row(row) => {
                let classes = &self.classes[class.family() as usize];
                let listed = self.rows.get(&row).into_iter().flatten();
                let sets = listed.filter_map(|class| classes.get(class));
                let all = sets.fold(TrafficSet::nothing(), |all, set| all.union(set));
                traffic.intern(all)
            }
        };
        self.known.insert((set, class), permitted);
        permitted
    }
}
