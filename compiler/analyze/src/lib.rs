//! Questions about a whole cluster: who may talk to whom, what a change would change, and which
//! rules do nothing.
//!
//! Here: classes of those whom no rule tells apart ([`universe`]), what one end permits for all
//! ports at once ([`side`]), and both ends together ([`Analysis`]). Pairs of pods are never walked
//! through one by one. Not here: single packets (the oracle), tables (`compiler/lower`), and how an
//! answer is shown. No clock, no IO.
//!
//! The evaluation is one of its own, beside those of the oracle and of the tables, since it answers
//! for all ports at once and has no bound on the number of pods; `tests/agree.rs` holds it against
//! both.

pub mod around;
pub mod compare;
pub mod diff;
pub mod lint;
pub mod list;
pub mod nearest;
pub mod peers;
pub mod ports;
pub mod region;
pub mod side;
pub mod tables;
pub mod traffic;
pub mod unit;
pub mod universe;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use netpolc_policy::{Cluster, Direction, IpFamily, Policy};

use crate::{
    peers::PeerIndex,
    side::{Row, Side, Sources, Without},
    traffic::{Interner, TrafficId, TrafficSet},
    universe::{PodClassId, ProfileId, RemoteId, Universe},
};

/// A cluster that questions can be asked about. What was worked out once is remembered.
pub struct Analysis<'a> {
    cluster: &'a Cluster,
    universe: Universe<'a>,
    policies: BTreeMap<&'a str, Vec<&'a Policy>>,
    peers: PeerIndex,
    traffic: Interner,
    sides: HashMap<(ProfileId, Direction), Rc<Side>>,
    rows: HashMap<(ProfileId, Direction), Rc<Row>>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Pods of a class.
    Pods(PodClassId),
    /// Addresses that are no pod's, but of nodes or outside of the cluster.
    Elsewhere(RemoteId),
}

impl<'a> Analysis<'a> {
    /// Prepares for questions about this cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        Self::in_universe(cluster, Universe::of(cluster))
    }

    /// The same with classes that were made before, which may be finer than the cluster asks for.
    pub fn in_universe(cluster: &'a Cluster, universe: Universe<'a>) -> Self {
        let mut policies: BTreeMap<&'a str, Vec<&'a Policy>> = BTreeMap::new();
        for policy in cluster.policies.values() {
            policies.entry(&policy.key.namespace).or_default().push(policy);
        }
        Self {
            cluster,
            universe,
            policies,
            peers: PeerIndex::default(),
            traffic: Interner::default(),
            sides: HashMap::new(),
            rows: HashMap::new(),
        }
    }

    /// The cluster that is asked about.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Everybody in it.
    pub fn universe(&self) -> &Universe<'a> {
        &self.universe
    }

    /// The NetworkPolicies of a namespace.
    pub fn policies_of(&self, namespace: &str) -> &[&'a Policy] {
        self.policies.get(namespace).map_or(&[], |policies| policies)
    }

    /// The set of traffic with this id.
    pub fn traffic(&self, id: TrafficId) -> &TrafficSet {
        self.traffic.get(id)
    }

    /// The rules about a direction of a profile.
    pub fn side(&mut self, profile: ProfileId, direction: Direction) -> Rc<Side> {
        if let Some(known) = self.sides.get(&(profile, direction)) {
            return known.clone();
        }
        let side = Rc::new(self.side_without(profile, direction, &Without::Nothing));
        self.sides.insert((profile, direction), side.clone());
        side
    }

    fn side_without(&mut self, profile: ProfileId, direction: Direction, out: &Without) -> Side {
        // Tiers and groups are the same then, and there may be many rules of them.
        let known = out.is_of_policies().then(|| self.side(profile, direction));
        let mut sources = Sources {
            cluster: self.cluster,
            universe: &self.universe,
            peers: &mut self.peers,
            traffic: &mut self.traffic,
            policies: &self.policies,
        };
        match known {
            Some(side) => side.without_policies(&mut sources, profile, out),
            None => Side::of(&mut sources, profile, direction, out),
        }
    }

    /// What a direction of a profile permits with each remote.
    pub fn row(&mut self, profile: ProfileId, direction: Direction) -> Rc<Row> {
        if let Some(known) = self.rows.get(&(profile, direction)) {
            return known.clone();
        }
        let side = self.side(profile, direction);
        let row = Rc::new(side.row(&self.universe, &mut self.traffic));
        self.rows.insert((profile, direction), row.clone());
        row
    }

    /// The same, if something were not there.
    pub fn row_without(&mut self, profile: ProfileId, direction: Direction, out: &Without) -> Row {
        let side = self.side_without(profile, direction, out);
        side.row(&self.universe, &mut self.traffic)
    }

    /// What a direction of a class permits with one remote.
    pub fn with(&mut self, class: PodClassId, direction: Direction, remote: RemoteId) -> TrafficId {
        let profile = self.universe.class(class).profile;
        if let Some(row) = self.rows.get(&(profile, direction)) {
            return row.with(remote);
        }
        let side = self.side(profile, direction);
        side.with(remote, &self.universe, &mut self.traffic)
    }

    /// What may be sent from one end to the other over this family: both ends have to permit it
    /// (S7). None where an end has no address of the family. Two ends that are no pods permit each
    /// other everything.
    pub fn between(
        &mut self,
        source: End,
        destination: End,
        family: IpFamily,
    ) -> Option<TrafficId> {
        let to = self.remote(destination, family)?;
        let from = self.remote(source, family)?;
        let egress = match source {
            End::Pods(class) => self.with(class, Direction::Egress, to),
            End::Elsewhere(_) => TrafficId::EVERYTHING,
        };
        if egress == TrafficId::NOTHING {
            return Some(egress);
        }
        let ingress = match destination {
            End::Pods(class) => self.with(class, Direction::Ingress, from),
            End::Elsewhere(_) => TrafficId::EVERYTHING,
        };
        Some(self.traffic.intersection(egress, ingress))
    }

    /// What an end is to the other one, over this family.
    fn remote(&self, end: End, family: IpFamily) -> Option<RemoteId> {
        match end {
            End::Pods(class) => self.universe.class(class).remotes[family as usize],
            End::Elsewhere(remote) => (self.universe.family(remote) == family).then_some(remote),
        }
    }
}
