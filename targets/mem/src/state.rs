//! Connections: who opened them, how far they have come, how long they live, and the quota of each
//! endpoint and family.
//!
//! Not here: when an entry is made or consulted (`judge`).

use netpolc_table::{EndpointId, Incarnation};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netpolc_target::{
    Hook, Mark,
    semantics::{Event, Phase, Side, YIELDING_SECONDS, seconds},
};

/// What identifies a connection, the same for both directions. Ordered by endpoint, then family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub endpoint: EndpointId,
    pub local: IpAddr,
    pub remote: IpAddr,
    pub protocol: u8,
    pub local_port: u16,
    pub remote_port: u16,
}

impl Tuple {
    /// The destination port of the connection's packets at this hook.
    pub fn destination_port(&self, hook: Hook) -> u16 {
        match hook {
            Hook::ToPod => self.local_port,
            Hook::FromPod | Hook::Translated => self.remote_port,
        }
    }
}

/// Where a packet comes from that opens a connection (S44).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// It is born on the node: nobody but security groups judges it.
    OnNode,
    /// It is the pod's own, back from a Service (S47): its direction permits it always.
    OwnTraffic,
    /// Anywhere else: policy decides.
    Elsewhere,
}

/// What is known of a connection when its entry is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub opener: Hook,
    pub birth: Birth,
    /// Whether its packets go to a Service and are judged after translation.
    pub mark: Mark,
    /// The remote's incarnation (S43).
    pub incarnation: Incarnation,
}

/// A connection's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub opener: Hook,
    pub birth: Birth,
    pub mark: Mark,
    pub phase: Phase,
    /// The remote's incarnation when the entry was created (S43).
    pub incarnation: Incarnation,
    /// The time from which on the entry is expired.
    pub deadline: Duration,
}

/// The endpoint's quota has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The entries of all endpoints.
#[derive(Clone, Debug)]
pub(crate) struct State {
    entries: BTreeMap<Tuple, Connection>,
    counts: BTreeMap<(EndpointId, bool), usize>,
    quota: usize,
}

impl State {
    /// An empty table with room for `quota` entries of each endpoint and family.
    pub fn new(quota: usize) -> Self {
        State { entries: BTreeMap::new(), counts: BTreeMap::new(), quota }
    }

    /// The entry, where it has not expired and the remote is still the same pod.
    pub fn live(
        &self,
        tuple: &Tuple,
        incarnation: Incarnation,
        now: Duration,
    ) -> Option<Connection> {
        self.entries
            .get(tuple)
            .copied()
            .filter(|c| c.deadline > now && c.incarnation == incarnation)
    }

    /// *Touch*: moves phase and deadline on for a packet at `hook`.
    pub fn touch(&mut self, tuple: &Tuple, event: Event, hook: Hook, now: Duration) {
        if let Some(entry) = self.entries.get_mut(tuple) {
            let side = if entry.opener == hook { Side::Opener } else { Side::Other };
            entry.phase = entry.phase.after(event, side);
            entry.deadline = deadline(tuple.protocol, entry.phase, now);
        }
    }

    /// *Create*: makes an entry, in place of an older one of the same tuple, in a free place, or in
    /// that of an entry that gives way.
    pub fn create(&mut self, tuple: Tuple, opening: Opening, now: Duration) -> Result<(), Full> {
        let quarter = (tuple.endpoint, tuple.local.is_ipv6());
        if !self.entries.contains_key(&tuple) {
            let count = self.counts.get(&quarter).copied().unwrap_or_default();
            if count >= self.quota || self.is_greedy(&tuple, count, now) {
                let place = self.yielding(quarter, now).ok_or(Full)?;
                self.entries.remove(&place);
            } else {
                self.counts.insert(quarter, count + 1);
            }
        }
        let phase = Phase::Opening;
        let deadline = deadline(tuple.protocol, phase, now);
        let Opening { opener, birth, mark, incarnation } = opening;
        self.entries
            .insert(tuple, Connection { opener, birth, mark, phase, incarnation, deadline });
        Ok(())
    }

    /// Whether few places are left and the remote has three quarters of them already.
    fn is_greedy(&self, tuple: &Tuple, count: usize, now: Duration) -> bool {
        let share = self.quota * 3 / 4;
        let own = || {
            self.entries
                .iter()
                .filter(|(t, _)| t.endpoint == tuple.endpoint && t.remote == tuple.remote)
        };
        count >= share && own().filter(|(_, c)| c.deadline > now).count() >= share
    }

    /// The entry that gives way when a quota is used up: an expired one, else a closing one, else
    /// one whose opener was answered and never confirmed (no fresh handshake of TCP), else one that
    /// was not answered; of several the one that would die first.
    fn yielding(&self, (endpoint, v6): (EndpointId, bool), now: Duration) -> Option<Tuple> {
        let rank = |c: &Connection| match c.phase {
            _ if c.deadline <= now => Some(0),
            Phase::Closing | Phase::Reset => Some(1),
            Phase::Replied if c.deadline > now + Duration::from_secs(YIELDING_SECONDS.into()) => {
                None
            }
            Phase::Replied => Some(2),
            Phase::Opening => Some(3),
            Phase::Established => None,
        };
        let own =
            self.entries.iter().filter(|(t, _)| t.endpoint == endpoint && t.local.is_ipv6() == v6);
        own.filter_map(|(t, c)| Some((rank(c)?, c.deadline, *t))).min().map(|(_, _, tuple)| tuple)
    }

    /// Forgets the entries of an endpoint.
    pub fn purge(&mut self, endpoint: EndpointId) {
        self.entries.retain(|tuple, _| tuple.endpoint != endpoint);
        self.counts.retain(|(e, _), _| *e != endpoint);
    }

    /// How many entries an endpoint has, expired ones included.
    pub fn count(&self, endpoint: EndpointId) -> usize {
        [false, true].iter().filter_map(|v6| self.counts.get(&(endpoint, *v6))).sum()
    }
}

fn deadline(protocol: u8, phase: Phase, now: Duration) -> Duration {
    now + Duration::from_secs(seconds(protocol, phase).into())
}
