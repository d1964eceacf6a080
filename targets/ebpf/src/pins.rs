//! What lies on the BPF file system between two starts, and the lock that admits one writer.
//!
//! ```text
//! <pins>/shared/...        maps of every generation: connection state, counters, config
//! <pins>/gen_<n>/...       tables, ledger, header and all programs of generation n
//! <pins>/links/<ifindex>_<hook>      a TCX link
//! <pins>/links/<ifindex>_clsact      a directory: a pod's interface has filters in clsact;
//!                          `_clsact_q`: and netpolc made the qdisc;
//!                          `_uplink`, `_uplink_q`: the same of an interface that is not a pod's
//! <pins>/links/<ifindex>_qdisc       a directory: netpolc made the qdisc beside the TCX links
//! <pins>/new_...           being made or being removed; belongs to nobody
//! ```
//!
//! A directory gets its final name only when it is complete, and loses it before anything in it is
//! removed. Whatever has its final name can therefore be relied on, wherever a process was killed.
//! The lock is an flock on `<pins>` itself, which the kernel releases with the process. Only root
//! has access to any of it (`private`). Not here: what the objects are (`maps`, `attach`,
//! `target`).

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use netpolc_host::private;
use netpolc_target::Error;

use crate::sys::{self, refused};

/// Where a BPF file system is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// A directory of pins, locked unless it was opened to look only.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    /// The descriptor that holds the lock; None where the directory was opened to look only.
    _lock: Option<File>,
}

fn io_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let call = format!("{what} {}", path.display());
    move |e| refused(call, e)
}

/// The longest part of `path` that exists, which tells the file system that `path` will be on.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

/// Mounts the BPF file system where `dir` is to be in it and it is not mounted.
fn ensure_bpffs(dir: &Path) -> Result<(), Error> {
    let is = |path: &Path| sys::is_bpffs(path).map_err(io_error("look at", path));
    if is(existing(dir))? {
        return Ok(());
    }
    if dir.starts_with(BPFFS) && Path::new(BPFFS).exists() {
        sys::mount_bpffs(Path::new(BPFFS)).map_err(|e| {
            refused(format!("mount the BPF file system (by hand: mount -t bpf bpf {BPFFS})"), e)
        })?;
        return Ok(());
    }
    let what = format!(
        "{} is not on a BPF file system (mount -t bpf bpf {BPFFS}, and pin below it)",
        dir.display()
    );
    Err(refused(what, io::ErrorKind::Unsupported.into()))
}

/// How long to wait for the lock. A child that another thread has just forked holds a copy of it
/// until it runs its own program, so that even the only netpolc process may find it taken for a
/// moment.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

impl Pins {
    /// Creates the directory where it is missing, locks it, and removes what a killed process left
    /// half-finished.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process holds the lock, [`Error::System`] where the directory
    /// cannot be created or is not on a BPF file system.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        ensure_bpffs(dir)?;
        // Between creating and locking it, another process may remove the directory.
        let pins = loop {
            private::folder(dir).map_err(io_error("create", dir))?;
            if let Some(pins) = Self::lock(dir)? {
                break pins;
            }
        };
        let links = dir.join("links");
        private::folder(&links).map_err(io_error("create", &links))?;
        pins.clear_leftovers()?;
        Ok(pins)
    }

    /// Locks the directory where it exists; None where it does not.
    pub fn open_existing(dir: &Path) -> Result<Option<Self>, Error> {
        loop {
            if !dir.exists() {
                return Ok(None);
            }
            if let Some(pins) = Self::lock(dir)? {
                return Ok(Some(pins));
            }
        }
    }

    /// Opens the directory for reading, while another process may have locked it. None where
    /// nothing complete is pinned there.
    pub fn look(dir: &Path) -> Result<Option<Self>, Error> {
        let pins = Self { dir: dir.into(), _lock: None };
        let there = pins.shared().try_exists().map_err(io_error("look at", dir))?;
        Ok(if there && !pins.generations()?.is_empty() { Some(pins) } else { None })
    }

    /// Locks the directory; None where it was removed in the meantime.
    fn lock(dir: &Path) -> Result<Option<Self>, Error> {
        let lock = match File::open(dir) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("open", dir)(e)),
        };
        match private::lock(&lock, private::Lock::Alone, LOCK_TIMEOUT) {
            Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::InUse { what: dir.display().to_string(), source });
            }
            done => done.map_err(io_error("lock", dir))?,
        }
        // Whoever held the lock may have removed the directory, and somebody made another one under
        // the same name: then the lock is on the wrong one.
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (lock.metadata(), fs::metadata(dir)) {
            (Ok(a), Ok(b)) if same(&a, &b) => Ok(Some(Self { dir: dir.into(), _lock: Some(lock) })),
            _ => Ok(None),
        }
    }

    fn clear_leftovers(&self) -> Result<(), Error> {
        for name in self.names(&self.dir)? {
            if name.starts_with("new_") {
                remove_tree(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    fn names(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(dir).map_err(io_error("read", dir))?;
        let mut names: Vec<String> =
            entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The path `<pins>/shared`, whether or not it exists.
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// The path `<pins>/gen_<number>`, whether or not it exists.
    pub fn generation(&self, number: u64) -> PathBuf {
        self.dir.join(format!("gen_{number}"))
    }

    /// The numbers of the complete generations, ascending. More than one exists only where a
    /// process was killed while it changed over.
    pub fn generations(&self) -> Result<Vec<u64>, Error> {
        let names = self.names(&self.dir)?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|n| n.strip_prefix("gen_")?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The names in `<pins>/links`, sorted.
    pub fn links(&self) -> Result<Vec<String>, Error> {
        self.names(&self.dir.join("links"))
    }

    /// The path `<pins>/links/<name>`, whether or not it exists.
    pub fn link(&self, name: &str) -> PathBuf {
        self.dir.join("links").join(name)
    }

    /// Creates a directory under a temporary name, lets `fill` pin into it, and renames it to
    /// `path`.
    pub fn complete(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("dir");
        let new = self.dir.join(format!("new_{name}"));
        remove_tree(&new)?;
        private::folder(&new).map_err(io_error("create", &new))?;
        fill(&new)?;
        fs::rename(&new, path).map_err(io_error("name", path))
    }

    /// Takes a directory's final name away and then removes it. Does nothing where it does not
    /// exist.
    pub fn discard(&self, path: &Path) -> Result<(), Error> {
        if !path.exists() {
            return Ok(());
        }
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("dir");
        let old = self.dir.join(format!("new_old_{name}"));
        remove_tree(&old)?;
        fs::rename(path, &old).map_err(io_error("rename", path))?;
        remove_tree(&old)
    }

    /// Whether the directory is still at the path at which it was locked.
    pub fn stand(&self) -> bool {
        let Some(lock) = &self._lock else { return true };
        match (lock.metadata(), fs::metadata(&self.dir)) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        }
    }

    /// The path of `links/<name>` in the directory that was locked, even where that has been moved
    /// or removed since; None where nothing is locked.
    pub fn locked_link(&self, name: &str) -> Option<PathBuf> {
        let lock = self._lock.as_ref()?.as_raw_fd();
        Some(Path::new("/proc/self/fd").join(lock.to_string()).join("links").join(name))
    }

    /// The path of the directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the whole directory. The links must have been detached already.
    pub fn remove(self) -> Result<(), Error> {
        for number in self.generations()? {
            self.discard(&self.generation(number))?;
        }
        self.discard(&self.shared())?;
        remove_tree(&self.dir)
    }
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}
