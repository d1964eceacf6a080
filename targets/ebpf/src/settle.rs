//! Waiting until no packet is under way that began before the call.
//!
//! BPF programs run inside RCU read-side sections, so `synchronize_rcu` is what has to happen. Two calls do it:
//! `membarrier(MEMBARRIER_CMD_GLOBAL)`, and changing a slot of a map of maps (`maybe_wait_bpf_programs` in
//! kernel/bpf/syscall.c). The first needs no objects, but is refused where CPUs run without a tick (nohz_full), and
//! returns at once where a single CPU is online; then the second does it. Both cost one grace period.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::OnceLock,
};

use netpolc_target::Error;

use crate::sys::{self, refused};

/// How to wait.
#[derive(Debug, Default)]
pub struct Grace {
    slots: OnceLock<(OwnedFd, OwnedFd)>,
}

impl Grace {
    /// Returns when every packet that was under way has left.
    pub fn wait(&self) -> Result<(), Error> {
        if sys::processors() > 1 && sys::membarrier().is_ok() {
            return Ok(());
        }
        self.wait_by_map()
    }

    /// The same by a map of maps.
    pub fn wait_by_map(&self) -> Result<(), Error> {
        let refuse = |e| refused("wait for a grace period by a map of maps", e);
        let (outer, inner) = match self.slots.get() {
            Some(slots) => slots,
            None => {
                let slots = sys::map_of_maps().map_err(refuse)?;
                self.slots.get_or_init(|| slots)
            }
        };
        sys::set_inner_map(outer.as_fd(), 0, inner.as_raw_fd()).map_err(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_waiting_work() {
        let grace = Grace::default();
        grace.wait().expect("needs root");
        grace.wait_by_map().expect("needs root and BPF");
        grace.wait_by_map().unwrap();
    }
}
