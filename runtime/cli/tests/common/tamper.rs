//! Somebody else who is root on the node, and changes what the agent has put into the kernel: what
//! `bpftool map update` and `bpftool link detach` do, by the same system calls.
//!
//! Not here: what the maps hold (`netpolc_target_ebpf::layout`).

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

const MAP_LOOKUP_ELEM: i64 = 1;
const MAP_UPDATE_ELEM: i64 = 2;
const OBJ_GET: i64 = 7;
const LINK_DETACH: i64 = 34;

/// `bpf(2)` with attributes of 64 bits each.
fn bpf(command: i64, attributes: &[u64; 8]) -> io::Result<i64> {
    let size = size_of_val(attributes);
    // SAFETY: the kernel reads `size` bytes of attributes; what they point to outlives the call, as
    // every caller sees to.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
    let fd = bpf(OBJ_GET, &[path.as_ptr() as u64, 0, 0, 0, 0, 0, 0, 0])?;
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A pinned array with one value.
pub struct Array(OwnedFd, usize);

impl Array {
    pub fn open(pin: &Path) -> Self {
        let map = open(pin).unwrap_or_else(|e| panic!("{}: {e}", pin.display()));
        let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).unwrap();
        let size = facts.lines().find_map(|line| line.strip_prefix("value_size:")).unwrap();
        Self(map, size.trim().parse().unwrap())
    }

    fn call(&self, command: i64, value: *mut u8) {
        let key = 0u32;
        let map = self.0.as_raw_fd() as u64;
        bpf(command, &[map, &raw const key as u64, value as u64, 0, 0, 0, 0, 0]).unwrap();
    }

    /// The whole value.
    pub fn read(&self) -> Vec<u8> {
        let mut value = vec![0; self.1];
        self.call(MAP_LOOKUP_ELEM, value.as_mut_ptr());
        value
    }

    /// Replaces the whole value.
    pub fn write(&self, mut value: Vec<u8>) {
        assert_eq!(value.len(), self.1);
        self.call(MAP_UPDATE_ELEM, value.as_mut_ptr());
    }
}

/// The folder of the newest tables.
pub fn generation(pins: &Path) -> PathBuf {
    let entries = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path());
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("gen_")?.parse::<u64>().ok()
    };
    entries.filter(|path| number(path).is_some()).max_by_key(number).expect("tables are pinned")
}

/// The pinned links to pods.
pub fn links(pins: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins.join("links")).unwrap().map(|entry| entry.unwrap().path());
    let mut links: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().ends_with("_to_pod")).collect();
    links.sort();
    links
}

/// Takes a link off its interface; the link and its pin stay.
pub fn detach(link: &Path) {
    let link = open(link).unwrap();
    bpf(LINK_DETACH, &[link.as_raw_fd() as u64, 0, 0, 0, 0, 0, 0, 0]).unwrap();
}
