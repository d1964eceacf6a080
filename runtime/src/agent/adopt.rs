//! Adoption: connections that run when a pod is isolated first keep the verdict of whoever opened them (S40).
//!
//! The order is record, dump, isolate: first the endpoint records what opens, then what runs already is
//! taken from the kernel's connection tracking, or where that knows nothing from the pods' sockets, and
//! only then policy judges. Unknown connections are judged as new.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpolc_policy::Pod;
use netpolc_table::{
    Program, TableId,
    delta::Changes,
    eval,
    schema::{Word, endpoint_key, set_policy, word_of},
};

use super::{
    Error,
    host::{Enforcer, Network},
};
use crate::net::Connection;

/// What was taken over for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Connections that are known now.
    pub connections: usize,
    /// Connections for which there was no room: judged as new.
    pub no_room: usize,
}

/// Does policy judge some direction?
pub fn isolates(word: Word) -> bool {
    word.flags & (Word::INGRESS | Word::EGRESS) != 0
}

/// The words of all endpoints.
pub fn words(program: &Program) -> BTreeMap<u16, Word> {
    let entries = &program.table(TableId::Endpoint).entries;
    entries.iter().map(|(key, entry)| (key.value(0).low() as u16, word_of(entry))).collect()
}

/// `program` with these endpoints recording instead of isolated.
pub fn recording<'a>(program: &Program, endpoints: impl IntoIterator<Item = &'a u16>) -> Program {
    let mut recording = program.clone();
    let entries = &mut recording.table_mut(TableId::Endpoint).entries;
    for endpoint in endpoints {
        let guard = entries.get(&endpoint_key(*endpoint)).map_or(0, |e| word_of(e).flags & Word::GUARD);
        let word = Word { ingress_set: 0, egress_set: 0, flags: Word::RECORD | guard };
        entries.insert(endpoint_key(*endpoint), set_policy(word));
    }
    recording
}

/// `changes`, with the endpoints' words as they are in `recording`.
pub fn while_recording(changes: &Changes, recording: &Program) -> Changes {
    let mut first = Changes::default();
    for ((table, key), (before, after)) in &changes.entries {
        let after = match table {
            TableId::Endpoint => recording.get(*table, key).cloned(),
            _ => after.clone(),
        };
        first.note(*table, key.clone(), before.clone(), after);
    }
    first
}

/// What the kernel knows about the running connections of some pods.
pub struct Survey {
    /// By address; those of each end seen from it.
    running: BTreeMap<IpAddr, BTreeMap<Tuple, Connection>>,
    node: BTreeSet<IpAddr>,
}

/// Protocol, local address and port, remote address and port.
type Tuple = (u8, IpAddr, u16, IpAddr, u16);

impl Survey {
    /// Asks. Where the host tracks nothing, the pods' sockets alone have to do.
    pub fn of<'a>(network: &mut impl Network, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let addresses: BTreeSet<IpAddr> = pods.into_iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let tracked = network.tracked().unwrap_or_else(|error| {
            tracing::info!(%error, "the host tracks no connections; asking the pods' sockets");
            vec![]
        });
        let node = network.own_addresses().unwrap_or_else(|error| {
            tracing::warn!(%error, "the node's addresses");
            BTreeSet::new()
        });
        // A host that tracks anything tracks what it forwards; looking into each pod's namespace takes longer.
        let sockets = if tracked.is_empty() { network.sockets(&addresses) } else { Ok(vec![]) };
        let sockets = sockets.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pods' sockets");
            vec![]
        });
        let ends = tracked.iter().flat_map(|t| [(t, t.original.source), (t, t.reply.source)]);
        let ends = ends.filter(|(_, address)| addresses.contains(address)).filter_map(|(t, a)| t.seen_by(a));
        let mut running: BTreeMap<IpAddr, BTreeMap<Tuple, Connection>> = BTreeMap::new();
        for c in ends.chain(sockets) {
            let tuple = (c.protocol, c.local, c.local_port, c.remote, c.remote_port);
            running.entry(c.local).or_default().entry(tuple).or_insert(c);
        }
        Self { running, node }
    }

    /// The running connections of one of the pods, each with whether the node opened it.
    pub fn running(&self, pod: &Pod) -> Vec<(Connection, Origin)> {
        let origin = |c: &Connection| if self.node.contains(&c.origin) { Origin::Node } else { Origin::Elsewhere };
        let all = pod.addresses.iter().filter_map(|a| self.running.get(a)).flat_map(BTreeMap::values);
        all.map(|c| (*c, origin(c))).collect()
    }
}

/// Where a connection was opened, for S44.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the pod's own node.
    Node,
    /// In a pod or outside.
    Elsewhere,
}

/// What became of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the state table.
    Known,
    /// The endpoint has no room for it.
    NoRoom,
}

/// Puts connections into the endpoint's state.
///
/// # Errors
/// The target refuses.
pub fn insert(
    host: &mut impl Enforcer,
    program: &Program,
    endpoint: u16,
    running: Vec<(Connection, Origin)>,
) -> Result<Adoption, Error> {
    let mut adoption = Adoption::default();
    for (connection, origin) in running {
        let (_, incarnation) = eval::remote(program, connection.remote);
        match host.adopt(endpoint, incarnation, &connection, origin)? {
            Taken::Known => adoption.connections += 1,
            Taken::NoRoom => adoption.no_room += 1,
        }
    }
    Ok(adoption)
}
