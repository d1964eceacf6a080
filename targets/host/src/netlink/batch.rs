//! Many messages in one system call, with an answer for each.
//!
//! Whoever puts thousands of filters into the kernel needs one send and one receive for every 32 of
//! them instead of two system calls for each, and the words of kernel and driver where one is
//! refused. Only this socket has the larger buffers in the kernel that it takes. Not here: single
//! requests ([`super::Socket::request`]), what the messages say.

use std::{io, os::fd::AsRawFd};

use super::{Done, Protocol, Refusal, Socket, flags::ACK, message, read::messages, socket::BUFFER};

/// Messages in one send: more gains nothing, and their answers must fit the receive buffer.
pub const BATCH: usize = 32;
/// Bytes of the buffer for one answer.
const SHARE: usize = BUFFER / BATCH;
/// The kernel's buffers for this socket, in bytes.
const RECEIVE: libc::c_int = 4 << 20;
const SEND: libc::c_int = 1 << 20;

/// A socket for rtnetlink's changes, in the network namespace of the thread that opened it; it
/// stays there.
#[derive(Debug)]
pub struct BatchSocket {
    socket: Socket,
}

impl BatchSocket {
    /// Opens a socket whose refusals carry the kernel's text.
    ///
    /// # Errors
    /// As [`Socket::open`]; ENOPROTOOPT from kernels before 4.12, which have no extended texts.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(Protocol::Route)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, SEND)?;
        Ok(BatchSocket { socket })
    }

    /// Sends `count` messages, [`BATCH`] at a time, and gives each one's answer. `write` appends
    /// message `i` with the sequence number that it is given; the message must ask for an
    /// acknowledgement ([`ACK`]). A message that is refused does not keep the others from being
    /// done.
    ///
    /// # Errors
    /// The socket fails: some messages may have been done then.
    pub fn batch(
        &mut self,
        count: usize,
        mut write: impl FnMut(usize, u32, &mut Vec<u8>),
    ) -> io::Result<Vec<Result<Done, Refusal>>> {
        let mut answers: Vec<Option<Result<Done, Refusal>>> = Vec::with_capacity(count);
        let mut bytes = Vec::with_capacity(BATCH * 512);
        while answers.len() < count {
            let (begin, many) = (answers.len(), BATCH.min(count - answers.len()));
            let first = self.socket.sequence.wrapping_add(1);
            bytes.clear();
            for i in 0..many {
                self.socket.sequence = self.socket.sequence.wrapping_add(1);
                write(begin + i, self.socket.sequence, &mut bytes);
            }
            self.socket.send(&bytes)?;
            answers.resize(begin + many, None);
            let mut echoes = Vec::new();
            let mut open = many;
            while open > 0 {
                let lengths = self.receive_all()?;
                let datagrams = self.socket.buffer.chunks(SHARE).zip(lengths);
                for message in datagrams.flat_map(|(share, length)| messages(&share[..length])) {
                    // What has another number is left over from a batch that failed half-way.
                    let at = message.sequence.wrapping_sub(first) as usize;
                    let Some(answer) =
                        answers[begin..].get_mut(at).filter(|answer| answer.is_none())
                    else {
                        continue;
                    };
                    match message.answer() {
                        Some(done) => {
                            *answer = Some(done);
                            open -= 1;
                        }
                        None => echoes.push((begin + at, message.body.to_vec())),
                    }
                }
            }
            for (at, echo) in echoes {
                if let Some(Ok(done)) = &mut answers[at] {
                    done.echo = Some(echo);
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sends a single request, as [`Socket::request`] does, but with the kernel's words where it is
    /// refused.
    ///
    /// # Errors
    /// The outer error is the socket's, the inner one the kernel's refusal.
    pub fn one(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Result<(), Refusal>> {
        let mut answers = self.batch(1, |_, sequence, to| {
            message(to, kind, flags | ACK, sequence, |to| to.extend(body));
        })?;
        Ok(answers.pop().map_or(Ok(()), |answer| answer.map(drop)))
    }

    /// Dumps objects: see [`Socket::dump`].
    ///
    /// # Errors
    /// As [`Socket::dump`].
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        each: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.socket.dump(kind, body, each)
    }

    /// Receives all datagrams that are there, at least one, in one call instead of one for each
    /// answer. Returns a length for each share of the buffer.
    fn receive_all(&mut self) -> io::Result<[usize; BATCH]> {
        let fd = self.socket.as_raw_fd();
        let mut shares: Vec<libc::iovec> = self
            .socket
            .buffer
            .chunks_mut(SHARE)
            .map(|share| libc::iovec { iov_base: share.as_mut_ptr().cast(), iov_len: share.len() })
            .collect();
        // SAFETY: mmsghdr consists of integers and pointers; all zeros is a header without name,
        // control data and vectors.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (header, share) in headers.iter_mut().zip(&mut shares) {
            header.msg_hdr.msg_iov = share;
            header.msg_hdr.msg_iovlen = 1;
        }
        loop {
            let flags = libc::MSG_WAITFORONE as _;
            // SAFETY: there are BATCH headers. Each points to one vector in `shares`, and each
            // vector to its own part of the buffer with that part's length; all of them outlive the
            // call, and the buffer is borrowed exclusively until it returns. No timeout is passed.
            let got = unsafe {
                libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
            };
            if let Ok(got) = usize::try_from(got) {
                // A datagram's length is at most its share's: MSG_TRUNC is not asked for.
                return Ok(std::array::from_fn(|at| {
                    if at < got { headers[at].msg_len as usize } else { 0 }
                }));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::u32_at, *};

    /// More than one send, of which every third message is refused.
    #[test]
    fn each_message_has_its_own_answer() {
        let mut socket = BatchSocket::open().unwrap();
        let count = 2 * BATCH + 5;
        let answers = socket.batch(count, |i, sequence, to| {
            let index: u32 = if i % 3 == 0 { u32::MAX >> 1 } else { 1 };
            message(to, libc::RTM_GETLINK, ACK, sequence, |to| {
                // struct ifinfomsg: family, pad, type u16, index i32, flags, change
                [0, index, 0, 0].into_iter().for_each(|word: u32| to.extend(word.to_ne_bytes()));
            });
        });
        let answers = answers.unwrap();
        assert_eq!(answers.len(), count);
        for (i, answer) in answers.iter().enumerate() {
            match answer {
                Ok(done) => {
                    assert_ne!(i % 3, 0);
                    assert_eq!(done.echo.as_deref().and_then(|body| u32_at(body, 4)), Some(1));
                }
                Err(refusal) => assert_eq!((i % 3, refusal.errno), (0, libc::ENODEV)),
            }
        }
    }

    #[test]
    fn a_single_request_may_be_refused_and_a_dump_still_works() {
        let mut socket = BatchSocket::open().unwrap();
        // An unknown kind of message.
        let refusal = socket.one(libc::RTM_GETLINK + 0x200, 0, &[0; 16]).unwrap().unwrap_err();
        assert_eq!(refusal.errno, libc::EOPNOTSUPP);
        assert!(
            socket.dump(libc::RTM_GETLINK, &[0; 16], |body| u32_at(body, 4)).unwrap().contains(&1)
        );
    }
}
