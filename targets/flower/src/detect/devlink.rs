//! The mode of a device's embedded switch, from devlink (generic netlink). That a device or a
//! kernel has none is a finding and no error.
//!
//! Sources: include/uapi/linux/{devlink,genetlink}.h; net/devlink, devlink_nl_cmd_eswitch_get_doit.

use std::io;

use netpolc_host::{
    links::Device,
    netlink::{Protocol, Socket, attribute, put_text, u16_at},
};

use serde::Serialize;

/// struct genlmsghdr: cmd, version, reserved u16.
const GENLMSGHDR: usize = 4;
/// The family that names families.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const DEVLINK_CMD_ESWITCH_GET: u8 = 29;
const DEVLINK_ATTR_BUS_NAME: u16 = 1;
const DEVLINK_ATTR_DEV_NAME: u16 = 2;
const DEVLINK_ATTR_ESWITCH_MODE: u16 = 25;

/// The mode of a device's embedded switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eswitch {
    /// Every function has a representor on the host, and filters sit on these.
    Switchdev,
    /// A switch by hardware addresses alone.
    Legacy,
    /// The device has none that devlink shows, for this reason.
    Absent(String),
}

/// The mode of `device`'s switch, as `devlink dev eswitch show` prints it. Needs CAP_NET_ADMIN.
pub fn eswitch(device: &Device) -> Eswitch {
    let absent = |why: &str| Eswitch::Absent(why.to_owned());
    match mode(device) {
        Ok(Some(0)) => Eswitch::Legacy,
        Ok(Some(1)) => Eswitch::Switchdev,
        Ok(Some(other)) => {
            Eswitch::Absent(format!("devlink gives an unknown eswitch mode, {other}"))
        }
        Ok(None) => absent("devlink gives no eswitch mode"),
        Err(error) => match error.raw_os_error() {
            // The family, or the protocol, is not there.
            Some(libc::ENOENT | libc::EPROTONOSUPPORT) => absent("the kernel has no devlink"),
            Some(libc::ENODEV) => Eswitch::Absent(format!("devlink does not know {device}")),
            Some(libc::EOPNOTSUPP) => Eswitch::Absent(format!("{device} has no embedded switch")),
            _ => Eswitch::Absent(format!("devlink: {error}")),
        },
    }
}

fn mode(device: &Device) -> io::Result<Option<u16>> {
    let mut request = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    put_text(&mut request, CTRL_ATTR_FAMILY_NAME, "devlink");
    let mut socket = Socket::open(Protocol::Generic)?;
    let mut ask = |family, request: &[u8], kind| -> io::Result<Option<u16>> {
        let answers = socket.request(family, 0, request)?;
        Ok(answers.iter().find_map(|body| u16_at(attribute(body.get(GENLMSGHDR..)?, kind)?, 0)))
    };
    let Some(family) = ask(GENL_ID_CTRL, &request, CTRL_ATTR_FAMILY_ID)? else {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    };
    let mut request = vec![DEVLINK_CMD_ESWITCH_GET, 1, 0, 0];
    put_text(&mut request, DEVLINK_ATTR_BUS_NAME, &device.bus);
    put_text(&mut request, DEVLINK_ATTR_DEV_NAME, &device.name);
    ask(family, &request, DEVLINK_ATTR_ESWITCH_MODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_switch() {
        let device = Device { bus: "pci".into(), name: "ffff:ff:ff.7".into() };
        assert!(matches!(eswitch(&device), Eswitch::Absent(_)));
    }
}
