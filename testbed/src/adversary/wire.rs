//! Packet sockets that send and receive many frames in one system call (packet(7), sendmmsg(2)).
//!
//! Not here: what is in the frames.

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::AsRawFd,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::interface_index;

/// Frames in one system call.
const BATCH: usize = 64;
/// Longer than any frame that fits an MTU of 1,500 with tags.
const MAX_FRAME: usize = 2048;
/// A socket option of include/uapi/linux/if_packet.h that libc lacks.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// How many bytes may wait to be read.
const BACKLOG: libc::c_int = 64 << 20;

/// A packet socket on one interface: sends raw frames, and sees what arrives (not what it sends
/// itself).
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    buffers: Vec<[u8; MAX_FRAME]>,
}

impl Wire {
    /// Opens a wire on an interface of the calling thread's namespace; any thread may use it later.
    ///
    /// # Errors
    /// The caller has no CAP_NET_RAW, or there is no such interface.
    pub fn open(interface: &str) -> io::Result<Self> {
        let every = u16::to_be(libc::ETH_P_ALL as u16);
        // Of no protocol until it is bound: it must not see other interfaces' frames.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BACKLOG)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BACKLOG)?;
        set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: sockaddr_ll consists of integers only, for which all zeros are valid.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = interface_index(interface)? as i32;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `socket` is open, and `address` lives across the call and has `size` bytes, which
        // the kernel only reads.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Wire { socket, buffers: vec![[0; MAX_FRAME]; BATCH] })
    }

    /// Sends the frames in order, and gives how many the kernel refused (too long for the
    /// interface, or shorter than a header).
    ///
    /// # Errors
    /// The interface is gone or down.
    pub fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let mut refused = 0;
        let mut rest = frames;
        while !rest.is_empty() {
            let mut vectors: Vec<libc::iovec> =
                rest.iter().take(BATCH).map(|f| vector(f.as_ptr(), f.len())).collect();
            let mut messages: Vec<libc::mmsghdr> = vectors.iter_mut().map(message).collect();
            // SAFETY: the socket is open. Each message points to one vector, which points to a
            // slice of `frames`; all of them live across the call, and the kernel only reads the
            // slices.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as u32,
                    0,
                )
            };
            if sent > 0 {
                rest = &rest[sent as usize..];
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EMSGSIZE | libc::EINVAL) => {
                    refused += 1;
                    rest = &rest[1..];
                }
                Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => std::thread::yield_now(),
                _ => return Err(error),
            }
        }
        Ok(refused)
    }

    /// Gives every frame that has arrived to `each`, and how many there were.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut count = 0;
        loop {
            let mut vectors: Vec<libc::iovec> =
                self.buffers.iter_mut().map(|b| vector(b.as_mut_ptr(), MAX_FRAME)).collect();
            let mut messages: Vec<libc::mmsghdr> = vectors.iter_mut().map(message).collect();
            // SAFETY: the socket is open. Each message points to one vector, which points to a
            // buffer of `self` of the length it says; all of them live across the call, and nothing
            // else uses the buffers. There is no timeout to point to.
            let got = unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as u32,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => Ok(count),
                    _ => Err(error),
                };
            }
            let lengths = messages.iter().map(|m| (m.msg_len as usize).min(MAX_FRAME));
            for (buffer, length) in self.buffers.iter().zip(lengths).take(got as usize) {
                each(&buffer[..length]);
            }
            count += got as usize;
            if (got as usize) < BATCH {
                return Ok(count);
            }
        }
    }

    /// Frames that arrived and were lost because nobody read them in time, since the last call.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn lost(&self) -> io::Result<u32> {
        // SAFETY: tpacket_stats consists of integers only, for which all zeros are valid.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut size = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the socket is open, and the kernel writes at most `size` bytes to `stats`; both
        // live across the call.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut size,
            )
        };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(stats.tp_drops) }
    }
}

fn vector(base: *const u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length }
}

fn message(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: mmsghdr consists of integers and raw pointers, for which all zeros are valid: no
    // name, no control data.
    let mut message: libc::mmsghdr = unsafe { zeroed() };
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message
}

fn set(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `socket` is open, and `value` lives across the call and has `size` bytes, which the
    // kernel only reads.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
