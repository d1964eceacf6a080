//! The agents of the demo's nodes, each on a thread of its own. Not here: what they enforce.

use std::{collections::BTreeMap, sync::mpsc, thread::JoinHandle};

use anyhow::{Context, anyhow};
use netpolc_agent::{Agent, Report, network::Kernel};
use netpolc_flow::Flow;
use netpolc_host::netns::Namespace;
use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::netns::Site;

/// One agent for each node, on a thread that lives in the node's network namespace. Nothing is
/// pinned, so that all of it goes with this process, however that ends.
pub struct Agents {
    nodes: Vec<NodeAgent>,
}

struct NodeAgent {
    name: String,
    orders: Option<mpsc::Sender<Order>>,
    answers: mpsc::Receiver<anyhow::Result<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl Agents {
    /// Starts an agent on each of these nodes.
    pub fn start<'a>(nodes: impl Iterator<Item = &'a Site>) -> anyhow::Result<Self> {
        let agents = Self { nodes: nodes.map(NodeAgent::start).collect::<anyhow::Result<_>>()? };
        for node in &agents.nodes {
            node.answer()?;
        }
        Ok(agents)
    }

    /// Lets all of them enforce this cluster's policies.
    pub fn update(&mut self, cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Report>> {
        let done = self.order(|| Order::Update(Box::new(cluster.clone())))?;
        Ok(done.into_iter().map(|(node, done)| (node, done.report)).collect())
    }

    /// What they have seen of packets since the last time.
    pub fn flows(&mut self) -> anyhow::Result<Vec<Flow>> {
        let done = self.order(|| Order::Flows)?;
        Ok(done.into_values().flat_map(|done| done.flows).collect())
    }

    fn order(&mut self, order: impl Fn() -> Order) -> anyhow::Result<BTreeMap<String, Done>> {
        for node in &self.nodes {
            let sender = node.orders.as_ref().context("the agent has ended")?;
            sender
                .send(order())
                .map_err(|_| anyhow!("the agent of node {} has ended", node.name))?;
        }
        self.nodes.iter().map(|node| Ok((node.name.clone(), node.answer()?))).collect()
    }
}

/// What an agent is to do.
enum Order {
    /// Enforce this cluster's policies.
    Update(Box<Cluster>),
    /// Tell what it has seen.
    Flows,
}

/// What an agent has done.
#[derive(Default)]
struct Done {
    report: Report,
    flows: Vec<Flow>,
}

impl NodeAgent {
    fn start(site: &Site) -> anyhow::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let (replies, answers) = mpsc::channel();
        let (name, namespace) = (site.name.clone(), site.namespace.clone());
        let node = name.clone();
        let serve = move || {
            let path = namespace.path();
            let open = || -> anyhow::Result<_> {
                Namespace::open(&path)?.enter()?;
                let ebpf = Ebpf::private(Config::small())?;
                let mut agent = Agent::new(node.as_str().into(), ebpf, Kernel::new())?;
                agent.observe()?;
                Ok(agent)
            };
            let mut agent = match open() {
                Ok(agent) => agent,
                Err(error) => return drop(replies.send(Err(error))),
            };
            let _ = replies.send(Ok(Done::default()));
            for order in inbox {
                let done = match order {
                    Order::Update(cluster) => agent
                        .update(*cluster)
                        .map_err(anyhow::Error::from)
                        .and_then(|report| match agent.missing().first() {
                            Some(pod) => Err(anyhow!("no interface leads to pod {pod}")),
                            None => Ok(Done { report, ..Done::default() }),
                        }),
                    Order::Flows => Ok(Done { flows: agent.take_flows(), ..Done::default() }),
                };
                if replies.send(done).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("agent-{name}")).spawn(serve)?;
        Ok(Self { name, orders: Some(orders), answers, thread: Some(thread) })
    }

    fn answer(&self) -> anyhow::Result<Done> {
        let answer =
            self.answers.recv().map_err(|_| anyhow!("its thread ended")).and_then(|done| done);
        answer.with_context(|| format!("the agent of node {}", self.name))
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
