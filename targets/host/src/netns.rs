//! Network namespaces: which there are, and running something in one.
//!
//! Threads enter with setns(2) on the network namespace alone. `ip netns exec` also makes a mount
//! namespace with a new /sys, which hides /sys/fs/bpf and every map pinned there.
//!
//! Not here: making or deleting them (the testbed), mount namespaces (`netpolc mount-bpffs`).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

/// Where container runtimes and `ip netns` keep namespaces.
pub const FOLDERS: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// A network namespace, held open: it exists as long as this does.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    id: (u64, u64),
    path: PathBuf,
}

impl Namespace {
    /// The one of the calling thread.
    ///
    /// # Errors
    /// /proc is not mounted, or there are no descriptors left.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one behind a path. What is there may be something else: see [`Namespace::is_network`].
    ///
    /// # Errors
    /// There is nothing at the path, or this user may not open it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        Ok(Self { file, id: (about.dev(), about.ino()), path: path.to_owned() })
    }

    /// Those in [`FOLDERS`], each once, in the order of their paths. What cannot be opened, or is a
    /// plain file left behind by a deleted namespace, is left out.
    pub fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> = FOLDERS
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|files| files.filter_map(|f| Some(f.ok()?.path())))
            .collect();
        paths.sort();
        let mut found: Vec<Self> = Vec::new();
        for path in paths {
            if let Ok(namespace) = Self::open(&path)
                && namespace.is_network()
                && !found.contains(&namespace)
            {
                found.push(namespace);
            }
        }
        found
    }

    /// Device and inode: one namespace's alone as long as it exists.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Its path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is it a network namespace, and not a plain file or one of another kind?
    pub fn is_network(&self) -> bool {
        // SAFETY: NS_GET_NSTYPE takes no argument, so the kernel touches no memory of ours; files
        // that are no namespaces refuse it.
        unsafe { libc::ioctl(self.file.as_raw_fd(), NS_GET_NSTYPE) == libc::CLONE_NEWNET }
    }

    /// Runs `work` on a thread of its own inside this namespace and waits for it; the calling
    /// thread stays where it is. Sockets that `work` makes stay in the namespace wherever they are
    /// used later.
    ///
    /// # Errors
    /// As [`Namespace::enter`], or no thread can be started.
    ///
    /// # Panics
    /// Where `work` does, with the same message.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Moves the calling thread here, for good. Only makes a system call, so that it may be used
    /// between fork and exec.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN both here and there; EINVAL where this is no network namespace.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `self` is. The call touches no memory and moves
        // the calling thread only; no state of ours depends on where a thread is.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Runs `work`, which moves its thread into another namespace, on a thread that ends afterwards.
///
/// # Errors
/// The error of `work`, or no thread can be started.
///
/// # Panics
/// Where `work` does, with the same message.
pub fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("in-netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// _IO(0xb7, 3), include/uapi/linux/nsfs.h
const NS_GET_NSTYPE: libc::Ioctl = 0xb703 as libc::Ioctl;

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_a_network_namespace_and_equal_to_itself() {
        let own = Namespace::current().unwrap();
        assert!(own.is_network());
        assert_eq!(own, Namespace::open(Path::new("/proc/self/ns/net")).unwrap());
        assert!(!Namespace::open(Path::new("/proc/self/ns/mnt")).unwrap().is_network());
    }

    /// Needs root.
    #[test]
    fn work_runs_inside_and_the_caller_stays() {
        let other = on_own_thread(|| {
            // SAFETY: unshare(2) takes no memory; this thread ends after this.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            Namespace::current()
        });
        let (own, other) = (Namespace::current().unwrap(), other.unwrap());
        assert_ne!(own, other);
        assert_eq!(other.run(Namespace::current).unwrap().unwrap(), other);
        assert_eq!(Namespace::current().unwrap(), own);
        let error = Namespace::open(Path::new("/proc/self/ns/uts")).unwrap().enter().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
