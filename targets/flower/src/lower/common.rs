//! What several lowerings share: constants of chain 0, the index and the name of a family, and the
//! origins of filters that no policy asks for.
//!
//! Not here: how filters are arranged ([`super::representor`], [`super::software`]), what a chain
//! holds ([`super::chains`]).

use netpolc_table::{Origin, Origins, schema::Family};

use crate::filter::Masked;

/// The TCP flags of an opening: SYN without ACK.
pub const OPENING: Masked = Masked { value: 0x02, mask: 0x12 };

/// With fewer chains than this, a NIC judges openings in chain 0 alone.
pub const FEWEST_CHAINS: u32 = 64;

/// The first prio of chain 0 that is used. The one before it belongs to the filter that runs the
/// eBPF programs, where the kernel has no TCX for them.
pub const FIRST_PRIO: u16 = 2;

/// The number of a family in arrays of two: 0 for IPv4, 1 for IPv6.
pub fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// The name of a family as messages have it.
pub fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The origin of an entry or filter that no policy asks for: the API itself or netpolc's semantics
/// does, for this reason.
pub fn implied(reason: &str) -> Origins {
    [Origin::Implied { reason: reason.into() }].into_iter().collect()
}
