//! Asks the agent over its socket, for no longer than until a deadline.
//!
//! Not here: what follows from the answer ([`crate::run`]).

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::protocol::{Asked, MAX_LINE_LEN, Reply, Request, line};

/// The pause before the socket is tried again: an agent that is being upgraded is away for a
/// moment.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket, or the connection broke.
    #[error("the agent's socket {socket} could not be {what}: {source}")]
    Socket {
        /// What could not be done with the socket, as a participle.
        what: &'static str,
        /// The path of the socket.
        socket: String,
        /// The system's error.
        source: io::Error,
    },
    /// The agent's answer is not one of the protocol.
    #[error(
        "the agent's answer cannot be understood ({0}); check that plugin and agent have the same \
        version"
    )]
    Answer(#[from] serde_json::Error),
    /// The agent did not answer in time.
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
}

/// Sends a request and waits for the answer. While nobody listens, this is repeated until
/// `timeout`.
///
/// # Errors
/// There is no answer in time, or none that can be understood.
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> Result<Reply, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        match once(socket, request, deadline, timeout) {
            Err(error @ Error::Socket { .. }) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left <= RETRY_INTERVAL {
                    return Err(error);
                }
                thread::sleep(RETRY_INTERVAL);
            }
            answer => return answer,
        }
    }
}

fn once(
    socket: &Path,
    request: &Request,
    deadline: Instant,
    timeout: Duration,
) -> Result<Reply, Error> {
    let failed =
        |what| move |source| Error::Socket { what, socket: socket.display().to_string(), source };
    let mut stream = connect(socket, deadline).map_err(failed("connected to"))?;
    let left = |what| {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::Timeout(timeout)) } else { Ok((what, left)) }
    };
    let (what, time) = left("written to")?;
    stream.set_write_timeout(Some(time)).map_err(failed(what))?;
    let patience_milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let asked = Asked { request: request.clone(), patience_milliseconds };
    stream.write_all(line(&asked)?.as_bytes()).map_err(failed(what))?;
    // A read timeout counts from each read. It is set anew before each, so that a peer that sends a
    // byte now and then cannot extend the deadline.
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\n") && answer.len() < MAX_LINE_LEN {
        let (what, time) = left("read from")?;
        stream.set_read_timeout(Some(time)).map_err(failed(what))?;
        match stream.read(&mut part) {
            Ok(0) => return Err(failed(what)(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => answer.extend(&part[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(Error::Timeout(timeout));
            }
            Err(e) => return Err(failed(what)(e)),
        }
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Connects on a thread of its own: with a listener whose backlog is full, `connect` would block
/// without a limit.
fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::channel();
    let path = socket.to_owned();
    thread::spawn(move || sender.send(UnixStream::connect(path)));
    let left = deadline.saturating_duration_since(Instant::now());
    receiver.recv_timeout(left).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
