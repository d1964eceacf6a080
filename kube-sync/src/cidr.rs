//! Reads CIDRs from trees, as the API server understands them. Not here: what they are for.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{
    problem::{Path, excerpt},
    source::Reader,
    strict,
    tree::Node,
};

/// Reads a CIDR, with host bits masked off (S17).
pub(crate) fn network(reader: &mut Reader, node: &Node, path: &Path) -> Option<IpNetwork> {
    let text = strict::string(reader, node, path)?;
    let strictly = parse_network(text, |number| number.len() == 1 || !number.starts_with('0'));
    // API servers still hold CIDRs with leading zeros from times when they were valid, and read
    // them as decimal (IsValidCIDRForLegacyField, ParseCIDRSloppy).
    let Some(written) = strictly.or_else(|| parse_network(text, |_| true)) else {
        let advice = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("; write {address}/32 for the one address"),
            Ok(IpAddr::V6(address)) => format!("; write {address}/128 for the one address"),
            Err(_) => "; write one such as 10.0.0.0/8 or 2001:db8::/32".to_owned(),
        };
        reader.error(node.at, path, format!("`{}` is not a valid CIDR{advice}", excerpt(text)));
        return None;
    };
    if strictly.is_none() {
        let message = format!(
            "`{}` has leading zeros; it is read in decimal, as {written}; write that",
            excerpt(text)
        );
        reader.warning(node.at, path, message);
    }
    let masked = IpNetwork::new(written.network(), written.prefix()).ok()?;
    if masked != written {
        reader.warning(
            node.at,
            path,
            format!("{text} has bits set beyond its prefix; it is read as {masked}"),
        );
    }
    if let IpAddr::V6(address) = masked.network()
        && let (Some(v4), Some(length)) =
            (address.to_ipv4_mapped(), masked.prefix().checked_sub(96))
    {
        let message =
            format!("{masked} matches no IPv4 packet (S23); for IPv4 write {v4}/{length}");
        reader.warning(node.at, path, message);
    }
    Some(masked)
}

/// Parses `address/length`; None where a decimal number in it is not `plain`.
fn parse_network(text: &str, plain: fn(&str) -> bool) -> Option<IpNetwork> {
    let number = |text: &str| -> Option<u8> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits && plain(text))
    };
    // An IPv6 address may end in an IPv4 address.
    let address = |text: &str| -> Option<IpAddr> {
        let (head, dotted) =
            text.rsplit_once(':').map_or(("", text), |(head, dotted)| (head, dotted));
        if !dotted.contains('.') {
            return text.parse().ok();
        }
        let numbers: Option<Vec<u8>> = dotted.split('.').map(number).collect();
        let v4: [u8; 4] = numbers?.try_into().ok()?;
        let v4 = std::net::Ipv4Addr::from(v4);
        if text.contains(':') { format!("{head}:{v4}").parse().ok() } else { Some(v4.into()) }
    };
    let (base, length) = text.split_once('/')?;
    IpNetwork::new(address(base)?, number(length)?).ok()
}
