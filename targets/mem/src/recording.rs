//! What is recorded of packets: every one that is to be, without a budget.
//!
//! Not here: what makes a packet one that is noted (`judge`).

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use netpolc_table::EndpointId;
use netpolc_target::{
    DropReason, Frame, Hook, Judged, Noted, Record, record::SNAPSHOT, semantics::DATAGRAM_SECONDS,
};

use crate::state::Tuple;

/// How many records are kept for whoever asks for them; the oldest ones go first.
const KEPT: usize = 1 << 16;

/// The records, and what was noted of the packet that is being judged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    records: VecDeque<Record>,
    noted: Vec<Noted>,
    judged: Option<Judged>,
    /// When the last datagram came of those that need no entry, in seconds.
    datagrams: BTreeMap<Tuple, u64>,
}

impl Recording {
    /// A packet comes.
    pub fn begin(&mut self) {
        self.noted.clear();
        self.judged = None;
    }

    /// The tables are asked about it.
    pub fn judge(&mut self, judged: Judged) {
        self.judged = Some(judged);
    }

    /// The packet is to be recorded, if it is not dropped for another reason.
    pub fn note(&mut self, noted: Noted) {
        self.noted.push(noted);
    }

    /// A datagram that needs no entry comes. It opens something where none of its tuple is
    /// remembered.
    pub fn datagram(&mut self, tuple: Tuple, now: Duration) {
        let now = now.as_secs();
        let last = self.datagrams.insert(tuple, now);
        if last.is_none_or(|last| now - last > u64::from(DATAGRAM_SECONDS)) {
            self.note(Noted::Opened);
        }
    }

    /// An endpoint is no more.
    pub fn purge(&mut self, endpoint: EndpointId) {
        self.datagrams.retain(|tuple, _| tuple.endpoint != endpoint);
    }

    /// The packet has been judged at this hook for this endpoint.
    pub fn end(
        &mut self,
        (hook, endpoint): (Hook, EndpointId),
        (frame, now): (&Frame, Duration),
        dropped: Option<DropReason>,
    ) {
        if dropped.is_some() {
            self.noted.retain(|noted| *noted != Noted::Opened);
        }
        self.noted.extend(dropped.map(Noted::Dropped));
        // What differs is noted before the rest.
        self.noted.sort_by_key(|noted| *noted != Noted::Differs);
        for noted in self.noted.drain(..) {
            if self.records.len() == KEPT {
                self.records.pop_front();
            }
            let bytes = &frame.bytes[..frame.bytes.len().min(SNAPSHOT)];
            self.records.push_back(Record {
                at: SystemTime::UNIX_EPOCH + now,
                noted,
                hook,
                endpoint,
                judged: self.judged.filter(|_| noted.is_judged()),
                epoch: 0,
                length: u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX),
                frame: bytes.to_vec(),
            });
        }
    }

    /// The records since the last call.
    pub fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records).into()
    }
}
