//! Sends flows, and an agent's metrics, to a collector of OpenTelemetry: OTLP over HTTP, as
//! protobuf.
//!
//! A thread of its own does that. Whatever the collector does, nobody waits for it, and what waits
//! for it is bounded by [`QUEUE`] lines and one request; what finds no place is dropped and counted
//! ([`Counts`]). [`logs`] and [`metrics`] say what is sent, `post` how. Not here: where flows and
//! metrics come from.

pub mod config;
pub mod logs;
pub mod metrics;
mod post;
mod queue;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netpolc_flow::line::Line;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, resource::v1::Resource};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};

pub use config::Config;
use post::{Client, Outcome};
use queue::Queue;

/// How many lines wait for a collector that does not answer.
pub const QUEUE: usize = 1 << 13;
/// How many batches may wait for the thread, which takes them whatever the collector does.
const BATCHES: usize = 64;
/// How many lines a request has at most.
const AT_ONCE: usize = 512;
/// How long an attempt waits at most where the collector says how long.
const WISH_MOST: Duration = Duration::from_secs(60);

/// Times that a test wants shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a request waits for more lines.
    pub linger: Duration,
    /// How long a collector may take to answer.
    pub timeout: Duration,
    /// How long the second attempt at a request waits; each further one waits twice as long.
    pub backoff: Duration,
    /// How long an attempt waits at most.
    pub backoff_most: Duration,
    /// How long a request is tried until its lines are dropped.
    pub patience: Duration,
    /// How often metrics are sent.
    pub metrics: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
            backoff_most: Duration::from_secs(30),
            patience: Duration::from_secs(300),
            metrics: Duration::from_secs(60),
        }
    }
}

/// What has become of the lines.
#[derive(Debug, Default)]
pub struct Counts {
    /// Lines that the collector has taken.
    pub sent: AtomicU64,
    /// Lines that were dropped: no place, no answer in time, or refused.
    pub dropped: AtomicU64,
    /// Requests that failed, those that were repeated included.
    pub failed: AtomicU64,
}

/// Whoever gives the metrics, in the OpenMetrics text format.
pub type Metrics = Box<dyn Fn() -> String + Send>;

/// Starts the thread, which sends what is given to it until the sender is dropped.
///
/// # Errors
/// The thread or its runtime cannot be started, or the system's certificates cannot be read.
pub fn start(
    config: Config,
    node: &str,
    metrics: Metrics,
    counts: Arc<Counts>,
) -> io::Result<mpsc::Sender<Vec<Arc<Line>>>> {
    let client = Client::new(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, batches) = mpsc::channel(BATCHES);
    let (queue, resource, began) = (Arc::new(Queue::default()), resource(node), nanos());
    let sends =
        send(client.clone(), config.timing, queue.clone(), resource.clone(), counts.clone());
    let meters = meter(client, config.timing, metrics, resource, began);
    std::thread::Builder::new().name("otlp".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = take(batches, &queue, &counts) => {}
                () = sends => {}
                () = meters => {}
            }
        });
    })?;
    Ok(sender)
}

/// What all that an agent sends is about.
fn resource(node: &str) -> Resource {
    let attributes = [
        ("service.name", "netpolc"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", node),
        ("k8s.node.name", node),
    ];
    let text = |text: &str| Value::StringValue(text.to_owned());
    let attributes = attributes.map(|(key, value)| logs::pair(key, text(value)));
    Resource { attributes: attributes.into(), ..Resource::default() }
}

/// Takes what comes, for as long as anything may come.
async fn take(mut batches: mpsc::Receiver<Vec<Arc<Line>>>, queue: &Queue, counts: &Counts) {
    let mut is_full = false;
    while let Some(batch) = batches.recv().await {
        let dropped = queue.push(batch);
        counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        if dropped > 0 && !std::mem::replace(&mut is_full, true) {
            tracing::warn!(
                "the collector takes fewer flows than there are: some are dropped, and \
                netpolc_otlp_dropped_flows_total counts them"
            );
        }
        is_full &= queue.len() > QUEUE / 2;
    }
    // What is left is for the other side, until whoever stopped the thread ends the process.
    queue.drained().await;
}

/// Sends what waits, one request after another.
async fn send(
    client: Client,
    timing: Timing,
    queue: Arc<Queue>,
    resource: Resource,
    counts: Arc<Counts>,
) {
    let mut health = Health::default();
    loop {
        let lines = queue.next(AT_ONCE, timing.linger).await;
        let count = lines.len() as u64;
        let body = logs::request(&lines, &resource, nanos()).encode_to_vec();
        let (began, mut wait) = (Instant::now(), timing.backoff);
        loop {
            let (refused, again) = match client.post("v1/logs", body.clone()).await {
                Outcome::Taken(answer) => {
                    let rejected = logs::rejected(&answer).min(count);
                    counts.sent.fetch_add(count - rejected, Ordering::Relaxed);
                    counts.dropped.fetch_add(rejected, Ordering::Relaxed);
                    if rejected > 0 {
                        health.worse("the collector has rejected some flows of a request");
                    } else {
                        health.well();
                    }
                    break;
                }
                // What the collector asks for is the least.
                Outcome::Later(why, Some(wished)) => {
                    (why, Some(wished.min(WISH_MOST) + jittered(wait)))
                }
                Outcome::Later(why, None) => (why, Some(jittered(wait))),
                Outcome::Refused(why) => (why, None),
            };
            counts.failed.fetch_add(1, Ordering::Relaxed);
            health.worse(&refused);
            match again.filter(|pause| began.elapsed() + *pause < timing.patience) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    counts.dropped.fetch_add(count, Ordering::Relaxed);
                    break;
                }
            }
            wait = (wait * 2).min(timing.backoff_most);
        }
        queue.done();
    }
}

/// Sends the metrics once in a while. What fails is not repeated: the next ones say more.
async fn meter(client: Client, timing: Timing, metrics: Metrics, resource: Resource, began: u64) {
    let mut due = tokio::time::interval(timing.metrics);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut health = Health::default();
    loop {
        due.tick().await;
        let request = metrics::request(&metrics(), &resource, began, nanos());
        match client.post("v1/metrics", request.encode_to_vec()).await {
            Outcome::Taken(_) => health.well(),
            Outcome::Later(why, _) | Outcome::Refused(why) => {
                health.worse(&format!("metrics: {why}"));
            }
        }
    }
}

/// Says once that something does not work, and once that it works again.
#[derive(Debug, Default)]
struct Health {
    is_bad: bool,
}

impl Health {
    fn worse(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_bad, true) {
            let why = netpolc_kube_sync::plain(why);
            tracing::warn!(%why, "sending to the collector of OpenTelemetry has failed; flows wait \
                for it, and those that find no place are dropped and counted");
        }
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.is_bad) {
            tracing::info!("the collector of OpenTelemetry takes what is sent again");
        }
    }
}

/// Between half of it and all of it, so that the agents of a cluster do not come at once.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(()) % 1024;
    pause / 2 + pause / 2 * u32::try_from(random).unwrap_or(0) / 1024
}

fn nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
