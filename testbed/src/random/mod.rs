//! Seeded random clusters, changes and questions for property tests. Small alphabets, so that
//! everything meets everything: selectors overlap, blocks nest, ports touch.
//!
//! Here: the generator of numbers ([`Rng`]), clusters ([`cluster`]), what may happen to them
//! ([`Change`], [`change()`]) and what to ask ([`questions`]). Not here: any judge. The same seed
//! gives the same on every machine.

mod change;
mod groups;
mod objects;
mod question;
mod rng;
mod tiers;

pub use change::{Change, change};
pub use groups::{security, staged};
pub use objects::{cluster, container_ports, labels, node, pod, policy};
pub use question::{addresses, ports, questions};
pub use rng::Rng;

/// How big and how wild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Namespaces n0, n1, ...
    pub namespaces: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// Pods at the start; changes keep about as many.
    pub pods: usize,
    /// Policies at the start; changes keep about as many.
    pub policies: usize,
    /// ClusterNetworkPolicies at the start, in every second cluster; changes keep about as many.
    pub tiers: usize,
    /// Whether pods have security groups, in every third cluster.
    pub groups: bool,
    /// Whether two active pods may claim one address.
    pub claims: Claims,
}

/// Whether two active pods may claim one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// Each address belongs to at most one active pod.
    Unique,
    /// Sometimes two claim one, as during a broken hand-over.
    Contested,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            namespaces: 3,
            nodes: 2,
            pods: 12,
            policies: 6,
            tiers: 3,
            groups: true,
            claims: Claims::Unique,
        }
    }
}
