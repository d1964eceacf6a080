//! Attaching by filters in a clsact qdisc, where the kernel has no TCX (before 6.6).
//!
//! Each step is one request with its acknowledgement (net/sched/cls_api.c, cls_bpf.c,
//! sch_ingress.c). A filter has a fixed handle, so that putting it again replaces the program at
//! once and never makes a second one. It has the first priority, so that packets are judged before
//! others' filters pass or redirect them, as with TCX. Only where somebody has filters of another
//! kind at that priority, it gets the last one.
//!
//! Not here: which interfaces get filters, and what is remembered of them (`attach`).

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

const FIRST_PRIORITY: u32 = 1;
const LAST_PRIORITY: u32 = 0xfff0;
/// The handle of netpolc's filters, "npc" in ASCII. The kernel hands handles out from 1 on, so that
/// nobody else's filter has it.
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

/// The body of a request about an interface's clsact qdisc.
fn qdisc(ifindex: IfIndex) -> Vec<u8> {
    let mut body = tc::header(ifindex.get(), tc::CLSACT_HANDLE, tc::CLSACT, 0).to_vec();
    put_text(&mut body, TCA_KIND, "clsact");
    body
}

/// The body of a request about netpolc's filter with this priority.
fn filter(ifindex: IfIndex, hook: TcxHook, priority: u32) -> Vec<u8> {
    let info = priority << 16 | u32::from(ETH_P_ALL.to_be());
    let mut body = tc::header(ifindex.get(), HANDLE, parent(hook), info).to_vec();
    put_text(&mut body, TCA_KIND, "bpf");
    body
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    Socket::open(Protocol::Route)?.request(kind, flags, body)
}

/// Whether netpolc made a qdisc, and therefore has to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qdisc {
    /// netpolc made it.
    Made,
    /// It was there before.
    Found,
}

/// Makes the clsact qdisc where the interface has none.
pub fn ensure_qdisc(ifindex: IfIndex) -> io::Result<Qdisc> {
    match request(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, &qdisc(ifindex)) {
        Ok(_) => Ok(Qdisc::Made),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Qdisc::Found),
        Err(e) => Err(e),
    }
}

/// Puts the program at the hook, in place of the one that an earlier call put there.
pub fn attach(program: BorrowedFd<'_>, ifindex: IfIndex, hook: TcxHook) -> io::Result<()> {
    match add(program, ifindex, hook, FIRST_PRIORITY) {
        // All filters of one priority are of one kind (cls_api.c, tc_new_tfilter): somebody else
        // has another kind at the first.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            add(program, ifindex, hook, LAST_PRIORITY)
        }
        first => first.and_then(|()| remove(ifindex, hook, LAST_PRIORITY)),
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

/// The kernel's id of the program that [`attach`] put there; None where the filter was removed
/// since.
pub fn program(ifindex: IfIndex, hook: TcxHook) -> io::Result<Option<u32>> {
    for priority in [FIRST_PRIORITY, LAST_PRIORITY] {
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

/// Removes the filter that [`attach`] put there. Does nothing where it is gone.
pub fn detach(ifindex: IfIndex, hook: TcxHook) -> io::Result<()> {
    remove(ifindex, hook, FIRST_PRIORITY)?;
    remove(ifindex, hook, LAST_PRIORITY)
}

fn remove(ifindex: IfIndex, hook: TcxHook, priority: u32) -> io::Result<()> {
    absent_is_fine(request(libc::RTM_DELTFILTER, 0, &filter(ifindex, hook, priority)).map(drop))
}

/// Removes the clsact qdisc, unless somebody has filters in it.
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
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Ok(())
        }
        other => other,
    }
}
