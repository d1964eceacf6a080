//! Prefixes of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netpolc_table::schema::Family;

/// A prefix: family, bits (host bits zero), length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix {
    pub(crate) family: Family,
    pub(crate) bits: u128,
    pub(crate) length: u8,
}

impl Prefix {
    pub(crate) fn of(net: IpNetwork) -> Self {
        let family = Family::of(net.ip());
        let bits = match net.ip() {
            IpAddr::V4(a) => u128::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits(),
        };
        Self { family, bits, length: family.bits() }.shortened(net.prefix())
    }

    /// The prefix of this address alone.
    pub(crate) fn address(address: IpAddr) -> Self {
        Self::of(IpNetwork::from(address))
    }

    pub(crate) fn is_address(self) -> bool {
        self.length == self.family.bits()
    }

    /// The prefix of this length that covers it.
    pub(crate) fn shortened(self, length: u8) -> Self {
        let host = self.family.bits() - length;
        // A shift by all 128 bits would overflow.
        let bits = if host == 128 { 0 } else { self.bits >> host << host };
        Self { bits, length, ..self }
    }

    /// The last address in it.
    pub(crate) fn last(self) -> u128 {
        let host = self.family.bits() - self.length;
        self.bits | if host == 128 { u128::MAX } else { (1 << host) - 1 }
    }

    /// Its first address.
    pub(crate) fn to_ip(self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from_bits(self.bits as u32).into(),
            Family::V6 => Ipv6Addr::from_bits(self.bits).into(),
        }
    }
}
