//! Folders, files and locks that are root's alone: those with pins, and those with the agent's
//! records.
//!
//! Whoever can write a folder can take away what is in it, and whoever can open a file can lock it,
//! with no other privilege. So folders are made for their owner only, ones that others may use are
//! closed to them, and a folder that is somebody else's is moved out of the way, or refused where
//! he could put it back.
//!
//! Not here: writing files ([`super::files`]).

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::Path,
    time::{Duration, Instant},
};

/// Where state files of netpolc are kept.
pub const FOLDER: &str = "/run/netpolc";

/// What others may do, of a mode.
const OTHERS: u32 = 0o077;
/// Only the owner of what is in a folder, or of the folder, may rename or remove it.
const STICKY: u32 = 0o1000;
/// Others may write.
const WRITE: u32 = 0o022;
/// Pause between two attempts to get a lock.
const PAUSE: Duration = Duration::from_millis(20);
/// How often somebody may be faster in making a folder.
const ATTEMPTS: u32 = 10;

fn me() -> u32 {
    // SAFETY: geteuid(2) takes no memory and cannot fail.
    unsafe { libc::geteuid() }
}

/// Is it a file that nobody but this process' user can open?
pub fn is_mine(facts: &fs::Metadata) -> bool {
    facts.is_file() && facts.mode() & OTHERS == 0 && facts.uid() == me()
}

fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

/// Makes a folder that this process' user alone may look into, or makes that of one that is there.
///
/// # Errors
/// `PermissionDenied` where something stands there that is no folder, or a folder of somebody else
/// who could take it back, with what to do about it; else that of the file system.
pub fn folder(path: &Path) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let Some(parent) = path.parent() else { return Err(e) };
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
                continue;
            }
            Err(e) => return Err(e),
        }
        let facts = fs::symlink_metadata(path)?;
        if !facts.is_dir() {
            return Err(refused(format!("{} is no folder; remove it", path.display())));
        }
        if facts.uid() != me() {
            move_away(path, facts.uid())?;
            continue;
        }
        if facts.mode() & OTHERS != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        return Ok(());
    }
    Err(refused(format!("{}: somebody else makes it again and again", path.display())))
}

/// Moves somebody else's folder away, where he cannot put it back.
fn move_away(path: &Path, owner: u32) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let facts = fs::metadata(parent)?;
    if facts.uid() != me() || (facts.mode() & WRITE != 0 && facts.mode() & STICKY == 0) {
        let what =
            "so its owner could put it back; remove it, and close the folder above to others";
        let mode = facts.mode() & 0o7777;
        return Err(refused(format!(
            "{} belongs to user {owner} and {} is open to others (user {}, mode {mode:o}), {what}",
            path.display(),
            parent.display(),
            facts.uid()
        )));
    }
    if fs::remove_dir(path).is_ok() {
        tracing::warn!(path = %path.display(), owner, "an empty folder of somebody else stood \
            there; removed");
        return Ok(());
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("folder");
    let aside = parent.join(format!("{name}-not-ours-{}", std::process::id()));
    fs::rename(path, &aside)?;
    tracing::warn!(path = %path.display(), owner, aside = %aside.display(), "a folder of somebody \
        else stood there; moved");
    Ok(())
}

/// How a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Others may have it locked so, too.
    Shared,
    /// Nobody else has it locked.
    Alone,
}

/// Locks a file or folder until it is closed; waits no longer than `patience`.
///
/// # Errors
/// `WouldBlock` where another process has it, with its number where that is known; else that of
/// flock(2), such as ENOLCK.
pub fn lock(file: &File, how: Lock, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    let operation = if how == Lock::Shared { libc::LOCK_SH } else { libc::LOCK_EX };
    loop {
        // SAFETY: flock(2) takes no memory, and the descriptor is open as long as `file` is
        // borrowed.
        if unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => continue,
            io::ErrorKind::WouldBlock if Instant::now() < end => std::thread::sleep(PAUSE),
            io::ErrorKind::WouldBlock => {
                let who = holder(file).unwrap_or_else(|| "another process".into());
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    format!("{who} has it locked"),
                ));
            }
            _ => return Err(error),
        }
    }
}

/// Who has a lock on it, as this process counts processes.
fn holder(file: &File) -> Option<String> {
    let facts = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| held(line, facts.dev(), facts.ino()))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let owner = fs::metadata(format!("/proc/{pid}"))
        .map_or_else(|_| "?".to_owned(), |facts| facts.uid().to_string());
    Some(format!("process {pid} ({}, of user {owner})", name.trim().escape_debug()))
}

/// The process in a line of /proc/locks that is about this file:
/// `1: FLOCK ADVISORY WRITE 708 00:1a:1234 0 EOF`.
fn held(line: &str, device: u64, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let at = fields.iter().position(|field| *field == "FLOCK")?;
    let (pid, file) = (fields.get(at + 3)?, fields.get(at + 4)?);
    let (major, minor) = (libc::major(device), libc::minor(device));
    (*file == format!("{major:02x}:{minor:02x}:{inode}")).then(|| pid.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path =
            std::env::temp_dir().join(format!("netpolc-private-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_is_its_owners_alone() {
        let path = scratch("folder");
        folder(&path.join("below")).unwrap();
        assert_eq!((mode(&path), mode(&path.join("below"))), (0o700, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::write(path.join("file"), "").unwrap();
        assert!(folder(&path.join("file")).unwrap_err().to_string().contains("is no folder"));
        fs::remove_dir_all(path).unwrap();
    }

    /// Needs root.
    #[test]
    fn somebody_elses_folder_is_moved_away_or_refused() {
        let path = scratch("else");
        folder(&path).unwrap();
        let (empty, full) = (path.join("empty"), path.join("full"));
        for folder in [&empty, &full] {
            fs::create_dir(folder).unwrap();
            chown(folder, Some(65534), None).unwrap();
        }
        fs::write(full.join("file"), "").unwrap();
        folder(&empty).unwrap();
        folder(&full).unwrap();
        assert!(!full.join("file").exists());
        assert_eq!(fs::metadata(&full).unwrap().uid(), me());
        chown(&full, Some(65534), None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let error = folder(&full).unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534") && error.contains("mode 777"), "{error}");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_lock_is_not_waited_for_without_end_and_its_holder_is_named() {
        let path = scratch("lock");
        folder(&path).unwrap();
        let open = || File::open(&path).unwrap();
        let (first, second) = (open(), open());
        lock(&first, Lock::Shared, Duration::ZERO).unwrap();
        lock(&second, Lock::Shared, Duration::ZERO).unwrap();
        let error = lock(&open(), Lock::Alone, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let pid = std::process::id();
        assert!(error.to_string().contains(&format!("process {pid} ")), "{error}");
        drop((first, second));
        lock(&open(), Lock::Alone, Duration::ZERO).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_line_of_proc_locks_is_read() {
        let device = libc::makedev(0, 0x1a);
        assert_eq!(held("1: FLOCK  ADVISORY  WRITE 708 00:1a:1234 0 EOF", device, 1234), Some(708));
        assert_eq!(
            held("1: -> FLOCK  ADVISORY  WRITE 709 00:1a:1234 0 EOF", device, 1234),
            Some(709)
        );
        assert_eq!(held("1: FLOCK  ADVISORY  WRITE 708 00:1a:1235 0 EOF", device, 1234), None);
        assert_eq!(held("1: POSIX  ADVISORY  WRITE 708 00:1a:1234 0 EOF", device, 1234), None);
    }
}
