//! Questions to the kernel over netlink: one request, all its answers.
//!
//! Not here: what the messages mean ([`super::link`], [`super::devlink`]), filters ([`crate::netlink`]).
//! Sources: netlink(7), include/uapi/linux/{netlink,genetlink}.h.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Length of a message header in bytes.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// NLM_F_DUMP: all objects instead of one.
pub const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a dump is repeated that the kernel says was interrupted by a change.
const TRIES: u32 = 5;
/// No datagram of a dump is longer (net/netlink/af_netlink.c, netlink_dump).
const LONGEST: usize = 64 << 10;

/// The bodies of all answers to one request, on a socket of its own in the calling thread's network namespace. `flags`
/// is 0 or [`DUMP`].
///
/// # Errors
/// The kernel's answer, or that of a system call: EPROTONOSUPPORT where the kernel has no such protocol.
pub fn ask(protocol: i32, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    // SAFETY: no memory is passed; the descriptor is owned below.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for sequence in 1..=TRIES {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | if flags == 0 { ACK } else { flags }).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        // SAFETY: pointer and length are those of `message`; the first send also binds the socket.
        if unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(answers) = receive(&fd, sequence)? {
            return Ok(answers);
        }
    }
    Err(io::Error::other("the kernel's list kept changing while it was read"))
}

/// None where a change interrupted the dump.
fn receive(fd: &OwnedFd, sequence: u32) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut buffer = vec![0; LONGEST];
    let mut answers = Vec::new();
    let mut whole = true;
    loop {
        // SAFETY: the buffer is ours and its length is given.
        let got = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        let mut rest = &buffer[..got as usize];
        while let Some(length) = u32_at(rest, 0).map(|l| l as usize).filter(|l| (HEADER..=rest.len()).contains(l)) {
            let (kind, flags) = (u16_at(rest, 4).unwrap_or_default(), u16_at(rest, 6).unwrap_or_default());
            let body = &rest[HEADER..length];
            let ours = u32_at(rest, 8) == Some(sequence);
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            if !ours {
                continue;
            }
            whole &= flags & DUMP_INTERRUPTED == 0;
            match kind {
                // Both begin with a negative errno, or 0.
                ERROR | DONE => {
                    let code = u32_at(body, 0).unwrap_or_default() as i32;
                    return match code {
                        0.. => Ok(whole.then_some(answers)),
                        _ => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => answers.push(body.to_vec()),
            }
        }
    }
}

/// The value of the first attribute of type `kind`, behind a fixed header of `skip` bytes.
pub fn attribute(body: &[u8], skip: usize, kind: u16) -> Option<&[u8]> {
    let mut rest = body.get(skip..)?;
    while let Some(length) = u16_at(rest, 0).map(usize::from).filter(|l| (4..=rest.len()).contains(l)) {
        // The two highest bits say how it is encoded.
        if u16_at(rest, 2)? & 0x3fff == kind {
            return Some(&rest[4..length]);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    None
}

/// An attribute that is text, without the zero byte at its end.
pub fn text(body: &[u8], skip: usize, kind: u16) -> Option<String> {
    let value = attribute(body, skip, kind)?;
    Some(String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned())
}

/// Appends an attribute that is text.
pub fn put_text(to: &mut Vec<u8>, kind: u16, value: &str) {
    to.extend(((4 + value.len() + 1) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value.bytes().chain([0]));
    to.resize(to.len().next_multiple_of(4), 0);
}

/// A 16-bit number in the host's byte order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// A 32-bit number in the host's byte order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_a_header_and_end_at_a_truncated_one() {
        let mut bytes = vec![9; 4];
        put_text(&mut bytes, 3, "eth0");
        put_text(&mut bytes, 5 | 0x8000, "x");
        bytes.extend([200, 0, 7, 0]);
        assert_eq!(text(&bytes, 4, 3).as_deref(), Some("eth0"));
        assert_eq!(text(&bytes, 4, 5).as_deref(), Some("x"));
        assert_eq!((text(&bytes, 4, 7), text(&bytes, 99, 3)), (None, None));
    }

    #[test]
    fn the_kernel_answers_or_says_why_not() {
        assert!(!ask(libc::NETLINK_ROUTE, libc::RTM_GETLINK, DUMP, &[0; 16]).unwrap().is_empty());
        let error = ask(libc::NETLINK_ROUTE, 0xfff0, 0, &[0; 16]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
