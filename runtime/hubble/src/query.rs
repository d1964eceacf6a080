//! Which of the flows that there are, and that come, a request means.
//!
//! As with Hubble: `number` are the last flows that the filters find, or the first ones; `since`
//! counts before `number`; with `follow` and neither, only what comes is sent. What was lost is
//! told to everybody. Not here: filters themselves ([`crate::filter`]), and how answers are sent
//! (`observer`).

use std::{sync::Arc, time::SystemTime};

use netpolc_flow::{Flow, line::Line};
use prost_types::Timestamp;

use crate::{
    api::{
        flow::{self as pb, LostEventSource},
        observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    convert::{self, Converter},
    filter::Filters,
    mask::Mask,
};

/// After how many lines others have a turn.
const AT_ONCE: usize = 64;

/// A request, as it was understood.
pub struct Query {
    /// At most so many flows of those that there are; None for all.
    number: Option<u64>,
    begin: Begin,
    until: Option<i128>,
    /// Whether flows are wanted that come.
    pub ends: Ends,
    filters: Filters,
    mask: Mask,
    converter: Converter,
    /// The node that answers, as Hubble writes it.
    node: String,
}

/// With which of the flows that there are the answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// With the oldest one.
    Oldest,
    /// With the first one from this time on, in nanoseconds since 1970.
    Since(i128),
    /// So that the number that is wanted ends with the newest one.
    Newest,
    /// With none.
    Nowhere,
}

/// When the answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// With the newest flow that there is.
    WithNewest,
    /// Not before the client does, or until a time that was given.
    WithClient,
}

/// What a line means for an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is not wanted.
    Skip,
    /// It is later than all that is wanted.
    Past,
    /// This is a flow that is wanted.
    Flow(Box<GetFlowsResponse>),
    /// This was lost.
    Lost(Box<GetFlowsResponse>),
}

impl Query {
    /// Reads a request to this node.
    ///
    /// # Errors
    /// It makes no sense, or asks for what netpolc does not know.
    pub fn read(
        request: &GetFlowsRequest,
        converter: Converter,
        node: &str,
    ) -> Result<Self, String> {
        let GetFlowsRequest {
            number,
            follow,
            blacklist,
            whitelist,
            since,
            until,
            first,
            field_mask,
            experimental,
        } = request;
        if *first && *follow {
            return Err("first and follow contradict each other; give one of them".into());
        }
        let since = since.as_ref().map(|time| nanos("since", time)).transpose()?;
        let number = (*number > 0).then_some(*number);
        let begin = match (since, first) {
            (Some(since), _) => Begin::Since(since),
            (None, true) => Begin::Oldest,
            (None, false) if *follow && number.is_none() => Begin::Nowhere,
            (None, false) if number.is_none() => Begin::Oldest,
            (None, false) => Begin::Newest,
        };
        let older = experimental.as_ref().and_then(|e| e.field_mask.as_ref());
        let mask = field_mask.as_ref().filter(|mask| !mask.paths.is_empty()).or(older);
        Ok(Self {
            number,
            begin,
            until: until.as_ref().map(|time| nanos("until", time)).transpose()?,
            ends: if *follow { Ends::WithClient } else { Ends::WithNewest },
            filters: Filters::read(whitelist, blacklist)?,
            mask: Mask::read(mask)?,
            node: converter.node(node),
            converter,
        })
    }

    /// How many flows at most are sent of those that there are.
    pub fn most(&self) -> u64 {
        match self.ends {
            Ends::WithNewest => self.number.unwrap_or(u64::MAX),
            Ends::WithClient => u64::MAX,
        }
    }

    /// The place of the line with which the answer begins.
    pub async fn begin(&self, kept: &[Arc<Line>]) -> usize {
        let fits = |line: &Arc<Line>| matches!(self.step(line), Step::Flow(_));
        match (self.begin, self.number) {
            (Begin::Nowhere, _) => kept.len(),
            (Begin::Oldest, _) | (Begin::Newest, None) => 0,
            (Begin::Since(since), _) => {
                let is_later = |line: &Arc<Line>| match &**line {
                    Line::Flow(flow) => i128::from(flow.time) >= since,
                    _ => false,
                };
                kept.iter().position(is_later).unwrap_or(kept.len())
            }
            (Begin::Newest, Some(mut left)) => {
                for (place, line) in kept.iter().enumerate().rev() {
                    left -= u64::from(fits(line));
                    if left == 0 {
                        return place;
                    }
                    breathe(place).await;
                }
                0
            }
        }
    }

    /// What this line means for the answer.
    pub fn step(&self, line: &Line) -> Step {
        match line {
            Line::Flow(flow) => self.flow(flow),
            Line::Lost(count) => self.lost(*count, LostEventSource::ObserverEventsQueue),
            Line::Unrecorded(all) => {
                let packets = all.iter().map(|one| one.packets).sum();
                self.lost(packets, LostEventSource::PerfEventRingBuffer)
            }
            Line::Live(_) | Line::Error(_) => Step::Skip,
        }
    }

    /// What it means that the client was too slow for this line.
    pub fn missed(&self, line: &Line) -> Step {
        match line {
            Line::Lost(count) => self.lost(*count, LostEventSource::HubbleRingBuffer),
            other => self.step(other),
        }
    }

    fn flow(&self, flow: &Flow) -> Step {
        let time = i128::from(flow.time);
        if self.until.is_some_and(|until| time > until) {
            return Step::Past;
        }
        if matches!(self.begin, Begin::Since(since) if time < since) {
            return Step::Skip;
        }
        let mut said = self.converter.flow(flow);
        if !self.filters.find(&said) {
            return Step::Skip;
        }
        // As Hubble does, the answer itself has what the flow has of these.
        self.mask.apply(&mut said);
        let (node_name, time) = (said.node_name.clone(), said.time);
        let response_types = Some(ResponseTypes::Flow(said));
        Step::Flow(Box::new(GetFlowsResponse { response_types, node_name, time }))
    }

    fn lost(&self, num_events_lost: u64, source: LostEventSource) -> Step {
        let event = pb::LostEvent { source: source.into(), num_events_lost };
        Step::Lost(Box::new(GetFlowsResponse {
            response_types: Some(ResponseTypes::LostEvents(event)),
            node_name: self.node.clone(),
            time: Some(convert::time(Flow::nanos(SystemTime::now()))),
        }))
    }
}

/// Lets others have a turn after every so many lines.
pub async fn breathe(line: usize) {
    if line.is_multiple_of(AT_ONCE) {
        tokio::task::yield_now().await;
    }
}

fn nanos(what: &str, time: &Timestamp) -> Result<i128, String> {
    const SECOND: i128 = 1_000_000_000;
    let nanos = i128::from(time.nanos);
    if !(0..SECOND).contains(&nanos) {
        return Err(format!(
            "{what}: {nanos} are no nanoseconds of a second; write 0 to 999999999"
        ));
    }
    Ok(i128::from(time.seconds) * SECOND + nanos)
}

#[cfg(test)]
mod tests;
