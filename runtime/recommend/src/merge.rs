//! Many addresses as few blocks, and many ports as few ranges, for rules that people can read.
//!
//! What is merged permits more than was seen; whoever asks is told so. Not here: how many are too
//! many.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use netpolc_policy::IpFamily;

/// The widest blocks that addresses are merged into: beyond them it is rather everybody.
const WIDEST: [u8; 2] = [16, 48];

/// The block of one address.
pub(crate) fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// Blocks for these addresses, each with the number of them in it: themselves where they are at
/// most `most`, else wider ones of which none is `taboo`. None where that takes too wide ones.
pub(crate) fn blocks(
    addresses: &BTreeSet<IpAddr>,
    most: usize,
    taboo: &dyn Fn(&IpNetwork) -> bool,
) -> Option<BTreeMap<IpNetwork, usize>> {
    if addresses.len() <= most {
        return Some(addresses.iter().map(|address| (single(*address), 1)).collect());
    }
    let of = |family: IpFamily| -> BTreeSet<IpAddr> {
        let all = addresses.iter().copied();
        all.filter(|address| IpFamily::of(*address) == family).collect()
    };
    // Each family gets its part of what there may be.
    let [v4, v6] = IpFamily::BOTH.map(of);
    let part = most * v4.len() / addresses.len();
    let v4 = merged(&v4, part.clamp(1, most), IpFamily::V4, taboo)?;
    let v6 = merged(&v6, (most - part.min(most)).max(1), IpFamily::V6, taboo)?;
    Some(v4.into_iter().chain(v6).collect())
}

fn merged(
    addresses: &BTreeSet<IpAddr>,
    most: usize,
    family: IpFamily,
    taboo: &dyn Fn(&IpNetwork) -> bool,
) -> Option<BTreeMap<IpNetwork, usize>> {
    let bits = if family == IpFamily::V4 { 32 } else { 128 };
    let widest = WIDEST[family as usize];
    (widest..=bits).rev().find_map(|length| {
        let mut groups: BTreeMap<IpNetwork, BTreeSet<IpAddr>> = BTreeMap::new();
        for address in addresses {
            groups.entry(block(*address, length)?).or_default().insert(*address);
            if groups.len() > most {
                return None;
            }
        }
        // No wider than what it stands for.
        let tight = groups.values().map(|members| (tight(members), members.len()));
        let found: BTreeMap<IpNetwork, usize> = tight.collect();
        (!found.keys().any(taboo)).then_some(found)
    })
}

/// The block of this length that has the address.
fn block(address: IpAddr, length: u8) -> Option<IpNetwork> {
    let network = IpNetwork::new(address, length).ok()?;
    IpNetwork::new(network.network(), length).ok()
}

/// The smallest block that has all of these.
fn tight(addresses: &BTreeSet<IpAddr>) -> IpNetwork {
    let (Some(first), Some(last)) = (addresses.first(), addresses.last()) else {
        unreachable!("a group has a member")
    };
    let same = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    block(*first, same as u8).unwrap_or_else(|| single(*first))
}

/// Ranges for these ports: at most `most`, and as narrow as that allows. Three in a row are one
/// range in any case.
pub(crate) fn ranges(ports: &BTreeSet<u16>, most: usize) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if u32::from(*last) + 1 == u32::from(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let split = ranges.iter().flat_map(|&(first, last)| match last - first {
        1 => vec![(first, first), (last, last)],
        _ => vec![(first, last)],
    });
    let split: Vec<(u16, u16)> = split.collect();
    if split.len() <= most {
        return split;
    }
    while ranges.len() > most.max(1) {
        let gaps = ranges.windows(2).enumerate().map(|(at, pair)| (pair[1].0 - pair[0].1, at));
        let Some((_, at)) = gaps.min() else { break };
        ranges[at].1 = ranges[at + 1].1;
        ranges.remove(at + 1);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(addresses: &[&str], most: usize, taboo: &str) -> Option<String> {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let taboo: Option<IpAddr> = taboo.parse().ok();
        let found =
            blocks(&addresses, most, &|b| taboo.is_some_and(|a| b.contains(a) && b.prefix() < 32))?;
        let each = found.iter().map(|(block, count)| format!("{block}*{count}"));
        Some(each.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn addresses_become_blocks_only_where_they_are_many() {
        let few = ["192.0.2.1", "192.0.2.2", "198.51.100.7"];
        assert_eq!(
            text(&few, 3, "").as_deref(),
            Some("192.0.2.1/32*1 192.0.2.2/32*1 198.51.100.7/32*1")
        );
        assert_eq!(text(&few, 2, "").as_deref(), Some("192.0.2.0/30*2 198.51.100.7/32*1"));
        // What must not be in a block is in none.
        assert_eq!(text(&few, 2, "192.0.2.3"), None);
        // Scattered over everything they are no blocks.
        assert_eq!(text(&["1.1.1.1", "90.0.0.1", "200.3.4.5"], 2, ""), None);
        let both = ["192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::2"];
        assert_eq!(text(&both, 2, "").as_deref(), Some("192.0.2.0/28*2 2001:db8::/126*2"));
    }

    #[test]
    fn ports_become_ranges_only_where_they_are_many() {
        let of = |ports: &[u16], most| ranges(&ports.iter().copied().collect(), most);
        assert_eq!(of(&[80, 81, 443], 8), [(80, 80), (81, 81), (443, 443)]);
        assert_eq!(of(&[7000, 7001, 7002], 8), [(7000, 7002)]);
        assert_eq!(of(&[1, 10, 12, 65535], 3), [(1, 1), (10, 12), (65535, 65535)]);
        assert_eq!(of(&[1, 65535], 1), [(1, 65535)]);
    }
}
