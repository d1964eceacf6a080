//! What a hook does with a packet, to the byte: the definition that every datapath follows, and the
//! numbers in it. `netpolc-target-mem` is this text as plain Rust, and generated programs give the
//! same answers.
//!
//! Not here: what the tables say (`netpolc_table::schema`, `netpolc_table::eval`), and where a
//! target keeps its state.
//!
//! # Words
//!
//! *Frame*: the bytes from the Ethernet header on; its length `L` counts padding. Numbers are big
//! endian. *Local* is the pod's side (the source of `from_pod` and `translated`, the destination of
//! `to_pod`), *remote* the other. `iso`: the word has the direction's flag (`to_pod` INGRESS,
//! `from_pod` EGRESS). `keep`: the word has INGRESS, EGRESS, RECORD or a TRIED flag. `guard`: the
//! hook is `from_pod` and the word has GUARD or EGRESS. *Born*: the hook is `to_pod`, the packet
//! came in by no interface (`ingress_ifindex` is 0) and a socket of the node is on it
//! ([`crate::Arrival::Born`], S44). What has neither was forwarded: the kernel has cut it anew
//! after reassembly, and has forgotten the interface. *Gated* (S82): born, `iso`, and the word's
//! born set is not 0. A gated packet is judged like one that is not born, with the born set in the
//! place of the word's ingress set. *Exempt*: born and not gated. *Own traffic* (S47): the hook is
//! `to_pod`, and `interface[ingress_ifindex]` is the endpoint itself. *Mark*: one bit of the
//! packet's mark ([`DEFERRED_MARK`], configurable): its egress is still to be judged (S48). *Next*
//! leaves it as it is, *Defer* is Next with the mark set. Nothing else on the node may use the bit.
//! *Refuse(reason)*: Drop where `iso`, else Next at once (no state, no record). *Refuse
//! early(reason)*: Drop where `iso` or `guard`, else Next. Every comparison of offsets is against
//! the frame's length or `end`, never against what happens to be linear.
//!
//! # Steps
//!
//! | step | condition, in this order | answer |
//! |---|---|---|
//! | 0 | `to_pod` and marked: the steps of `translated` first, see below; where they drop, that is the answer | go on |
//! | 1 | `interface[ifindex]` misses | Next |
//! | | `guard`, `L` >= 14, `own_mac[endpoint]` is an address and the frame's source (at 6) is another | Drop(SpoofedSource) |
//! | | `to_pod`, `L` >= 14, `own_mac[endpoint]` is an address, and the frame's destination (at 0) is unicast (the lowest bit of its first byte is 0) and another | Drop(ForeignDestination) |
//! | | not `keep` and not `guard`; and not `to_pod` or `own_mac[endpoint]` is no address | Next |
//! | 2 Ethernet | `L` < 14 | Refuse early(Truncated) |
//! | | type at 12; at most 2 times: type is 0x8100 or 0x88a8, the next is 4 bytes on; `L` < 18, < 22 | Refuse early(Truncated) |
//! | | type is ARP (0x0806), `guard` | as below, *ARP* |
//! | | type is ARP otherwise | Next |
//! | | type is not 0x0800, 0x86dd (a third tag, LLC lengths, MPLS, PPPoE ...) | Refuse early(NotIp) |
//! | 3 IPv4 at `l3` | `L` < `l3` + 20 | Refuse early(Truncated) |
//! | | version is not 4, or header length field < 5 | Refuse early(Malformed) |
//! | | `guard`, the source (at 12) is not in `own_v4[endpoint]` and is not 0.0.0.0 | Drop(SpoofedSource) |
//! | | `guard`, the source is not own but 0.0.0.0 | go on as *unproven* |
//! | | `to_pod`, `own_mac[endpoint]` is an address, the destination (at 16) is not in `own_v4[endpoint]`, not in 224.0.0.0/4 and not 255.255.255.255 | Drop(ForeignDestination) |
//! | | `L` < `l3` + 4 * header length | Refuse(Truncated) |
//! | | total length (at 2) is 0 and `L` > `l3` + 65535 (a segmentation super-packet) | `end` = `L` |
//! | | else total length < 4 * header length | Refuse(Malformed) |
//! | | else `l3` + total length > `L` | Refuse(Truncated) |
//! | | else | `end` = `l3` + total length |
//! | | header length field > 5: see below, *options* | |
//! | 3 IPv6 at `l3` | `L` < `l3` + 40 | Refuse early(Truncated) |
//! | | version is not 6 | Refuse early(Malformed) |
//! | | `guard`, the source (at 8) is not in `own_v6[endpoint]`, not ::, not in fe80::/10 | Drop(SpoofedSource) |
//! | | `guard`, the source is not own but :: or in fe80::/10 | go on as *unproven* |
//! | | `to_pod`, `own_mac[endpoint]` is an address, the destination (at 24) is not in `own_v6[endpoint]`, not in ff00::/8 and not in fe80::/10 | Drop(ForeignDestination) |
//! | | payload length (at 4) is 0 and `L` > `l3` + 40 + 65535 | `end` = `L` |
//! | | else `l3` + 40 + payload length > `L` | Refuse(Truncated) |
//! | | else | `end` = `l3` + 40 + payload length |
//! | 4 headers | IPv6: up to 8 extension headers, see below | |
//! | 5 fragments | fragment offset is not 0: see below | |
//! | 6 layer 4 | fewer bytes before `end` than the protocol needs | Refuse(Truncated) |
//! | | IPv6, ICMPv6 type 133-137, hop limit 255, no fragment header (an atomic one counts too) | see below, *discovery* |
//! | | *unproven* and not one of the exceptions | Drop(SpoofedSource) |
//! | 7 | ICMP error: see below | |
//! | 8 | Judgement, see below | |
//!
//! Where a packet is *unproven*, everything that refuses in steps 3 to 6, and every fragment (IPv4:
//! offset or MF set; IPv6: a fragment header of any kind), is Drop(SpoofedSource). The exceptions:
//! IPv4 0.0.0.0 with UDP 68 -> 67; IPv6 :: or fe80::/10 with neighbour discovery as above, to
//! ff00::/8 ICMPv6 130, 131, 132, 143 (MLD), or UDP 546 -> 547 (DHCPv6). They exempt from the guard
//! only: except for neighbour discovery the packet is then judged as any other. Checksums, the UDP
//! length and the TCP data offset are never looked at.
//!
//! **ARP** from a guarded pod (S36). 28 bytes behind the type must lie in the frame, else
//! Drop(Truncated). The first 6 of them are those of ARP for IPv4 over Ethernet (00 01 08 00 06
//! 04), else Drop(Malformed). Where `own_mac[endpoint]` is an address the sender's hardware address
//! (at 8) is it, else Drop(SpoofedSource). The sender's address (at 14) is in `own_v4[endpoint]`,
//! or 0.0.0.0 (a probe), else Drop(SpoofedSource). Then Next.
//!
//! **Options** (S49). From `l3` + 20 to the header's end: 0 ends the list, 1 is one byte, 131 and
//! 137 (loose and strict source route) are Refuse early(SourceRoute), anything else has its length
//! in its second byte; a length below 2, or one that is not in the header or leads beyond it, is
//! Refuse(Malformed).
//!
//! **Discovery** (S36). From a guarded pod a message of types 133 to 137 behind a fragment header
//! of any kind, whatever its hop limit, is Drop(Discovery): the kernel may take the header off (RFC
//! 6980). From a guarded pod, types 134 and 137 (router advertisement, redirect) are
//! Drop(Discovery), and so is type 136 whose target (16 bytes at 8 of the message, before `end`) is
//! neither in `own_v6[endpoint]` nor in fe80::/10, or is in fe80::/10 and in `on_link_v6`, which
//! has the node's own. From any pod whose egress is isolated or guarded a message of more than
//! [`DISCOVERY_BYTES`] is judged as any other ICMPv6, and so is one whose destination is neither
//! multicast (ff00::/8) nor in fe80::/10 nor, where the word has BRIDGED, in `on_link_v6`. Else
//! Next.
//!
//! **DHCP** (S36). From a guarded pod UDP 67 -> 68 and 547 -> 546, an answer of a server, is
//! Drop(SpoofedSource).
//!
//! **Tunnels** (S45). From a guarded pod, before steps 7 and 8: where `tunnel` has (protocol,
//! destination port; 0 where the protocol has no ports), the packet is Drop(Tunnel), unless the
//! protocol has ports, `iso`, and the egress set's answer to the destination is a row whose verdict
//! permits the port class: a rule that names ports permits it. No rule names a protocol without
//! ports, though a row may permit port class 0. What comes out of a tunnel on a node is forwarded
//! under any source, and as traffic of the node.
//!
//! **Step 4, extension headers** (RFC 8200). While the next header is one of 0, 43, 44, 51, 60,
//! 135: a ninth one, or a second 44, is Refuse early(Malformed): a kernel reads on, and what stands
//! behind it may not leave a guarded pod (an answer of DHCP, an advertisement, a tunnel). 2 bytes
//! of it must lie before `end`; its size is 8 for 44, 4 * (byte 1 + 2) for 51, 8 * (byte 1 + 1) for
//! the others, and all of it must lie before `end`: else Refuse(Truncated). A 43 (routing) whose
//! byte 3 (segments left) is not 0 is then Refuse early(SourceRoute). Position and repetition of
//! the others do not matter. A 44 with an offset other than 0 ends the walk (a later fragment). The
//! protocol is the next header that is none of these (59, "none", is a protocol as any other).
//!
//! **Step 5, fragments.** IPv4: offset (low 13 bits at 6) and MF (0x2000). IPv6: bytes 2-3 of
//! header 44, offset in the high 13 bits, M in the lowest. *First*: offset 0, more to come.
//! *Later*: offset not 0. Neither: not a fragment. The record's key is endpoint, hook, source,
//! destination, protocol (IPv4: of the header; IPv6: byte 0 of header 44) and identification (IPv4
//! 16 bits at 4, IPv6 32 bits). A later fragment, in this order: not `iso`, `guard`, and `tunnel`
//! has (protocol, 0): Drop(Tunnel), as its first one. Not `iso`: Next. Exempt: Next. Offset 1 (8
//! bytes) and protocol TCP or SCTP, which could overwrite flags (RFC 3128): Drop(Fragment). A live
//! record: its verdict (Drop(Fragment)). The protocol is an extension header: Drop(Fragment).
//! `guard`, and `tunnel` has (protocol, 0), so that the first one is dropped: Drop(Fragment). The
//! tables permit the remote on every port of the protocol ([`HAS_PORTS`]: all 65,536; ICMP of the
//! family: every type and code; others: 0): Next, unless the hook is `to_pod` and the remote is the
//! endpoint's own address. Own traffic, or at the other hooks a remote that is the endpoint's own
//! address: Next. Else Drop(Fragment). A first fragment goes on as a whole packet; where `iso`, and
//! it is not exempt, and step 6 was reached, its verdict (a Refuse of step 6 too) is recorded for
//! [`FRAGMENT_SECONDS`], replacing what was there; its later fragments then get it, Defer included.
//! Where the table of records is full of live ones, the verdict may go unrecorded, or replace the
//! oldest; its later fragments then come without a record.
//!
//! **Step 6, bytes needed**: TCP 14, UDP 8, SCTP 16, ICMP over IPv4 and ICMPv6 over IPv6 8. Every
//! other protocol (ICMP over IPv6, ICMPv6 over IPv4 are such) needs none.
//!
//! **Step 7, ICMP errors**: ICMP types 3, 4, 5, 11, 12; ICMPv6 types 1, 2, 3, 4. Not `iso`: Next.
//! Exempt: Next. *Forged* (see the judgement): Drop(SpoofedSource). A first fragment:
//! Drop(IcmpError). At `from_pod` more than [`quotation`] bytes behind the message's first 8:
//! Drop(IcmpError). The inner packet begins 8 bytes into the message and must be of the same
//! family. Inner IPv4: 20 bytes before `end`, version 4, header length field >= 5, offset 0;
//! lengths are not checked (it is cut by nature). Inner IPv6: 40 bytes, version 6, extension
//! headers as in step 4, offset 0. 8 bytes after the inner header(s) before `end`. What fails any
//! of these: Drop(IcmpError). The inner packet went the other way: at `to_pod` its source is local,
//! its destination remote; at `from_pod` the other way round. Its local address must be the outer
//! packet's local address, and at `from_pod` its remote address the outer packet's destination,
//! else Drop(IcmpError). Its tuple is made as below; an inner ICMP packet must be an echo or
//! timestamp request or reply: any other is Drop(IcmpError). A live entry under the tuple: Next
//! where the opener's direction, judged now, permits; else Drop(IcmpError). No live entry: Next
//! where each direction is not isolated or its tables permit the tuple, which needs no entry then;
//! else Drop(IcmpError), and so is an inner packet that has no tuple. Whatever else a judged pod
//! sends or is sent has an entry, so an error about anything else is about nothing, and would carry
//! data past the policies. An error changes no state.
//!
//! # Judgement (step 8)
//!
//! *Tuple*: endpoint, protocol, local address, local port, remote address, remote port. Ports: TCP,
//! UDP, SCTP: theirs. ICMP echo and timestamp, requests and replies, of both families: both are the
//! identifier (bytes 4-5). Anything else: both 0.
//!
//! *Event*, see [`Event`]: TCP by flags ([`Event::of_tcp`]), SCTP by its first chunk
//! ([`Event::of_sctp`]), ICMP by type ([`Event::of_icmp`]): requests open, replies are data, other
//! types have *no tuple* and are judged by the tables alone. UDP and everything else:
//! [`Event::Datagram`].
//!
//! *Permits(direction, remote, port)*: the direction is not isolated; or the tables permit; or the
//! direction is `from_pod` and the remote is one of the endpoint's own addresses (S47). `port` is
//! the destination port of a packet that goes in that direction: `to_pod` the tuple's local,
//! `from_pod` its remote port. Of ICMP over IPv4, and of ICMPv6 over IPv6, it is type << 8 | code
//! instead, and of every other protocol without ports 0 (`netpolc_table::eval::asked`). These are
//! the packet's own where this hook's direction is asked whether the packet is *allowed*, else
//! those of its *question*: a reply's type becomes that of the request that it answers
//! ([`icmp::question`]), with the same code.
//!
//! *Live*: its deadline is later than now and its remote incarnation equals what `remote_v4/v6`
//! says of the remote now (S43). *Is a Service's*: the protocol is one of [`HAS_PORTS`], and
//! `service_v4/v6` has (remote, protocol, remote port). *Opener permits*: the entry is *own*; or it
//! was born on the node, and the word has no born set, or not INGRESS, or that set permits (remote,
//! the opener's destination port) (S44, S82); or it is neither, and Permits(the opener's direction,
//! remote, the opener's destination port); or the hook is `to_pod`, the opener `from_pod`, and the
//! entry is *deferred* or the remote is a Service's. *Forged* (S47): `iso`, `to_pod`, not exempt,
//! not own traffic, and the remote is one of the endpoint's own addresses: Drop(SpoofedSource),
//! whatever the tables say.
//!
//! *Touch*: the phase becomes [`Phase::after`], the deadline now + [`seconds`]; the write may be
//! left out where the phase stays and the deadline would move by less than one second.
//!
//! *Difference(direction, remote, port)* (S85): the word has the direction's TRIED flag, its set
//! answers the remote's class with a row, and `tried` has that row with the port class of `port`.
//!
//! *Needed* is an entry where the word has RECORD, where it would be deferred, where the other
//! direction is isolated and the event is Open or its tables do not permit (remote, its destination
//! port), or where the event is Datagram and there is a Difference(the other direction, remote, its
//! destination port). Who sends datagrams that the tables permit both ways has opened nothing that
//! they do not say.
//!
//! *Allowed* := exempt (S44), or Permits(this hook's direction, remote, destination port).
//!
//! | allowed? | packet | entry | does |
//! |---|---|---|---|
//! | yes | not `keep`, or no tuple | | Next |
//! | yes | Open, Datagram | not *needed*, whether or not there is one | Next |
//! | yes | Open | live, Closing or Reset | create anew, Next |
//! | yes | Open, Datagram | live otherwise | touch, Next; the opener stays (S40) |
//! | yes | Open, Datagram | not live, none | create, Next; no room: Next where the word has only RECORD or the packet is exempt, else Drop(StateFull) |
//! | yes | Accept, Finish, Reset; of SCTP also Data | live | touch, Next |
//! | yes | any other | | Next |
//! | no | Open of TCP | live, phase Opening, opener is the other hook, opener permits | touch, Next (crossing SYNs) |
//! | no | not Open, has a tuple | live, opener is the other hook, opener permits | touch, Next |
//! | no | not Open, has a tuple | `from_pod`; live, opener is this hook, *deferred* | touch, Defer |
//! | no | any other, has a tuple | own traffic | as if allowed; an entry that it creates is *own* |
//! | no | any other, has a tuple | `from_pod`, the remote is a Service's | as if allowed, and Defer instead of Next; an entry that it creates is *deferred* |
//! | no | any other | | Drop(Policy) |
//!
//! *Create*: phase Opening, opener this hook, `born` where the packet is, the remote's incarnation.
//! Over the entry under the same tuple, where there is one (whatever its age); else in a free place
//! of the endpoint's quota for this family, unless the remote has three quarters of the places
//! already (a target that finds places by a hash looks at those that the tuple may have); else over
//! an entry that expired; else over one in phase Closing or Reset; else Replied; else Opening; else
//! there is no room: what is established stays. No other packet, and no denied packet, changes an
//! entry: one whose opener is no longer permitted stays where it is until its deadline, so that the
//! other side cannot open the same tuple as its own (S41).
//!
//! **Comparison** (S85), which changes nothing but a counter. A packet of step 8 with event Open or
//! Datagram that is not born, of an endpoint that keeps state, at `from_pod`, or at `to_pod` from a
//! remote that is none of the endpoint's own addresses, and with a Difference(this hook's
//! direction, remote, destination port), is counted under the row and port class of the difference,
//! if the event is Open; or if the direction is not isolated or its tables permit, unless a live
//! entry has the other hook as its opener (an answer); or else if the packet is Drop(Policy).
//!
//! **Records** (S87), which change nothing either. A packet that is dropped is *noted* as Dropped.
//! One that passes step 8 at `to_pod` or `from_pod`, of an endpoint that keeps state, is noted as
//! Opened where the table above says *create*, whether or not there is room; where the event is
//! Open and no entry is needed; and where it is Datagram, no entry is needed, and no such datagram
//! of the same tuple came in the last [`DATAGRAM_SECONDS`], as far as the target remembers. A
//! packet that the comparison counts is noted as Differs, before it is noted otherwise. What is
//! noted is counted by endpoint, direction and [`crate::Noted`]; a target that records puts a
//! [`crate::Record`] of it, as long as there is budget and room.
//!
//! An endpoint's entries and records go when its key goes from the `endpoint` table (S43).
//!
//! # Services (S48)
//!
//! A packet to a Service's address and port is not judged by them but by what they are translated
//! to: `from_pod` lets it go on, marked, and the hook `translated`, which stands at the egress of
//! every other layer-3 interface of the node (before any encapsulation) and in front of `to_pod`,
//! judges it by the sender's egress set and takes the mark off. What is delivered to the node
//! itself meets no such hook: egress to the own node is allowed (S45). The sender is known by
//! `ingress_ifindex`, which stays through routing, translation and masquerade.
//!
//! A target that knows of an interface whose egress it does not see yet *holds*: at `from_pod` what
//! no live entry lets go on is then Drop(Policy) instead of going on to a Service, until every
//! interface is covered.
//!
//! Every packet of a connection takes this way, so tightening cuts it; it follows its own backend,
//! whatever the list of endpoints is by then. A Service or one of its ports that goes does not cut
//! it either: its entry is *deferred*, and conntrack goes on translating. What nothing translates
//! is judged as the address that it has. After a tightening the other side's packets still reach
//! the pod until the entry is idle, since they come under the Service's address; the pod's own do
//! not pass.
//!
//! | step | condition, in this order | answer |
//! |---|---|---|
//! | T1 | not marked | Next |
//! | | `ingress_ifindex` is 0, and a socket of the node is on the packet | Next |
//! | | `ingress_ifindex` is 0 otherwise | Drop(Policy), counted for endpoint 0 |
//! | | `interface[ingress_ifindex]` misses | Drop(Policy), counted for endpoint 0 |
//! | | the sender's word lacks EGRESS | unmark, Next |
//! | T2 | steps 2 to 6 as of `from_pod` of the sender, with `iso` and without `guard`; their Next unmarks | |
//! | | in step 5 the hook of the key is `translated`, and nothing is born on the node | |
//! | T3 | ICMP errors (they have no port), ICMP and others alike: Permits(`from_pod`, destination, destination port) | unmark, Next |
//! | | otherwise | Drop(Policy) |
//!
//! A marked packet that a socket of the node has sent carries somebody else's bit. One that has
//! neither an interface nor a socket was forwarded, and its sender is not known any more
//! (`ip6_copy_metadata`, net/ipv6/ip6_output.c). An ICMP error by the pod about a deferred
//! connection is Drop(IcmpError) at `from_pod`: its opener is not permitted there.

mod connection;

use std::net::Ipv6Addr;

pub use connection::{Event, Phase, Side, YIELDING_SECONDS, seconds};

/// The EtherTypes that a hook knows.
pub mod ether {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// An 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// An 802.1ad tag.
    pub const QINQ: u16 = 0x88a8;
    /// How many tags a hook looks through before it gives up.
    pub const MAX_TAGS: usize = 2;
}

/// The numbers of IP protocols and IPv6 extension headers, and bits of the IPv4 header.
pub mod ip {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header: an extension header of IPv6, a protocol of IPv4.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// The IPv6 extension headers that are walked.
    pub const EXTENSIONS: [u8; 6] =
        [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY];
    /// How many extension headers a packet may have.
    pub const MAX_EXTENSIONS: usize = 8;
    /// The bit that says that more fragments follow, in the 16 bits at offset 6 of the IPv4 header.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The bits of the fragment offset, in units of 8 bytes, in the 16 bits at offset 6 of the IPv4
    /// header.
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;
}

/// The protocols with ports.
pub const HAS_PORTS: [u8; 3] = [ip::TCP, ip::UDP, ip::SCTP];

/// TCP flag bits (byte 13).
pub mod tcp {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// The opening of a connection, or its acceptance.
    pub const SYN: u8 = 0x02;
    /// The end of a connection in both directions.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// SCTP chunk types (byte 12: the first chunk's).
pub mod sctp {
    /// DATA.
    pub const DATA: u8 = 0;
    /// INIT.
    pub const INIT: u8 = 1;
    /// INIT ACK.
    pub const INIT_ACK: u8 = 2;
    /// ABORT.
    pub const ABORT: u8 = 6;
    /// SHUTDOWN.
    pub const SHUTDOWN: u8 = 7;
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// ICMP and ICMPv6 types.
pub mod icmp {
    /// Requests of ICMP: echo, timestamp.
    pub const REQUESTS_V4: [u8; 2] = [8, 13];
    /// The replies of ICMP to [`REQUESTS_V4`], in the same order.
    pub const REPLIES_V4: [u8; 2] = [0, 14];
    /// The type of the message that opens the exchange to which one of this type belongs: that of
    /// the request for a reply, else its own. A reply has its request's code, as Linux sends it.
    pub const fn question(family: u8, kind: u8) -> u8 {
        match (family, kind) {
            (4, 0) => REQUESTS_V4[0],
            (4, 14) => REQUESTS_V4[1],
            (6, 129) => REQUESTS_V6[0],
            (_, other) => other,
        }
    }
    /// Errors of ICMP: unreachable, source quench, redirect, time exceeded, parameter problem.
    pub const ERRORS_V4: [u8; 5] = [3, 4, 5, 11, 12];
    /// Requests of ICMPv6: echo.
    pub const REQUESTS_V6: [u8; 1] = [128];
    /// The replies of ICMPv6 to [`REQUESTS_V6`].
    pub const REPLIES_V6: [u8; 1] = [129];
    /// Errors of ICMPv6: unreachable, too big, time exceeded, parameter problem.
    pub const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];
    /// The first and the last type of neighbour discovery (RFC 4861).
    pub const DISCOVERY: (u8, u8) = (133, 137);
    /// What only a router sends: router advertisement and redirect.
    pub const OF_ROUTERS: [u8; 2] = [134, 137];
    /// The type of a neighbour advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// The types of multicast listener discovery (RFC 2710, RFC 3810).
    pub const LISTENER: [u8; 4] = [130, 131, 132, 143];
}

/// Source and destination port of the only IPv4 packets that may come from 0.0.0.0.
pub const DHCP: (u16, u16) = (68, 67);
/// Source and destination port of the only UDP packets that may come from fe80::/10 or ::.
pub const DHCPV6: (u16, u16) = (546, 547);

/// The bit of a packet's mark that says that its egress is still to be judged, unless configured
/// otherwise. Kubernetes' own two are 0x4000 and 0x8000; portmap has 0x2000, the AWS CNI 0x80,
/// Istio 0x539, Calico and Weave the upper half; this one is used by Cilium only
/// (github.com/fwmark/registry), beside which netpolc does not run.
pub const DEFERRED_MARK: u32 = 0x1000;

/// How long a first fragment's verdict stands, in seconds (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_SECONDS: u32 = 30;

/// How long a datagram that needs no entry is remembered, so that the next one of its tuple is not
/// noted as an opening, in seconds.
pub const DATAGRAM_SECONDS: u32 = 60;

/// How many bytes of layer 4 must be there to judge `protocol` over the family (4 or 6).
pub const fn needed(protocol: u8, family: u8) -> usize {
    match (protocol, family) {
        (ip::TCP, _) => 14,
        (ip::UDP, _) => 8,
        (ip::SCTP, _) => 16,
        (ip::ICMP, 4) | (ip::ICMPV6, 6) => 8,
        _ => 0,
    }
}

/// How many bytes an ICMPv6 message of neighbour discovery may have: what Linux sends, with room
/// for options.
pub const DISCOVERY_BYTES: usize = 128;

/// The IPv4 options that route by a list of the sender's: loose and strict source route (RFC 791).
pub const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// How many bytes an ICMP error of a pod may quote (family 4: RFC 1812, 4.3.2.3; family 6: RFC
/// 4443, 2.4).
pub const fn quotation(family: u8) -> usize {
    if family == 4 { 576 } else { 1280 }
}

/// Whether a source is in fe80::/10 or is ::, which are the sources that may be unproven.
pub fn may_be_unproven(source: Ipv6Addr) -> bool {
    source.is_unspecified() || source.is_unicast_link_local()
}

/// Why a packet was dropped: what drops are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The tables deny the packet, and it is not a reply to anything that they permit.
    Policy = 0,
    /// A later fragment without a first one that was let through.
    Fragment = 1,
    /// Headers end before they should, or the frame before the packet.
    Truncated = 2,
    /// Wrong version or header length; too many extension headers.
    Malformed = 3,
    /// From the pod, with a source that is not its own (S55).
    SpoofedSource = 4,
    /// The endpoint has used up its connections.
    StateFull = 5,
    /// Neither IP nor ARP.
    NotIp = 6,
    /// An ICMP error about a packet that the pod could not have sent, or that cannot be read (S35).
    IcmpError = 7,
    /// The sender chose a source route, which would lead past the policies of the addresses on it.
    SourceRoute = 8,
    /// From the pod, neighbour discovery that only a router, or another pod, may send (S36).
    Discovery = 9,
    /// From the pod, into a tunnel that ends on a node (S45).
    Tunnel = 10,
    /// To a pod on a bridge, by a unicast hardware address or an IP address that is not its own
    /// (S55).
    ForeignDestination = 11,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [DropReason; 12] = [
        DropReason::Policy,
        DropReason::Fragment,
        DropReason::Truncated,
        DropReason::Malformed,
        DropReason::SpoofedSource,
        DropReason::StateFull,
        DropReason::NotIp,
        DropReason::IcmpError,
        DropReason::SourceRoute,
        DropReason::Discovery,
        DropReason::Tunnel,
        DropReason::ForeignDestination,
    ];

    /// The reason's name in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Policy => "policy",
            DropReason::Fragment => "fragment",
            DropReason::Truncated => "truncated",
            DropReason::Malformed => "malformed",
            DropReason::SpoofedSource => "spoofed_source",
            DropReason::StateFull => "state_full",
            DropReason::NotIp => "not_ip",
            DropReason::IcmpError => "icmp_error",
            DropReason::SourceRoute => "source_route",
            DropReason::Discovery => "discovery",
            DropReason::Tunnel => "tunnel",
            DropReason::ForeignDestination => "foreign_destination",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_in_the_order_of_their_numbers() {
        assert!(DropReason::ALL.iter().enumerate().all(|(i, r)| *r as usize == i));
    }
}
