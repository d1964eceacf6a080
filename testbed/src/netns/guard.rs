//! Who cleans up: names for one run's namespaces, a guard process that removes them when this
//! process is gone (interrupted, killed or crashed), and the sweep of what even the guard missed.
//!
//! A run holds a lock file; the kernel drops the lock with the process, so a lock that can be taken
//! marks leftovers. The guard is a shell that waits for the end of its standard input, a pipe whose
//! other end only this process holds: no signal handler is needed and SIGKILL is covered too.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Error, namespace::Namespace};

/// Where runs keep their lock files.
const LOCK_DIR: &str = "/run/netpolc-testbed";

/// Every namespace of every run starts so.
pub const PREFIX: &str = "netpolc-";

/// The claim on the names `netpolc-ID-*`. Dropping it removes all namespaces so named.
#[derive(Debug)]
pub struct Guard {
    id: String,
    lock: PathBuf,
    _held: File,
    process: Child,
}

impl Guard {
    /// Claims a new id, and first removes what killed runs have left.
    ///
    /// # Errors
    /// The caller is not root, the lock cannot be taken, or `sh` does not start.
    pub fn claim() -> Result<Self, Error> {
        // SAFETY: geteuid(2) takes nothing, touches no memory and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Err(Error::NotRoot);
        }
        sweep();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lock = Path::new(LOCK_DIR).join(&id);
        let held = hold(&lock).map_err(|e| Error::system(format!("lock {}", lock.display()), e))?;
        let process = watch(&id, &lock).map_err(|e| {
            let _ = fs::remove_file(&lock);
            Error::system("start the clean-up shell `sh`".into(), e)
        })?;
        Ok(Self { id, lock, _held: held, process })
    }

    /// The part of the names that is this run's.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The full name of the namespace that this run calls `name`.
    pub fn namespace(&self, name: &str) -> String {
        format!("{PREFIX}{}-{name}", self.id)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        remove_all(&self.id);
        // The end of its input: it finds nothing to do, removes the lock file and ends.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.lock);
        let _ = fs::remove_dir(LOCK_DIR);
    }
}

/// Removes the namespaces of runs whose process and guard are both gone. Namespaces without a lock
/// file (those of the scripts) are left alone.
pub fn sweep() {
    for entry in fs::read_dir(LOCK_DIR).into_iter().flatten().flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        if flock(&file, libc::LOCK_EX | libc::LOCK_NB).is_ok() {
            remove_all(&entry.file_name().to_string_lossy());
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove_all(id: &str) {
    for name in Namespace::list(&format!("{PREFIX}{id}-")) {
        let _ = Namespace::remove(&name);
    }
}

/// Creates and locks the file; again where a sweep took it for a leftover in between.
fn hold(path: &Path) -> io::Result<File> {
    loop {
        fs::create_dir_all(LOCK_DIR)?;
        let file = match File::create(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        flock(&file, libc::LOCK_EX)?;
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: flock(2) takes integers only, and `file` keeps the descriptor open across the call.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Its own process group, or the terminal's interrupt would end it together with us.
fn watch(id: &str, lock: &Path) -> io::Result<Child> {
    const SCRIPT: &str = "trap '' INT TERM HUP; while read -r line; do :; done
for f in /run/netns/\"$1\"*; do [ -e \"$f\" ] || continue; umount -l \"$f\" 2>/dev/null; rm -f \
        \"$f\"; done; rm -f \"$2\"";
    Command::new("sh")
        .args(["-c", SCRIPT, "netpolc-guard", &format!("{PREFIX}{id}-")])
        .arg(lock)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
