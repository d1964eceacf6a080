//! Generic netlink as far as detection needs it: one request and its answers; and attributes of any netlink message.
//!
//! Not here: rtnetlink ([`crate::netlink`]), what the messages mean ([`super::devlink`], [`super::link`]).
//! Sources: netlink(7), include/uapi/linux/{netlink,genetlink}.h.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Length of a message header in bytes.
const HEADER: usize = 16;
const ERROR: u16 = 2;
/// NLM_F_REQUEST and NLM_F_ACK.
const ASK: u16 = 0x5;
/// Longer than any answer here, in bytes.
const LONGEST: usize = 32 << 10;

/// The bodies of all answers to one request of generic netlink, in the calling thread's network namespace.
///
/// # Errors
/// The kernel's answer, or that of a system call: EPROTONOSUPPORT where the kernel has no generic netlink.
pub fn ask(family: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    // SAFETY: no memory is passed; the descriptor is owned below.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(ASK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    // SAFETY: pointer and length are those of `message`.
    if unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = vec![0; LONGEST];
    let mut answers = Vec::new();
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
            let (kind, body) = (u16_at(rest, 4), &rest[HEADER..length]);
            // It begins with a negative errno, or with 0: an acknowledgement, the last answer.
            if kind == Some(ERROR) {
                return match u32_at(body, 0).unwrap_or_default() as i32 {
                    0.. => Ok(answers),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            answers.push(body.to_vec());
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
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
    fn a_family_that_is_not_there_is_an_error() {
        let error = ask(0xfff0, &[0; 4]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
