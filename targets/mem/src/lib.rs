//! The reference target: holds a program in memory and judges packets from bytes to verdict, in
//! plain Rust, exactly as [`netpolc_target::semantics`] defines it and written to be read beside
//! it.
//!
//! Here: [`Mem`] with its tables and counters. `parse` is steps 2 to 6, `datapath` the order of the
//! steps, `icmp` step 7, `judge` step 8, `translated` what comes after Service translation, `state`
//! and `fragments` what is remembered. Not here: speed.

mod datapath;
mod fragments;
mod icmp;
mod judge;
mod parse;
mod state;
mod translated;

use std::{collections::BTreeMap, time::Duration};

use netpolc_table::{
    EndpointId, Program, TableId, Write,
    schema::{EndpointKey, PortKey, Word, endpoint_key},
};
use netpolc_target::{
    Capabilities, Datapath, DropReason, Error, Frame, Hook, Mark, Target, Verdict,
};

use crate::{fragments::Fragments, state::State};

/// A target in memory.
#[derive(Clone, Debug)]
pub struct Mem {
    program: Program,
    capabilities: Capabilities,
    state: State,
    fragments: Fragments,
    /// What ageing sees; moved by `advance` only.
    now: Duration,
    drops: BTreeMap<(EndpointId, Hook, DropReason), u64>,
    last: Option<DropReason>,
}

impl Default for Mem {
    /// Ids as wide as the tables' keys, 4,096 connections for each endpoint and family.
    fn default() -> Self {
        let ids = 1 << 16;
        Mem::new(Capabilities {
            endpoints: ids,
            sets: ids,
            classes_v4: ids,
            classes_v6: ids,
            rows: ids,
            port_classes: ids,
            connections: 4096,
        })
    }
}

impl Mem {
    /// An empty one that can hold this much.
    pub fn new(capabilities: Capabilities) -> Self {
        Mem {
            program: Program::default(),
            state: State::new(capabilities.connections as usize),
            fragments: Fragments::default(),
            now: Duration::ZERO,
            drops: BTreeMap::new(),
            last: None,
            capabilities,
        }
    }

    /// The program it holds, with the origins it was given (which [`Target::read`] leaves out).
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Drops since the start, by endpoint, hook and reason.
    pub fn drops(&self) -> &BTreeMap<(EndpointId, Hook, DropReason), u64> {
        &self.drops
    }

    /// Entries in the state table, dead ones included, of one endpoint.
    pub fn connections(&self, endpoint: EndpointId) -> usize {
        self.state.count(endpoint)
    }

    fn word(&self, endpoint: EndpointId) -> Word {
        netpolc_table::eval::word(&self.program, endpoint)
    }

    /// Would port intervals overlap after `write`? Then one packet would have two answers.
    fn check_intervals(&self, write: &Write) -> Result<(), Error> {
        let invalid = |reason| Err(Error::Invalid { table: TableId::Port, reason });
        let mut after = self.program.table(TableId::Port).entries.clone();
        for key in &write.remove {
            after.remove(key);
        }
        after.extend(write.put.iter().cloned());
        let mut before: Option<(u8, u32)> = None;
        for PortKey { protocol, port } in after.keys().map(PortKey::of) {
            let (low, high) = (port.low, port.high);
            if before.is_some_and(|(p, last)| p == protocol && last >= low) {
                return invalid(format!(
                    "protocol {protocol}: {low}-{high} overlaps the interval before it"
                ));
            }
            before = Some((protocol, high));
        }
        Ok(())
    }
}

impl Target for Mem {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn read(&self) -> Result<Program, Error> {
        let mut bare = Program::default();
        for table in self.program.tables() {
            let entries = table.entries.iter().map(|(k, e)| (k.clone(), e.bare()));
            bare.table_mut(table.id).entries = entries.collect();
        }
        Ok(bare)
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.capabilities.check(write)?;
        let table = self.program.table(write.table);
        let gone = write.remove.iter().filter(|k| table.entries.contains_key(*k)).count();
        let come = write
            .put
            .iter()
            .filter(|(k, _)| write.remove.contains(k) || !table.entries.contains_key(k))
            .count();
        if (table.entries.len() + come).saturating_sub(gone) as u64 > table.size {
            let what = format!(
                "{} entries and {come} more; split the node's pods or policies",
                table.entries.len()
            );
            return Err(Error::Full { table: write.table, capacity: table.size, what });
        }
        if write.table == TableId::Port {
            self.check_intervals(write)?;
        }
        self.program.apply(write);
        if write.table == TableId::Endpoint {
            for key in &write.remove {
                let EndpointKey { endpoint } = EndpointKey::of(key);
                if self.program.get(TableId::Endpoint, &endpoint_key(endpoint)).is_none() {
                    self.state.purge(endpoint);
                    self.fragments.purge(endpoint);
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Datapath for Mem {
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error> {
        let (mut at, mut answer) = ((EndpointId::default(), hook), Ok(Mark::Clear));
        let mut mark = frame.mark;
        if hook != Hook::FromPod && mark == Mark::Deferred {
            (at, answer) = self.judge_translated(frame);
            mark = answer.unwrap_or(mark);
        }
        if hook != Hook::Translated && answer.is_ok() {
            let (endpoint, judged) = self.judge_frame(hook, frame);
            (at, answer) = ((endpoint, hook), judged);
        }
        self.last = answer.err();
        Ok(match answer.map(|given| given.max(mark)) {
            Ok(Mark::Clear) => Verdict::Next,
            Ok(Mark::Deferred) => Verdict::Defer,
            Err(reason) => {
                *self.drops.entry((at.0, at.1, reason)).or_default() += 1;
                Verdict::Drop
            }
        })
    }

    fn advance(&mut self, by: Duration) -> Result<(), Error> {
        self.now += by;
        Ok(())
    }

    fn explain_last(&self) -> Option<DropReason> {
        self.last
    }
}
