//! What ethtool tells of an interface: its driver's name and the feature `hw-tc-offload`.
//!
//! By ioctl and not by generic netlink: the driver's name is there only (ethtool's netlink messages
//! have none), and three fixed structures are less than any crate. sysfs would show the mount's
//! network namespace and not the caller's. Not here: what follows from it. Sources:
//! include/uapi/linux/ethtool.h; net/ethtool/ioctl.c (ethtool_get_drvinfo, ethtool_get_features),
//! net/ethtool/common.c (netdev_features_strings).

use std::{
    ffi::c_char,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use serde::Serialize;

const SIOCETHTOOL: u32 = 0x8946;
const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
/// ETH_SS_FEATURES
const FEATURES: u32 = 4;
/// Length of a name in a string set (ETH_GSTRING_LEN), in bytes.
const STRING: usize = 32;
/// NETIF_F_HW_TC_BIT's name.
const HW_TC: &[u8] = b"hw-tc-offload";

/// The state of the feature `hw-tc-offload`, as `ethtool -k` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HwTc {
    /// The feature is on.
    On,
    /// It is off and can be switched on.
    Off,
    /// The driver does not have it.
    Missing,
    /// It cannot be read, for this reason.
    Unknown(String),
}

/// A socket for ioctls, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// Opens a socket for ethtool's requests in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open() -> io::Result<Self> {
        // SAFETY: socket(2) takes integers only. The descriptor is owned below.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, so nobody else owns or closes it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// As `ethtool -i` prints it; for an interface without ethtool operations the kernel gives its
    /// device's driver, or its kind (`veth`).
    ///
    /// # Errors
    /// EOPNOTSUPP where the interface has neither ethtool operations nor a driver or kind; ENODEV
    /// where there is no such interface.
    pub fn driver(&self, interface: &str) -> io::Result<Option<String>> {
        // struct ethtool_drvinfo: cmd, driver[32] at 4, and more; 196 bytes.
        let mut info = [0u32; 49];
        info[0] = GDRVINFO;
        self.call(interface, &mut info)?;
        let bytes: Vec<u8> = info[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(Some(text(&bytes)).filter(|name| !name.is_empty()))
    }

    /// The state of `hw-tc-offload`.
    ///
    /// # Errors
    /// ENODEV where there is no such interface, and whatever else the kernel refuses the three
    /// requests with.
    pub fn hw_tc_offload(&self, interface: &str) -> io::Result<HwTc> {
        // struct ethtool_sset_info: cmd, reserved, mask u64, data[1].
        let mut sizes = [GSSET_INFO, 0, 0, 0, 0, 0];
        sizes[if cfg!(target_endian = "little") { 2 } else { 3 }] = 1 << FEATURES;
        self.call(interface, &mut sizes)?;
        let count = sizes[4] as usize;
        // struct ethtool_gstrings: cmd, string_set, len, data[len * 32].
        let mut names = vec![0u32; 3 + count * STRING / 4];
        names[..3].copy_from_slice(&[GSTRINGS, FEATURES, count as u32]);
        self.call(interface, &mut names)?;
        let bytes: Vec<u8> = names[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let named =
            |name: &[u8]| name.strip_prefix(HW_TC).is_some_and(|rest| rest.first() == Some(&0));
        let Some(bit) = bytes.chunks_exact(STRING).position(named) else {
            return Ok(HwTc::Missing);
        };
        // struct ethtool_gfeatures: cmd, size, features[size] of {available, requested, active,
        // never_changed}.
        let blocks = count.div_ceil(32);
        let mut features = vec![0u32; 2 + blocks * 4];
        features[..2].copy_from_slice(&[GFEATURES, blocks as u32]);
        self.call(interface, &mut features)?;
        let is_set = |word: usize| features[2 + bit / 32 * 4 + word] & 1 << (bit % 32) != 0;
        Ok(match (is_set(2), is_set(0)) {
            (true, _) => HwTc::On,
            (false, true) => HwTc::Off,
            (false, false) => HwTc::Missing,
        })
    }

    /// One request; the kernel writes its answer over it. The callers give it the length that their
    /// request says.
    fn call(&self, interface: &str, request: &mut [u32]) -> io::Result<()> {
        // SAFETY: ifreq consists of integers, arrays of them and a raw pointer, for all of which
        // zero bits are valid.
        let mut wanted: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.len() >= wanted.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in wanted.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as c_char;
        }
        wanted.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // SAFETY: `wanted` lives across the call, and its pointer leads to `request`, which is
        // borrowed mutably until then. The kernel writes as much there as the command and the
        // counts inside the request say; the callers make the slice that long.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL as _, &raw mut wanted) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_offloads_nothing() {
        let ethtool = Ethtool::open().unwrap();
        assert_eq!(ethtool.hw_tc_offload("lo").unwrap(), HwTc::Missing);
        let error = ethtool.driver("no-such-name").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(ethtool.driver("a-name-longer-than-16-bytes").is_err());
    }
}
