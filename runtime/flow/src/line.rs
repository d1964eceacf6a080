//! What is said between the agent and those who read its flows: one JSON object a line.
//!
//! A reader sends one [`Request`] and gets [`Line`]s. The log of flows consists of the same lines.
//! Not here: who gets which lines (`netpolc-agent`).

use std::{collections::BTreeMap, sync::Arc};

use netpolc_policy::Direction;
use serde::{Deserialize, Serialize};

use crate::Flow;

/// The longest request in bytes.
pub const MAX_REQUEST_LEN: usize = 4096;

/// What a reader wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// At most so many of the flows that there are already, the last ones; None for all.
    #[serde(default)]
    pub last: Option<usize>,
    /// Only flows from this time on, in nanoseconds since 1970; None for any time.
    #[serde(default)]
    pub since_nanos: Option<u64>,
    /// Whether flows that happen from now on are wanted, too.
    #[serde(default)]
    pub follow: bool,
}

/// A line of an answer, or of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// What was decided about a packet.
    Flow(Box<Flow>),
    /// So many flows are missing here, since the reader or the agent was too slow.
    Lost(u64),
    /// Packets that were noticed and not recorded since the last such line.
    Unrecorded(Vec<Unrecorded>),
    /// What follows happens from now on.
    Live(bool),
    /// Why there is no answer.
    Error(String),
}

impl Line {
    /// The line as it is sent, with a line break at its end.
    pub fn text(&self) -> String {
        match serde_json::to_string(self) {
            Ok(text) => text + "\n",
            // None of its parts can fail to be written; if one does, the reader is to know.
            Err(error) => format!("{{\"error\":{}}}\n", serde_json::Value::from(error.to_string())),
        }
    }
}

/// Packets that were not recorded, since their pod had used up its records for a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unrecorded {
    /// The pod, as `namespace/name`; None where it is not known.
    pub pod: Option<Arc<str>>,
    /// Whether the pod would have received them, or has sent them.
    pub direction: Direction,
    /// Why they would have been recorded: why they were dropped, `allowed` or `audit`.
    pub reason: Arc<str>,
    /// How many.
    pub packets: u64,
}

/// Of which packets without a record something is said: their pod, direction and reason.
type Which = (Option<Arc<str>>, Direction, Arc<str>);

/// What could not be said at once, and is said as soon as it can.
#[derive(Clone, Debug, Default)]
pub struct Owed {
    lost: u64,
    unrecorded: BTreeMap<Which, u64>,
}

impl Owed {
    /// A line could not be passed on.
    pub fn line(&mut self, line: &Line) {
        match line {
            Line::Flow(_) => self.lost(1),
            Line::Lost(count) => self.lost(*count),
            Line::Unrecorded(all) => all.iter().cloned().for_each(|one| self.unrecorded(one)),
            Line::Live(_) | Line::Error(_) => {}
        }
    }

    /// So many flows could not be passed on.
    pub fn lost(&mut self, count: u64) {
        self.lost += count;
    }

    /// Packets that were not recorded.
    pub fn unrecorded(&mut self, one: Unrecorded) {
        let key = (one.pod, one.direction, one.reason);
        *self.unrecorded.entry(key).or_default() += one.packets;
    }

    /// What is to be said, after which nothing is owed.
    pub fn settle(&mut self) -> Vec<Line> {
        let Owed { lost, unrecorded } = std::mem::take(self);
        let one =
            |((pod, direction, reason), packets)| Unrecorded { pod, direction, reason, packets };
        let unrecorded: Vec<Unrecorded> = unrecorded.into_iter().map(one).collect();
        let lost = (lost > 0).then_some(Line::Lost(lost));
        let unrecorded = (!unrecorded.is_empty()).then_some(Line::Unrecorded(unrecorded));
        lost.into_iter().chain(unrecorded).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_objects_with_one_key_and_requests_have_no_others() {
        assert_eq!(Line::Lost(3).text(), "{\"lost\":3}\n");
        assert_eq!(Line::Live(true).text(), "{\"live\":true}\n");
        let asked = r#"{"last":null,"sinceNanos":7,"follow":true}"#;
        let request = Request { last: None, since_nanos: Some(7), follow: true };
        assert_eq!(serde_json::from_str::<Request>(asked).unwrap(), request);
        assert_eq!(serde_json::from_str::<Request>("{}").unwrap(), Request::default());
        let error = serde_json::from_str::<Request>(r#"{"verdict":"denied"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `verdict`"), "{error}");
    }

    #[test]
    fn what_is_owed_adds_up_and_is_said_once() {
        let mut owed = Owed::default();
        assert_eq!(owed.settle(), []);
        let missing = |packets| Unrecorded {
            pod: Some("default/db".into()),
            direction: Direction::Ingress,
            reason: "policy".into(),
            packets,
        };
        owed.unrecorded(missing(2));
        owed.lost(1);
        let said = owed.settle();
        said.iter().for_each(|line| owed.line(line));
        owed.unrecorded(missing(3));
        owed.line(&Line::Live(true));
        let texts: String = owed.settle().iter().map(Line::text).collect();
        let unrecorded = r#"{"unrecorded":[{"pod":"default/db","direction":"ingress","#;
        let rest = r#""reason":"policy","packets":5}]}"#;
        assert_eq!(texts, format!("{{\"lost\":1}}\n{unrecorded}{rest}\n"));
        assert_eq!(owed.settle(), []);
    }
}
