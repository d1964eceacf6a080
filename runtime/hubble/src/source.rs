//! What the API asks of the agent: its flows, and the nodes of the cluster.
//!
//! Not here: who keeps flows and knows nodes (`netpolc-agent`).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_flow::line::Line;
use tokio::sync::{mpsc, oneshot};

/// Where flows come from.
pub trait Flows: Send + Sync + 'static {
    /// All lines that there are, in order.
    fn kept(&self) -> Vec<Arc<Line>>;

    /// All lines that there are, and those that come behind them.
    fn follow(&self) -> (Vec<Arc<Line>>, Followed);

    /// How many flows there are and were.
    fn figures(&self) -> Figures;
}

/// Lines as they come. Whoever drops it gets no more.
pub struct Followed {
    /// The lines, of which only so many wait here.
    pub lines: mpsc::Receiver<Told>,
    /// Becomes ready when no more lines come, since too many have waited for too long.
    pub cut: oneshot::Receiver<()>,
    _leave: Box<dyn Send>,
}

impl Followed {
    /// Lines, and what tells the sender, by being dropped, that nobody takes them any more.
    pub fn new(
        lines: mpsc::Receiver<Told>,
        cut: oneshot::Receiver<()>,
        leave: impl Send + 'static,
    ) -> Self {
        Self { lines, cut, _leave: Box::new(leave) }
    }
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A line, as everybody is told.
    All(Arc<Line>),
    /// What this follower has missed, since it was too slow.
    Missed(Line),
}

/// How many flows there are and were.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// How many are kept.
    pub kept: usize,
    /// How many may be kept.
    pub most: usize,
    /// How many there were since the agent began.
    pub seen: u64,
    /// When that was.
    pub began: Instant,
}

impl Figures {
    /// For how long the agent has recorded flows.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }
}

/// The nodes of the cluster, each with the address under which its agent is reached; None where the
/// node has no address yet.
pub type Nodes = BTreeMap<Arc<str>, Option<IpAddr>>;
