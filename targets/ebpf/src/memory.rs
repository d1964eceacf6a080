//! Array maps as shared memory: slices of atomics over whole maps ([`Region`]) or parts of them
//! ([`Window`]), unmapped on drop.
//!
//! Programs read (and, for state, write) the same words while user space does. A store of `Release`
//! order becomes visible after the stores before it, so that what a pointer leads to is written
//! before the pointer. A word is never torn. Not here: what the words mean (`layout`), and the
//! kernel's hash maps (`maps`).

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64},
};

use aya::maps::MapData;
use netpolc_target::Error;

use crate::sys::{BPF_F_MMAPABLE, refused};

const BPF_MAP_TYPE_ARRAY: u32 = 2;

mod sealed {
    /// Keeps [`super::Word`] to types of which every bit pattern is a value.
    pub trait Word {}
}
/// The atomic integers that mapped memory may be seen as.
pub trait Word: sealed::Word + Sync {}
macro_rules! words {
    ($($t:ty),*) => { $(impl sealed::Word for $t {} impl Word for $t {})* };
}
words!(AtomicU8, AtomicU16, AtomicU32, AtomicU64);

/// A map and its whole memory.
#[derive(Debug)]
pub struct Region {
    map: MapData,
    memory: Window,
}

impl Region {
    /// Makes a zeroed map of `bytes` bytes. The kernel cuts the name at 15 letters.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses the map, usually for lack of root or memory.
    pub fn create(name: &str, bytes: u64) -> Result<Self, Error> {
        let map = create_map(name, bytes)?;
        Self::map(name, map, bytes)
    }

    /// Maps the memory of an existing map, which must have exactly this size.
    ///
    /// # Errors
    /// [`Error::Installed`] where the map has another size, [`Error::System`] where it cannot be
    /// mapped.
    pub fn map(name: &str, map: MapData, bytes: u64) -> Result<Self, Error> {
        check_size(name, &map, bytes)?;
        let memory = Window::map(name, &map, 0, bytes as usize)?;
        Ok(Self { map, memory })
    }

    /// The whole memory as atomics of one size.
    pub fn words<T: Word>(&self) -> &[T] {
        self.memory.words()
    }

    /// The map's descriptor as a number, for instructions.
    pub fn raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }

    /// The map's descriptor, for pins.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

/// A part of a map's memory, mapped only while it is needed: the kernel counts a whole mapping
/// towards the process, touched or not.
#[derive(Debug)]
pub struct Window {
    /// The first byte of the mapping, at the beginning of a page.
    start: NonNull<u8>,
    /// The length of the mapping in bytes.
    length: usize,
    /// How many bytes of the mapping precede the part that was asked for.
    skip: usize,
    /// The length of the part that was asked for.
    bytes: usize,
}

// SAFETY: a window owns its mapping, which is valid in every thread of the process and is unmapped
// once, by whichever thread drops the window. Nothing in it refers to the thread that made it.
unsafe impl Send for Window {}
// SAFETY: a shared window gives out nothing but `&[T]` of atomics ([`Word`] is sealed), so that
// threads with references to it, and programs in the kernel, race on atomics only.
unsafe impl Sync for Window {}

impl Window {
    /// Maps the pages of the `bytes` bytes from `from` on, which must lie in the map's value.
    ///
    /// # Errors
    /// [`Error::System`] where the bytes are not in the map, the map is not mmapable, or memory is
    /// short.
    pub fn map(name: &str, map: &MapData, from: u64, bytes: usize) -> Result<Self, Error> {
        // SAFETY: sysconf takes no pointers; it reads a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        // A mapping can begin only with a page.
        let skip = (from % page) as usize;
        let length = skip + bytes;
        // SAFETY: without MAP_FIXED the kernel picks unused addresses, so that no memory of Rust's
        // is replaced. The descriptor is open for the call, since `map` is borrowed. A range beyond
        // the map's end is refused (array_map_mmap, kernel/bpf/arraymap.c), so that no access
        // faults later.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                (from - skip as u64) as libc::off_t,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { start, length, skip, bytes })
            }
            _ => Err(refused(
                format!("map {name}: mmap {bytes} bytes at {from}"),
                io::Error::last_os_error(),
            )),
        }
    }

    /// The part as atomics of one size. It must begin at a multiple of that size in the map.
    pub fn words<T: Word>(&self) -> &[T] {
        // SAFETY: `start + skip` is aligned as its place in the map is, since mappings begin with a
        // page; callers ask for places at multiples of 8, the largest size of a [`Word`]. The bytes
        // up to `skip + bytes` are mapped until `self` is dropped, which the slice borrows. Every
        // bit pattern is a value of an atomic integer, and only atomics access the memory.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().add(self.skip).cast(),
                self.bytes / size_of::<T>(),
            )
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are those of the mapping that `Window::map` made, which is
        // unmapped nowhere else. Slices into it borrow `self`, so that none is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Makes a zeroed array of `entries` values of `value` bytes, which a map of maps can hold.
///
/// # Errors
/// [`Error::System`] where the kernel refuses the map, usually for lack of root or memory.
pub fn create_inner_map(name: &str, value: u32, entries: u32) -> Result<MapData, Error> {
    let params =
        aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY, 4, value, entries, BPF_F_MMAPABLE);
    let made = MapData::create(params, name, None);
    made.map_err(|e| {
        refused(format!("map {name}: create {entries} buckets of {value} bytes"), map_error(e))
    })
}

fn create_map(name: &str, bytes: u64) -> Result<MapData, Error> {
    let size = u32::try_from(bytes).map_err(|_| {
        refused(format!("map {name}: {bytes} bytes"), io::ErrorKind::InvalidInput.into())
    })?;
    // BPF_F_RDONLY_PROG would fit, but the kernel refuses a writable mapping of such a map
    // (EACCES).
    let params = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY, 4, size, 1, BPF_F_MMAPABLE);
    MapData::create(params, name, None)
        .map_err(|e| refused(format!("map {name}: create {bytes} bytes"), map_error(e)))
}

/// Refuses a map of another size.
fn check_size(name: &str, map: &MapData, bytes: u64) -> Result<(), Error> {
    let info = map.info().map_err(|e| refused(format!("map {name}: facts"), map_error(e)))?;
    if u64::from(info.value_size()) != bytes || info.max_entries() != 1 {
        let found = format!("map {name} has {} bytes, not {bytes}", info.value_size());
        return Err(Error::Installed(found));
    }
    Ok(())
}

/// The system error inside an error of aya's; an error with aya's words where there is none.
pub(crate) fn map_error(error: aya::maps::MapError) -> io::Error {
    use aya::maps::MapError;
    match error {
        MapError::CreateError { io_error, .. } | MapError::IoError(io_error) => io_error,
        MapError::SyscallError(e) => e.io_error,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn memory_is_shared_between_mappings_and_zero_at_first() {
        let one = Region::create("np_test", 8192).expect("needs root and BPF");
        assert!(one.words::<AtomicU64>().iter().all(|w| w.load(Relaxed) == 0));
        let fd = one.fd().try_clone_to_owned().unwrap();
        let two = Region::map("np_test", MapData::from_fd(fd).unwrap(), 8192).unwrap();
        one.words::<AtomicU32>()[2047].store(7, Relaxed);
        assert_eq!(two.words::<AtomicU32>()[2047].load(Relaxed), 7);
        drop(one);
        assert_eq!(two.words::<AtomicU16>()[4094].load(Relaxed), 7);
    }

    #[test]
    fn a_window_is_a_part_of_the_same_memory() {
        let one = Region::create("np_test", 65536).expect("needs root and BPF");
        one.words::<AtomicU64>()[5000 / 8].store(7, Relaxed);
        let window = Window::map("np_test", &one.map, 5000, 16).unwrap();
        assert_eq!(window.words::<AtomicU64>()[0].load(Relaxed), 7);
        window.words::<AtomicU64>()[1].store(9, Relaxed);
        drop(window);
        assert_eq!(one.words::<AtomicU64>()[5008 / 8].load(Relaxed), 9);
        assert!(Window::map("np_test", &one.map, 65536, 16).is_err());
    }

    #[test]
    fn another_size_is_refused() {
        let one = Region::create("np_test", 4096).expect("needs root and BPF");
        let map = MapData::from_fd(one.fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(matches!(Region::map("np_test", map, 8192), Err(Error::Installed(_))));
    }
}
