//! One agent on a node: two of them would each judge and undo what the other lets go on, whatever
//! folders they pin in.
//!
//! The claim is a name in the network namespace whose interfaces the agent programs (an abstract
//! unix socket): it ends with the process, however that ends, and no file system has to be shared.
//! Any process may take such a name, so one that is not root's is no agent and keeps none away.

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

const NAME: &str = "netpolc/agent";
/// Connecting to a socket of the same machine takes no time.
const PATIENCE: Duration = Duration::from_secs(1);

/// The claim; it ends when this is dropped.
#[derive(Debug)]
pub struct Sole(#[allow(dead_code, reason = "open means claimed")] Option<UnixListener>);

/// Another agent runs in this network namespace.
#[derive(Debug, thiserror::Error)]
#[error(
    "another netpolc agent (process {0}) runs on this node already; two of them undo what the other does, also with folders of \
     their own: stop it first"
)]
pub struct Taken(i32);

impl Sole {
    /// Claims the node that the calling thread is on.
    ///
    /// # Errors
    /// Another agent has it.
    pub fn claim() -> Result<Self, Taken> {
        let bound = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixListener::bind_addr(&name));
        match bound {
            Ok(listener) => Ok(Self(Some(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder() {
                Some((process, 0)) => Err(Taken(process)),
                other => {
                    tracing::warn!(holder = ?other, "a process that is not root's pretends to be an agent; it is ignored");
                    Ok(Self(None))
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a second agent on this node would not be noticed");
                Ok(Self(None))
            }
        }
    }
}

/// Process and user of whoever has the name; None where nobody listens, or nobody can connect.
fn holder() -> Option<(i32, u32)> {
    let name = SocketAddr::from_abstract_name(NAME).ok()?;
    let (sender, connected) = mpsc::channel();
    // Whoever has it may have filled its backlog, so that connecting waits for ever.
    thread::spawn(move || sender.send(UnixStream::connect_addr(&name)));
    let stream = connected.recv_timeout(PATIENCE).ok()?.ok()?;
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
        // SAFETY: the thread's own network namespace, which nothing else in this process uses; this
        // needs root.
        let alone = std::thread::spawn(|| {
            assert_eq!(
                unsafe { libc::unshare(libc::CLONE_NEWNET) },
                0,
                "a network namespace of its own (this needs root)"
            );
            let first = Sole::claim().unwrap();
            let refused = Sole::claim().unwrap_err().to_string();
            assert!(refused.contains(&std::process::id().to_string()), "{refused}");
            drop(first);
            Sole::claim().unwrap();
        });
        alone.join().unwrap();
    }
}
