//! Batches of messages with an answer for each, and dumps.
//!
//! Not here: what the messages say.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::{decode, encode};

/// Messages in one send: more gains nothing, and their answers must fit the receive buffer.
pub const BATCH: usize = 32;
/// Receive buffer in bytes: for one datagram of a dump, or for a batch of answers, which are far shorter than their share.
const BUFFER: usize = 256 << 10;
const SHARE: usize = BUFFER / BATCH;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// The answer repeats the request's header only, attributes follow.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const DUMP_TRIES: u32 = 5;
const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;

/// Why the kernel did not do what a message said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*.errno), .text.as_ref().map_or(String::new(), |t| format!(": {t}")))]
pub struct Refusal {
    /// errno, positive.
    pub errno: i32,
    /// The extended text, where kernel or driver gave one.
    pub text: Option<String>,
}

/// What the kernel did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The body of the object's message as it is now, where the request asked for it (NLM_F_ECHO).
    pub echo: Option<Vec<u8>>,
    /// A warning, where there is one.
    pub text: Option<String>,
}

/// A rtnetlink socket in the network namespace of the thread that opened it; it stays there.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no memory is passed; the descriptor is owned below.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let set = |level, option, value: i32| {
            // SAFETY: pointer and length are those of `value`.
            let done = unsafe {
                libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of_val(&value) as u32)
            };
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        set(SOL_NETLINK, NETLINK_CAP_ACK, 1)?;
        set(SOL_NETLINK, NETLINK_EXT_ACK, 1)?;
        set(libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20)?;
        set(libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 20)?;
        Ok(Socket { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends `count` messages, [`BATCH`] at a time, and gives each one's answer. `write` appends message `i` with the
    /// sequence number it is given. A message that is refused does not keep the others from being done.
    ///
    /// # Errors
    /// The socket's; some messages may have been done then.
    pub fn batch(
        &mut self,
        count: usize,
        mut write: impl FnMut(usize, u32, &mut Vec<u8>),
    ) -> io::Result<Vec<Result<Done, Refusal>>> {
        let mut answers: Vec<Option<Result<Done, Refusal>>> = Vec::with_capacity(count);
        let mut bytes = Vec::with_capacity(BATCH * 512);
        while answers.len() < count {
            let (begin, many) = (answers.len(), BATCH.min(count - answers.len()));
            let first = self.sequence.wrapping_add(1);
            bytes.clear();
            for i in 0..many {
                self.sequence = self.sequence.wrapping_add(1);
                write(begin + i, self.sequence, &mut bytes);
            }
            self.send(&bytes)?;
            answers.resize(begin + many, None);
            let mut echoes = Vec::new();
            let mut open = many;
            while open > 0 {
                let lengths = self.receive_all()?;
                let datagrams = self.buffer.chunks(SHARE).zip(lengths).map(|(share, length)| &share[..length]);
                for (kind, flags, sequence, body) in datagrams.flat_map(messages) {
                    let at = sequence.wrapping_sub(first) as usize;
                    let Some(answer) = answers.get_mut(begin + at).filter(|a| at < many && a.is_none()) else {
                        continue;
                    };
                    if kind == ERROR {
                        *answer = Some(answer_of(flags, body));
                        open -= 1;
                    } else {
                        echoes.push((begin + at, body.to_vec()));
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

    /// One message without a filter: a qdisc, for example.
    ///
    /// # Errors
    /// The socket's, or the refusal.
    pub fn one(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Result<(), Refusal>> {
        let mut answers = self.batch(1, |_, sequence, to| {
            encode::message(to, kind, flags, sequence, |to| to.extend(body));
        })?;
        Ok(answers.remove(0).map(drop))
    }

    /// Dumps objects: `each` gets the body of every answer. Repeated from the start where a change interrupted it, so
    /// `each` makes values and the list is given at the end.
    ///
    /// # Errors
    /// The kernel's answer or the socket's.
    pub fn dump<T>(&mut self, kind: u16, body: &[u8], each: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        'again: for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            encode::message(&mut bytes, kind, DUMP, self.sequence, |to| to.extend(body));
            self.send(&bytes)?;
            let (mut found, mut whole) = (Vec::new(), true);
            loop {
                let length = self.receive()?;
                for (kind, flags, sequence, body) in messages(&self.buffer[..length]) {
                    if sequence != self.sequence {
                        continue;
                    }
                    whole &= flags & DUMP_INTERRUPTED == 0;
                    match kind {
                        DONE | ERROR => match decode::u32_of(body).unwrap_or(0) as i32 {
                            0.. if whole => return Ok(found),
                            0.. => continue 'again,
                            code => return Err(io::Error::from_raw_os_error(-code)),
                        },
                        _ => found.extend(each(body)),
                    }
                }
            }
        }
        Err(io::Error::other("the kernel's list kept changing while it was read"))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of `bytes`.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match sent {
            sent if sent < 0 => Err(io::Error::last_os_error()),
            sent if sent as usize != bytes.len() => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    /// All datagrams that are there, at least one: one call instead of one for each answer. A length for each share of the
    /// buffer.
    fn receive_all(&mut self) -> io::Result<[usize; BATCH]> {
        let mut shares: Vec<libc::iovec> = self
            .buffer
            .chunks_mut(SHARE)
            .map(|share| libc::iovec { iov_base: share.as_mut_ptr().cast(), iov_len: share.len() })
            .collect();
        // SAFETY: all zeros is a header without name, control data and vectors.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (header, share) in headers.iter_mut().zip(&mut shares) {
            header.msg_hdr.msg_iov = share;
            header.msg_hdr.msg_iovlen = 1;
        }
        loop {
            let (fd, flags) = (self.fd.as_raw_fd(), libc::MSG_WAITFORONE as _);
            // SAFETY: the headers point to `shares`, which point into the buffer with their lengths; all outlive the call.
            let got = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut()) };
            if got >= 0 {
                let length = |at: usize| if at < got as usize { headers[at].msg_len as usize } else { 0 };
                return Ok(std::array::from_fn(length));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer is ours and its length is given.
            let got = unsafe { libc::recv(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) };
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

fn answer_of(flags: u16, body: &[u8]) -> Result<Done, Refusal> {
    let code = decode::u32_of(body).map_or(-libc::EIO, |c| c as i32);
    if code == 0 && flags & ACK_TLVS == 0 {
        return Ok(Done::default());
    }
    // The code, the request's header, the request's body unless capped; then attributes, NLMSGERR_ATTR_MSG among them.
    let request = body.get(4..).and_then(decode::u32_of).unwrap_or(0) as usize;
    let skip = 4 + if flags & CAPPED != 0 || code == 0 { HEADER } else { request.next_multiple_of(4) };
    let text = body.get(skip..).filter(|_| flags & ACK_TLVS != 0).and_then(|a| decode::get(a, 1));
    let text = text.map(|t| String::from_utf8_lossy(t.strip_suffix(b"\0").unwrap_or(t)).into_owned());
    if code == 0 { Ok(Done { echo: None, text }) } else { Err(Refusal { errno: -code, text }) }
}

/// (type, flags, sequence, body) of each message in a datagram; a truncated one ends it.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let number = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let length = decode::u32_of(bytes)? as usize;
        let message = (number(4)?, number(6)?, decode::u32_of(bytes.get(8..)?)?, bytes.get(HEADER..length)?);
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(message)
    })
}
