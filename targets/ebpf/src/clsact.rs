//! Attaching by filters in a clsact qdisc, where the kernel has no TCX (before 6.6).
//!
//! Each step is one request with its acknowledgement (net/sched/cls_api.c, cls_bpf.c,
//! sch_ingress.c). A filter has a fixed handle, so putting it again replaces the program at once
//! and never makes a second one. Its priority is the first, so what others' filters pass or
//! redirect was judged before, as with TCX; only where somebody has filters of another kind there,
//! it is the last.
//!
//! Not here: which interfaces, and what is remembered of them.

use netpolc_table::IfIndex;
use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netpolc_host::{
    netlink::{
        Protocol, Socket, attribute,
        flags::{CREATE, EXCLUSIVE},
        nest, put, put_text, u32_at,
    },
    tc::{self, TCA_KIND, TCA_OPTIONS},
};

use crate::sys::TcxHook;

const FIRST: u32 = 1;
const LAST: u32 = 0xfff0;
/// Nobody else's: others count from 1.
const HANDLE: u32 = 0x6e_7063;
const ETH_P_ALL: u16 = 3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

fn parent(hook: TcxHook) -> u32 {
    if hook == TcxHook::Ingress { tc::INGRESS } else { tc::EGRESS }
}

/// The body of a request about the qdisc.
fn qdisc(ifindex: IfIndex) -> Vec<u8> {
    let mut body = tc::header(ifindex.get(), tc::CLSACT_HANDLE, tc::CLSACT, 0).to_vec();
    put_text(&mut body, TCA_KIND, "clsact");
    body
}

/// The body of a request about our filter with this priority.
fn filter(ifindex: IfIndex, hook: TcxHook, priority: u32) -> Vec<u8> {
    let info = priority << 16 | u32::from(ETH_P_ALL.to_be());
    let mut body = tc::header(ifindex.get(), HANDLE, parent(hook), info).to_vec();
    put_text(&mut body, TCA_KIND, "bpf");
    body
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    Socket::open(Protocol::Route)?.request(kind, flags, body)
}

/// Whether a qdisc had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qdisc {
    /// It is ours to remove.
    Made,
    /// It was there.
    Found,
}

/// Makes the clsact qdisc where there is none.
pub fn ensure_qdisc(ifindex: IfIndex) -> io::Result<Qdisc> {
    match request(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, &qdisc(ifindex)) {
        Ok(_) => Ok(Qdisc::Made),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Qdisc::Found),
        Err(e) => Err(e),
    }
}

/// Puts the program into the hook, in place of the one that an earlier call put there.
pub fn attach(program: BorrowedFd<'_>, ifindex: IfIndex, hook: TcxHook) -> io::Result<()> {
    match add(program, ifindex, hook, FIRST) {
        // A priority has one kind of filters (cls_api.c, tc_new_tfilter).
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => add(program, ifindex, hook, LAST),
        first => first.and_then(|()| remove(ifindex, hook, LAST)),
    }
}

fn add(program: BorrowedFd<'_>, ifindex: IfIndex, hook: TcxHook, priority: u32) -> io::Result<()> {
    let mut body = filter(ifindex, hook, priority);
    nest(&mut body, TCA_OPTIONS, |to| {
        put(to, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
        put_text(to, TCA_BPF_NAME, "netpolc");
        put(to, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    });
    request(libc::RTM_NEWTFILTER, CREATE, &body).map(drop)
}

/// The kernel's id of the program that [`attach`] put there; None where it is not there any more.
pub fn program(ifindex: IfIndex, hook: TcxHook) -> io::Result<Option<u32>> {
    for priority in [FIRST, LAST] {
        match request(libc::RTM_GETTFILTER, 0, &filter(ifindex, hook, priority)) {
            Ok(replies) => {
                let ids = replies.iter().filter_map(|filter| {
                    let options = attribute(filter.get(tc::HEADER..)?, TCA_OPTIONS)?;
                    u32_at(attribute(options, TCA_BPF_ID)?, 0)
                });
                if let Some(id) = ids.max() {
                    return Ok(Some(id));
                }
            }
            Err(e) => absent_is_fine(Err(e))?,
        }
    }
    Ok(None)
}

/// Removes what [`attach`] put there; nothing there is fine.
pub fn detach(ifindex: IfIndex, hook: TcxHook) -> io::Result<()> {
    remove(ifindex, hook, FIRST)?;
    remove(ifindex, hook, LAST)
}

fn remove(ifindex: IfIndex, hook: TcxHook, priority: u32) -> io::Result<()> {
    absent_is_fine(request(libc::RTM_DELTFILTER, 0, &filter(ifindex, hook, priority)).map(drop))
}

/// Removes the qdisc, unless somebody has filters in it.
pub fn remove_qdisc(ifindex: IfIndex) -> io::Result<()> {
    let mut socket = Socket::open(Protocol::Route)?;
    for hook in [TcxHook::Ingress, TcxHook::Egress] {
        let all = tc::header(ifindex.get(), 0, parent(hook), 0);
        match socket.dump(libc::RTM_GETTFILTER, &all, |_| Some(())) {
            Ok(filters) if !filters.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(e) => return absent_is_fine(Err(e)),
        }
    }
    absent_is_fine(socket.request(libc::RTM_DELQDISC, 0, &qdisc(ifindex)).map(drop))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(()),
        other => other,
    }
}
