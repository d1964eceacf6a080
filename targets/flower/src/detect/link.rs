//! The interfaces of a network namespace with what rtnetlink says of their switches and devices: the same as sysfs's
//! phys_switch_id, phys_port_name and device, but of the calling thread's namespace and in one request.
//!
//! Not here: drivers and features ([`super::ethtool`]).
//! Sources: include/uapi/linux/if_link.h; net/core/rtnetlink.c, rtnl_fill_ifinfo (parent devices since Linux 5.14).

use std::io;

use super::{
    facts::Device,
    talk::{attribute, text, u32_at},
};
use crate::netlink::Socket;

/// struct ifinfomsg: family, pad, type u16, index i32, flags, change.
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_PHYS_SWITCH_ID: u16 = 36;
const IFLA_PHYS_PORT_NAME: u16 = 38;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// phys_switch_id in hexadecimal.
    pub switch_id: Option<String>,
    /// phys_port_name.
    pub port_name: Option<String>,
    /// The device it belongs to.
    pub device: Option<Device>,
}

/// All of the calling thread's namespace, in order of index.
///
/// # Errors
/// The kernel's.
pub fn links() -> io::Result<Vec<Link>> {
    let mut links = Socket::open()?.dump(libc::RTM_GETLINK, &[0; IFINFOMSG], link)?;
    links.sort_by_key(|l| l.index);
    Ok(links)
}

fn link(body: &[u8]) -> Option<Link> {
    let word = |kind| text(body, IFINFOMSG, kind).filter(|t| !t.is_empty());
    let switch_id = attribute(body, IFINFOMSG, IFLA_PHYS_SWITCH_ID).filter(|id| !id.is_empty());
    let device = word(IFLA_PARENT_DEV_BUS_NAME).zip(word(IFLA_PARENT_DEV_NAME));
    Some(Link {
        index: u32_at(body, 4)?,
        name: word(IFLA_IFNAME)?,
        switch_id: switch_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        port_name: word(IFLA_PHYS_PORT_NAME),
        device: device.map(|(bus, name)| Device { bus, name }),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::talk, *};

    #[test]
    fn the_loopback_interface_is_the_first() {
        let links = links().unwrap();
        let lo = Link { index: 1, name: "lo".into(), switch_id: None, port_name: None, device: None };
        assert_eq!(links[0], lo);
        assert!(links.is_sorted_by_key(|l| l.index));
    }

    #[test]
    fn a_representor_is_read() {
        let mut body = vec![0; IFINFOMSG];
        body[4] = 9;
        talk::put_text(&mut body, IFLA_IFNAME, "enp3s0f0_1");
        body.extend([7, 0, IFLA_PHYS_SWITCH_ID as u8, 0, 0x02, 0xab, 0x00, 0]);
        talk::put_text(&mut body, IFLA_PHYS_PORT_NAME, "pf0vf1");
        talk::put_text(&mut body, IFLA_PARENT_DEV_NAME, "0000:03:00.0");
        talk::put_text(&mut body, IFLA_PARENT_DEV_BUS_NAME, "pci");
        let link = link(&body).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.switch_id.as_deref()), (9, "enp3s0f0_1", Some("02ab00")));
        assert_eq!(link.port_name.as_deref(), Some("pf0vf1"));
        assert_eq!(link.device.unwrap().to_string(), "pci/0000:03:00.0");
    }
}
