// The policy of a Kubernetes node as match-action tables, by netpolc, in P4_16 for v1model.
//
// A port of the switch that the table `interface` knows is a pod's. A packet from such a port is
// judged as one from the pod. It is then recirculated once, and judged as one to the pod whose port
// it is about to leave by. Where the packet goes is not this program's business: see FORWARDING.
//
// There is no connection state here: each packet is judged by itself. Where netpolc's own data
// paths admit a reply because the pod opened the connection, this program drops it unless policy
// permits it like a new packet. Nor is there the following, each of which is therefore dropped
// where the direction is isolated: ICMP errors (judged elsewhere by what they quote), later
// fragments (judged elsewhere like the first), and IPv6 packets with extension headers. A packet to
// a Service that awaits translation (`defer`) is dropped as well: see SERVICES. Frames from or to a
// pod that are neither IP nor ARP, those with VLAN tags included, are dropped. Packets of the
// node itself, which netpolc permits, cannot be told here and are judged like all others. What is
// only tried is not compared.
#include <core.p4>
#include <v1model.p4>

// The two directions of a pod.
const bit<1> FROM_POD = 0;
const bit<1> TO_POD = 1;

// What has been found. LISTED: the table `verdict` has the ports.
const bit<2> PERMIT = 0;
const bit<2> DENY = 1;
const bit<2> LISTED = 2;
const bit<2> DEFER = 3;

// Flags of an endpoint.
const bit<8> INGRESS = 0x01;
const bit<8> EGRESS = 0x02;
const bit<8> GUARD = 0x08;
const bit<8> BRIDGED = 0x10;

// What outlives the recirculation.
const bit<8> KEPT = 1;

header ethernet_t {
    bit<48> destination;
    bit<48> source;
    bit<16> ethertype;
}

header arp_t {
    bit<16> hardware;
    bit<16> network;
    bit<16> lengths;
    bit<16> operation;
    bit<48> sender_mac;
    bit<32> sender;
    bit<48> target_mac;
    bit<32> target;
}

header ipv4_t {
    bit<4> version;
    bit<4> length;
    bit<8> service;
    bit<16> total;
    bit<16> identification;
    bit<3> fragment;
    bit<13> offset;
    bit<8> hops;
    bit<8> protocol;
    bit<16> checksum;
    bit<32> source;
    bit<32> destination;
}

header options_t {
    varbit<320> bytes;
}

header ipv6_t {
    bit<4> version;
    bit<28> flow;
    bit<16> total;
    bit<8> protocol;
    bit<8> hops;
    bit<128> source;
    bit<128> destination;
}

// The first bytes of TCP, UDP and SCTP alike.
header ports_t {
    bit<16> source;
    bit<16> destination;
}

header icmp_t {
    bit<8> kind;
    bit<8> code;
    bit<16> checksum;
}

// Of neighbour solicitations and advertisements.
header neighbour_t {
    bit<32> reserved;
    bit<128> target;
}

struct headers_t {
    ethernet_t ethernet;
    arp_t arp;
    ipv4_t ipv4;
    options_t options;
    ipv6_t ipv6;
    ports_t ports;
    icmp_t icmp;
    neighbour_t neighbour;
}

struct metadata_t {
    @field_list(1) bit<1> hook;
    @field_list(1) bit<9> towards;
    bit<32> ifindex;
    bit<16> endpoint;
    bit<16> ingress_set;
    bit<16> egress_set;
    bit<8> flags;
    bit<48> mac;
    bit<32> own_v4;
    bit<128> own_v6;
    bit<32> remote_v4;
    bit<128> remote_v6;
    bit<16> set;
    bit<8> family;
    bit<16> class;
    bit<16> incarnation;
    bit<8> protocol;
    bit<16> port;
    bit<16> asked;
    bit<16> port_class;
    bit<16> row;
    bit<2> answer;
    // 1: what has to be read of the packet is not in it.
    bit<1> unreadable;
}

parser read(packet_in packet, out headers_t hdr, inout metadata_t meta,
            inout standard_metadata_t standard_metadata) {
    state start {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ethertype) {
            0x0800: ipv4;
            0x0806: arp;
            0x86dd: ipv6;
            default: accept;
        }
    }
    state arp {
        packet.extract(hdr.arp);
        transition accept;
    }
    state ipv4 {
        packet.extract(hdr.ipv4);
        verify(hdr.ipv4.length >= 5, error.HeaderTooShort);
        packet.extract(hdr.options, (bit<32>) (hdr.ipv4.length - 5) << 5);
        meta.protocol = hdr.ipv4.protocol;
        transition select(hdr.ipv4.offset, hdr.ipv4.protocol) {
            (0, 1): icmp;
            (0, 6): ports;
            (0, 17): ports;
            (0, 132): ports;
            (0, _): accept;
            default: unreadable;
        }
    }
    state ipv6 {
        packet.extract(hdr.ipv6);
        meta.protocol = hdr.ipv6.protocol;
        transition select(hdr.ipv6.protocol) {
            6: ports;
            17: ports;
            132: ports;
            58: icmp;
            0: unreadable;
            43: unreadable;
            44: unreadable;
            51: unreadable;
            60: unreadable;
            135: unreadable;
            139: unreadable;
            140: unreadable;
            default: accept;
        }
    }
    state unreadable {
        meta.unreadable = 1;
        transition accept;
    }
    state ports {
        packet.extract(hdr.ports);
        meta.port = hdr.ports.destination;
        transition accept;
    }
    state icmp {
        packet.extract(hdr.icmp);
        transition select(meta.protocol, hdr.icmp.kind) {
            (58, 135): neighbour;
            (58, 136): neighbour;
            default: accept;
        }
    }
    state neighbour {
        packet.extract(hdr.neighbour);
        transition accept;
    }
}

control unchecked(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control ingress(inout headers_t hdr, inout metadata_t meta,
                inout standard_metadata_t standard_metadata) {
    TABLES

    apply {
        bit<1> isolated = 0;
        bit<1> discovery = 0;
        bit<1> listed = 0;

        meta.answer = PERMIT;
        if (meta.hook == TO_POD) {
            standard_metadata.egress_spec = meta.towards;
            meta.ifindex = (bit<32>) meta.towards;
        } else {
            // FORWARDING: set standard_metadata.egress_spec here. As it is, all goes to port 0.
            meta.ifindex = (bit<32>) standard_metadata.ingress_port;
        }

        if (interface.apply().hit) {
            endpoint.apply();
            if (meta.hook == TO_POD) {
                meta.set = meta.ingress_set;
                isolated = (bit<1>) ((meta.flags & INGRESS) != 0);
            } else {
                meta.set = meta.egress_set;
                isolated = (bit<1>) ((meta.flags & EGRESS) != 0);
            }

            // Addresses: those of the other end, and the one that the pod says is its own.
            if (hdr.ipv4.isValid()) {
                meta.family = 4;
                meta.own_v4 = hdr.ipv4.source;
                if (meta.hook == TO_POD) {
                    meta.remote_v4 = hdr.ipv4.source;
                } else {
                    meta.remote_v4 = hdr.ipv4.destination;
                }
            } else if (hdr.ipv6.isValid()) {
                meta.family = 6;
                meta.own_v6 = hdr.ipv6.source;
                if (meta.hook == TO_POD) {
                    meta.remote_v6 = hdr.ipv6.source;
                } else {
                    meta.remote_v6 = hdr.ipv6.destination;
                }
                if (hdr.icmp.isValid() && hdr.ipv6.hops == 255) {
                    if (hdr.icmp.kind >= 133 && hdr.icmp.kind <= 137) {
                        discovery = 1;
                    }
                }
                if (discovery == 1 && hdr.icmp.kind == 136) {
                    meta.own_v6 = hdr.neighbour.target;
                }
            } else if (hdr.arp.isValid()) {
                meta.own_v4 = hdr.arp.sender;
            } else {
                meta.answer = DENY;
            }
            if (standard_metadata.parser_error != error.NoError) {
                meta.answer = DENY;
            }

            // On a bridge, frames are the pod's own or broadcast.
            if (own_mac.apply().hit) {
                if (meta.hook == FROM_POD && hdr.ethernet.source != meta.mac) {
                    meta.answer = DENY;
                }
                if (meta.hook == FROM_POD && hdr.arp.isValid() && hdr.arp.sender_mac != meta.mac) {
                    meta.answer = DENY;
                }
                if (meta.hook == TO_POD && hdr.ethernet.destination[40:40] == 0
                    && hdr.ethernet.destination != meta.mac) {
                    meta.answer = DENY;
                }
            }

            // The guard: a pod speaks for itself alone.
            if (meta.hook == FROM_POD && (meta.flags & GUARD) != 0) {
                if (hdr.ipv4.isValid() || hdr.arp.isValid()) {
                    if (!own_v4.apply().hit) {
                        meta.answer = DENY;
                    }
                } else if (discovery == 1 && hdr.icmp.kind != 136
                           && (hdr.ipv6.source == 0 || hdr.ipv6.source[127:118] == 0x3fa)) {
                    // Not yet addressed, or link-local.
                    meta.own_v6 = 0;
                } else if (hdr.ipv6.isValid()) {
                    if (!own_v6.apply().hit) {
                        meta.answer = DENY;
                    }
                }
                // Router advertisements and redirects are no pod's to send.
                if (discovery == 1 && (hdr.icmp.kind == 134 || hdr.icmp.kind == 137)) {
                    meta.answer = DENY;
                }
            }
            if (meta.hook == FROM_POD && discovery == 1 && (meta.flags & BRIDGED) != 0) {
                // Neighbour discovery stays on the link.
                if (hdr.ipv6.destination[127:120] != 0xff
                    && hdr.ipv6.destination[127:118] != 0x3fa) {
                    if (!on_link_v6.apply().hit) {
                        meta.answer = DENY;
                    }
                }
            }

            if (meta.answer == PERMIT && isolated == 1 && meta.family != 0 && discovery == 0) {
                if (meta.family == 4) {
                    remote_v4.apply();
                } else {
                    remote_v6.apply();
                }
                // Protocols without ports are asked about as 0, the ICMP of the packet's family by
                // type and code, and the ICMP of the other family not at all.
                if (hdr.ports.isValid()) {
                    meta.asked = meta.port;
                } else if (hdr.icmp.isValid()) {
                    meta.asked = hdr.icmp.kind ++ hdr.icmp.code;
                }
                if ((meta.family == 4 && meta.protocol != 58)
                    || (meta.family == 6 && meta.protocol != 1)) {
                    port.apply();
                }
                base.apply();
                row.apply();
                if (meta.answer == LISTED) {
                    listed = 1;
                    verdict.apply();
                }
                if (meta.unreadable == 1) {
                    meta.answer = DENY;
                }
                if (hdr.icmp.isValid() && meta.family == 6 && hdr.icmp.kind < 128) {
                    meta.answer = DENY;
                }
                if (hdr.icmp.isValid() && meta.family == 4) {
                    if (hdr.icmp.kind == 3 || hdr.icmp.kind == 4 || hdr.icmp.kind == 5
                        || hdr.icmp.kind == 11 || hdr.icmp.kind == 12) {
                        meta.answer = DENY;
                    }
                }
                if (meta.answer == DENY && meta.hook == FROM_POD && hdr.ports.isValid()) {
                    if (meta.family == 4) {
                        service_v4.apply();
                    } else {
                        service_v6.apply();
                    }
                }
            }

            // Only a rule that names the port opens a way into a tunnel, and none does where the
            // protocol has no ports. A packet of which the port is not known may lead into one.
            if (meta.hook == FROM_POD && (meta.flags & GUARD) != 0 && meta.family != 0) {
                if (meta.unreadable == 1) {
                    meta.answer = DENY;
                } else if (tunnel.apply().hit) {
                    if (listed == 0 || !hdr.ports.isValid()) {
                        meta.answer = DENY;
                    }
                }
            }

            // SERVICES: what is deferred has to be translated and then judged once more by the
            // sender's egress set, with the new destination as remote. Nothing here does that.
            if (meta.answer != PERMIT) {
                mark_to_drop(standard_metadata);
            }
        }
    }
}

control egress(inout headers_t hdr, inout metadata_t meta,
               inout standard_metadata_t standard_metadata) {
    apply {
        if (meta.hook == FROM_POD) {
            meta.hook = TO_POD;
            meta.towards = standard_metadata.egress_port;
            recirculate_preserving_field_list(KEPT);
        }
    }
}

control computed(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control write(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr);
    }
}

V1Switch(read(), unchecked(), ingress(), egress(), computed(), write()) main;
