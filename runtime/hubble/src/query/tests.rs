//! Which flows requests mean, against what Hubble says of `number`, `first`, `since` and `until`.

use netpolc_flow::{Peer, Verdict, line::Unrecorded};
use netpolc_policy::Direction;
use prost_types::FieldMask;

use super::*;
use crate::api::flow::FlowFilter;

fn flow(time: u64, verdict: Verdict) -> Arc<Line> {
    let reason = (verdict == Verdict::Denied).then(|| "policy".into());
    Arc::new(Line::Flow(Box::new(Flow {
        time,
        node: "n1".into(),
        verdict,
        reason,
        direction: Direction::Ingress,
        pod: Some("default/db".into()),
        source: Peer::default(),
        destination: Peer::default(),
        protocol: "TCP".into(),
        tcp_flags: None,
        icmp: None,
        by: vec![],
        bytes: 60,
    })))
}

/// Ten flows of the seconds 0 to 9, of which every other one was denied; and in the middle, some
/// were lost.
fn lines() -> Vec<Arc<Line>> {
    let verdict = |time| if time % 2 == 0 { Verdict::Denied } else { Verdict::Allowed };
    let mut lines: Vec<_> = (0..10).map(|time| flow(time * SECOND, verdict(time))).collect();
    lines.insert(5, Arc::new(Line::Lost(3)));
    lines
}

const SECOND: u64 = 1_000_000_000;

fn read(request: &GetFlowsRequest) -> Result<Query, String> {
    Query::read(request, Converter { cluster: "default".into() }, "n1")
}

/// The seconds of the flows that are sent of those that there are; 100 and more were lost.
fn sent(request: &GetFlowsRequest) -> Vec<u64> {
    let (query, kept) = (read(request).unwrap(), lines());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let begin = runtime.block_on(query.begin(&kept));
    let mut left = query.most();
    let mut sent = Vec::new();
    for line in &kept[begin..] {
        if left == 0 {
            break;
        }
        match query.step(line) {
            Step::Flow(said) => {
                left -= 1;
                sent.push(said.time.unwrap().seconds as u64);
            }
            Step::Lost(said) => match said.response_types {
                Some(ResponseTypes::LostEvents(lost)) => sent.push(100 + lost.num_events_lost),
                other => panic!("{other:?}"),
            },
            Step::Skip | Step::Past => {}
        }
    }
    sent
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[test]
fn requests_mean_what_hubble_says() {
    let none = GetFlowsRequest::default;
    let denied = || FlowFilter { verdict: vec![2], ..FlowFilter::default() };
    let all = [0, 1, 2, 3, 4, 103, 5, 6, 7, 8, 9];
    for (request, expected) in [
        (none(), &all[..]),
        (GetFlowsRequest { number: 3, ..none() }, &[7, 8, 9]),
        (GetFlowsRequest { number: 6, ..none() }, &[4, 103, 5, 6, 7, 8, 9]),
        (GetFlowsRequest { number: 100, ..none() }, &all),
        (GetFlowsRequest { number: 2, first: true, ..none() }, &[0, 1]),
        (GetFlowsRequest { first: true, ..none() }, &all),
        (GetFlowsRequest { since: at(7), ..none() }, &[7, 8, 9]),
        (GetFlowsRequest { since: at(20), ..none() }, &[]),
        (GetFlowsRequest { since: at(4), number: 2, ..none() }, &[4, 103, 5]),
        (GetFlowsRequest { since: at(6), until: at(8), ..none() }, &[6, 7, 8]),
        (GetFlowsRequest { until: at(1), ..none() }, &[0, 1, 103]),
        (GetFlowsRequest { follow: true, ..none() }, &[]),
        (GetFlowsRequest { follow: true, number: 1, ..none() }, &[9]),
        (GetFlowsRequest { follow: true, since: at(8), ..none() }, &[8, 9]),
        (GetFlowsRequest { whitelist: vec![denied()], ..none() }, &[0, 2, 4, 103, 6, 8]),
        (GetFlowsRequest { whitelist: vec![denied()], number: 2, ..none() }, &[6, 8]),
        (GetFlowsRequest { blacklist: vec![denied()], number: 2, ..none() }, &[7, 9]),
        (
            GetFlowsRequest { whitelist: vec![denied()], blacklist: vec![denied()], ..none() },
            &[103],
        ),
    ] {
        assert_eq!(sent(&request), expected, "{request:?}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let none = GetFlowsRequest::default;
    let mask = FieldMask { paths: vec!["nothing".into()] };
    for (request, why) in [
        (GetFlowsRequest { first: true, follow: true, ..none() }, "contradict each other"),
        (GetFlowsRequest { since: Some(Timestamp { seconds: 0, nanos: -1 }), ..none() }, "since"),
        (
            GetFlowsRequest { until: Some(Timestamp { seconds: 0, nanos: 1 << 30 }), ..none() },
            "until",
        ),
        (GetFlowsRequest { field_mask: Some(mask), ..none() }, "field_mask"),
    ] {
        let refused = read(&request).err().unwrap();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_flow_that_is_too_late_ends_what_follows() {
    let request = GetFlowsRequest { follow: true, until: at(3), ..GetFlowsRequest::default() };
    let query = read(&request).unwrap();
    assert_eq!(query.ends, Ends::WithClient);
    assert!(matches!(query.step(&flow(3 * SECOND, Verdict::Denied)), Step::Flow(_)));
    assert_eq!(query.step(&flow(3 * SECOND + 1, Verdict::Denied)), Step::Past);
}

#[test]
fn what_is_missing_says_where_it_was_lost() {
    let query = read(&GetFlowsRequest::default()).unwrap();
    let source = |step: Step| match step {
        Step::Lost(said) => match said.response_types {
            Some(ResponseTypes::LostEvents(lost)) => (lost.source(), lost.num_events_lost),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let unrecorded = Line::Unrecorded(vec![
        Unrecorded {
            pod: None,
            direction: Direction::Ingress,
            reason: "policy".into(),
            packets: 5
        };
        2
    ]);
    let lost = Line::Lost(3);
    assert_eq!(source(query.step(&lost)), (LostEventSource::ObserverEventsQueue, 3));
    assert_eq!(source(query.missed(&lost)), (LostEventSource::HubbleRingBuffer, 3));
    assert_eq!(source(query.step(&unrecorded)), (LostEventSource::PerfEventRingBuffer, 10));
}
