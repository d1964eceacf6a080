//! A pod whose compiled tables are on a target, for packets that a test builds: what becomes of
//! them without an agent and without a network.

use std::{collections::BTreeMap, net::IpAddr};

use netpolc_lower::{Compiler, Event, Scope, between, compile};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{Entry, IfIndex, Key, Program, TableId, delta};
use netpolc_target::{
    Arrival, Datapath, Frame, Hook, Mark, Target, Verdict, execute, frame::Packet,
};

const INTERFACE: IfIndex = IfIndex::new(10_001);
const UPLINK: IfIndex = IfIndex::new(2);

/// The node n1 on a target.
pub struct Stage<T> {
    cluster: Cluster,
    compiler: Compiler,
    pub target: T,
}

impl<T: Target + Datapath> Stage<T> {
    pub fn new(cluster: &Cluster, target: T) -> Self {
        let compiler = compile(cluster, Scope::Node("n1".into())).unwrap();
        let mut stage = Self { cluster: cluster.clone(), compiler, target };
        stage.update(vec![]);
        stage
    }

    /// The tables become those after these events.
    pub fn update(&mut self, events: Vec<Event>) {
        self.compiler.apply_all(events).unwrap();
        let held = self.target.read().unwrap();
        let (_, plan) = delta::plan(&held, self.compiler.program()).unwrap();
        execute(&mut self.target, &plan).unwrap();
        let written = self.target.read().unwrap();
        let [written, wanted] = [&written, self.compiler.program()].map(ports);
        assert_eq!(written, wanted, "the target holds what was written");
    }

    /// The objects become those of `cluster`.
    pub fn change(&mut self, cluster: &Cluster) {
        self.update(between(&self.cluster, cluster));
        self.cluster = cluster.clone();
    }

    pub fn sends(&mut self, packet: &Packet) -> Verdict {
        self.frame(Hook::FromPod, packet.build())
    }

    pub fn gets(&mut self, packet: &Packet) -> Verdict {
        self.frame(Hook::ToPod, packet.build())
    }

    pub fn frame(&mut self, hook: Hook, bytes: Vec<u8>) -> Verdict {
        let from = if hook == Hook::FromPod { INTERFACE } else { UPLINK };
        let frame =
            Frame { interface: INTERFACE, arrival: Arrival::At(from), mark: Mark::Clear, bytes };
        self.target.packet(hook, &frame).unwrap()
    }
}

/// The pod is at the interface whose packets the stage sends and gets.
pub fn attached(namespace: &str, name: &str) -> Event {
    Event::Interface { pod: ObjectKey::new(namespace, name), interface: Some(INTERFACE.into()) }
}

pub fn packet(from: &str, to: &str) -> Packet {
    Packet::new(from.parse::<IpAddr>().unwrap(), to.parse::<IpAddr>().unwrap())
}

fn ports(program: &Program) -> &BTreeMap<Key, Entry> {
    &program.table(TableId::Port).entries
}
