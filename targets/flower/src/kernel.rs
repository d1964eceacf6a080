//! The filters of interfaces as the kernel has them: clsact qdiscs, dumps, changes, and waiting for
//! packets under way.
//!
//! Not here: which filters there should be ([`crate::sync`]).

use netpolc_table::IfIndex;
use std::{
    collections::BTreeSet,
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use netpolc_host::{
    netlink::{
        BatchSocket, Done, Refusal, attribute,
        flags::{CREATE, EXCLUSIVE},
        put_text, u32_at,
    },
    tc,
};

use crate::{
    filter::{Copies, Filter, Side},
    netlink::{Decoded, Way, check, decode, encode, parent},
};

/// A failed call; what was done before it stays done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink socket could not be opened, or a request over it failed.
    #[error("{what}: {source}")]
    Netlink {
        /// What was being done, as a verb with its object.
        what: String,
        /// The error of the socket or of the kernel.
        source: io::Error,
    },
    /// The interface has a qdisc that is in the way, or takes none.
    #[error("interface {ifindex} takes no clsact qdisc: {refusal}")]
    Qdisc {
        /// The interface that was to have a clsact qdisc.
        ifindex: IfIndex,
        /// The kernel's error code, and the text beside it where there is one.
        refusal: Refusal,
    },
}

/// A change of one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Whether the filter is added, replaced or removed.
    pub way: Way,
    /// The interface at whose clsact qdisc the filter is.
    pub ifindex: IfIndex,
    /// The filter; of a removal only its place counts.
    pub filter: &'a Filter,
    /// The filter's number within its chain and prio, from 1.
    pub handle: u32,
}

/// What became of a filter that was not refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Devices that have it in hardware, 0 where none: then software has it alone. 0 for a removal.
    pub in_hardware: u32,
    /// What the driver or the kernel said beside its answer; None where it said nothing.
    pub text: Option<String>,
}

/// Filters in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    socket: BatchSocket,
}

impl Kernel {
    /// Opens a netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub fn open() -> Result<Self, Error> {
        let socket = BatchSocket::open()
            .map_err(|source| Error::Netlink { what: "open rtnetlink".into(), source })?;
        Ok(Kernel { socket })
    }

    /// The interfaces that have a clsact qdisc.
    ///
    /// # Errors
    /// The kernel refuses to list qdiscs.
    pub fn with_clsact(&mut self) -> Result<BTreeSet<IfIndex>, Error> {
        let list = self.socket.dump(libc::RTM_GETQDISC, &tc::header(0, 0, 0, 0), |body| {
            // Qdisc ingress has the same place, but one hook only.
            let clsact = attribute(body.get(tc::HEADER..)?, tc::TCA_KIND)? == b"clsact\0";
            let (ifindex, parent) = (u32_at(body, 4)?, u32_at(body, 12)?);
            (clsact && parent == tc::CLSACT).then_some(IfIndex::new(ifindex))
        });
        Ok(list
            .map_err(|source| Error::Netlink { what: "list qdiscs".into(), source })?
            .into_iter()
            .collect())
    }

    /// Makes a clsact qdisc where there is none.
    ///
    /// # Errors
    /// The interface takes no clsact qdisc: it is gone, or has an `ingress` qdisc of somebody else.
    /// Or the socket fails.
    pub fn ensure_qdisc(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        match self.qdisc(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, ifindex)? {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.errno == libc::EEXIST => {
                if self.with_clsact()?.contains(&ifindex) {
                    return Ok(());
                }
                Err(Error::Qdisc { ifindex, refusal })
            }
            Err(refusal) => Err(Error::Qdisc { ifindex, refusal }),
        }
    }

    /// Removes the clsact qdisc where no filter is left in it; an interface that is gone is fine.
    ///
    /// # Errors
    /// The kernel refuses to list qdiscs or filters, or the socket fails.
    pub fn drop_empty_qdisc(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        if self.with_clsact()?.contains(&ifindex) && self.dump(ifindex)?.is_empty() {
            // Somebody else may have been faster; either way nothing of netpolc is left.
            let _ = self.qdisc(libc::RTM_DELQDISC, 0, ifindex)?;
        }
        Ok(())
    }

    fn qdisc(
        &mut self,
        kind: u16,
        flags: u16,
        ifindex: IfIndex,
    ) -> Result<Result<(), Refusal>, Error> {
        let mut body = tc::header(ifindex.get(), tc::CLSACT_HANDLE, tc::CLSACT, 0).to_vec();
        put_text(&mut body, tc::TCA_KIND, "clsact");
        let what = || format!("qdisc of interface {ifindex}");
        self.socket
            .one(kind, flags, &body)
            .map_err(|source| Error::Netlink { what: what(), source })
    }

    /// All filters of both sides and all chains, everybody's. An interface without clsact, or that
    /// is gone, has none.
    ///
    /// # Errors
    /// The kernel refuses to list filters, for another reason than a missing interface or qdisc.
    pub fn dump(&mut self, ifindex: IfIndex) -> Result<Vec<Decoded>, Error> {
        let mut all = Vec::new();
        for side in [Side::Ingress, Side::Egress] {
            match self.socket.dump(
                libc::RTM_GETTFILTER,
                &tc::header(ifindex.get(), 0, parent(side), 0),
                decode,
            ) {
                Ok(list) => all.extend(list),
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)
                    ) => {}
                Err(source) => {
                    return Err(Error::Netlink {
                        what: format!("list filters of interface {ifindex}"),
                        source,
                    });
                }
            }
        }
        Ok(all)
    }

    /// Does changes in this order, and gives each one's answer; a refused one does not keep the
    /// others from being done. What there is no message for ([`check()`]) is refused here.
    ///
    /// # Errors
    /// The socket fails; some of the changes may have been done.
    pub fn apply(
        &mut self,
        changes: &[Change<'_>],
    ) -> Result<Vec<Result<Applied, Refusal>>, Error> {
        let unfit =
            |c: &Change<'_>| if c.way == Way::Remove { None } else { check(c.filter).err() };
        let unfit: Vec<_> = changes.iter().map(unfit).collect();
        let fit: Vec<&Change<'_>> =
            changes.iter().zip(&unfit).filter(|(_, u)| u.is_none()).map(|(c, _)| c).collect();
        let write = |i: usize, sequence: u32, to: &mut Vec<u8>| {
            let &Change { way, ifindex, filter, handle } = fit[i];
            encode(to, way, ifindex, filter, handle, sequence);
        };
        let sent = self.socket.batch(fit.len(), write);
        let sent =
            sent.map_err(|source| Error::Netlink { what: "change filters".into(), source })?;
        let mut sent = sent.into_iter().zip(fit);
        let answer = |unfit: Option<_>| match unfit {
            Some(unfit) => Err(Refusal {
                errno: libc::EINVAL,
                text: Some(format!("the kernel has no way to say it: {unfit}")),
            }),
            None => {
                let (answer, change) = sent.next().expect("an answer for each message");
                answer.map(|done| applied(change, done))
            }
        };
        Ok(unfit.into_iter().map(answer).collect())
    }

    /// Returns when every packet that was in a chain when this was called has left it.
    ///
    /// Classifying happens inside RCU read-side sections with bottom halves off, so
    /// `synchronize_rcu` is what has to happen, and membarrier(2) does it. It returns at once where
    /// one processor runs, rightly so: no packet is half-way on it while this thread runs. Where it
    /// is refused (CPUs without a tick), closing a packet socket does the same (packet_release in
    /// net/packet/af_packet.c).
    ///
    /// # Errors
    /// The kernel refuses both membarrier(2) and a packet socket.
    pub fn settle(&self) -> Result<(), Error> {
        const MEMBARRIER_CMD_GLOBAL: i32 = 1;
        // SAFETY: membarrier(2) takes integers only, and this command changes nothing but when it
        // returns.
        if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0 {
            return Ok(());
        }
        // SAFETY: socket(2) takes integers only. The descriptor is owned below.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            let (what, source) =
                ("wait until packets have left their chains".into(), io::Error::last_os_error());
            return Err(Error::Netlink { what, source });
        }
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it. Closing it is
        // what waits.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(())
    }
}

/// skip_sw is refused where no hardware takes it; of filters with both copies the kernel sends back
/// what became of them.
fn applied(change: &Change<'_>, done: Done) -> Applied {
    let echo = done.echo.as_deref().and_then(decode).map(|d| d.in_hardware);
    let in_hardware = match (change.way, change.filter.copies) {
        (Way::Remove, _) | (_, Copies::Software) => 0,
        (_, Copies::Hardware) => 1,
        (_, Copies::Both) => echo.unwrap_or(0),
    };
    Applied { in_hardware, text: done.text }
}
