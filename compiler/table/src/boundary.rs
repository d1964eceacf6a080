//! Addresses at which the answers of a program may change.
//!
//! Not here: ports, and what is asked about these addresses (whoever compares two programs, or a
//! program with policies).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{Program, TableId, schema::Family};

/// First and last address of every prefix that has an entry in a table of remotes, and their outer
/// neighbours. What lies between two of them has one class.
pub fn boundaries(program: &Program) -> BTreeSet<IpAddr> {
    let mut list = BTreeSet::new();
    for family in Family::BOTH {
        let to_ip = |bits: u128| match family {
            Family::V4 => IpAddr::from(Ipv4Addr::from_bits(bits as u32)),
            Family::V6 => IpAddr::from(Ipv6Addr::from_bits(bits)),
        };
        let all = u128::MAX >> (128 - family.bits());
        for key in program.table(TableId::remote(family)).entries.keys() {
            let (value, length) = key.prefix();
            let first = value.get();
            let last = first | all.checked_shr(length.into()).unwrap_or(0);
            list.extend(
                [first, last, first.wrapping_sub(1) & all, last.wrapping_add(1) & all].map(to_ip),
            );
        }
    }
    list
}
