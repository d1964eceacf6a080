//! What both forms know of a flow by itself: numbers of protocols and flags, and names in parts.
//!
//! Not here: where the forms put it.

use netpolc_flow::Peer;

/// The number and the name of a protocol as IANA has them; None where no number is known.
pub(crate) fn protocol(name: &str) -> Option<(u8, &str)> {
    Some(match name {
        "ICMP" => (1, "icmp"),
        "TCP" => (6, "tcp"),
        "UDP" => (17, "udp"),
        "ICMPv6" => (58, "ipv6-icmp"),
        "SCTP" => (132, "sctp"),
        other => (other.strip_prefix("protocol-")?.parse().ok()?, other),
    })
}

/// The flags of TCP as the bits of the header.
pub(crate) fn tcp_flags(names: &str) -> u8 {
    let bit = |name: &str| match name {
        "FIN" => 1,
        "SYN" => 2,
        "RST" => 4,
        "PSH" => 8,
        "ACK" => 16,
        "URG" => 32,
        _ => 0,
    };
    names.split(',').map(bit).fold(0, |all, one| all | one)
}

/// The name of a pod or Service without its namespace.
pub(crate) fn bare(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, name)| name)
}

/// The kind of a peer's workload as OpenTelemetry names it, such as `deployment`, and its name.
pub(crate) fn workload(peer: &Peer) -> Option<(String, &str)> {
    let (kind, name) = peer.workload.as_deref()?.split_once(' ')?;
    Some((kind.to_lowercase(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        assert_eq!(protocol("ICMPv6"), Some((58, "ipv6-icmp")));
        assert_eq!(protocol("protocol-47"), Some((47, "protocol-47")));
        assert_eq!(protocol("unknown"), None);
        assert_eq!((tcp_flags("SYN,ACK"), tcp_flags(""), tcp_flags("RST")), (18, 0, 4));
    }
}
