//! The reference target: it holds a program in memory and judges packets from bytes to verdict, in
//! plain Rust, exactly as [`netpolc_target::semantics`] defines it and written to be read beside
//! it.
//!
//! This module has [`Mem`] with its tables and counters. `parse` is steps 2 to 6, `datapath` the
//! order of the steps, `icmp` step 7, `judge` step 8, and `translated` what comes after the
//! translation of Services; `state` and `fragments` are what is remembered, and `recording` what is
//! recorded. Not here: speed.
//!
//! # Examples
//!
//! ```
//! use netpolc_table::text;
//! use netpolc_target::{
//!     Datapath as _, DropReason, Frame, Hook, Mark, Verdict,
//!     conformance::world::{A, Hosts, Policy, UPLINK, world},
//!     frame::Packet,
//!     semantics::tcp,
//! };
//! use netpolc_target_mem::Mem;
//!
//! // Two pods, of which A is isolated for ingress and permits nothing.
//! let mut mem = Mem::default();
//! netpolc_target::fill(&mut mem, &world(Policy::Nothing, Policy::Open))?;
//!
//! // Somebody opens a connection to it.
//! let [v4, _] = Hosts::both();
//! let syn = Packet::new(v4.friend, v4.a).tcp(40_000, 80, tcp::SYN).build();
//! let frame =
//!     Frame { interface: A.interface, arrival: UPLINK.into(), mark: Mark::Clear, bytes: syn };
//! assert_eq!(mem.packet(Hook::ToPod, &frame)?, Verdict::Drop);
//! assert_eq!(mem.explain_last(), Some(DropReason::Policy));
//!
//! // The program has a text form, which parses back to itself.
//! let printed = text::print(mem.program());
//! assert_eq!(text::parse(&printed)?, *mem.program());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod datapath;
mod fragments;
mod icmp;
mod judge;
mod parse;
mod recording;
mod state;
mod translated;

use std::{collections::BTreeMap, time::Duration};

use netpolc_table::{
    EndpointId, Program, TableId, Write,
    schema::{EndpointKey, PortKey, TriedKey, Word, endpoint_key},
};
use netpolc_target::{
    Capabilities, Compared, Datapath, DropReason, Error, Frame, Hook, Mark, Record, Target, Verdict,
};

use crate::{fragments::Fragments, recording::Recording, state::State};

/// A target in memory, which can also be asked about packets.
#[derive(Clone, Debug)]
pub struct Mem {
    program: Program,
    capabilities: Capabilities,
    state: State,
    fragments: Fragments,
    /// The time by which entries and records expire. Only [`Datapath::advance`] moves it.
    now: Duration,
    drops: BTreeMap<(EndpointId, Hook, DropReason), u64>,
    compared: Compared,
    /// What is recorded of packets.
    recording: Recording,
    /// Why the last packet was dropped; None where it was not.
    last: Option<DropReason>,
}

impl Default for Mem {
    /// An empty target whose ids may be as large as the tables' keys allow, with room for 4,096
    /// connections of each endpoint and family.
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
    /// An empty target that can hold this much.
    pub fn new(capabilities: Capabilities) -> Self {
        Mem {
            program: Program::default(),
            state: State::new(capabilities.connections as usize),
            fragments: Fragments::default(),
            now: Duration::ZERO,
            drops: BTreeMap::new(),
            compared: Compared::new(),
            recording: Recording::default(),
            last: None,
            capabilities,
        }
    }

    /// The program that the target holds, with the origins it was given, which [`Target::read`]
    /// leaves out.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// How many packets were dropped, by endpoint, hook and reason.
    pub fn drops(&self) -> &BTreeMap<(EndpointId, Hook, DropReason), u64> {
        &self.drops
    }

    /// How many entries the state table has of one endpoint, expired ones included.
    pub fn connections(&self, endpoint: EndpointId) -> usize {
        self.state.count(endpoint)
    }

    fn word(&self, endpoint: EndpointId) -> Word {
        netpolc_table::eval::word(&self.program, endpoint)
    }

    /// Refuses a write after which port intervals would overlap, since one packet would then have
    /// two answers.
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
        if write.table == TableId::Tried {
            for TriedKey { row, port_class } in write.remove.iter().map(TriedKey::of) {
                self.compared.remove(&(row, port_class));
            }
        }
        // An endpoint's connections and fragment records go with its entry (S43).
        if write.table == TableId::Endpoint {
            for key in &write.remove {
                let EndpointKey { endpoint } = EndpointKey::of(key);
                if self.program.get(TableId::Endpoint, &endpoint_key(endpoint)).is_none() {
                    self.state.purge(endpoint);
                    self.fragments.purge(endpoint);
                    self.recording.purge(endpoint);
                }
            }
        }
        Ok(())
    }

    fn compared(&self) -> Result<Option<Compared>, Error> {
        Ok(Some(self.compared.clone()))
    }

    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Datapath for Mem {
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error> {
        // Step 0: a marked packet is judged by the sender's egress set first, also in front of
        // `to_pod`.
        let (mut at, mut answer) = ((EndpointId::default(), hook), Ok(Mark::Clear));
        let (mut mark, mut judge) = (frame.mark, hook);
        self.recording.begin();
        if hook != Hook::FromPod && mark == Mark::Deferred {
            (at, answer) = self.judge_translated(frame);
            judge = Hook::Translated;
            mark = answer.unwrap_or(mark);
        }
        if hook != Hook::Translated && answer.is_ok() {
            let (endpoint, judged) = self.judge_frame(hook, frame);
            (at, answer) = ((endpoint, hook), judged);
            judge = hook;
        }
        self.recording.end((judge, at.0), (frame, self.now), answer.err());
        self.last = answer.err();
        // `judge_frame` marks a packet that goes on to a Service. One that is marked and was not
        // judged at `translated`, because its hook is `from_pod`, keeps its mark.
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

    fn records(&mut self) -> Result<Option<Vec<Record>>, Error> {
        Ok(Some(self.recording.take()))
    }
}
