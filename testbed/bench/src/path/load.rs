//! Load between two namespaces: request rate, connect and close, bulk. Not here: what polices the
//! path.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netpolc_testbed::netns::{Error, Site};

/// What the first byte of a connection asks the server for.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
const CLOSE: u8 = b'c';

/// What is measured; all are rates, higher is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// One byte goes there and back on one connection.
    Requests,
    /// Connect, one byte, close, one after the other.
    Connections,
    /// Bulk with segmentation offload: packets of up to 64 KiB cross the hooks.
    Bulk,
    /// Bulk without: every packet is a segment.
    Segments,
}

impl Load {
    /// Every load, in the order in which they are shown.
    pub const ALL: [Load; 4] = [Load::Requests, Load::Connections, Load::Bulk, Load::Segments];

    /// The name of the load in tables of results.
    pub fn title(self) -> &'static str {
        match self {
            Load::Requests => "requests",
            Load::Connections => "connect+close",
            Load::Bulk => "throughput",
            Load::Segments => "without GSO",
        }
    }
}

/// A server in a pod; it ends with this value.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` in the pod's namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the address not be bound.
    pub fn start(pod: &Site, address: SocketAddr) -> Result<Self, Error> {
        let listener = pod
            .run(|| TcpListener::bind(address))?
            .map_err(|source| Error::System { what: format!("listen on {address}"), source })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let acceptor = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // One that only closes is served here: a thread for each would be what is measured.
                let Ok(mut connection) = connection else { continue };
                let mut kind = [0];
                if connection.read_exact(&mut kind).is_ok() && kind[0] != CLOSE {
                    std::thread::spawn(move || drop(serve(connection, kind[0])));
                }
            }
        });
        Ok(Self { address, stop, acceptor: Some(acceptor) })
    }

    /// The address and port that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; `pod` is where it was started.
    pub fn stop(mut self, pod: &Site) {
        self.stop.store(true, Ordering::Relaxed);
        let address = self.address;
        // Wakes the acceptor.
        let woken =
            pod.run(move || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());
        if let (Ok(true), Some(acceptor)) = (woken, self.acceptor.take()) {
            // A panic there has been printed already.
            let _ = acceptor.join();
        }
    }
}

fn serve(mut connection: TcpStream, kind: u8) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        let n = connection.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if kind == ECHO {
            connection.write_all(&buffer[..n])?;
        }
    }
    if kind == SINK { connection.write_all(&total.to_le_bytes()) } else { Ok(()) }
}

/// Runs one load from `pod` against a server for about `length`; returns operations or bytes a
/// second.
///
/// # Errors
/// A connection fails: the path under test is broken, so no rate means anything.
pub fn run(pod: &Site, server: SocketAddr, load: Load, length: Duration) -> Result<f64, Error> {
    let failed = |source| Error::System { what: format!("{} to {server}", load.title()), source };
    pod.run(|| measure(server, load, length))?.map_err(failed)
}

fn open(server: SocketAddr, kind: u8) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&server, Duration::from_secs(3))?;
    connection.set_nodelay(true)?;
    connection.write_all(&[kind])?;
    Ok(connection)
}

fn measure(server: SocketAddr, load: Load, length: Duration) -> io::Result<f64> {
    let mut done = 0u64;
    let begin;
    match load {
        Load::Requests => {
            let mut connection = open(server, ECHO)?;
            begin = Instant::now();
            while begin.elapsed() < length {
                let mut byte = [1];
                connection.write_all(&byte)?;
                connection.read_exact(&mut byte)?;
                done += 1;
            }
        }
        Load::Connections => {
            begin = Instant::now();
            while begin.elapsed() < length {
                // The server closes first, so that the client's ports come back at once.
                let mut connection = open(server, CLOSE)?;
                let mut end = [0];
                if connection.read(&mut end)? != 0 {
                    return Err(io::Error::other("the server answered where it should close"));
                }
                done += 1;
            }
        }
        Load::Bulk | Load::Segments => {
            let mut connection = open(server, SINK)?;
            let block = vec![0; 128 << 10];
            begin = Instant::now();
            while begin.elapsed() < length {
                connection.write_all(&block)?;
            }
            connection.shutdown(Shutdown::Write)?;
            let mut total = [0; 8];
            connection.read_exact(&mut total)?;
            done = u64::from_le_bytes(total);
        }
    }
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}
