//! Accepts clients, on a socket of the node and on the network, in a thread of its own: whatever
//! they do, the agent's loop never waits for them.
//!
//! On the network a client must show a certificate. All that a client could make large is limited:
//! handshakes, connections, calls, headers and requests. Not here: what is answered (`observer`,
//! `peer`), and certificates (`tls`).

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use netpolc_host::{
    files,
    private::{self, FOLDER},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body};
use tower_service::Service as _;

use crate::{
    api::{
        health::health_server::HealthServer, observer::observer_server::ObserverServer,
        peer::peer_server::PeerServer,
    },
    health::Health,
    observer::Observer,
    peer::{Own, Peer, Reach},
    source::{Flows, Nodes},
    tls::Certificates,
};
pub use crate::{
    peer::{DEFAULT_CLUSTER, server_name},
    tls::Files,
};

/// How many streams of flows there may be at a time.
pub const MAX_STREAMS: usize = 32;
/// How many connections there may be at a time, each on the socket and on the network.
const MAX_CONNECTIONS: usize = 32;
/// How many handshakes there may be at a time: anybody who reaches the port may begin one.
const MAX_HANDSHAKES: usize = 32;
/// How many calls there may be at a time on one connection. Relay has one connection, with a call
/// for each of its own clients.
const MAX_CALLS: u32 = 64;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a client who says nothing is asked whether it is still there, and how long it may take
/// to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest request and the longest headers in bytes.
const MAX_REQUEST_LEN: usize = 1 << 16;
const MAX_HEADERS_LEN: u32 = 1 << 14;
/// How much of an answer may wait in a connection.
const MAX_SEND_BUFFER: usize = 1 << 16;
/// Only the owner may use the socket.
const SOCKET_MODE: u32 = 0o600;

/// Where Hubble's API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A socket that root alone may use.
    pub socket: Option<PathBuf>,
    /// An address on the network.
    pub listen: Option<Listen>,
    /// What the cluster is called.
    pub cluster: Arc<str>,
}

/// Where it is served on the network, for clients with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address of this node.
    pub address: SocketAddr,
    /// The certificates of both sides.
    pub files: Files,
}

/// Why it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be made.
    #[error("--hubble-socket {} cannot be used: {error}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The address cannot be used.
    #[error("--hubble-listen {address} cannot be used: {error}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The thread cannot be started.
    #[error("Hubble's API cannot be served: {0}")]
    Thread(#[from] io::Error),
}

/// What is bound, and not served yet; clients wait.
pub struct Bound {
    socket: Option<(PathBuf, std::os::unix::net::UnixListener)>,
    listen: Option<(std::net::TcpListener, SocketAddr, Files)>,
    cluster: Arc<str>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl Options {
    /// Binds the socket and the address.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn bind(&self) -> Result<Bound, Error> {
        let socket = match &self.socket {
            None => None,
            Some(path) => {
                let made = socket(path);
                let made = made.map_err(|error| Error::Socket { path: path.clone(), error })?;
                Some((path.clone(), made))
            }
        };
        let listen = match &self.listen {
            None => None,
            Some(Listen { address, files }) => {
                let bound = std::net::TcpListener::bind(address).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    let address = listener.local_addr()?;
                    Ok((listener, address, files.clone()))
                });
                Some(bound.map_err(|error| Error::Address { address: *address, error })?)
            }
        };
        Ok(Bound { socket, listen, cluster: self.cluster.clone() })
    }
}

/// Makes the socket. It takes the place of an earlier agent's.
fn socket(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let folder = path.parent().unwrap_or(Path::new(FOLDER));
    if folder != Path::new(FOLDER)
        && std::fs::symlink_metadata(folder).is_ok_and(|facts| facts.mode() & 0o077 != 0)
    {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "others may use the folder {}; take one that root alone may use, such as {FOLDER}",
                folder.display()
            ),
        ));
    }
    private::folder(folder)?;
    files::replace(path, |new| {
        let listener = std::os::unix::net::UnixListener::bind(new)?;
        std::fs::set_permissions(new, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

impl Bound {
    /// The address on the network.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.as_ref().map(|(_, address, _)| *address)
    }

    /// Starts the thread, which serves these flows of this node until the sender of nodes is
    /// dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(
        self,
        node: Arc<str>,
        flows: Arc<dyn Flows>,
        nodes: watch::Receiver<Arc<Nodes>>,
    ) -> Result<(), Error> {
        let Bound { socket, listen, cluster } = self;
        let reach = match (&socket, &listen) {
            (_, Some((_, address, _))) => Reach::Port(address.port()),
            (Some((path, _)), None) => Reach::Socket(path.clone()),
            (None, None) => return Ok(()),
        };
        let own = Arc::new(Own { node, cluster, reach, nodes: nodes.clone() });
        let services = Services::new(&own, flows);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (socket, listen) = {
            let _inside = runtime.enter();
            let socket = socket.map(|(_, socket)| UnixListener::from_std(socket)).transpose()?;
            let listen = listen.map(|(listener, _, files)| {
                TcpListener::from_std(listener).map(|listener| (listener, Certificates::new(files)))
            });
            (socket, listen.transpose()?)
        };
        std::thread::Builder::new().name("hubble".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = until_dropped(nodes) => {}
                    () = on_socket(socket, services.clone()) => {}
                    () = on_network(listen, services) => {}
                }
            });
        })?;
        Ok(())
    }
}

async fn until_dropped(mut nodes: watch::Receiver<Arc<Nodes>>) {
    while nodes.changed().await.is_ok() {}
}

/// Serves the socket; nothing where there is none.
async fn on_socket(listener: Option<UnixListener>, services: Services) {
    let Some(listener) = listener else { return std::future::pending().await };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Further clients wait in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, services.clone(), place))),
            Err(error) => complain(&error).await,
        }
    }
}

/// Serves the address; nothing where there is none.
async fn on_network(listen: Option<(TcpListener, Certificates)>, services: Services) {
    let Some((listener, mut certificates)) = listen else { return std::future::pending().await };
    let hands = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(hand) = hands.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                complain(&error).await;
                continue;
            }
        };
        // Without certificates of ours there is nothing to say: it is hung up.
        let Some(config) = certificates.now() else { continue };
        let (services, places) = (services.clone(), places.clone());
        tokio::spawn(async move {
            let shaken = TlsAcceptor::from(config).accept(stream);
            let stream = match timeout(HANDSHAKE_TIMEOUT, shaken).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    return tracing::debug!(%error, "a client of Hubble's API has no certificate \
                        that counts");
                }
                Err(_) => return,
            };
            drop(hand);
            match places.try_acquire_owned() {
                Ok(place) => converse(stream, services, place).await,
                Err(_) => tracing::warn!(
                    "{MAX_CONNECTIONS} clients of Hubble's API are served already, and one more \
                    is refused"
                ),
            }
        });
    }
}

/// Most likely there are no descriptors left, and something must close first.
async fn complain(error: &io::Error) {
    tracing::warn!(%error, "a client of Hubble's API could not be accepted");
    sleep(Duration::from_millis(100)).await;
}

/// Serves one connection.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    services: Services,
    _place: OwnedSemaphorePermit,
) {
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS_LEN)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| {
                let answer = services.answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            }),
        )
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to Hubble's API has failed");
    }
}

/// All services, by their names.
#[derive(Clone)]
struct Services {
    observer: ObserverServer<Observer>,
    peer: PeerServer<Peer>,
    health: HealthServer<Health>,
}

type Answered = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

impl Services {
    fn new(own: &Arc<Own>, flows: Arc<dyn Flows>) -> Self {
        let observer = ObserverServer::new(Observer::new(own.clone(), flows, MAX_STREAMS));
        let peer = PeerServer::new(Peer::new(own.clone(), MAX_STREAMS));
        Self {
            observer: observer.max_decoding_message_size(MAX_REQUEST_LEN),
            peer: peer.max_decoding_message_size(MAX_REQUEST_LEN),
            health: HealthServer::new(Health).max_decoding_message_size(MAX_REQUEST_LEN),
        }
    }

    fn answer(&self, request: http::Request<Incoming>) -> Answered {
        let mut services = self.clone();
        let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let answer = async move {
            match &*service {
                "observer.Observer" => services.observer.call(request).await,
                "peer.Peer" => services.peer.call(request).await,
                "grpc.health.v1.Health" => services.health.call(request).await,
                _ => Ok(Status::unimplemented("the agent has no such service").into_http()),
            }
        };
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        })
    }
}
