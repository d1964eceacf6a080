//! `netpolc mount-bpffs`: a BPF file system where there is none, in the mount namespace of the node.
//!
//! A container cannot leave a mount behind on its node, and what it mounts for itself ends with it, pins included. So an init
//! container that sees the node's /proc enters the node's mount namespace for this.

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

use anyhow::Context;
use netpolc_target_ebpf::sys;

use crate::output::{self, Outcome};

/// Where systemd mounts it, and everything else expects it.
const BPFFS: &str = "/sys/fs/bpf";

/// Runs the command; `namespace` is a path such as /proc/1/ns/mnt, None for the own mount namespace.
///
/// # Errors
/// No root, no such namespace, or the kernel refuses.
pub fn run(namespace: Option<&Path>) -> anyhow::Result<Outcome> {
    output::needs_root("mounting")?;
    if let Some(path) = namespace {
        enter(path).with_context(|| {
            format!("enter {} (needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE)", path.display())
        })?;
    }
    let bpffs = Path::new(BPFFS);
    if sys::is_bpffs(bpffs).with_context(|| format!("look at {BPFFS}"))? {
        return Ok(Outcome::Fine);
    }
    sys::mount_bpffs(bpffs).with_context(|| format!("mount a BPF file system at {BPFFS}"))?;
    output::complain(format_args!("mounted a BPF file system at {BPFFS}"));
    Ok(Outcome::Fine)
}

/// Moves the calling thread; no other thread may share its working directory, so it comes before any is started.
fn enter(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the descriptor is open; no pointers.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
