//! The verdicts of first fragments, which later ones get too (S50). Not here: which packets are
//! fragments (`parse`).

use netpolc_table::EndpointId;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netpolc_target::{Hook, Verdict, semantics::FRAGMENT_SECONDS};

/// How many records there may be. Linux holds 4 MiB of fragments by default
/// (`net.ipv4.ipfrag_high_thresh`), which are fewer packets than this.
const CAPACITY: usize = 4096;

/// What identifies a fragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordKey {
    pub endpoint: EndpointId,
    pub hook: Hook,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub id: u32,
}

/// The records, each with its verdict and the time when it expires.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fragments {
    records: BTreeMap<RecordKey, (Verdict, Duration)>,
}

impl Fragments {
    /// The verdict of the first fragment, where it is recorded and has not expired.
    pub fn verdict(&self, key: &RecordKey, now: Duration) -> Option<Verdict> {
        self.records.get(key).filter(|(_, deadline)| *deadline > now).map(|(verdict, _)| *verdict)
    }

    /// Records a verdict in place of an older one of the same packet. Where there is no room, the
    /// oldest record goes.
    pub fn record(&mut self, key: RecordKey, verdict: Verdict, now: Duration) {
        if self.records.len() >= CAPACITY && !self.records.contains_key(&key) {
            let oldest =
                self.records.iter().min_by_key(|(_, (_, deadline))| *deadline).map(|(k, _)| *k);
            oldest.map(|k| self.records.remove(&k));
        }
        self.records.insert(key, (verdict, now + Duration::from_secs(FRAGMENT_SECONDS.into())));
    }

    /// Forgets the records of an endpoint.
    pub fn purge(&mut self, endpoint: EndpointId) {
        self.records.retain(|key, _| key.endpoint != endpoint);
    }
}
