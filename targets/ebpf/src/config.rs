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
    /// Sizes of the first generation. A generation that is pinned keeps its own.
    pub capacities: Capacities,
    /// How far generations may grow; `fragments` never grows. Where this equals `capacities`,
    /// nothing does.
    pub limits: Capacities,
    /// How large tables of connections are.
    pub connections: Connections,
    /// How programs are attached to interfaces.
    pub mode: Mode,
    /// A number mixed into the hashes of connection state. None draws one from the kernel's random
    /// numbers.
    pub seed: Option<u64>,
    /// What is generated. Measurements alone generate less than everything.
    pub program: Options,
}

impl Default for Config {
    fn default() -> Self {
        let capacities = Capacities::default();
        Self {
            capacities,
            limits: largest(capacities),
            connections: Connections::default(),
            mode: Mode::Best,
            seed: None,
            program: Options::default(),
        }
    }
}

impl Config {
    /// Small tables that may grow, for tests and single queries.
    pub fn small() -> Self {
        let capacities = Capacities::small();
        Self {
            capacities,
            limits: largest(capacities),
            connections: Connections::fixed(6),
            seed: Some(1),
            ..Self::default()
        }
    }

    /// Small tables, for queries about single packets ([`netpolc_target::Datapath::packet`]) of
    /// every [`netpolc_target::Arrival`]: the programs are told what a test run cannot show them.
    /// Not for interfaces, where a packet's own socket counts.
    pub fn asked() -> Self {
        let program = Options { sockets: Sockets::Told, ..Options::default() };
        Self { program, ..Self::small() }
    }

    /// The same configuration without growth.
    pub fn fixed(self) -> Self {
        Self { limits: self.capacities, ..self }
    }
}

/// How large tables of connections are. Each endpoint has one for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// log2 of the buckets of an endpoint's first table. Tables that are pinned keep their size.
    pub first_log: u8,
    /// log2 of the buckets of the largest table.
    pub most_log: u8,
    /// How many connections all tables that have grown may have room for together. First tables do
    /// not count.
    pub budget: u32,
    /// How long a table must have been much larger than what it holds before it shrinks.
    pub shrink_after: Duration,
}

impl Default for Connections {
    /// Room for 1,536 connections at first and 393,216 at most, and for two million on the node.
    fn default() -> Self {
        Self { first_log: 8, most_log: 16, budget: 1 << 21, shrink_after: Duration::from_secs(600) }
    }
}

impl Connections {
    /// Tables of 2^`log` buckets that do not grow.
    pub fn fixed(log: u8) -> Self {
        Self { first_log: log, most_log: log, ..Self::default() }
    }

    /// How many connections find room in a table of 2^`log` buckets whatever their hashes are, in
    /// practice.
    pub fn holds(&self, log: u8) -> u32 {
        PER_BUCKET << log
    }

    /// How many buckets a first table has.
    pub fn first_buckets(&self) -> u32 {
        1 << self.first_log
    }

    /// The budget, in buckets instead of connections.
    pub fn budget_buckets(&self) -> u64 {
        u64::from(self.budget / PER_BUCKET)
    }

    /// Checks that the sizes are possible.
    ///
    /// # Errors
    /// A sentence that names the sizes and their bounds, where they are out of them.
    pub fn check(&self) -> Result<(), String> {
        let most = MOST_BUCKETS.ilog2() as u8;
        if self.first_log < 1 || self.first_log > self.most_log || self.most_log > most {
            let Self { first_log, most_log, .. } = self;
            return Err(format!(
                "tables of connections: 2^{first_log} to 2^{most_log} buckets; 2^1 to 2^{most} are \
                 possible"
            ));
        }
        Ok(())
    }
}

/// Whether new connections may go on to Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// They are dropped.
    Held,
    /// They go on, to be judged after translation.
    Free,
}

/// The largest sizes that the layout allows. Sets and classes share one limit, that of the cells of
/// the rows: 2^13 sets by 2^15 classes.
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
