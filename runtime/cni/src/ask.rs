//! Asking the agent, never longer than a deadline.
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

use crate::protocol::{Asked, LONGEST, Reply, Request, line};

/// How long to wait before the socket is tried again: an agent that is being upgraded is away for a moment.
const PAUSE: Duration = Duration::from_millis(50);

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or the connection broke.
    #[error("{what} {socket}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The path.
        socket: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The agent said something else.
    #[error("the agent's answer cannot be understood ({0}); are plugin and agent of one version?")]
    Answer(#[from] serde_json::Error),
    /// No answer in time.
    #[error("no answer from the agent within {0:?}")]
    Timeout(Duration),
}

/// Asks, and tries again until `timeout` while nobody listens.
///
/// # Errors
/// No answer.
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> Result<Reply, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        match once(socket, request, deadline, timeout) {
            Err(error @ Error::Socket { .. }) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left <= PAUSE {
                    return Err(error);
                }
                thread::sleep(PAUSE);
            }
            answer => return answer,
        }
    }
}

fn once(socket: &Path, request: &Request, deadline: Instant, timeout: Duration) -> Result<Reply, Error> {
    let failed = |what| move |source| Error::Socket { what, socket: socket.display().to_string(), source };
    let mut stream = connect(socket, deadline).map_err(failed("connect to"))?;
    let left = |what| {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::Timeout(timeout)) } else { Ok((what, left)) }
    };
    let (what, time) = left("write to")?;
    stream.set_write_timeout(Some(time)).map_err(failed(what))?;
    let patience_milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let asked = Asked { request: request.clone(), patience_milliseconds };
    stream.write_all(line(&asked)?.as_bytes()).map_err(failed(what))?;
    // A read timeout counts from each read; a peer that sends a byte now and then must not stretch it.
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\n") && answer.len() < LONGEST {
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

/// A listener whose backlog is full lets `connect` wait without a limit, so it is done aside.
fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::channel();
    let path = socket.to_owned();
    thread::spawn(move || sender.send(UnixStream::connect(path)));
    let left = deadline.saturating_duration_since(Instant::now());
    receiver.recv_timeout(left).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
