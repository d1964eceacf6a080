//! The part of the agent that makes a program: it finds the interfaces of this node's pods and the
//! node's own devices, and compiles them together with the cluster.
//!
//! Not here: how the program gets into the target ([`super`]).

use std::collections::{BTreeMap, BTreeSet};

use netpolc_lower::{Compiler, Event, Numbered, Scope};
use netpolc_policy::ObjectKey;
use netpolc_table::{EndpointId, IfIndex, delta::Changes, schema::Word};
use netpolc_target::NodeTarget;

use super::{Agent, Error, adopt, network::Network};

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// Interface and device events. Where interfaces cannot be looked up, that is logged,
    /// everything else still applies, and the next rescan tries again.
    pub(super) fn rescan(&mut self) -> Vec<Event> {
        let mut events = self.interface_events().unwrap_or_else(|error| {
            tracing::warn!(%error, "the pods' interfaces could not be looked up");
            vec![]
        });
        events.extend(self.device_event());
        events
    }

    /// An event where the node's own devices have changed. While they cannot be read, the known
    /// ones count.
    pub(super) fn device_event(&mut self) -> Option<Event> {
        match self.network.wire() {
            Ok(wire) if wire != self.wire => {
                // What egress sets grant depends on the tunnels, so a change of these needs a full
                // compilation.
                self.loaded &= wire.tunnels == self.wire.tunnels;
                self.wire = wire.clone();
                Some(Event::Wire(wire))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "the node's tunnels and bridges could not be read");
                None
            }
        }
    }

    /// Interface events for the pods whose interfaces differ from those that the compiler knows.
    pub(super) fn interface_events(&mut self) -> Result<Vec<Event>, Error> {
        let local = self.local.iter().filter_map(|key| self.cluster.pods.get(key));
        let events = self.interfaces.rescan(local, &mut self.network);
        events.map_err(|source| Error::Network { what: "the pods' interfaces", source })
    }

    /// Takes events into the program and returns its changes; None where the program is a new one.
    /// A compiler that has run out of ids is replaced by a new one, since ids may have been freed
    /// meanwhile. Where that does not help, the namespace that takes most is set aside.
    pub(super) fn compile(&mut self, events: Vec<Event>) -> Result<Option<Changes>, Error> {
        if self.loaded {
            match self.compiler.apply_admitted(&mut self.shares, &self.cluster, events) {
                Ok(changes) => return Ok(Some(changes)),
                Err(overflow) => {
                    tracing::warn!(%overflow, "the compiler has run out of ids; the whole cluster \
                        is compiled again")
                }
            }
        } else {
            self.shares.load(&self.cluster);
        }
        // A full compilation. The new compiler is seeded with what is installed, so that ids keep
        // their meaning as far as possible, and few entries have to change.
        let installed = self.host.read()?;
        loop {
            let scope = Scope::Node(self.node.clone());
            let mut compiler = Compiler::within(scope, &self.room)
                .wired(self.wire.clone())
                .bounded(self.shares.limits().cells);
            compiler.seed(&installed);
            let interfaces = self.interfaces.all();
            let interfaces = interfaces
                .map(|(pod, i)| Event::Interface { pod: pod.clone(), interface: Some(i) });
            // Every round that fails sets a further namespace aside and compiles what is left, so
            // this ends.
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

    /// Sets aside the namespace that takes most of the resource that has run out; None where there
    /// is no such namespace.
    pub(super) fn blame(
        &mut self,
        what: Numbered,
        capacity: u64,
        compiler: &Compiler,
    ) -> Option<()> {
        let usage = compiler.usage(what);
        self.shares.blame(&self.cluster, what.resource()?, &usage, capacity).then_some(())
    }

    /// The endpoints that are about to be isolated in a direction in which they were not, and that
    /// may have running connections: their pods were attached already, or this agent has just
    /// started. An endpoint that is isolated in the other direction counts too, since connections
    /// of the new direction have needed no entry until now. A pod that appears later has no
    /// connections, and is isolated before its first packet (S56).
    pub(super) fn newly_isolated(
        &self,
        before: &BTreeMap<EndpointId, Word>,
        attached: &BTreeSet<IfIndex>,
    ) -> BTreeMap<ObjectKey, EndpointId> {
        let now = adopt::words(self.compiler.program());
        let isolation = |words: &BTreeMap<EndpointId, Word>, endpoint| {
            words.get(&endpoint).map_or(0, |w| adopt::isolation(*w))
        };
        let runs = |pod| {
            self.interfaces.interface(pod).is_some_and(|i| self.first || attached.contains(&i))
        };
        let endpoints = self.compiler.endpoints();
        let found = endpoints
            .filter(|(pod, id)| runs(*pod) && isolation(&now, *id) & !isolation(before, *id) != 0);
        found.map(|(pod, id)| (pod.clone(), id)).collect()
    }
}
