//! Building messages and attributes at the end of a buffer.
//!
//! Lengths are filled in when what they count is written. Not here: sending ([`super::Socket`]).

/// NLM_F_REQUEST
const REQUEST: u16 = 0x1;
/// The value consists of attributes.
const NESTED: u16 = 0x8000;

/// Appends a message with a header around its body. `flags` are those of [`super::flags`]; the
/// sequence number comes back with the answers.
pub fn message(
    to: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = to.len();
    to.extend([0; 4]);
    to.extend(kind.to_ne_bytes());
    to.extend((REQUEST | flags).to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    // The sender's port, which the kernel knows.
    to.extend([0; 4]);
    body(to);
    let length = (to.len() - start) as u32;
    to[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute, padded to a multiple of 4 bytes.
pub fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Appends an attribute that is text, with the zero byte that the kernel expects at its end.
pub fn put_text(to: &mut Vec<u8>, kind: u16, value: &str) {
    to.extend(((4 + value.len() + 1) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value.bytes().chain([0]));
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Appends an attribute whose value consists of those that `inside` appends.
pub fn nest(to: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    put(to, kind | NESTED, &[]);
    inside(to);
    let length = (to.len() - start) as u16;
    to[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::{super::attribute, *};

    #[test]
    fn a_nest_is_as_long_as_what_is_in_it() {
        let mut bytes = vec![9; 4];
        nest(&mut bytes, 2, |to| {
            put(to, 1, &[7]);
            nest(to, 3, |to| put_text(to, 4, "veth"));
        });
        put(&mut bytes, 5, &[8]);
        let inside = attribute(&bytes[4..], 2).unwrap();
        assert_eq!(attribute(inside, 1), Some(&[7][..]));
        assert_eq!(attribute(attribute(inside, 3).unwrap(), 4), Some(&b"veth\0"[..]));
        assert_eq!(attribute(&bytes[4..], 5), Some(&[8][..]));
    }
}
