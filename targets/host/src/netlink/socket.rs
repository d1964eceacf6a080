//! A netlink socket: dumps, single requests, and notifications of changes.
//!
//! Not here: many changes at a time ([`super::BatchSocket`]), what messages mean.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::{
    Protocol,
    flags::{ACK, DUMP},
    message,
    read::{Message, messages},
};

/// Room for one datagram in bytes; or for a batch of answers, which are far shorter than their
/// share.
pub(super) const BUFFER: usize = 256 << 10;
/// NLM_F_DUMP_INTR: what is dumped changed meanwhile.
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a dump is tried that changes interrupt.
const DUMP_TRIES: u32 = 5;
/// Not in libc: include/uapi/linux/netlink.h.
const NETLINK_GET_STRICT_CHK: i32 = 12;

/// A socket in the network namespace of the thread that opened it; it stays there.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Of the last request.
    pub(super) sequence: u32,
    pub(super) buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket that asks.
    ///
    /// # Errors
    /// EPROTONOSUPPORT where the kernel has no such protocol, and cannot load a module for it;
    /// EMFILE and the like where there are no descriptors left.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        Self::subscribed(protocol, 0)
    }

    /// Opens a socket that also hears of changes in `groups`, a bit mask (RTMGRP_*).
    ///
    /// # Errors
    /// As [`Socket::open`]; EPERM where the kernel does not tell this user of such changes.
    pub fn subscribed(protocol: Protocol, groups: u32) -> io::Result<Self> {
        // SAFETY: socket(2) takes no memory.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.number())
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, so nobody else closes it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl consists of integers, for which zero is a value; port 0 lets the
        // kernel choose one.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups;
        // SAFETY: the address lives across the call, which reads no more than its size.
        let done = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks the kernel to take a dump's request literally: then a dump of routes is one of routes,
    /// without the exceptions that it keeps beside them. Kernels before 4.20 do not know that, and
    /// go on without; the answers tell the two apart as well.
    #[must_use]
    pub fn strict(self) -> Self {
        let _ = self.set(libc::SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
        self
    }

    /// Dumps objects of one kind: what `each` makes of the body of every answer. Repeated from the
    /// start where a change interrupted it, so `each` only makes values.
    ///
    /// # Errors
    /// The kernel's error number where it refuses the request or fails meanwhile; an error without
    /// a number where changes interrupted every attempt; or the socket fails, with ENOBUFS where
    /// notifications overran it.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        each: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            self.send_one(kind, DUMP, body)?;
            let (mut found, mut whole) = (Vec::new(), true);
            self.answers(|message| {
                whole &= message.flags & DUMP_INTERRUPTED == 0;
                let end = message.answer();
                if end.is_none() {
                    found.extend(each(message.body));
                }
                end.map(|end| end.map(drop).map_err(Into::into))
            })?;
            if whole {
                return Ok(found);
            }
        }
        Err(io::Error::other("the kernel's list kept changing while it was read"))
    }

    /// Asks for one object: what `read` makes of the body of the one answer. None also where the
    /// kernel only acknowledges.
    ///
    /// # Errors
    /// The kernel's error number where it refuses, or the socket fails.
    pub fn ask<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        self.send_one(kind, 0, body)?;
        self.answers(|message| {
            Some(match message.answer() {
                Some(end) => end.map(|_| None).map_err(Into::into),
                None => Ok(read(message.body)),
            })
        })
    }

    /// Sends one request, which may change something, and waits until the kernel has acknowledged
    /// it. `flags` are those of [`super::flags`]. Returns the bodies of what came before the
    /// acknowledgement.
    ///
    /// # Errors
    /// The kernel's error number where it refuses, or the socket fails; then the change may have
    /// been made.
    pub fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send_one(kind, flags | ACK, body)?;
        let mut bodies = Vec::new();
        self.answers(|message| {
            let end = message.answer();
            if end.is_none() {
                bodies.push(message.body.to_vec());
            }
            end.map(|end| end.map(drop).map_err(Into::into))
        })?;
        Ok(bodies)
    }

    /// Takes away everything that has been notified so far, without waiting. True where there was
    /// something of a kind that `concerns`, or where the kernel says that some was lost (ENOBUFS).
    pub fn drain(&mut self, concerns: impl Fn(u16) -> bool) -> bool {
        let mut any = false;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(length) => {
                    any |= messages(&self.buffer[..length]).any(|message| concerns(message.kind))
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }

    pub(super) fn set(&self, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
        let (fd, length) = (self.as_raw_fd(), size_of_val(&value) as libc::socklen_t);
        // SAFETY: `value` lives across the call, which reads no more than its size.
        let done =
            unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn send_one(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(super::HEADER + body.len());
        message(&mut bytes, kind, flags, self.sequence, |to| to.extend(body));
        self.send(&bytes)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of `bytes`, which the call only reads.
        let sent = unsafe { libc::send(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(sent) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(sent) if sent != bytes.len() => Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Reads answers to the last request until `each` says how it ended. Others are left over from
    /// a request that failed half-way, or notifications.
    fn answers<T>(
        &mut self,
        mut each: impl FnMut(Message<'_>) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        loop {
            let length = self.receive(0)?;
            for message in messages(&self.buffer[..length]).filter(|m| m.sequence == self.sequence)
            {
                if let Some(end) = each(message) {
                    return end;
                }
            }
        }
    }

    /// The length of the next datagram, which is in the buffer then.
    fn receive(&mut self, flags: libc::c_int) -> io::Result<usize> {
        loop {
            let (fd, length) = (self.as_raw_fd(), self.buffer.len());
            // SAFETY: the call writes no more than the buffer's length to it, and nobody else has
            // the buffer meanwhile.
            let got = unsafe { libc::recv(fd, self.buffer.as_mut_ptr().cast(), length, flags) };
            if let Ok(got) = usize::try_from(got) {
                return Ok(got);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For libc::poll and the like: readable where there is something to [`Socket::drain`].
impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::u32_at, *};

    /// The body of a request about the link with this index (struct ifinfomsg).
    fn about(index: u32) -> Vec<u8> {
        let mut body = vec![0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body
    }

    #[test]
    fn a_dump_of_links_has_the_loopback_interface() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        for _ in 0..2 {
            let links = socket.dump(libc::RTM_GETLINK, &about(0), |body| u32_at(body, 4)).unwrap();
            assert!(links.contains(&1), "{links:?}");
        }
    }

    #[test]
    fn a_request_gives_what_came_before_its_acknowledgement_and_a_question_the_one_answer() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let bodies = socket.request(libc::RTM_GETLINK, 0, &about(1)).unwrap();
        assert_eq!(bodies.iter().map(|body| u32_at(body, 4)).collect::<Vec<_>>(), [Some(1)]);
        assert_eq!(
            socket.ask(libc::RTM_GETLINK, &about(1), |body| u32_at(body, 4)).unwrap(),
            Some(1)
        );
        let gone = about(u32::MAX >> 1);
        let error = socket.request(libc::RTM_GETLINK, 0, &gone).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(
            socket.ask(libc::RTM_GETLINK, &gone, |_| Some(())).unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
        // What is left over from the refusal does not answer the next question.
        assert_eq!(
            socket.ask(libc::RTM_GETLINK, &about(1), |body| u32_at(body, 4)).unwrap(),
            Some(1)
        );
    }

    #[test]
    fn a_family_that_is_not_there_is_an_error() {
        let error =
            Socket::open(Protocol::Generic).unwrap().request(0xfff0, 0, &[0; 4]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn nothing_is_drained_where_nothing_changed() {
        assert!(!Socket::open(Protocol::Route).unwrap().drain(|_| true));
    }
}
