//! Attaching by filters in a clsact qdisc, where the kernel has no TCX (before 6.6).
//!
//! One rtnetlink request for each step, with its acknowledgement (net/sched/cls_api.c, cls_bpf.c, sch_ingress.c). A filter has a
//! fixed handle, so putting it again replaces the program at once and never makes a second one. Its
//! priority is the first, so what others' filters pass or redirect was judged before, as with TCX; only where somebody has filters of another
//! kind there, it is the last. Not here: which interfaces, and what is remembered of them.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use crate::sys::TcxHook;

const FIRST: u32 = 1;
const LAST: u32 = 0xfff0;
/// Nobody else's: others count from 1.
const HANDLE: u32 = 0x6e_7063;
const ETH_P_ALL: u16 = 3;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_INGRESS: u32 = 0xffff_fff2;
const TC_H_EGRESS: u32 = 0xffff_fff3;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

fn parent(hook: TcxHook) -> u32 {
    if hook == TcxHook::Ingress { TC_H_INGRESS } else { TC_H_EGRESS }
}

/// A netlink message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, ifindex: u32, handle: u32, parent: u32, info: u32) -> Self {
        let mut m = Message(vec![0; 4]); // length, filled in at the end
        m.0.extend(kind.to_ne_bytes());
        m.0.extend((flags as u16).to_ne_bytes());
        m.0.extend(1u32.to_ne_bytes()); // sequence
        m.0.extend(0u32.to_ne_bytes());
        // struct tcmsg: family u8, 3 bytes of padding, ifindex, handle, parent, info
        for word in [0, ifindex, handle, parent, info] {
            m.0.extend(word.to_ne_bytes());
        }
        m
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Sends a request and reads until its acknowledgement; answers the payloads that came before it.
fn request(message: Message) -> io::Result<Vec<(u16, Vec<u8>)>> {
    // SAFETY: a new socket that nobody else owns.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let bytes = message.finish();
    // SAFETY: `bytes` is read.
    if unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut replies, mut buffer) = (vec![], vec![0u8; 1 << 16]);
    loop {
        // SAFETY: `buffer` is written.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut rest = &buffer[..got as usize];
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes(rest[..4].try_into().expect("4 bytes")) as usize;
            let kind = u16::from_ne_bytes(rest[4..6].try_into().expect("2 bytes"));
            if length < 16 || length > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let payload = &rest[16..length];
            if i32::from(kind) == libc::NLMSG_ERROR || i32::from(kind) == libc::NLMSG_DONE {
                let code = payload.get(..4).map_or(0, |c| i32::from_ne_bytes(c.try_into().expect("4 bytes")));
                return if code == 0 { Ok(replies) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            replies.push((kind, payload.to_vec()));
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn filter_info(priority: u32) -> u32 {
    priority << 16 | u32::from(ETH_P_ALL.to_be())
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
pub fn ensure_qdisc(ifindex: u32) -> io::Result<Qdisc> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = Message::new(libc::RTM_NEWQDISC, flags, ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0);
    message.attribute(TCA_KIND, b"clsact\0");
    match request(message) {
        Ok(_) => Ok(Qdisc::Made),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Qdisc::Found),
        Err(e) => Err(e),
    }
}

/// Puts the program into the hook, in place of the one that an earlier call put there.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, hook: TcxHook) -> io::Result<()> {
    match put(program, ifindex, hook, FIRST) {
        // A priority has one kind of filters (cls_api.c, tc_new_tfilter).
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => put(program, ifindex, hook, LAST),
        first => first.and_then(|()| remove(ifindex, hook, LAST)),
    }
}

fn put(program: BorrowedFd<'_>, ifindex: u32, hook: TcxHook, priority: u32) -> io::Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let info = filter_info(priority);
    let mut message = Message::new(libc::RTM_NEWTFILTER, flags, ifindex, HANDLE, parent(hook), info);
    message.attribute(TCA_KIND, b"bpf\0");
    let mut options = Message(vec![]);
    options.attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    options.attribute(TCA_BPF_NAME, b"netpolc\0");
    options.attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    message.attribute(TCA_OPTIONS, &options.0);
    request(message).map(drop)
}

/// The kernel's id of the program that [`attach`] put there; None where it is not there any more.
pub fn program(ifindex: u32, hook: TcxHook) -> io::Result<Option<u32>> {
    for priority in [FIRST, LAST] {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let info = filter_info(priority);
        let mut message = Message::new(libc::RTM_GETTFILTER, flags, ifindex, HANDLE, parent(hook), info);
        message.attribute(TCA_KIND, b"bpf\0");
        match request(message) {
            Ok(replies) => {
                let ids = replies.iter().filter_map(|(_, filter)| {
                    let options = attribute(filter.get(20..)?, TCA_OPTIONS)?;
                    Some(u32::from_ne_bytes(attribute(options, TCA_BPF_ID)?.try_into().ok()?))
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

/// The value of the first attribute of this kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// Removes what [`attach`] put there; nothing there is fine.
pub fn detach(ifindex: u32, hook: TcxHook) -> io::Result<()> {
    remove(ifindex, hook, FIRST)?;
    remove(ifindex, hook, LAST)
}

fn remove(ifindex: u32, hook: TcxHook, priority: u32) -> io::Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    let info = filter_info(priority);
    let mut message = Message::new(libc::RTM_DELTFILTER, flags, ifindex, HANDLE, parent(hook), info);
    message.attribute(TCA_KIND, b"bpf\0");
    absent_is_fine(request(message).map(drop))
}

/// Removes the qdisc, unless somebody has filters in it.
pub fn remove_qdisc(ifindex: u32) -> io::Result<()> {
    for hook in [TcxHook::Ingress, TcxHook::Egress] {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        match request(Message::new(libc::RTM_GETTFILTER, flags, ifindex, 0, parent(hook), 0)) {
            Ok(filters) if !filters.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(e) => return absent_is_fine(Err(e)),
        }
    }
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    let mut message = Message::new(libc::RTM_DELQDISC, flags, ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0);
    message.attribute(TCA_KIND, b"clsact\0");
    absent_is_fine(request(message).map(drop))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(()),
        other => other,
    }
}
