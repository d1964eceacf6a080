//! Real frames on interfaces, and what the kernel counted of them: raw packet sockets, packets born
//! on this host, the counters of a clsact qdisc, and a conntrack table that can be emptied.
//!
//! Not here: what is in a frame, and what should become of it (the tests).

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use netpolc_host::{
    netlink::{Protocol, Socket, attribute, flags::ECHO, u32_at},
    tc,
};

use crate::netns::Namespace;

/// A raw packet socket on one interface: sends frames out of it and gets those that come in.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens a wire on an interface of a namespace.
    ///
    /// # Errors
    /// There is no such interface, or the caller may not open raw sockets.
    pub fn open_in(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        namespace.run(|| Self::open(interface)).map_err(io::Error::other)?
    }

    /// Opens a wire on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// There is no such interface, or the caller may not open raw sockets.
    pub fn open(interface: &str) -> io::Result<Self> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        let ignore: libc::c_int = 1;
        set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &ignore)?;
        let room: libc::c_int = 8 << 20;
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &room)?;
        // SAFETY: sockaddr_ll consists of integers only, for which all zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = crate::netns::interface_index(interface)? as i32;
        let length = size_of_val(&address) as u32;
        // SAFETY: `socket` is open, and `address` lives across the call and has `length` bytes,
        // which the kernel only reads.
        let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        check(done as isize)?;
        Ok(Self { socket })
    }

    /// Sends a frame, from its Ethernet header on.
    ///
    /// # Errors
    /// What send(2) fails with: the interface is down, or the frame is too long.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the socket is open, and the kernel only reads `frame.len()` bytes of `frame`,
        // which is borrowed across the call.
        check(unsafe {
            libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0)
        })?;
        Ok(())
    }

    /// The next frame that came in; None where none is waiting.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 9216];
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the socket is open, and the kernel writes at most `frame.len()` bytes into
        // `frame`, which is borrowed mutably across the call.
        let n = unsafe {
            libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), flags)
        };
        let n = usize::try_from(n).ok()?;
        frame.truncate(n);
        Some(frame)
    }

    /// Is a frame waiting? It is left where it is.
    pub fn peek(&self) -> bool {
        let mut byte = 0u8;
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        // SAFETY: the socket is open, and the kernel writes at most one byte, into `byte`, which
        // lives across the call.
        unsafe { libc::recv(self.socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags) >= 0 }
    }

    /// Frames until one is `wanted` or time is up.
    pub fn wait(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        loop {
            match self.receive() {
                Some(frame) if wanted(&frame) => return Some(frame),
                Some(_) => {}
                None if Instant::now() >= end => return None,
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Forgets what has come in.
    pub fn drain(&self) {
        while self.receive().is_some() {}
    }
}

/// Sends an IP packet as one that this host has made, whatever its source address.
///
/// # Errors
/// What sendto(2) fails with: there is no route, or the kernel does not take the header.
pub fn send_born_here(packet: &[u8], destination: IpAddr) -> io::Result<()> {
    let v4 = destination.is_ipv4();
    let socket =
        socket(if v4 { libc::AF_INET } else { libc::AF_INET6 }, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let include: libc::c_int = 1;
    let (level, option) = if v4 {
        (libc::IPPROTO_IP, libc::IP_HDRINCL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_HDRINCL)
    };
    set(&socket, level, option, &include)?;
    let address = socket2_address(destination);
    // SAFETY: the socket is open; `packet` and `address` live across the call, and the kernel only
    // reads as many bytes of each as it is told they have.
    check(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            address.as_ptr().cast(),
            address.len(),
        )
    })?;
    Ok(())
}

fn socket2_address(address: IpAddr) -> socket2::SockAddr {
    std::net::SocketAddr::new(address, 0).into()
}

/// What a clsact qdisc has counted at both its hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets that came to a hook.
    pub packets: u32,
    /// How many of them a filter dropped.
    pub drops: u32,
}

/// Reads the counters of clsact qdiscs of the calling thread's namespace.
#[derive(Debug)]
pub struct Qdiscs {
    socket: Socket,
}

const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;

impl Qdiscs {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel has no rtnetlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// The counters of an interface's clsact qdisc; all zero where it has none.
    ///
    /// # Errors
    /// The kernel does not know the interface.
    pub fn counted(&mut self, ifindex: u32) -> io::Result<Counted> {
        let question = tc::header(ifindex, tc::CLSACT_HANDLE, tc::CLSACT, 0);
        // Without ECHO only those who listen to changes get the answer (net/sched/sch_api.c,
        // qdisc_notify).
        let answers = absent_is_fine(self.socket.request(libc::RTM_GETQDISC, ECHO, &question))?;
        let stats = answers.first().and_then(|body| attribute(body.get(tc::HEADER..)?, TCA_STATS2));
        // struct gnet_stats_basic: u64 bytes, u32 packets; gnet_stats_queue: qlen, backlog, drops.
        let third = |kind| stats.and_then(|stats| u32_at(attribute(stats, kind)?, 8)).unwrap_or(0);
        Ok(Counted { packets: third(TCA_STATS_BASIC), drops: third(TCA_STATS_QUEUE) })
    }
}

/// Makes the calling thread's namespace forget all connections. A kernel that tracks none has none.
///
/// # Errors
/// The kernel has no nfnetlink, or refuses since the caller is not root.
pub fn forget_connections() -> io::Result<()> {
    const DELETE: u16 = 1 << 8 | 2;
    absent_is_fine(Socket::open(Protocol::Netfilter)?.request(DELETE, 0, &[0; 4])).map(drop)
}

/// No answers where there is no such object.
fn absent_is_fine(answers: io::Result<Vec<Vec<u8>>>) -> io::Result<Vec<Vec<u8>>> {
    match answers {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
            Ok(vec![])
        }
        answers => answers,
    }
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes integers only.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) } as isize)?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns or closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: &libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as u32;
    // SAFETY: the socket is open, and `value` lives across the call and has `length` bytes, which
    // the kernel only reads.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), length)
    };
    check(done as isize)?;
    Ok(())
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
