//! What an instance of the target is made with, and how far it may grow.
//!
//! Not here: what the sizes mean (`layout`).

use crate::{
    attach::Mode,
    layout::Capacities,
    program::{Options, Sockets},
};

/// What an instance is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sizes of the first generation. What is pinned keeps its own.
    pub capacities: Capacities,
    /// How far generations grow; `endpoints`, `state_buckets` and `fragments` never do. Equal to `capacities`: not at all.
    pub limits: Capacities,
    /// How programs get to interfaces.
    pub mode: Mode,
    /// Mixed into the hashes of connection state; None: from the kernel's random numbers.
    pub seed: Option<u64>,
    /// What is generated; less than everything only for measurements, and varied packets only for private instances.
    pub program: Options,
}

impl Default for Config {
    fn default() -> Self {
        let capacities = Capacities::default();
        Self { capacities, limits: largest(capacities), mode: Mode::Best, seed: None, program: Options::default() }
    }
}

impl Config {
    /// Small at first, for tests and single questions.
    pub fn small() -> Self {
        let capacities = Capacities::small();
        Self { capacities, limits: largest(capacities), mode: Mode::Best, seed: Some(1), program: Options::default() }
    }

    /// Small, for questions about single packets ([`netpolc_target::Datapath::packet`]) of every [`netpolc_target::Arrival`]: it is told what
    /// a test run cannot show. Not for interfaces, where a packet's own socket counts.
    pub fn asked() -> Self {
        let program = Options { sockets: Sockets::Told, ..Options::default() };
        Self { program, ..Self::small() }
    }

    /// The same without growth.
    pub fn fixed(self) -> Self {
        Self { limits: self.capacities, ..self }
    }
}

/// May packets go on to Services?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No.
    Held,
    /// Yes.
    Free,
}

/// What the layout allows, as far as the cells of rows by classes allow it together: 2^13 sets by 2^15 classes.
fn largest(c: Capacities) -> Capacities {
    Capacities {
        interface_blocks: 1 << 16,
        sets: c.sets.max(1 << 13),
        classes_v4: c.classes_v4.max(1 << 15),
        classes_v6: c.classes_v6.max(1 << 15),
        rows: c.rows.max(1 << 16),
        port_words: c.port_words.max(1 << 10),
        remote_v4_blocks: c.remote_v4_blocks.max(1 << 19),
        remote_v6_blocks: c.remote_v6_blocks.max(1 << 19),
        remote_v6_buckets: c.remote_v6_buckets.max(1 << 22),
        remote_v6_leaves: c.remote_v6_leaves.max(1 << 16),
        more_addresses: c.more_addresses.max(1 << 20),
        services: c.services.max(1 << 20),
        ..c
    }
}
