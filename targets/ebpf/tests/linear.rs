//! S52: headers outside the linear part of a packet. A tap device makes such packets: the sender
//! says how many bytes are to be linear, and of more than a page the rest stands in fragments.

mod common;

use std::{
    fs::File,
    io::Write as _,
    net::IpAddr,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use common::{PinDir, own_network, pod, sh};
use netpolc_table::{
    ActionId, EndpointId, IfIndex, PortClassId, RowId, SetId, TableId, Write,
    schema::{self, Family, Word},
};
use netpolc_target::{
    Hook, Target as _,
    frame::{Extension, Packet, Tag},
    semantics::{DropReason, ip, tcp},
};
use netpolc_target_ebpf::{Config, Ebpf};

/// `struct virtio_net_hdr`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
const HEADER: usize = 10;

/// A tap device whose packets the caller writes.
fn tap(name: &str) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TAP: i16 = 2;
    const IFF_NO_PI: i16 = 0x1000;
    const IFF_VNET_HDR: i16 = 0x4000;
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("needs root and the tun module");
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
    // SAFETY: the request is a struct ifreq, 40 bytes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    sh(&format!("ip link set {name} mtu 9000 up"));
    file
}

fn address(family: Family, n: u16) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4([10, 0, 0, n as u8].into()),
        Family::V6 => IpAddr::V6([0xfd00, 0, 0, 0, 0, 0, 0, n].into()),
    }
}

/// Packets from the pod are permitted to TCP port 443 only.
fn program(ebpf: &mut Ebpf, ifindex: IfIndex) {
    let word = Word {
        ingress_set: SetId::new(0),
        egress_set: SetId::new(1),
        born_set: SetId::new(0),
        flags: Word::EGRESS,
    };
    let mut writes = vec![
        Write::put(
            TableId::Port,
            schema::port_key(6, 443, 443),
            schema::set_port_class(PortClassId::new(1)),
        ),
        Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(1), PortClassId::new(1)),
            schema::plain(ActionId::Permit),
        ),
    ];
    writes.extend(pod(ifindex, word, &Family::BOTH.map(|family| address(family, 1))));
    for family in Family::BOTH {
        writes.push(Write::put(
            TableId::Base,
            schema::base_key(SetId::new(1), family),
            schema::set_row(RowId::new(1)),
        ));
    }
    writes.iter().for_each(|w| ebpf.write(w).unwrap());
}

fn drops(ebpf: &Ebpf) -> Vec<(DropReason, u64)> {
    let list = ebpf
        .drops(EndpointId::new(1))
        .unwrap()
        .into_iter()
        .filter(|(hook, _, n)| *hook == Hook::FromPod && *n > 0);
    list.map(|(_, reason, n)| (reason, n)).collect()
}

#[test]
fn s52_headers_outside_the_linear_part_are_read_like_others() {
    std::thread::spawn(|| {
        own_network();
        let mut tap = tap("pod0");
        let dir = PinDir::new("linear");
        let mut ebpf = Ebpf::open(&dir.0, Config::small()).expect("needs root and BPF");
        let (ifindex, _) = ebpf.attach_name("pod0").unwrap();
        program(&mut ebpf, ifindex);
        // the device's own discovery is over, or counts nowhere
        std::thread::sleep(Duration::from_millis(300));
        let mut expected = 0;
        for family in Family::BOTH {
            let plain = Packet::new(address(family, 1), address(family, 2));
            let mut shapes = vec![plain.clone(), plain.clone().tag(Tag::vlan(5)).tag(Tag::vlan(6))];
            match family {
                Family::V4 => shapes.push(plain.options(&[1; 40])),
                Family::V6 => shapes.push(
                    plain
                        .extension(Extension::padded(ip::HOP_BY_HOP, 3))
                        .extension(Extension::padded(ip::DESTINATION, 200)),
                ),
            }
            for shape in shapes {
                for port in [443, 444] {
                    let frame = shape.clone().tcp(1000, port, tcp::ACK).payload(&[0; 4500]).build();
                    for linear in [14, 20, 34, 40, 54, 60, 100, 4000] {
                        let mut header = [0u8; HEADER];
                        header[2..4].copy_from_slice(&(linear as u16).to_ne_bytes());
                        tap.write_all(&[&header[..], &frame].concat()).unwrap();
                        expected += u64::from(port == 444);
                        // a device delivers on its own time
                        let end = Instant::now() + Duration::from_secs(5);
                        while drops(&ebpf).iter().map(|(_, n)| n).sum::<u64>() < expected
                            && Instant::now() < end
                        {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        let all: &[_] =
                            if expected == 0 { &[] } else { &[(DropReason::Policy, expected)] };
                        assert_eq!(drops(&ebpf), all, "{family:?}, {port}, {linear} linear");
                    }
                }
            }
        }
    })
    .join()
    .unwrap();
}
