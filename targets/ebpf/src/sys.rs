//! The few system calls that neither aya nor std offers: links by interface index, link facts,
//! membarrier, mounts.
//!
//! Not here: when to call them. Numbers and struct layouts are those of `include/uapi/linux/bpf.h`.

use netpolc_table::IfIndex;
use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    time::Duration,
};

use netpolc_target::Error;

const BPF_OBJ_PIN: u32 = 6;
const BPF_OBJ_GET: u32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_UPDATE: u32 = 29;
// Of `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Of `enum bpf_link_type`.
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_F_BEFORE: u32 = 1 << 3;
/// How many bytes of `union bpf_attr` are kept: enough for every command here. Bytes that are not
/// set are zero.
const ATTR: usize = 128;

/// `union bpf_attr`, filled field by field.
#[repr(C, align(8))]
struct Attr([u8; ATTR]);

impl Attr {
    fn new() -> Self {
        Attr([0; ATTR])
    }
    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn u64(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }
    /// `bpf(command)` with the first `size` bytes. Pointers in them must be valid as the command
    /// requires until the call returns.
    fn call(&mut self, command: u32, size: usize) -> io::Result<i64> {
        debug_assert!(size <= ATTR);
        // SAFETY: the kernel reads (for some commands also writes) `size` bytes, no more than the
        // array has, and `self` is borrowed mutably. The pointers in it come from this module's
        // functions alone, each of which borrows or owns what it points to until the call has
        // returned, in the length that it passes.
        match unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), size) } {
            -1 => Err(io::Error::last_os_error()),
            value => Ok(value),
        }
    }
    /// As [`Attr::call`], for commands that return a descriptor.
    fn open(&mut self, command: u32, size: usize) -> io::Result<OwnedFd> {
        // SAFETY: the commands that are passed here (MAP_CREATE, LINK_CREATE, OBJ_GET) return a new
        // descriptor on success, which nobody else knows or closes.
        self.call(command, size).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

/// An [`Error::System`] that says which call failed, on what.
pub fn refused(call: impl Into<String>, source: io::Error) -> Error {
    Error::System { call: call.into(), source }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// The side of an interface that a TCX link or a filter is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcxHook {
    /// Packets that the interface receives.
    Ingress,
    /// Packets that the interface sends.
    Egress,
}

/// Attaches a program in front of those that are attached, to an interface of the calling thread's
/// network namespace. The link lives as long as the descriptor, or a pin of it.
///
/// # Errors
/// The kernel has no TCX (EINVAL), the interface does not exist (ENODEV), or the program is
/// attached there already (EEXIST).
pub fn tcx_attach(program: BorrowedFd<'_>, ifindex: IfIndex, hook: TcxHook) -> io::Result<OwnedFd> {
    let kind = if hook == TcxHook::Ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS };
    // link_create: prog_fd 0, target_ifindex 4, attach_type 8, flags 12, tcx.relative_fd 16,
    // expected_revision 24
    let attr = Attr::new()
        .u32(0, program.as_raw_fd() as u32)
        .u32(4, ifindex.get())
        .u32(8, kind)
        .u32(12, BPF_F_BEFORE);
    attr_open(attr, BPF_LINK_CREATE, 48)
}

fn attr_open(mut attr: Attr, command: u32, size: usize) -> io::Result<OwnedFd> {
    attr.open(command, size)
}

/// How many programs are attached to an interface by TCX; 0 where the kernel has no TCX.
pub fn tcx_programs(ifindex: IfIndex, hook: TcxHook) -> u32 {
    let kind = if hook == TcxHook::Ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS };
    // query: target_ifindex 0, attach_type 4, query_flags 8, attach_flags 12, prog_ids 16, count 24
    let mut attr = Attr::new().u32(0, ifindex.get()).u32(4, kind);
    // The call fails for lack of room for the programs' ids, but the kernel writes their count
    // before.
    drop(attr.call(BPF_PROG_QUERY, 64));
    u32::from_ne_bytes([attr.0[24], attr.0[25], attr.0[26], attr.0[27]])
}

/// Exchanges a link's program. Each packet meets the old program or the new one.
///
/// # Errors
/// The interface is gone (ENOLINK), or the kernel refuses the program.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::new().u32(0, link.as_raw_fd() as u32).u32(4, program.as_raw_fd() as u32);
    attr.call(BPF_LINK_UPDATE, 16).map(drop)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// The kernel's id of the program.
    pub program: u32,
    /// The interface's index; None where the interface is gone.
    pub ifindex: Option<IfIndex>,
}

/// Reads what a TCX link is attached to.
///
/// # Errors
/// The descriptor is not that of a TCX link.
pub fn link_facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    // struct bpf_link_info: type 0, id 4, prog_id 8, (aligned) tcx.ifindex 16, tcx.attach_type 20
    let mut info = [0u64; 16];
    let mut attr =
        Attr::new().u32(0, link.as_raw_fd() as u32).u32(4, 128).u64(8, info.as_mut_ptr() as u64);
    attr.call(BPF_OBJ_GET_INFO_BY_FD, 16)?;
    if info[0] as u32 != BPF_LINK_TYPE_TCX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a TCX link"));
    }
    let ifindex = info[2] as u32;
    Ok(LinkFacts {
        program: info[1] as u32,
        ifindex: (ifindex != 0).then(|| IfIndex::new(ifindex)),
    })
}

/// Pins a BPF object of any kind.
///
/// # Errors
/// The path is taken (EEXIST), its directory does not exist, or it is not on a BPF file system.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    Attr::new()
        .u64(0, name.as_ptr() as u64)
        .u32(8, object.as_raw_fd() as u32)
        .call(BPF_OBJ_PIN, 16)
        .map(drop)
}

/// Opens a pinned BPF object of any kind.
///
/// # Errors
/// Nothing is pinned at the path (ENOENT), or the process may not open it.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    Attr::new().u64(0, name.as_ptr() as u64).open(BPF_OBJ_GET, 16)
}

/// Calls `membarrier(MEMBARRIER_CMD_GLOBAL)`, which waits for an RCU grace period: no BPF program
/// that ran before is running after it.
///
/// # Errors
/// The kernel does not offer the command, as where CPUs run without a tick (nohz_full).
pub fn membarrier() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: membarrier takes three numbers and no pointers, and changes no memory.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many processors are online.
pub fn processors() -> i64 {
    // SAFETY: sysconf takes no pointers; it reads a number from the system.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }
}

/// How many jiffies a second has, from the resolution of the coarse clock, which is one jiffy.
pub fn jiffies_per_second() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which `time` is; it is borrowed mutably for the call.
    let done = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    if done == 0 && time.tv_nsec > 0 { (1_000_000_000 / time.tv_nsec) as u32 } else { 100 }
}

/// How long the machine has been up, by the clock that records have (CLOCK_MONOTONIC).
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which `time` is; it is borrowed mutably for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How many descriptors this process may have open; 0 where the kernel does not say.
pub fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, which `limit` is; it is borrowed mutably for the call.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if done == 0 { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { 0 }
}

/// Whether `path` is on a BPF file system.
///
/// # Errors
/// The path does not exist or cannot be reached.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let name = c_path(path)?;
    // SAFETY: statfs consists of integers and arrays of them, of which all zeros is a value.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is NUL-terminated and lives beyond the call; the kernel writes one statfs,
    // which `facts` is, borrowed mutably for the call.
    match unsafe { libc::statfs(name.as_ptr(), &mut facts) } {
        0 => Ok(facts.f_type as i64 == BPF_FS_MAGIC),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mounts a BPF file system on a directory, with access for root alone.
///
/// # Errors
/// The directory does not exist, or the process lacks CAP_SYS_ADMIN.
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    // SAFETY: all four pointers are to NUL-terminated strings that live beyond the call: `name` and
    // three literals. The kernel copies them.
    let done = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            name.as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            // Without a mode the kernel lets everybody make directories there.
            c"mode=0700".as_ptr().cast(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The index of `lo`, which is the same in every network namespace.
pub const LO: IfIndex = IfIndex::new(1);

/// The index of the interface with this name in the calling thread's network namespace.
///
/// # Errors
/// There is no such interface, or the name contains a zero byte.
pub fn ifindex(name: &str) -> io::Result<IfIndex> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `name` is a NUL-terminated string that lives beyond the call, and is only read.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(IfIndex::new(index)),
    }
}

/// The name of the interface with this index in the calling thread's network namespace.
///
/// # Errors
/// There is no such interface (ENXIO).
pub fn ifname(ifindex: IfIndex) -> io::Result<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: if_indextoname writes at most IF_NAMESIZE bytes, the zero included, which `name` has.
    if unsafe { libc::if_indextoname(ifindex.get(), name.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_MAP_DELETE_ELEM: u32 = 3;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// Flag of a new map: user space may map its memory.
pub(crate) const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Makes a map of maps with one slot, and a map to put into it.
///
/// # Errors
/// The kernel refuses a map, usually for lack of root.
pub fn map_of_maps() -> io::Result<(OwnedFd, OwnedFd)> {
    // map_create: map_type 0, key_size 4, value_size 8, max_entries 12, map_flags 16, inner_map_fd
    // 20
    let inner = Attr::new()
        .u32(0, BPF_MAP_TYPE_ARRAY)
        .u32(4, 4)
        .u32(8, 4)
        .u32(12, 1)
        .open(BPF_MAP_CREATE, 72)?;
    let mut outer = Attr::new().u32(0, BPF_MAP_TYPE_ARRAY_OF_MAPS).u32(4, 4).u32(8, 4).u32(12, 1);
    outer = outer.u32(20, inner.as_raw_fd() as u32);
    Ok((outer.open(BPF_MAP_CREATE, 72)?, inner))
}

/// Makes a map of maps whose slots hold mmapable arrays of `values` values of `value_size` bytes.
///
/// # Errors
/// The kernel refuses a map, usually for lack of root or memory.
pub fn map_of_arrays(name: &str, slots: u32, value_size: u32, values: u32) -> io::Result<OwnedFd> {
    // The kernel takes the shape of the slots from an example, which may be closed afterwards.
    // map_create: the fields as in `map_of_maps`, and map_name 28 (15 letters)
    let inner = Attr::new().u32(0, BPF_MAP_TYPE_ARRAY).u32(4, 4).u32(8, value_size).u32(12, values);
    let inner = inner.u32(16, BPF_F_MMAPABLE).open(BPF_MAP_CREATE, 72)?;
    let mut outer =
        Attr::new().u32(0, BPF_MAP_TYPE_ARRAY_OF_MAPS).u32(4, 4).u32(8, 4).u32(12, slots);
    outer = outer.u32(20, inner.as_raw_fd() as u32);
    for (at, byte) in name.bytes().take(15).enumerate() {
        outer.0[28 + at] = byte;
    }
    outer.open(BPF_MAP_CREATE, 72)
}

/// Puts a map into a slot of a map of maps. Returns after a grace period, when no running program
/// sees the slot as it was.
///
/// # Errors
/// The map has another shape than the slots are made for, or the slot does not exist.
pub fn set_inner_map(outer: BorrowedFd<'_>, slot: u32, inner: RawFd) -> io::Result<()> {
    let (key, value) = (slot, inner);
    // map_fd 0, key 8, value 16, flags 24
    let mut attr = Attr::new()
        .u32(0, outer.as_raw_fd() as u32)
        .u64(8, (&raw const key) as u64)
        .u64(16, (&raw const value) as u64);
    attr.call(BPF_MAP_UPDATE_ELEM, 32).map(drop)
}

/// Empties a slot of a map of maps. Returns after a grace period, when no running program uses the
/// map that was in it.
///
/// # Errors
/// The slot is empty (ENOENT) or does not exist.
pub fn clear_slot(outer: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    let mut attr = Attr::new().u32(0, outer.as_raw_fd() as u32).u64(8, (&raw const slot) as u64);
    attr.call(BPF_MAP_DELETE_ELEM, 32).map(drop)
}

/// Waits until a ring buffer has something to read, at most for `timeout`. Returns whether it has.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: std::time::Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the count says one record, which `poll` is; the kernel reads and writes it, and
    // nothing else refers to it meanwhile. The descriptor is open, since `fd` borrows it.
    unsafe { libc::poll(&raw mut poll, 1, timeout) > 0 }
}

const BPF_PROG_TEST_RUN: u32 = 10;

/// What a test run tells a program about its packet, besides the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The interface that the packet is on, in the caller's network namespace; 0 and 1 mean `lo`.
    pub ifindex: IfIndex,
    /// The interface that the packet came in by; the kernel takes any number, and 0 is none.
    pub ingress_ifindex: IfIndex,
    /// The packet's mark.
    pub mark: u32,
    /// The first word of the packet's `cb`.
    pub cb: u32,
}

/// The result of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return value.
    pub answer: u32,
    /// The packet's mark after the run.
    pub mark: u32,
    /// How long one run took, on average.
    pub time: std::time::Duration,
}

/// Runs a classifier on a packet, `repeat` times.
///
/// # Errors
/// The kernel does not take such a packet (net/bpf/test_run.c wants a whole Ethernet header), or
/// the interface does not exist.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: Context,
    repeat: u32,
) -> io::Result<TestRun> {
    // struct __sk_buff: mark 8, ingress_ifindex 36, ifindex 40, cb 48. What is not passed is zero.
    // What comes back needs room for all that the kernel knows of (192 bytes in 6.18).
    let (mut given, mut left) = ([0u8; 52], [0u8; 512]);
    given[8..12].copy_from_slice(&context.mark.to_ne_bytes());
    given[36..40].copy_from_slice(&context.ingress_ifindex.get().to_ne_bytes());
    given[40..44].copy_from_slice(&context.ifindex.get().to_ne_bytes());
    given[48..52].copy_from_slice(&context.cb.to_ne_bytes());
    // prog_fd 0, retval 4, data_size_in 8, data_size_out 12, data_in 16, data_out 24, repeat 32,
    // duration 36, ctx_size_in 40, ctx_size_out 44, ctx_in 48, ctx_out 56
    let mut attr = Attr::new()
        .u32(0, program.as_raw_fd() as u32)
        .u32(8, packet.len() as u32)
        .u64(16, packet.as_ptr() as u64)
        .u32(32, repeat)
        .u32(40, given.len() as u32)
        .u32(44, left.len() as u32)
        .u64(48, given.as_ptr() as u64)
        .u64(56, left.as_mut_ptr() as u64);
    attr.call(BPF_PROG_TEST_RUN, 80)?;
    let word = |bytes: &[u8], at: usize| {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
    };
    let time = std::time::Duration::from_nanos(word(&attr.0, 36).into());
    Ok(TestRun { answer: word(&attr.0, 4), mark: word(&left, 8), time })
}

/// The kernel's id of a program.
///
/// # Errors
/// The descriptor is not that of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // struct bpf_prog_info: type 0, id 4
    let mut info = [0u64; 32];
    let mut attr =
        Attr::new().u32(0, program.as_raw_fd() as u32).u32(4, 256).u64(8, info.as_mut_ptr() as u64);
    attr.call(BPF_OBJ_GET_INFO_BY_FD, 16)?;
    Ok((info[0] >> 32) as u32)
}
