//! Reading: the messages in a datagram, the attributes in a message, the numbers in an attribute.
//!
//! Everything is borrowed, and nothing is believed: a length that does not fit what is there ends
//! the list. Not here: what the kernel answered ([`super::Refusal`]).

use std::net::IpAddr;

use super::HEADER;

/// A message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    /// That of the request which it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages of a datagram; a truncated one ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = after(bytes, length);
        Some(message)
    })
}

/// Type and value of each attribute; the type without the two flags that say how the value is
/// encoded. A truncated attribute ends the list.
///
/// ```
/// use netpolc_host::netlink::{attributes, put, put_text};
///
/// let mut bytes = Vec::new();
/// put_text(&mut bytes, 3, "eth0");
/// put(&mut bytes, 4, &1500u32.to_ne_bytes());
/// let found: Vec<_> = attributes(&bytes).collect();
/// assert_eq!(found, [(3, &b"eth0\0"[..]), (4, &1500u32.to_ne_bytes()[..])]);
/// ```
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attribute = (u16_at(bytes, 2)? & 0x3fff, bytes.get(4..length)?);
        bytes = after(bytes, length);
        Some(attribute)
    })
}

/// The value of the first attribute of type `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// What follows `length` bytes and their padding.
fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(4)..).unwrap_or_default()
}

/// A value that is text, without the zero byte at its end.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}

/// A 16-bit number in the host's byte order at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(array_at(bytes, offset)?))
}

/// A 32-bit number in the host's byte order at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(array_at(bytes, offset)?))
}

/// A 16-bit number in network byte order at `offset`.
pub fn be16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array_at(bytes, offset)?))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// An address from its bytes, of which there are 4 or 16.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{message, put, put_text},
        *,
    };

    #[test]
    fn attributes_end_at_a_truncated_one() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, 3, "eth0");
        put(&mut bytes, 5 | 0x8000, &7u32.to_ne_bytes());
        bytes.extend([200, 0, 1, 0, 9]);
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (5, &7u32.to_ne_bytes()[..])]);
        assert_eq!(attribute(&bytes, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(&bytes, 5), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(attribute(&bytes, 1), None);
        // The last attribute of a message may lack its padding.
        assert_eq!(attributes(&[5, 0, 1, 0, 9]).collect::<Vec<_>>(), [(1, &[9][..])]);
        assert_eq!(attributes(&[4, 0]).count() + attributes(&[0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn messages_end_at_a_truncated_one() {
        let mut bytes = Vec::new();
        message(&mut bytes, 16, 0x300, 7, |to| to.extend([1, 2, 3]));
        bytes.push(0);
        message(&mut bytes, 17, 0, 8, |_| {});
        bytes.extend([20, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let found: Vec<_> = messages(&bytes).collect();
        let first = Message { kind: 16, flags: 0x301, sequence: 7, body: &[1, 2, 3] };
        assert_eq!(found, [first, Message { kind: 17, flags: 1, sequence: 8, body: &[] }]);
    }

    #[test]
    fn numbers_beyond_the_end_are_none() {
        assert_eq!((u16_at(&[1, 0], 1), u32_at(&[0; 4], usize::MAX)), (None, None));
        assert_eq!(be16_at(&[0, 0x12, 0x34], 1), Some(0x1234));
        assert_eq!((address(&[10, 0, 0, 1]), address(&[0; 5])), (Some([10, 0, 0, 1].into()), None));
    }
}
