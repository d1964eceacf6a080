//! The filters of interfaces as the kernel has them: clsact qdiscs, dumps, and doing steps.
//!
//! Not here: which filters there should be ([`crate::sync`]).

use std::{collections::BTreeSet, io};

use crate::{
    filter::Filter,
    filter::Side,
    netlink::{Decoded, Refusal, Socket, Way, decode, encode, numbers, parent},
};

/// A failed call; what was done before it stays done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call over netlink.
    #[error("{what}: {source}")]
    Netlink {
        /// Doing what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The interface has a qdisc that is in the way, or takes none.
    #[error("interface {ifindex} takes no clsact qdisc: {refusal}")]
    Qdisc {
        /// The interface.
        ifindex: u32,
        /// The kernel's answer.
        refusal: Refusal,
    },
}

/// A change of one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// What.
    pub way: Way,
    /// The interface.
    pub ifindex: u32,
    /// The filter; of a removal only its place counts.
    pub filter: &'a Filter,
    /// Its handle in its place.
    pub handle: u32,
}

/// Filters in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
}

impl Kernel {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open().map_err(|source| Error::Netlink { what: "open rtnetlink".into(), source })?;
        Ok(Kernel { socket })
    }

    /// Interfaces with a clsact qdisc.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_clsact(&mut self) -> Result<BTreeSet<u32>, Error> {
        let mut body = Vec::new();
        encode::tcmsg(&mut body, 0, 0, 0, 0);
        let list = self.socket.dump(libc::RTM_GETQDISC, &body, |body| {
            let (ifindex, parent) = (word(body, 4)?, word(body, 12)?);
            (parent == numbers::CLSACT).then_some(ifindex)
        });
        Ok(list.map_err(|source| Error::Netlink { what: "list qdiscs".into(), source })?.into_iter().collect())
    }

    /// Makes a clsact qdisc where there is none.
    ///
    /// # Errors
    /// The interface takes none: it is gone, or has an `ingress` qdisc of somebody else.
    pub fn ensure_qdisc(&mut self, ifindex: u32) -> Result<(), Error> {
        const CREATE: u16 = 0x400 | 0x200;
        match self.qdisc(libc::RTM_NEWQDISC, CREATE, ifindex)? {
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
    /// The kernel's.
    pub fn drop_empty_qdisc(&mut self, ifindex: u32) -> Result<(), Error> {
        if self.with_clsact()?.contains(&ifindex) && self.dump(ifindex)?.is_empty() {
            // Somebody else may have been faster; either way there is nothing of ours.
            let _ = self.qdisc(libc::RTM_DELQDISC, 0, ifindex)?;
        }
        Ok(())
    }

    fn qdisc(&mut self, kind: u16, flags: u16, ifindex: u32) -> Result<Result<(), Refusal>, Error> {
        let mut body = Vec::new();
        encode::tcmsg(&mut body, ifindex, numbers::CLSACT_HANDLE, numbers::CLSACT, 0);
        encode::put(&mut body, numbers::TCA_KIND, b"clsact\0");
        let what = || format!("qdisc of interface {ifindex}");
        self.socket.one(kind, flags, &body).map_err(|source| Error::Netlink { what: what(), source })
    }

    /// All filters of both sides and all chains, everybody's. An interface without clsact, or that is gone, has none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dump(&mut self, ifindex: u32) -> Result<Vec<Decoded>, Error> {
        let mut all = Vec::new();
        for side in [Side::Ingress, Side::Egress] {
            let mut body = Vec::new();
            encode::tcmsg(&mut body, ifindex, 0, parent(side), 0);
            match self.socket.dump(libc::RTM_GETTFILTER, &body, decode) {
                Ok(list) => all.extend(list),
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {}
                Err(source) => {
                    return Err(Error::Netlink { what: format!("list filters of interface {ifindex}"), source });
                }
            }
        }
        Ok(all)
    }

    /// Does changes in this order, and gives each one's answer; a refused one does not keep the others from being done.
    ///
    /// # Errors
    /// The socket's: some may have been done.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let write = |i: usize, sequence: u32, to: &mut Vec<u8>| {
            let change = &changes[i];
            encode(to, change.way, change.ifindex, change.filter, change.handle, sequence);
        };
        let sent = self.socket.batch(changes.len(), write);
        sent.map_err(|source| Error::Netlink { what: "change filters".into(), source })
    }
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?))
}
