//! Random bytes for everything that reads messages: nothing panics, and every list ends.
//!
//! The bytes are half noise and half attributes in attributes whose lengths are mostly right, so
//! that they get deep into the readers.

use super::{
    HEADER, address, attributes, be16_at,
    read::{Message, messages},
    text, u16_at, u32_at,
};
use crate::{conntrack, links, routes, sockets, switch};

/// xorshift64*, from a fixed seed: a failure can be repeated.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        self.draw() as usize % bound
    }

    fn noise(&mut self, longest: usize) -> Vec<u8> {
        (0..self.below(longest + 1)).map(|_| self.draw() as u8).collect()
    }

    /// A length that counts `right` bytes, or one that is wrong.
    fn length(&mut self, right: usize) -> usize {
        match self.below(8) {
            0 => self.draw() as usize,
            1 => right.wrapping_add(self.below(9)).wrapping_sub(4),
            _ => right,
        }
    }

    fn attributes(&mut self, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(6) {
            let value = if depth == 0 || self.below(2) == 0 {
                self.noise(20)
            } else {
                self.attributes(depth - 1)
            };
            bytes.extend((self.length(4 + value.len()) as u16).to_ne_bytes());
            let flags = [0, 0x8000, 0x4000][self.below(3)];
            bytes.extend((self.below(60) as u16 | flags).to_ne_bytes());
            bytes.extend(value);
            if self.below(10) > 0 {
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
        bytes
    }

    /// Attributes behind a fixed header of any length, or noise.
    fn body(&mut self) -> Vec<u8> {
        let longest = [32, 300][self.below(2)];
        let mut bytes = self.noise(longest);
        if self.below(3) > 0 {
            bytes.truncate([0, 4, 8, 12, 16, 20][self.below(6)]);
            bytes.extend(self.attributes(3));
        }
        bytes
    }

    fn datagram(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(5) {
            let body = self.body();
            bytes.extend((self.length(HEADER + body.len()) as u32).to_ne_bytes());
            bytes.extend((self.below(5) as u16).to_ne_bytes());
            bytes.extend((self.draw() as u16).to_ne_bytes());
            bytes.extend(self.noise(8));
            bytes.extend(body);
        }
        bytes
    }
}

/// Each list is no longer than its shortest members allow.
fn walk(bytes: &[u8], depth: usize) {
    let mut count = 0;
    for (kind, value) in attributes(bytes) {
        count += 1;
        assert!(kind < 1 << 14 && value.len() + 4 <= bytes.len());
        let _ =
            (text(value), address(value), u16_at(value, 0), u32_at(value, 1), be16_at(value, 2));
        if depth > 0 {
            walk(value, depth - 1);
        }
    }
    assert!(count <= bytes.len().div_ceil(4));
}

#[test]
fn readers_end_and_never_panic_on_random_bytes() {
    let mut random = Random(0x6e65_7470_6f6c_6331);
    let (mut answers, mut objects) = (0, 0);
    for _ in 0..60_000 {
        let datagram = random.datagram();
        let found: Vec<Message<'_>> = messages(&datagram).collect();
        assert!(found.len() <= datagram.len() / HEADER);
        answers += found.iter().filter(|message| message.answer().is_some()).count();
        let body = random.body();
        for body in found.iter().map(|message| message.body).chain([&body[..]]) {
            walk(body, 4);
            objects += usize::from(links::link(body).is_some())
                + usize::from(links::assigned(body).is_some());
            objects += usize::from(switch::neighbour(body).is_some())
                + usize::from(switch::uplink(body).is_some());
            objects += usize::from(routes::host(body).is_some())
                + usize::from(sockets::seen(body).is_some());
            objects += usize::from(conntrack::tracked(body).is_some());
        }
    }
    // The bytes are good enough to get through now and then.
    assert!(answers > 1000 && objects > 1000, "{answers} answers, {objects} objects");
}
