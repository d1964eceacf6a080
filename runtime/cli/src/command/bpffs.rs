//! `netpolc mount-bpffs`: mounts a BPF file system where there is none, in the mount namespace of
//! the node.
//!
//! A container cannot leave a mount behind on its node, and what it mounts for itself ends with it,
//! pins included. Therefore an init container that sees the node's /proc enters the node's mount
//! namespace. Not here: the mount system call (`netpolc_target_ebpf`).

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

use anyhow::Context;
use netpolc_target_ebpf::sys;

use crate::output::{self, Outcome};

/// The path at which systemd mounts a bpffs, and where everybody expects it.
const BPFFS: &str = "/sys/fs/bpf";

/// Runs `netpolc mount-bpffs`. `namespace` is a path such as /proc/1/ns/mnt; None for this
/// process's mount namespace.
///
/// # Errors
/// The user is not root, the namespace cannot be entered, or the file system cannot be mounted.
pub fn run(namespace: Option<&Path>) -> anyhow::Result<Outcome> {
    output::needs_root("mounting")?;
    if let Some(path) = namespace {
        enter(path).with_context(|| {
            format!(
                "the mount namespace {} could not be entered, which needs CAP_SYS_ADMIN, \
                CAP_SYS_CHROOT and CAP_SYS_PTRACE",
                path.display()
            )
        })?;
    }
    let bpffs = Path::new(BPFFS);
    if sys::is_bpffs(bpffs).with_context(|| format!("{BPFFS} could not be examined"))? {
        return Ok(Outcome::Fine);
    }
    sys::mount_bpffs(bpffs)
        .with_context(|| format!("a BPF file system could not be mounted at {BPFFS}"))?;
    output::complain(format_args!("a BPF file system was mounted at {BPFFS}"));
    Ok(Outcome::Fine)
}

/// Moves the calling thread to the mount namespace at `path`. No other thread may share its working
/// directory, so this must come before any thread is started.
fn enter(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the descriptor is open; no pointers.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
