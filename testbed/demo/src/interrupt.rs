//! Noticing SIGINT, SIGTERM and SIGHUP between the steps of a command that has to clean up.
//!
//! The second signal of a kind ends the process at once; what cleans up by Drop is then left to
//! others.

use std::sync::atomic::{AtomicBool, Ordering};

static SEEN: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    SEEN.store(true, Ordering::Relaxed);
}

/// Sees to it that a first signal from here on only leaves a note.
pub fn watch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: sigaction consists of integers and pointers that may be null, so all zeros are
        // valid, and it is read across the call only. The handler stores to an atomic and does
        // nothing else, which is safe in a signal handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// An error where a signal was seen.
///
/// # Errors
/// Fails with `interrupted` once a signal came.
pub fn check() -> anyhow::Result<()> {
    if SEEN.load(Ordering::Relaxed) { anyhow::bail!("interrupted") } else { Ok(()) }
}
