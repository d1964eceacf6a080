//! Sockets as probes need them, and waiting for many at once. Not here: what is said over them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    time::Instant,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Answer, Ask};

/// A non-blocking socket for `ask`, not connected yet. To be called inside the source's namespace.
pub(super) fn open(to: IpAddr, source: Option<IpAddr>, ask: Ask) -> io::Result<Socket> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let (kind, protocol) = match (ask, to) {
        (Ask::Tcp(_), _) => (Type::STREAM, Protocol::TCP),
        (Ask::Udp(_), _) => (Type::DGRAM, Protocol::UDP),
        (Ask::Ping, IpAddr::V4(_)) => (Type::DGRAM, Protocol::ICMPV4),
        (Ask::Ping, IpAddr::V6(_)) => (Type::DGRAM, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Connects it to where `ask` goes; TCP is only begun. Works on any thread.
pub(super) fn connect(socket: &Socket, to: IpAddr, ask: Ask) -> io::Result<()> {
    let port = match ask {
        Ask::Tcp(port) | Ask::Udp(port) => port,
        Ask::Ping => 0,
    };
    match socket.connect(&SocketAddr::new(to, port).into()) {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

/// A non-blocking listener on all addresses of both families (IPv4 alone where there is no IPv6).
pub(super) fn listen(kind: Type, port: u16) -> io::Result<Socket> {
    let bind = |domain, any: IpAddr| -> io::Result<Socket> {
        let socket = Socket::new(domain, kind, None)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        if kind == Type::STREAM {
            socket.listen(1024)?;
        }
        Ok(socket)
    };
    match bind(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()) {
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        }
        other => other,
    }
}

/// What the kernel's error says about the way.
pub(super) fn answer_of(error: &io::Error) -> Answer {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => Answer::Refused,
        Some(errno) => Answer::Unreachable(errno),
        None => Answer::Silent,
    }
}

/// Was this only "not now"?
pub(super) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// An interest in these events, for [`wait`].
pub(super) fn interest(socket: &impl AsRawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: AsRawFd::as_raw_fd(socket) as RawFd, events, revents: 0 }
}

/// Waits until one of `interests` is ready or `deadline` has passed (None: for ever).
pub(super) fn wait(interests: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    // Rounded up, or the last millisecond would be spent polling.
    let milliseconds = left.map_or(-1, |l| l.as_micros().div_ceil(1000).min(60_000) as i32);
    // SAFETY: the pointer and the length are those of a slice that is borrowed mutably across the
    // call; the kernel writes to `revents` of its elements only.
    let ready = unsafe {
        libc::poll(interests.as_mut_ptr(), interests.len() as libc::nfds_t, milliseconds)
    };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if would_block(&error) { Ok(()) } else { Err(error) };
    }
    Ok(())
}
