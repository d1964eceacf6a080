//! From what is known to a program: where the pods of this node are, which devices it has, and what the compiler
//! makes of that and of the cluster.
//!
//! Not here: what is done with the program ([`super`]).

use std::collections::{BTreeMap, BTreeSet};

use netpolc_lower::{Compiler, Event, Numbered, Scope};
use netpolc_policy::ObjectKey;
use netpolc_table::{EndpointId, IfIndex, delta::Changes, schema::Word};
use netpolc_target::NodeTarget;

use super::{Agent, Error, adopt, network::Network};

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// As [`Agent::moved`]; without interfaces the rest still applies, and they are looked for again.
    pub(super) fn look(&mut self) -> Vec<Event> {
        let mut events = self.moved().unwrap_or_else(|error| {
            tracing::warn!(%error, "pods' interfaces");
            vec![]
        });
        events.extend(self.rewired());
        events
    }

    /// What the node's own devices are, where that is something else than before. While they cannot be
    /// looked at, what was known of them holds.
    pub(super) fn rewired(&mut self) -> Option<Event> {
        match self.network.wire() {
            Ok(wire) if wire != self.wire => {
                // What egress sets grant depends on the tunnels.
                self.loaded &= wire.tunnels == self.wire.tunnels;
                self.wire = wire.clone();
                Some(Event::Wire(wire))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "the node's tunnels and bridges");
                None
            }
        }
    }

    /// Interface events for what differs from what the compiler knows.
    pub(super) fn moved(&mut self) -> Result<Vec<Event>, Error> {
        let local = self.local.iter().filter_map(|key| self.cluster.pods.get(key));
        let moved = self.whereabouts.look(local, &mut self.network);
        moved.map_err(|source| Error::Network { what: "interfaces", source })
    }

    /// None where the program is not the old one with changes. A compiler that has run out of ids is
    /// replaced: enough may have gone since. Where that does not help, the namespace that takes most is set aside.
    pub(super) fn compile(&mut self, events: Vec<Event>) -> Result<Option<Changes>, Error> {
        if self.loaded {
            match self.compiler.apply_admitted(&mut self.shares, &self.cluster, events) {
                Ok(changes) => return Ok(Some(changes)),
                Err(overflow) => tracing::warn!(%overflow, "compiling anew"),
            }
        } else {
            self.shares.load(&self.cluster);
        }
        let installed = self.host.read()?;
        loop {
            let scope = Scope::Node(self.node.clone());
            let mut compiler =
                Compiler::within(scope, &self.room).wired(self.wire.clone()).bounded(self.shares.limits().cells);
            compiler.seed(&installed);
            let interfaces = self.whereabouts.all();
            let interfaces = interfaces.map(|(pod, i)| Event::Interface { pod: pod.clone(), interface: Some(i) });
            let done = compiler.load_admitted(&self.cluster, &self.shares);
            let Err(overflow) = done.and_then(|()| compiler.apply_all(interfaces).map(drop)) else {
                if self.shares.blame_excess(&self.cluster, compiler.take_excess()) {
                    (self.pulse)();
                    continue;
                }
                self.compiler = compiler;
                break;
            };
            self.blame(overflow.what, overflow.capacity.into(), &compiler).ok_or(overflow)?;
            (self.pulse)();
        }
        self.loaded = true;
        Ok(None)
    }

    /// Sets the namespace aside that takes most of what has run out. None: there is none.
    pub(super) fn blame(&mut self, what: Numbered, capacity: u64, compiler: &Compiler) -> Option<()> {
        let usage = compiler.usage(what);
        self.shares.blame(&self.cluster, what.resource()?, &usage, capacity).then_some(())
    }

    /// Endpoints that are about to be isolated in a direction in which they were not, where connections may be
    /// running: their pods were attached already, or this agent has just started. Also where the other direction is
    /// isolated already, since what opened there needed no entry until now. A pod that appears
    /// later has none, and is isolated before its first packet (S56).
    pub(super) fn newly_isolated(
        &self,
        before: &BTreeMap<EndpointId, Word>,
        attached: &BTreeSet<IfIndex>,
    ) -> BTreeMap<ObjectKey, EndpointId> {
        let now = adopt::words(self.compiler.program());
        let isolation =
            |words: &BTreeMap<EndpointId, Word>, endpoint| words.get(&endpoint).map_or(0, |w| adopt::isolation(*w));
        let runs = |pod| self.whereabouts.interface(pod).is_some_and(|i| self.first || attached.contains(&i));
        let endpoints = self.compiler.endpoints();
        let found = endpoints.filter(|(pod, id)| runs(*pod) && isolation(&now, *id) & !isolation(before, *id) != 0);
        found.map(|(pod, id)| (pod.clone(), id)).collect()
    }
}
