//! Services: what one takes, and what stands for one that is set aside.

use std::{collections::BTreeSet, net::IpAddr};

use netpolc_policy::{Closed, Protocol, Service};

use crate::content::distinct;

/// Ranges of ports that a closed Service is closed by, at most.
const CLOSED: usize = 32;
/// Addresses of a Service that are closed, at most.
const CLOSED_ADDRESSES: usize = 4_000;

/// Addresses x ports of a Service.
pub(super) fn pairs(service: &Service) -> u64 {
    let addresses: BTreeSet<&IpAddr> = service.addresses.iter().collect();
    let ports: BTreeSet<(Protocol, u16)> =
        service.ports.iter().map(|p| (p.protocol, p.number)).collect();
    addresses.len() as u64 * ports.len() as u64
}

/// What stands for a Service that is set aside: its addresses are closed instead of being judged by
/// backend. Its nodePorts are few, since the API server gives them out, and stay as they are.
pub(super) fn closed(service: Service) -> Service {
    let mut addresses: Vec<IpAddr> = distinct(service.addresses.iter().copied());
    addresses.truncate(CLOSED_ADDRESSES);
    let mut ports: Vec<(Protocol, u16, u16)> = vec![];
    for (protocol, number) in distinct(service.ports.iter().map(|p| (p.protocol, p.number))) {
        match ports.last_mut() {
            Some((p, _, last)) if *p == protocol && *last + 1 == number => *last = number,
            _ => ports.push((protocol, number, number)),
        }
    }
    if ports.len() > CLOSED {
        // Too many holes: from the first port to the last one.
        ports.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.2 = next.2;
            }
            same
        });
    }
    let kept = service.ports.into_iter().filter(|p| p.node_port.is_some()).collect();
    Service { addresses: vec![], ports: kept, closed: Closed { addresses, ports }, ..service }
}
