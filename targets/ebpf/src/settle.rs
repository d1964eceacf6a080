//! Grace periods: waiting until no packet is under way that began before the call.
//!
//! BPF programs run inside RCU read-side sections, so the kernel has to run `synchronize_rcu`. Two
//! calls make it do so: `membarrier(MEMBARRIER_CMD_GLOBAL)`, and changing a slot of a map of maps
//! (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c). The first needs no objects, but is refused
//! where CPUs run without a tick (nohz_full), and returns at once where a single CPU is online. The
//! second takes its place there. Both cost one grace period.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::OnceLock,
};

use netpolc_target::Error;

use crate::sys::{self, refused};

/// Waits for grace periods.
#[derive(Debug, Default)]
pub struct Grace {
    /// A map of maps with one slot and the map for it, made when they are needed first.
    slots: OnceLock<(OwnedFd, OwnedFd)>,
}

impl Grace {
    /// Returns when every packet that was under way has left its program.
    ///
    /// # Errors
    /// [`Error::System`] where neither call is possible.
    pub fn wait(&self) -> Result<(), Error> {
        if sys::processors() > 1 && sys::membarrier().is_ok() {
            return Ok(());
        }
        self.wait_by_map()
    }

    /// The same, always by a map of maps.
    ///
    /// # Errors
    /// [`Error::System`] where the maps cannot be made or the slot cannot be changed.
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
