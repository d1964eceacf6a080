//! Messages of random filters: what is decoded is what was encoded, and another implementation
//! (netlink-packet-route) reads the same keys in them. That the kernel does too is shown in the lab
//! (`lab_netlink.rs`).

use netpolc_table::IfIndex;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable as _;
use netlink_packet_route::tc::{TcAttribute, TcFilterFlowerOption as Key, TcMessage, TcOption};
use netpolc_target_flower::{
    filter::{Action, Cookie, Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side},
    netlink::{Found, Way, check, decode, encode},
};
use netpolc_testbed::random::Rng;

/// Length of a netlink header in bytes.
const HEADER: usize = 16;

fn prefix(rng: &mut Rng, ethertype: EtherType) -> Option<IpNetwork> {
    let bytes = rng.draw().to_be_bytes();
    let (address, bits) = match ethertype {
        EtherType::Ipv4 => (IpAddr::from([10, bytes[0], bytes[1], bytes[2]]), 32),
        EtherType::Ipv6 => {
            let mut octets = [0xfd; 16];
            octets[8..].copy_from_slice(&bytes);
            (octets.into(), 128)
        }
        _ => return None,
    };
    let whole = IpNetwork::new(address, rng.within(1, bits) as u8).unwrap();
    rng.chance(60).then(|| IpNetwork::new(whole.network(), whole.prefix()).unwrap())
}

fn ports(rng: &mut Rng) -> Option<Ports> {
    match rng.below(4) {
        0 => Some(Ports::one(rng.below(1 << 16) as u16)),
        1 => Some(Ports::Masked(Masked::new(rng.draw() as u16, (rng.draw() as u16).max(1)))),
        2 => {
            let low = rng.within(1, 60_000) as u16;
            Some(Ports::Range { low, high: low + rng.within(1, 5000) as u16 })
        }
        _ => None,
    }
}

fn masked(rng: &mut Rng, bits: u16) -> Option<Masked> {
    let mask = rng.draw() as u16 & bits;
    (mask != 0).then(|| Masked::new(rng.draw() as u16, mask))
}

fn pattern(rng: &mut Rng) -> Pattern {
    let ethertype = *rng.pick(&[EtherType::Ipv4, EtherType::Ipv6, EtherType::Arp, EtherType::All]);
    let mut pattern = Pattern { ethertype, ct_state: masked(rng, 0x3f), ..Pattern::default() };
    if rng.chance(20) {
        pattern.destination_mac = Some([2, 0, 0, 0, 0, rng.draw() as u8]);
    }
    if matches!(ethertype, EtherType::Arp | EtherType::All) {
        return pattern;
    }
    (pattern.source, pattern.destination) = (prefix(rng, ethertype), prefix(rng, ethertype));
    pattern.hop_limit = rng.chance(20).then(|| rng.draw() as u8);
    let icmp = if ethertype == EtherType::Ipv6 { 58 } else { 1 };
    pattern.protocol = *rng.pick(&[None, Some(6), Some(17), Some(132), Some(icmp), Some(47)]);
    if matches!(pattern.protocol, Some(6 | 17 | 132)) {
        (pattern.source_port, pattern.destination_port) = (ports(rng), ports(rng));
    }
    if pattern.protocol == Some(6) {
        pattern.tcp_flags = masked(rng, 0xfff);
    }
    if pattern.protocol == Some(icmp) {
        pattern.icmp_type = Some(rng.draw() as u8);
    }
    pattern
}

fn filter(rng: &mut Rng) -> Filter {
    let local = rng.chance(10);
    let chain = |rng: &mut Rng| rng.below(1 << 28) as u32;
    let action = match rng.below(6) {
        0 => Action::Pass,
        1 => Action::Drop,
        2 => Action::Goto(chain(rng)),
        3 => Action::Track(chain(rng)),
        4 => Action::Redirect(IfIndex::new(rng.within(1, 1 << 20) as u32)),
        _ => Action::Continue,
    };
    Filter {
        side: *rng.pick(&[Side::Ingress, Side::Egress]),
        chain: chain(rng),
        prio: rng.within(1, 65_535) as u16,
        matches: if local { Match::Local } else { Match::Flower(pattern(rng)) },
        action,
        copies: if local {
            Copies::Software
        } else {
            *rng.pick(&[Copies::Software, Copies::Hardware, Copies::Both])
        },
        cookie: Cookie::new(rng.draw() as u8, rng.draw() as u8, rng.draw()),
    }
}

fn message(way: Way, ifindex: IfIndex, filter: &Filter, handle: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, way, ifindex, filter, handle, 77);
    assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes(), "the header has another length");
    bytes
}

#[test]
fn what_is_decoded_is_what_was_encoded() {
    let mut rng = Rng::new(1);
    for _ in 0..20_000 {
        let filter = filter(&mut rng);
        assert_eq!(check(&filter), Ok(()), "{filter:?}");
        let (ifindex, handle) =
            (IfIndex::new(rng.within(1, 1 << 30) as u32), rng.within(1, 1 << 30) as u32);
        for way in [Way::Add, Way::Replace] {
            let bytes = message(way, ifindex, &filter, handle);
            let found = decode(&bytes[HEADER..]).expect("a filter of clsact");
            let place = (found.ifindex, found.side, found.chain, found.prio, found.handle);
            assert_eq!(place, (ifindex, filter.side, filter.chain, filter.prio, handle));
            assert_eq!(found.in_hardware, 0);
            assert_eq!(found.found, Found::Ours(filter.clone()));
        }
    }
}

/// A message that was cut, or has flipped bits, is some filter or none; reading it never fails
/// otherwise.
#[test]
fn broken_messages_are_read_to_their_end() {
    let mut rng = Rng::new(2);
    for _ in 0..20_000 {
        let mut bytes = message(Way::Add, IfIndex::new(3), &filter(&mut rng), 1);
        for _ in 0..rng.below(4) {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        bytes.truncate(rng.within(HEADER, bytes.len()));
        let _ = decode(&bytes[HEADER..]);
    }
}

/// The keys that a pattern should have on the wire, as the other implementation names them.
fn expected(pattern: &Pattern, copies: Copies) -> Vec<Key> {
    let mut keys = Vec::new();
    match pattern.ethertype {
        EtherType::All => {}
        EtherType::Ipv4 => keys.push(Key::EthType(0x0800)),
        EtherType::Ipv6 => keys.push(Key::EthType(0x86dd)),
        EtherType::Arp => keys.push(Key::EthType(0x0806)),
    }
    if let Some(mac) = pattern.destination_mac {
        keys.extend([Key::EthDst(mac), Key::EthDstMask([0xff; 6])]);
    }
    keys.extend(pattern.protocol.map(Key::IpProto));
    match pattern.source.map(|p| (p.ip(), p.mask())) {
        Some((IpAddr::V4(ip), IpAddr::V4(mask))) => {
            keys.extend([Key::Ipv4Src(ip), Key::Ipv4SrcMask(mask)])
        }
        Some((IpAddr::V6(ip), IpAddr::V6(mask))) => {
            keys.extend([Key::Ipv6Src(ip), Key::Ipv6SrcMask(mask)])
        }
        _ => {}
    }
    match pattern.destination.map(|p| (p.ip(), p.mask())) {
        Some((IpAddr::V4(ip), IpAddr::V4(mask))) => {
            keys.extend([Key::Ipv4Dst(ip), Key::Ipv4DstMask(mask)])
        }
        Some((IpAddr::V6(ip), IpAddr::V6(mask))) => {
            keys.extend([Key::Ipv6Dst(ip), Key::Ipv6DstMask(mask)])
        }
        _ => {}
    }
    match (pattern.protocol, pattern.source_port) {
        (_, Some(Ports::Range { low, high })) => {
            keys.extend([Key::PortSrcMin(low), Key::PortSrcMax(high)])
        }
        (Some(6), Some(Ports::Masked(m))) => {
            keys.extend([Key::TcpSrc(m.value), Key::TcpSrcMask(m.mask)])
        }
        (Some(17), Some(Ports::Masked(m))) => {
            keys.extend([Key::UdpSrc(m.value), Key::UdpSrcMask(m.mask)])
        }
        (_, Some(Ports::Masked(m))) => {
            keys.extend([Key::SctpSrc(m.value), Key::SctpSrcMask(m.mask)])
        }
        (_, None) => {}
    }
    match (pattern.protocol, pattern.destination_port) {
        (_, Some(Ports::Range { low, high })) => {
            keys.extend([Key::PortDstMin(low), Key::PortDstMax(high)])
        }
        (Some(6), Some(Ports::Masked(m))) => {
            keys.extend([Key::TcpDst(m.value), Key::TcpDstMask(m.mask)])
        }
        (Some(17), Some(Ports::Masked(m))) => {
            keys.extend([Key::UdpDst(m.value), Key::UdpDstMask(m.mask)])
        }
        (_, Some(Ports::Masked(m))) => {
            keys.extend([Key::SctpDst(m.value), Key::SctpDstMask(m.mask)])
        }
        (_, None) => {}
    }
    if let Some(Masked { value, mask }) = pattern.tcp_flags {
        keys.extend([Key::TcpFlags(value), Key::TcpFlagsMask(mask)]);
    }
    match (pattern.ethertype, pattern.icmp_type) {
        (EtherType::Ipv6, Some(kind)) => {
            keys.extend([Key::Icmpv6Type(kind), Key::Icmpv6TypeMask(0xff)])
        }
        (_, Some(kind)) => keys.extend([Key::Icmpv4Type(kind), Key::Icmpv4TypeMask(0xff)]),
        _ => {}
    }
    if let Some(limit) = pattern.hop_limit {
        keys.extend([Key::IpTtl(limit), Key::IpTtlMask(0xff)]);
    }
    if let Some(Masked { value, mask }) = pattern.ct_state {
        keys.extend([Key::CtState(value), Key::CtStateMask(mask)]);
    }
    keys.push(Key::Flags(match copies {
        Copies::Software => 1,
        Copies::Hardware => 2,
        Copies::Both => 16,
    }));
    keys
}

#[test]
fn another_implementation_reads_the_same_keys() {
    let mut rng = Rng::new(3);
    for _ in 0..5_000 {
        let filter = filter(&mut rng);
        let Match::Flower(pattern) = &filter.matches else { continue };
        let bytes = message(Way::Add, IfIndex::new(9), &filter, 5);
        let read = TcMessage::parse(&bytes[HEADER..]).expect("a message");
        assert_eq!((read.header.index, u32::from(read.header.handle)), (9, 5));
        assert_eq!(read.header.info >> 16, u32::from(filter.prio));
        assert!(read.attributes.contains(&TcAttribute::Kind("flower".into())));
        assert!(read.attributes.contains(&TcAttribute::Chain(filter.chain)));
        let options = read
            .attributes
            .iter()
            .find_map(|a| if let TcAttribute::Options(o) = a { Some(o) } else { None });
        let keys = options.expect("options").iter().filter_map(|option| match option {
            TcOption::Flower(Key::Actions(actions)) => {
                let one = matches!(filter.action, Action::Track(_));
                assert_eq!(actions.len(), if one { 2 } else { 1 });
                None
            }
            TcOption::Flower(key) => Some(key.clone()),
            other => panic!("{other:?}"),
        });
        assert_eq!(keys.collect::<Vec<Key>>(), expected(pattern, filter.copies), "{filter:?}");
    }
}
