//! The connections of the sockets in a pod's namespace, for hosts that track nothing.
//!
//! A local port with a TCP listener was opened from outside. A connected UDP socket was connected
//! by its pod; one beside a socket that takes datagrams from everybody on the same port may serve
//! whoever sent one, so that says nothing.
//!
//! Not here: which namespace is a pod's (the agent). Sources: sock_diag(7),
//! include/uapi/linux/inet_diag.h.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    Connection, Opener,
    netlink::{Protocol, Socket, be16_at},
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ESTABLISHED: u8 = 1;
/// SYN_SENT, SYN_RECV and the closing states in which data still flows: FIN_WAIT1, FIN_WAIT2,
/// CLOSE_WAIT, LAST_ACK.
const ALIVE: [u8; 7] = [ESTABLISHED, 2, 3, 4, 5, 8, 9];
const LISTEN: u8 = 10;

/// The kernel cannot list the sockets of TCP, UDP (each is a module of its own). Asking makes it
/// look for the module with a process of its own each time, which takes milliseconds.
static MISSING: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

/// A socket, and what it is connected with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    state: u8,
    local: IpAddr,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
}

/// Connections of the calling thread's namespace. Unconnected UDP sockets have no remote and are
/// none.
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`]. A kernel that cannot list sockets (no inet_diag) gives
/// an empty list.
pub fn dump() -> io::Result<Vec<Connection>> {
    let mut socket = Socket::open(Protocol::SockDiag)?;
    let mut found = Vec::new();
    for (protocol, missing) in
        [(libc::IPPROTO_TCP as u8, &MISSING[0]), (libc::IPPROTO_UDP as u8, &MISSING[1])]
    {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            if missing.load(Ordering::Relaxed) {
                continue;
            }
            // struct inet_diag_req_v2: family, protocol, ext, pad, states u32, id (48 bytes)
            let mut request = vec![family, protocol, 0, 0];
            request.extend(u32::MAX.to_ne_bytes());
            request.extend([0; 48]);
            match socket.dump(SOCK_DIAG_BY_FAMILY, &request, seen) {
                Ok(sockets) => found.extend(connections(protocol, &sockets)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    missing.store(true, Ordering::Relaxed)
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// The socket in the body of a message of sock_diag.
pub(crate) fn seen(body: &[u8]) -> Option<Seen> {
    // struct inet_diag_msg: family, state, timer, retrans, id {sport, dport, src[16], dst[16], if,
    // cookie[8]}, ...
    let [family, state, ..] = *body else { return None };
    let address = |offset: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = body.get(offset..offset + 16)?.try_into().ok()?;
        Some(match i32::from(family) {
            libc::AF_INET => [bytes[0], bytes[1], bytes[2], bytes[3]].into(),
            // An IPv6 socket may speak IPv4: on the wire it is IPv4.
            _ => IpAddr::from(bytes).to_canonical(),
        })
    };
    Some(Seen {
        state,
        local: address(8)?,
        local_port: be16_at(body, 4)?,
        remote: address(24)?,
        remote_port: be16_at(body, 6)?,
    })
}

fn connections(protocol: u8, sockets: &[Seen]) -> Vec<Connection> {
    let everybodys: BTreeSet<u16> = match i32::from(protocol) {
        libc::IPPROTO_UDP => {
            sockets.iter().filter(|s| s.remote.is_unspecified()).map(|s| s.local_port).collect()
        }
        _ => BTreeSet::new(),
    };
    let listening: BTreeSet<u16> =
        sockets.iter().filter(|s| s.state == LISTEN).map(|s| s.local_port).collect();
    let alive = sockets.iter().filter(|s| ALIVE.contains(&s.state) && !s.remote.is_unspecified());
    let alive = alive.filter(|s| !everybodys.contains(&s.local_port));
    alive
        .map(|s| (s, if listening.contains(&s.local_port) { Opener::Remote } else { Opener::Pod }))
        .map(|(s, opener)| Connection {
            opener,
            protocol,
            local: s.local,
            local_port: s.local_port,
            remote: s.remote,
            remote_port: s.remote_port,
            // SYN_SENT (2) waits for the answer.
            answered: s.state != 2,
            origin: if opener == Opener::Pod { s.local } else { s.remote },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// S40: who opened is told by the listener.
    #[test]
    fn s40_a_port_with_a_listener_was_opened_from_outside() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let found = dump().unwrap();
        let of = |s: &TcpStream| {
            let (local, remote) = (s.local_addr().unwrap(), s.peer_addr().unwrap());
            let mine = |c: &&Connection| {
                c.protocol == 6
                    && (c.local, c.local_port) == (local.ip(), local.port())
                    && (c.remote, c.remote_port) == (remote.ip(), remote.port())
            };
            *found.iter().find(mine).expect("the socket is listed")
        };
        assert_eq!(of(&server).opener, Opener::Remote);
        assert_eq!(of(&client).opener, Opener::Pod);
        assert!(of(&client).answered);
    }

    #[test]
    fn an_unconnected_datagram_socket_is_no_connection() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(!dump().unwrap().iter().any(|c| c.protocol == 17 && c.local_port == port));
    }

    /// S40: a connected socket was opened by its pod, unless another one on its port serves
    /// everybody.
    #[test]
    fn s40_a_connected_datagram_socket_was_opened_by_its_pod() {
        let seen = |remote: [u8; 4], local_port, state| Seen {
            state,
            local: [10, 0, 0, 1].into(),
            local_port,
            remote: remote.into(),
            remote_port: 53,
        };
        let sockets =
            [seen([10, 0, 0, 9], 4000, 1), seen([10, 0, 0, 9], 98, 1), seen([0; 4], 98, 7)];
        let found = connections(17, &sockets);
        assert_eq!(
            found.iter().map(|c| (c.local_port, c.opener)).collect::<Vec<_>>(),
            [(4000, Opener::Pod)]
        );
    }
}
