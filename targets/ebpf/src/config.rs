//! What an instance of the target is made with, and how far it may grow.
//!
//! Not here: what the sizes mean (`layout`).

use std::time::Duration;

use crate::{
    attach::Mode,
    layout::{
        Capacities,
        state::{MOST_BUCKETS, PER_BUCKET},
    },
    program::{Options, Sockets},
};

/// What an instance is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sizes of the first generation. What is pinned keeps its own.
    pub capacities: Capacities,
    /// How far generations grow; `fragments` never does. Equal to `capacities`: not at all.
    pub limits: Capacities,
    /// How large tables of connections are.
    pub connections: Connections,
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
        let connections = Connections::default();
        let limits = largest(capacities);
        Self { capacities, limits, connections, mode: Mode::Best, seed: None, program: Options::default() }
    }
}

impl Config {
    /// Small at first, for tests and single questions.
    pub fn small() -> Self {
        let capacities = Capacities::small();
        let connections = Connections::fixed(6);
        let limits = largest(capacities);
        Self { capacities, limits, connections, mode: Mode::Best, seed: Some(1), program: Options::default() }
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

/// How large tables of connections are. Each endpoint has one for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// log2 of the buckets of an endpoint's first table. What is pinned keeps its own.
    pub first_log: u8,
    /// log2 of the buckets of the largest table.
    pub most_log: u8,
    /// How many connections there is room for in all tables that have grown. First tables do not
    /// count.
    pub budget: u32,
    /// How long a table is much larger than what it holds before it shrinks.
    pub patience: Duration,
}

impl Default for Connections {
    /// 1,536 connections at first, 393,216 at most, two millions on the node.
    fn default() -> Self {
        Self { first_log: 8, most_log: 16, budget: 1 << 21, patience: Duration::from_secs(600) }
    }
}

impl Connections {
    /// Tables that do not grow.
    pub fn fixed(log: u8) -> Self {
        Self { first_log: log, most_log: log, ..Self::default() }
    }

    /// Connections that find room in a table of so many buckets whatever their hashes are, in
    /// practice.
    pub fn holds(&self, log: u8) -> u32 {
        PER_BUCKET << log
    }

    /// Buckets of a first table.
    pub fn first_buckets(&self) -> u32 {
        1 << self.first_log
    }

    /// The budget in buckets.
    pub fn budget_buckets(&self) -> u64 {
        u64::from(self.budget / PER_BUCKET)
    }

    /// Names the field that is out of its bounds.
    ///
    /// # Errors
    /// One is.
    pub fn check(&self) -> Result<(), String> {
        let most = MOST_BUCKETS.ilog2() as u8;
        if self.first_log < 1 || self.first_log > self.most_log || self.most_log > most {
            let Self { first_log, most_log, .. } = self;
            return Err(format!(
                "tables of connections: 2^{first_log} to 2^{most_log} buckets; 2^1 to 2^{most} are possible"
            ));
        }
        Ok(())
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
