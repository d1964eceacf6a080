//! Network namespaces: which there are, and running something in one.
//!
//! Not here: making or deleting them (the testbed).

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
    /// Where /proc is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one behind a path.
    ///
    /// # Errors
    /// The path cannot be opened.
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
        // SAFETY: NS_GET_NSTYPE takes no argument and reads nothing of ours.
        unsafe { libc::ioctl(self.file.as_raw_fd(), NS_GET_NSTYPE) == libc::CLONE_NEWNET }
    }

    /// Runs `work` on a thread of its own inside this namespace; the caller's thread stays where it is.
    ///
    /// # Errors
    /// The kernel refuses to enter (not root), or no thread can be made.
    ///
    /// # Panics
    /// Where `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("in-netns".into()).spawn_scoped(scope, || {
                self.enter()?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread here, for good.
    ///
    /// # Errors
    /// The kernel refuses (not root).
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open; the call changes the calling thread only.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
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
}
