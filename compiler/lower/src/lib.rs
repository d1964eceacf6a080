//! Lowering: the policy model of one node becomes a table program, incrementally.
//!
//! ```text
//! Event -> compiler        hands it to whom it is about; knows the order of one update
//!
//!          policies        by namespace and name            what is known
//!          unselected      which namespaces isolate what no policy selects
//!          tiers           ClusterNetworkPolicies
//!          security        security groups, and which of them a pod has
//!          membership      who is a member of what: namespaces, pods, blocks, atoms
//!          nodes           their addresses
//!          services        addresses and ports that lead to backends
//!          wire            the node's own devices: tunnels, the pods' link
//!
//!          endpoints       local pods: words, own addresses, interfaces
//!          matrix          what each set says of each class         what is made of it
//!            sets            what policies say that isolate together
//!            classes         what addresses are members of, interned
//!            order           what tiers make of each other, for all ports at once
//!            rows            entries for what is granted, by intervals of ports
//!            answers         what has been worked out in the update under way
//!          leaves          the class of each address and prefix
//!
//!          worklist        what an update has left to do
//!          output       -> the program, and Changes: the entries that differ
//! ```
//!
//! What comes in is first held against the namespaces' shares ([`Shares`]): what takes too much is
//! set aside alone.
//!
//! An *atom* is one distinct peer of a live set: a pair of selectors, a CIDR with its excepts, a
//! named port's number, a node, or the ports that are Services' on an address. A *class* is a set
//! of atoms; every address belongs to one. Only policies that select local pods have live sets, so
//! only their peers are atoms. Work is proportional to what an event changes: a pod event touches
//! its own address and endpoint.
//!
//! ```
//! use netpolc_lower::{Compiler, Event, Scope};
//! use netpolc_policy::{Isolation, ObjectKey, Phase, Pod, PodNetwork, Policy, Selector};
//! use netpolc_table::TableId;
//!
//! let mut compiler = Compiler::new(Scope::Node("node-a".into()));
//! let pod = Pod {
//!     key: ObjectKey::new("shop", "web"),
//!     uid: None,
//!     node: Some("node-a".into()),
//!     labels: Default::default(),
//!     addresses: vec!["10.1.0.1".parse()?],
//!     network: PodNetwork::Own,
//!     phase: Phase::Active,
//!     ports: vec![],
//!     grouping: Default::default(),
//!     owner: None,
//! };
//! compiler.apply(Event::Pod { key: pod.key.clone(), pod: Some(pod) })?;
//!
//! // A policy that selects every pod of the namespace and allows nothing to come in.
//! let policy = Policy {
//!     key: ObjectKey::new("shop", "nothing"),
//!     selector: Selector::default(),
//!     ingress: Isolation::Isolated(vec![]),
//!     egress: Isolation::Open,
//!     mode: Default::default(),
//! };
//! let changes = compiler.apply(Event::Policy { key: policy.key.clone(), policy: Some(policy) })?;
//!
//! // A new set with its line in the directory and its base for both families; the pod's word
//! // names it.
//! let mut tables: Vec<TableId> = changes.entries.keys().map(|(table, _)| *table).collect();
//! tables.sort();
//! assert_eq!(tables, [TableId::Endpoint, TableId::Base, TableId::Base, TableId::Directory]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules import one another without circles, which `tests/modules.rs` holds.
//!
//! Not here: the order in which a target may be changed (`netpolc_table::delta`), and verdicts
//! straight from the model (the oracle, which shares no code with this crate).

mod answers;
mod between;
mod cells;
mod classes;
mod compile;
mod compiler;
mod conflicts;
mod content;
mod deciding;
mod endpoints;
mod event;
mod grants;
mod ids;
mod index;
mod installed;
mod interval;
mod leaves;
mod matrix;
mod membership;
mod nodes;
mod order;
mod output;
mod overflow;
mod policies;
mod ports;
mod prefix;
mod rows;
mod rules;
mod security;
mod services;
mod set;
mod sets;
mod shares;
mod tiers;
mod tried;
mod unselected;
mod usage;
mod verify;
mod wire;
mod worklist;

pub use between::between;
pub use compile::compile;
pub use compiler::Compiler;
pub use event::{Event, Interface, Scope};
pub use overflow::{Diagnostic, Numbered, Overflow};
pub use set::NO_RULE_DECIDES;
pub use shares::{Aside, Kind, Limits, Resource, Room, Shares};
pub use verify::{Counterexample, verify};
pub use wire::{Tunnel, Wire};
