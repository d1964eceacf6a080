//! Makes sure that only one agent runs on a node: two of them would each judge packets and remove
//! the other's filters, whatever folders they pin their tables in.
//!
//! An agent claims a name in the network namespace whose interfaces it programs, as an abstract
//! unix socket. The claim ends with the process, in whatever way that ends, and needs no shared
//! file system. Any process may take such a name, so a holder that is not root is not an agent, and
//! is ignored. Not here: the lock by which `netpolc status` sees the agent
//! ([`super::record::Alive`]).

use std::{
    io,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::mpsc,
    thread,
    time::Duration,
};

/// The name of the abstract unix socket.
const NAME: &str = "netpolc/agent";
/// How long connecting to the holder may take. On one machine it normally takes no time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The claim, which ends when this is dropped. It holds None where the name could not be claimed
/// and no other agent was found.
#[derive(Debug)]
pub struct Sole(#[allow(dead_code, reason = "open means claimed")] Option<UnixListener>);

/// The error that another agent, with this process id, runs in the same network namespace.
#[derive(Debug, thiserror::Error)]
#[error(
    "another netpolc agent (process {0}) already runs on this node, and two of them would undo \
    each other's work even with separate folders; stop it first"
)]
pub struct Taken(i32);

impl Sole {
    /// Claims the node that the calling thread is on.
    ///
    /// # Errors
    /// Another agent has claimed the node.
    pub fn claim() -> Result<Self, Taken> {
        let bound =
            SocketAddr::from_abstract_name(NAME).and_then(|name| UnixListener::bind_addr(&name));
        match bound {
            Ok(listener) => Ok(Self(Some(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder() {
                Some((process, 0)) => Err(Taken(process)),
                other => {
                    let (process, user) = other.unzip();
                    tracing::warn!(
                        process,
                        user,
                        "a process that is not root holds the agent's \
                        socket name; it is ignored"
                    );
                    Ok(Self(None))
                }
            },
            Err(error) => {
                tracing::warn!(%error, "the agent's socket name could not be claimed; a second \
                    agent on this node would not be noticed");
                Ok(Self(None))
            }
        }
    }
}

/// The process id and user id of whoever holds the name; None where nobody listens, or connecting
/// fails.
fn holder() -> Option<(i32, u32)> {
    let name = SocketAddr::from_abstract_name(NAME).ok()?;
    let (sender, connected) = mpsc::channel();
    // The holder may have filled its backlog, so that connecting would block for ever.
    thread::spawn(move || sender.send(UnixStream::connect_addr(&name)));
    let stream = connected.recv_timeout(CONNECT_TIMEOUT).ok()?.ok()?;
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the socket is open, and the kernel writes at most `size` bytes into a ucred.
    let done = unsafe {
        let out = (&raw mut credentials).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, out, &mut size)
    };
    (done == 0).then_some((credentials.pid, credentials.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_refused_until_the_first_ends() {
        let alone = std::thread::spawn(|| {
            // SAFETY: no memory is passed; only this thread, which ends with the test, moves to
            // another network namespace.
            let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "a network namespace of its own (this needs root)");
            let first = Sole::claim().unwrap();
            let refused = Sole::claim().unwrap_err().to_string();
            assert!(refused.contains(&std::process::id().to_string()), "{refused}");
            drop(first);
            Sole::claim().unwrap();
        });
        alone.join().unwrap();
    }
}
