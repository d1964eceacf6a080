//! A flow: what the node decided about one packet.
//!
//! Here: what a flow says, and its form as JSON. Not here: the lines around it ([`crate::line`]).

use std::{fmt, net::IpAddr, sync::Arc, time::SystemTime};

use crate::Decider;
use netpolc_policy::{Direction, Labels, Owner};
use serde::{Deserialize, Serialize};

/// What the node decided about one packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// The node that decided.
    pub node: Arc<str>,
    /// What it decided.
    pub verdict: Verdict,
    /// Why a packet was dropped, in a word: `policy`, or a protection such as `spoofed_source`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<Arc<str>>,
    /// Whether the pod would have received it, or has sent it.
    pub direction: Direction,
    /// The pod for which it was judged; None where it is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Arc<str>>,
    /// Who sent it.
    pub source: Peer,
    /// Who was to get it.
    pub destination: Peer,
    /// The protocol, such as TCP; `protocol-N` for one without a usual name.
    pub protocol: Arc<str>,
    /// The flags of TCP that were set, such as `SYN,ACK`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tcp_flags: Option<Arc<str>>,
    /// Type and code of ICMP.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub icmp: Option<[u8; 2]>,
    /// The rules that decided; where nothing permitted it, the policies that isolate the pod.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub by: Vec<Decider>,
    /// How long the frame was, in bytes.
    pub bytes: u32,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A connection was opened, as policies permit.
    Allowed,
    /// The packet was dropped.
    Denied,
    /// Policies that are only tried would have decided otherwise (S85). What was decided is
    /// recorded besides.
    Audit,
}

impl Verdict {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "denied",
            Verdict::Audit => "audit",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One end of a flow, as far as it was known at that moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its address; None where the packet has none that could be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<IpAddr>,
    /// Its port, where the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// The pod, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Arc<str>>,
    /// The pod's workload, as `Deployment web`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<Arc<str>>,
    /// The pod's labels.
    #[serde(skip_serializing_if = "Labels::is_empty", default)]
    pub labels: Labels,
    /// The Service whose address it is, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<Arc<str>>,
    /// The node whose address it is, or on which the pod is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Arc<str>>,
}

impl Peer {
    /// The namespace of the pod or Service.
    pub fn namespace(&self) -> Option<&str> {
        let named = self.pod.as_deref().or(self.service.as_deref())?;
        named.split_once('/').map(|(namespace, _)| namespace)
    }

    /// The name by which people know it: the pod, Service or node, else the address.
    pub fn name(&self) -> String {
        let named = self.pod.as_deref().or(self.service.as_deref());
        match (named, &self.node, self.address) {
            (Some(name), ..) => name.to_owned(),
            (None, Some(node), _) => format!("node/{node}"),
            (None, None, Some(address)) => address.to_string(),
            (None, None, None) => "unknown".to_owned(),
        }
    }

    /// It is a pod of this workload.
    pub fn owned_by(&mut self, owner: &Owner) {
        self.workload = Some(format!("{} {}", owner.kind.name(), owner.name).into());
    }
}

impl Flow {
    /// Each that decided, in words.
    pub fn decided(&self) -> Vec<String> {
        let isolates = |one: &Decider| {
            self.verdict == Verdict::Denied && one.is_policy() && one.rule.is_none()
        };
        let words = |one: &Decider| match isolates(one) {
            true => format!("isolated by {one}"),
            false => one.to_string(),
        };
        self.by.iter().map(words).collect()
    }

    /// The policies that decided, each once, as users write their names.
    pub fn policies(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.by.iter().filter(|one| one.is_policy()).map(Decider::policy).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The time as nanoseconds since 1970.
    pub fn nanos(at: SystemTime) -> u64 {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}
