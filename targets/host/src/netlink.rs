//! Netlink as far as netpolc needs it: dumps, single requests and change notifications, with an
//! iterator over attributes. A handful of fixed message kinds is read, so a few structures by hand are
//! less than any crate that knows all of them.
//!
//! Not here: what the messages mean. Sources: netlink(7), include/uapi/linux/netlink.h.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// The protocols in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// Sockets.
    SockDiag,
    /// conntrack.
    Netfilter,
}

impl Protocol {
    fn number(self) -> i32 {
        match self {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::SockDiag => 4,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
        }
    }
}

/// Length of a message header in bytes.
const HEADER: usize = 16;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a dump is repeated that the kernel says was interrupted by a change.
const DUMP_TRIES: u32 = 5;

/// A socket in the network namespace of the thread that opened it; it stays there.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket that asks.
    ///
    /// # Errors
    /// The kernel's: EPROTONOSUPPORT where it has no such protocol.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        Self::subscribed(protocol, 0)
    }

    /// Opens a socket that also hears of changes in `groups` (a bit mask, RTMGRP_*).
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn subscribed(protocol: Protocol, groups: u32) -> io::Result<Self> {
        // SAFETY: no memory is passed; the descriptor is owned below.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.number()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl may be all zeros.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups;
        // SAFETY: the address and its length are those of one structure that lives across the call.
        let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; 256 << 10] })
    }

    /// Asks the kernel to take a dump's request literally: then a dump of routes is one of routes, without the
    /// exceptions that it keeps beside them. Kernels before 4.20 do not know that; the answers tell them apart, too.
    pub fn strict(self) -> Self {
        const NETLINK_GET_STRICT_CHK: i32 = 12;
        let on: libc::c_int = 1;
        // SAFETY: pointer and length are those of `on`. A refusal changes nothing.
        let _ = unsafe {
            libc::setsockopt(
                self.raw(),
                libc::SOL_NETLINK,
                NETLINK_GET_STRICT_CHK,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        self
    }

    /// Dumps objects of one kind: `each` gets the type and the body of every answer. Repeated from the
    /// start where the kernel says that a change interrupted it, after `restart`.
    ///
    /// # Errors
    /// The kernel's answer, or that of a system call.
    pub fn dump<T>(&mut self, kind: u16, body: &[u8], each: impl Fn(&mut Vec<T>, u16, &[u8])) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            self.send(kind, DUMP, body)?;
            if self.receive(|kind, body| each(&mut found, kind, body))? {
                return Ok(found);
            }
        }
        Err(io::Error::other("the kernel's list kept changing while it was read"))
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// As [`Socket::dump`].
    pub fn ask<T>(&mut self, kind: u16, body: &[u8], read: impl Fn(u16, &[u8]) -> Option<T>) -> io::Result<Option<T>> {
        self.send(kind, 0, body)?;
        loop {
            let length = self.receive_datagram()?;
            for (kind, flags, sequence, body) in messages(&self.buffer[..length]) {
                let _ = flags;
                if sequence == self.sequence {
                    return match error_in(kind, body) {
                        Some(error) => error.map(|()| None),
                        None => Ok(read(kind, body)),
                    };
                }
            }
        }
    }

    /// For [`libc::poll`] and the like.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Takes everything away that has been notified so far, without waiting. True where there was
    /// something of a kind that `concerns`, an overrun (ENOBUFS: some got lost) included.
    pub fn drain(&mut self, concerns: impl Fn(u16) -> bool) -> bool {
        let mut any = false;
        loop {
            // SAFETY: the buffer is ours and its length is given.
            let got = unsafe {
                libc::recv(self.raw(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), libc::MSG_DONTWAIT)
            };
            if got >= 0 {
                any |= messages(&self.buffer[..got as usize]).any(|(kind, ..)| concerns(kind));
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENOBUFS) => any = true,
                Some(libc::EINTR) => {}
                _ => return any,
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        // SAFETY: pointer and length are those of `message`.
        let sent = unsafe { libc::send(self.raw(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads the answers to the last dump; false where it was interrupted by a change.
    fn receive(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut whole = true;
        loop {
            let length = self.receive_datagram()?;
            for (kind, flags, sequence, body) in messages(&self.buffer[..length]) {
                if sequence != self.sequence {
                    continue;
                }
                whole &= flags & DUMP_INTERRUPTED == 0;
                if kind == DONE {
                    // The body is an errno where the dump itself failed.
                    let code = body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                    return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(whole) };
                }
                match error_in(kind, body) {
                    Some(error) => return error.map(|()| whole),
                    None => each(kind, body),
                }
            }
        }
    }

    fn receive_datagram(&mut self) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer is ours and its length is given.
            let got = unsafe { libc::recv(self.raw(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) };
            if got >= 0 {
                return Ok(got as usize);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// The result that an error message carries (errno 0 is an acknowledgement), or None for other kinds.
fn error_in(kind: u16, body: &[u8]) -> Option<io::Result<()>> {
    if kind != ERROR {
        return None;
    }
    let code = body.get(..4).map_or(libc::EIO, |b| -i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) })
}

/// (type, flags, sequence, body) of each message in a datagram; a truncated one ends it.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = (u16_at(bytes, 4)?, u16_at(bytes, 6)?, u32_at(bytes, 8)?, &bytes[HEADER..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(message)
    })
}

/// (type, value) of each attribute; the type without the flags for nesting and byte order. A truncated
/// one ends the list.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16_at(bytes, 0)? as usize;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let attribute = (u16_at(bytes, 2)? & 0x3fff, &bytes[4..length]);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(attribute)
    })
}

/// The first attribute of type `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// An attribute, padded.
pub fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// A 16-bit number in the host's byte order at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// A 32-bit number in the host's byte order at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// A 16-bit number in network byte order at `offset`.
pub fn be16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    u16_at(bytes, offset).map(u16::from_be)
}

/// An address from its bytes: 4 or 16.
pub fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_at_a_truncated_one() {
        let mut bytes = Vec::new();
        put(&mut bytes, 3, b"eth0\0");
        put(&mut bytes, 5 | 0x8000, &7u32.to_ne_bytes());
        bytes.extend([200, 0, 1, 0, 9]);
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (5, &7u32.to_ne_bytes()[..])]);
        assert_eq!(attribute(&bytes, 5), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(attributes(&[4, 0]).count() + attributes(&[0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn a_dump_of_links_has_the_loopback_interface() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let links = socket.dump(libc::RTM_GETLINK, &[0; 16], |to, _, body| to.push(u32_at(body, 4))).unwrap();
        assert!(links.contains(&Some(1)), "{links:?}");
    }
}
