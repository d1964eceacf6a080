//! The service that hands out flows.
//!
//! Each stream has a task of its own, which chooses and converts flows and hands them to a short
//! queue that the connection empties. So a client who does not read holds up its task alone; what
//! has waited too long for the task is lost, of which the client is told, and then the stream ends.
//! Not here: which flows a request means ([`crate::query`]).

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use netpolc_flow::{Flow, line::Line};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::{StreamExt as _, adapters::Chain, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use crate::{
    api::{
        observer::{
            self as pb, GetFlowsRequest, GetFlowsResponse, observer_server::Observer as Service,
        },
        relay::NodeState,
    },
    convert::Converter,
    peer::Own,
    query::{Ends, Query, Step, breathe},
    source::{Flows, Followed, Told},
};

/// How many answers may wait for the connection.
const QUEUE_LEN: usize = 16;
/// How long a client who does not follow may take to read some answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to send what there is, which is kept for that long.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(120);
/// Of which time namespaces are listed.
const HOUR: u64 = 3_600_000_000_000;
/// Over which time the rate of flows is measured.
const MINUTE: u64 = 60_000_000_000;

/// What answers.
pub struct Observer {
    own: Arc<Own>,
    flows: Arc<dyn Flows>,
    places: Arc<Semaphore>,
    /// How many streams of flows there may be.
    most: usize,
}

type Answer = Result<GetFlowsResponse, Status>;
type Answers = ReceiverStream<Answer>;

impl Observer {
    /// What answers for this node, to so many streams of flows at a time.
    pub fn new(own: Arc<Own>, flows: Arc<dyn Flows>, most: usize) -> Self {
        Self { own, flows, places: Arc::new(Semaphore::new(most)), most }
    }

    fn converter(&self) -> Converter {
        Converter { cluster: self.own.cluster.clone() }
    }

    /// The flows that there are, from so many nanoseconds ago on.
    fn recent(&self, nanos: u64) -> Vec<Arc<Line>> {
        let since = Flow::nanos(SystemTime::now()).saturating_sub(nanos);
        let mut kept = self.flows.kept();
        kept.retain(|line| matches!(&**line, Line::Flow(flow) if flow.time >= since));
        kept
    }
}

#[tonic::async_trait]
impl Service for Observer {
    type GetFlowsStream = Chain<Answers, Answers>;
    type GetAgentEventsStream = tokio_stream::Empty<Result<pb::GetAgentEventsResponse, Status>>;
    type GetDebugEventsStream = tokio_stream::Empty<Result<pb::GetDebugEventsResponse, Status>>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let query = Query::read(request.get_ref(), self.converter(), &self.own.node);
        let query = query.map_err(Status::invalid_argument)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "the agent serves {} streams of flows already; end one of them, and try again",
                self.most
            ))
        })?;
        // The end has a queue of its own, for which there is room even where nobody reads.
        let ((answers, queue), (end, last)) = (mpsc::channel(QUEUE_LEN), mpsc::channel(1));
        let flows = self.flows.clone();
        tokio::spawn(async move {
            let _place = place;
            let gone = answers.clone();
            tokio::select! {
                ended = answer(&query, &*flows, &answers) => if let Err(status) = ended {
                    // The client may have gone away by now.
                    let _ = end.try_send(Err(status));
                },
                () = gone.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue).chain(ReceiverStream::new(last))))
    }

    async fn get_agent_events(
        &self,
        _: Request<pb::GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented(
            "netpolc has no events of Cilium's agent; its own state is what `netpolc status` and \
            its metrics show",
        ))
    }

    async fn get_debug_events(
        &self,
        _: Request<pb::GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("netpolc has no debug events of Cilium's; ask for flows"))
    }

    async fn get_nodes(
        &self,
        _: Request<pb::GetNodesRequest>,
    ) -> Result<Response<pb::GetNodesResponse>, Status> {
        let figures = self.flows.figures();
        let peer = self.own.itself();
        let node = pb::Node {
            name: peer.name,
            version: self.own.version(),
            address: peer.address,
            state: NodeState::NodeConnected.into(),
            tls: peer.tls.map(|tls| pb::Tls { enabled: true, server_name: tls.server_name }),
            uptime_ns: nanos(figures.uptime()),
            num_flows: figures.kept as u64,
            max_flows: figures.most as u64,
            seen_flows: figures.seen,
        };
        Ok(Response::new(pb::GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<pb::GetNamespacesRequest>,
    ) -> Result<Response<pb::GetNamespacesResponse>, Status> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (place, line) in self.recent(HOUR).iter().enumerate() {
            if let Line::Flow(flow) = &**line {
                let of_pods = [&flow.source, &flow.destination].into_iter().filter_map(|peer| {
                    peer.pod.as_deref()?.split_once('/').map(|(namespace, _)| namespace)
                });
                names.extend(of_pods.map(str::to_owned));
            }
            breathe(place).await;
        }
        let cluster = self.own.cluster.to_string();
        let namespaces = names.into_iter();
        let namespaces = namespaces
            .map(|namespace| pb::Namespace { cluster: cluster.clone(), namespace })
            .collect();
        Ok(Response::new(pb::GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<pb::ServerStatusRequest>,
    ) -> Result<Response<pb::ServerStatusResponse>, Status> {
        let figures = self.flows.figures();
        let over = figures.uptime().min(Duration::from_nanos(MINUTE)).as_secs_f64();
        let flows_rate = self.recent(MINUTE).len() as f64 / over.max(1.0);
        Ok(Response::new(pb::ServerStatusResponse {
            num_flows: figures.kept as u64,
            max_flows: figures.most as u64,
            seen_flows: figures.seen,
            uptime_ns: nanos(figures.uptime()),
            version: self.own.version(),
            flows_rate,
        }))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends what a request means, until it ends or the client is gone.
///
/// # Errors
/// The client does not read; the status says so.
async fn answer(
    query: &Query,
    flows: &dyn Flows,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Status> {
    match query.ends {
        Ends::WithNewest => {
            let kept = flows.kept();
            history(query, &kept, answers, PATIENCE).await
        }
        Ends::WithClient => {
            let (kept, mut followed) = flows.follow();
            let Followed { lines, cut, .. } = &mut followed;
            let served = async {
                history(query, &kept, answers, HISTORY_TIMEOUT).await?;
                drop(kept);
                follow(query, lines, answers).await
            };
            tokio::select! {
                done = served => done,
                _ = cut => Err(too_slow()),
            }
        }
    }
}

fn too_slow() -> Status {
    Status::resource_exhausted(
        "the client has not read for a while although flows were waiting, so the stream ends; \
        call again, and read faster or filter more",
    )
}

/// Sends what there is.
async fn history(
    query: &Query,
    kept: &[Arc<Line>],
    answers: &mpsc::Sender<Answer>,
    patience: Duration,
) -> Result<(), Status> {
    let sent = timeout(HISTORY_TIMEOUT, send_all(query, kept, answers, patience));
    sent.await.unwrap_or_else(|_| Err(too_slow()))
}

/// Sends what there is, however long it takes.
async fn send_all(
    query: &Query,
    kept: &[Arc<Line>],
    answers: &mpsc::Sender<Answer>,
    patience: Duration,
) -> Result<(), Status> {
    let (begin, mut left) = (query.begin(kept).await, query.most());
    for (place, line) in kept.iter().enumerate().skip(begin) {
        if left == 0 {
            break;
        }
        let said = match query.step(line) {
            // Lines are only nearly in the order of their times.
            Step::Skip | Step::Past => None,
            Step::Flow(said) => {
                left -= 1;
                Some(said)
            }
            Step::Lost(said) => Some(said),
        };
        if let Some(said) = said {
            let sent = timeout(patience, answers.send(Ok(*said)));
            if sent.await.map_err(|_| too_slow())?.is_err() {
                return Ok(());
            }
        }
        breathe(place).await;
    }
    Ok(())
}

/// Sends what comes.
async fn follow(
    query: &Query,
    lines: &mut mpsc::Receiver<Told>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Status> {
    while let Some(told) = lines.recv().await {
        let step = match &told {
            Told::All(line) => query.step(line),
            Told::Missed(line) => query.missed(line),
        };
        match step {
            Step::Skip => {}
            Step::Past => return Ok(()),
            Step::Flow(said) | Step::Lost(said) => {
                if answers.send(Ok(*said)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    // Nothing comes any more: too much has waited, or the agent is ending.
    Err(too_slow())
}
