//! Kinds that a cluster need not have: that the server does not know one is no mistake, and it may
//! be installed at any time. Also which kinds wait for another one: ServiceAccounts matter only
//! where the cluster has SecurityGroupPolicies, and all Nodes only where a ClusterNetworkPolicy
//! names nodes.
//!
//! Watching all Nodes costs what their heartbeats weigh: kubelet writes each Node's status about
//! every five minutes, some 10 to 20 KB each time. Among 1,000 nodes that is three events in a
//! second for each agent, so only the own Node is watched until a policy needs the others.
//!
//! Not here: lists and watches ([`super::feed`]).

use std::time::{Duration, Instant as StdInstant};

use netpolc_policy::{Direction, TierPeer};
use tokio::time::sleep;

use super::{
    backoff::jitter,
    collect::Message,
    condition::{Condition, Reason},
    feed::{Feed, Stop, Work},
};
use crate::{Object, Resource};

/// How often a kind that the server does not have is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The pause before a kind that was there is taken to be gone, with all its objects: a server that
/// is just starting may not know it yet.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);
/// The longest interval between two looks at whether another kind is known.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is known about a kind that the server may lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing was heard of it.
    #[default]
    Unknown,
    /// It was listed.
    There,
    /// It was listed, and the server has said once that it does not have it.
    Doubtful,
    /// The server does not have it, and that was passed on.
    Absent,
}

/// Whether the kind may have been there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It was not asked for, because nothing depends on it.
    Never,
    Perhaps,
}

/// Whether the server says that it does not have the kind.
pub(super) fn is_missing(condition: &Option<Condition>) -> bool {
    condition.as_ref().is_some_and(|condition| condition.reason == Reason::Missing)
}

/// Whether a policy has nodes as peers.
pub(super) fn names_nodes(object: &Object) -> bool {
    let Object::Tier(policy) = object else { return false };
    let mut rules = Direction::BOTH.into_iter().flat_map(|direction| policy.rules(direction));
    rules.any(|rule| rule.peers.iter().any(|peer| matches!(peer, TierPeer::Nodes(_))))
}

impl Feed {
    /// Waits until it is known how the kind is to be listed.
    pub async fn due(&self) {
        let before = match self.resource {
            Resource::Account => Resource::GroupPolicy,
            // Whether the other nodes matter depends on the first list.
            Resource::Node if self.fields.is_some() => Resource::Tier,
            _ => return,
        };
        if !self.states.families.has(before) {
            return;
        }
        while self.states.of(before).progress().served.is_none() {
            let moved = self.states.moved.notified();
            let _ = tokio::time::timeout(POLL_INTERVAL, moved).await;
        }
    }

    /// Whether anything depends on the kind.
    pub fn matters(&self) -> bool {
        self.resource != Resource::Account
            || self.states.of(Resource::GroupPolicy).progress().served == Some(true)
    }

    /// The field selector of lists and watches.
    pub fn selected(&self) -> Option<String> {
        self.fields.clone().filter(|_| !self.states.has_all_nodes())
    }

    /// Notes that the server has the kind.
    pub fn served(&self) {
        let mut before = None;
        self.note(|seen| before = seen.served.replace(true));
        if self.resource == Resource::GroupPolicy && before != Some(true) {
            self.states.of(Resource::Account).nudge.notify_one();
        }
    }
}

impl Work {
    /// Passes on that there are no objects of the kind, and waits until it is to be looked for
    /// again.
    pub async fn absent(&mut self, known: Known) -> Result<(), Stop> {
        if self.presence == Presence::There && known == Known::Perhaps {
            self.presence = Presence::Doubtful;
            sleep(CONFIRM_INTERVAL).await;
            return Ok(());
        }
        let resource = self.feed.resource;
        if self.presence != Presence::Absent {
            self.begin().await?;
            self.feed.send(Message::Complete(resource)).await?;
            self.presence = Presence::Absent;
            tracing::debug!(%resource, "the cluster does not have this kind");
        }
        self.feed.note(|seen| {
            (seen.served, seen.up) = (Some(false), true);
            (seen.version, seen.heard) = (None, Some(StdInstant::now()));
        });
        self.feed.send(Message::State(resource, None)).await?;
        tokio::select! {
            () = sleep(LOOK_INTERVAL + jitter(LOOK_INTERVAL / 10)) => {}
            () = self.feed.states.of(resource).nudge.notified() => {}
        }
        Ok(())
    }
}
