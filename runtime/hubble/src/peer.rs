//! The service that tells Hubble Relay of the nodes, and how nodes are called.
//!
//! Relay asks one agent, and then connects to all nodes that this one names. Every node is named,
//! also one on which no agent runs: Relay shows it as unavailable. Not here: where nodes come from
//! ([`crate::source::Nodes`]).

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    api::peer::{
        ChangeNotification, ChangeNotificationType as Change, NotifyRequest, Tls,
        peer_server::Peer as Service,
    },
    convert::VERSION,
    source::Nodes,
};

/// The name that a cluster has for Cilium where nobody has given one.
pub const DEFAULT_CLUSTER: &str = "default";
/// What Cilium's certificates for Hubble end with. Relay expects it.
const DOMAIN: &str = "hubble-grpc.cilium.io";
/// How many notifications may wait for the connection.
const QUEUE_LEN: usize = 64;

/// The node that answers.
#[derive(Debug)]
pub struct Own {
    /// Its name.
    pub node: Arc<str>,
    /// The name of its cluster.
    pub cluster: Arc<str>,
    /// Where it answers.
    pub reach: Reach,
    /// The nodes of the cluster, as they are now.
    pub nodes: watch::Receiver<Arc<Nodes>>,
}

/// Where an agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// On this socket only, so other nodes cannot be reached from outside either.
    Socket(PathBuf),
    /// On this port, as do those of the other nodes.
    Port(u16),
}

impl Own {
    /// What it runs.
    pub fn version(&self) -> String {
        format!("netpolc v{VERSION}")
    }

    /// This node as a peer.
    pub fn itself(&self) -> ChangeNotification {
        let address = self.nodes.borrow().get(&self.node).copied().flatten();
        self.peer(&self.node, address, Change::PeerAdded)
    }

    fn peer(&self, node: &str, address: Option<IpAddr>, change: Change) -> ChangeNotification {
        let (address, tls) = match &self.reach {
            Reach::Socket(path) => (format!("unix://{}", path.display()), None),
            Reach::Port(port) => {
                let address = address.map(|ip| SocketAddr::new(ip, *port).to_string());
                let server_name = server_name(node, &self.cluster);
                (address.unwrap_or_default(), Some(Tls { server_name }))
            }
        };
        let name = match &*self.cluster {
            DEFAULT_CLUSTER => node.to_owned(),
            cluster => format!("{cluster}/{node}"),
        };
        ChangeNotification { name, address, r#type: change.into(), tls }
    }

    /// The nodes that can be reached.
    fn reached(&self, nodes: &Nodes) -> Nodes {
        match self.reach {
            Reach::Socket(_) => [(self.node.clone(), None)].into(),
            Reach::Port(_) => {
                let mut nodes = nodes.clone();
                // An agent that reads files may know of no nodes, and yet it is one.
                nodes.entry(self.node.clone()).or_default();
                nodes
            }
        }
    }

    /// What leads from these nodes to those.
    fn changes(&self, before: &Nodes, now: &Nodes) -> Vec<ChangeNotification> {
        let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
        let gone = gone.map(|(name, address)| self.peer(name, *address, Change::PeerDeleted));
        let here = now.iter().filter_map(|(name, address)| {
            let change = match before.get(name) {
                None => Change::PeerAdded,
                Some(old) if old != address => Change::PeerUpdated,
                Some(_) => return None,
            };
            Some(self.peer(name, *address, change))
        });
        gone.chain(here).collect()
    }
}

/// The name that Relay expects in a node's certificate. Dots become hyphens, so that one
/// certificate may have `*.CLUSTER.hubble-grpc.cilium.io` for all nodes.
pub fn server_name(node: &str, cluster: &str) -> String {
    format!("{}.{}.{DOMAIN}", node.replace('.', "-"), cluster.replace('.', "-"))
}

/// What answers.
pub struct Peer {
    own: Arc<Own>,
    places: Arc<Semaphore>,
    /// How many streams there may be.
    most: usize,
}

impl Peer {
    /// What answers for this node, to so many streams at a time.
    pub fn new(own: Arc<Own>, most: usize) -> Self {
        Self { own, places: Arc::new(Semaphore::new(most)), most }
    }
}

#[tonic::async_trait]
impl Service for Peer {
    type NotifyStream = ReceiverStream<Result<ChangeNotification, Status>>;

    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "the agent tells {} clients of nodes already; end one of them, and try again",
                self.most
            ))
        })?;
        let (changes, queue) = mpsc::channel(QUEUE_LEN);
        let own = self.own.clone();
        tokio::spawn(async move {
            let _place = place;
            let gone = changes.clone();
            tokio::select! {
                () = tell(&own, &changes) => {}
                () = gone.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// Tells of all nodes, and of each change, until the client is gone or the agent ends. A client who
/// reads slowly gets what has changed altogether meanwhile.
async fn tell(own: &Own, changes: &mpsc::Sender<Result<ChangeNotification, Status>>) {
    let (mut nodes, mut told) = (own.nodes.clone(), Nodes::new());
    loop {
        let now = own.reached(&nodes.borrow_and_update().clone());
        for change in own.changes(&told, &now) {
            if changes.send(Ok(change)).await.is_err() {
                return;
            }
        }
        told = now;
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(cluster: &str, reach: Reach) -> Own {
        let (_, nodes) = watch::channel(Arc::new(Nodes::new()));
        Own { node: "n1".into(), cluster: cluster.into(), reach, nodes }
    }

    fn nodes(list: &[(&str, &str)]) -> Nodes {
        list.iter().map(|(name, ip)| ((*name).into(), ip.parse().ok())).collect()
    }

    fn said(changes: &[ChangeNotification]) -> Vec<String> {
        let one = |change: &ChangeNotification| {
            let kind = change.r#type().as_str_name();
            let tls = change.tls.as_ref().map(|tls| tls.server_name.clone()).unwrap_or_default();
            format!("{kind} {} {} {tls}", change.name, change.address)
        };
        changes.iter().map(one).collect()
    }

    #[test]
    fn changes_are_told_by_name_address_and_certificate() {
        let own = own("east", Reach::Port(4244));
        let before = own.reached(&nodes(&[("n1", "10.0.0.1"), ("n2.x", "10.0.0.2"), ("n3", "-")]));
        let now = own.reached(&nodes(&[("n1", "10.0.0.1"), ("n2.x", "fd00::2"), ("n4", "::1")]));
        assert_eq!(
            said(&own.changes(&before, &now)),
            [
                "PEER_DELETED east/n3  n3.east.hubble-grpc.cilium.io",
                "PEER_UPDATED east/n2.x [fd00::2]:4244 n2-x.east.hubble-grpc.cilium.io",
                "PEER_ADDED east/n4 [::1]:4244 n4.east.hubble-grpc.cilium.io",
            ]
        );
        assert_eq!(own.changes(&now, &now), []);
    }

    #[test]
    fn without_a_port_there_is_only_the_node_itself() {
        let own = own(DEFAULT_CLUSTER, Reach::Socket("/run/netpolc/hubble.sock".into()));
        let all = own.reached(&nodes(&[("n1", "10.0.0.1"), ("n2", "10.0.0.2")]));
        let told = said(&own.changes(&Nodes::new(), &all));
        assert_eq!(told, ["PEER_ADDED n1 unix:///run/netpolc/hubble.sock "]);
    }
}
