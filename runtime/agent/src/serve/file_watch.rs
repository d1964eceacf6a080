//! Notices changes of files: soon, and not too often.
//!
//! The kernel's watches (inotify) are bound to the directories that exist at the moment, so they
//! are renewed before every reading. There is one on a directory itself, on the folder of a single
//! file (editors and ConfigMap volumes replace files instead of writing to them), on the folders of
//! all symbolic links along the path, and on the nearest existing folder of a missing path. In
//! addition, times and sizes are compared each second: for file systems without notifications, for
//! folders that are moved as a whole, and for watches that the kernel refuses. Not here: reading
//! the files ([`super::files`]).

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use netpolc_kube_sync::is_manifest;
use notify::{RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::Instant};

/// How long no change must occur for a burst of changes to be over.
const DEBOUNCE: Duration = Duration::from_millis(3);
/// Files that change without a pause are read after this time all the same.
const MAX_DEBOUNCE: Duration = Duration::from_millis(15);
/// How often times and sizes are compared.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How many symbolic links a path may contain; more are an error to the kernel, too.
const MAX_SYMLINKS: usize = 40;

/// A watch of some paths.
pub struct Watch {
    paths: Vec<PathBuf>,
    sender: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
    /// The kernel's watches, which end when this is dropped; None where there can be none.
    watcher: Option<notify::RecommendedWatcher>,
    seen: Vec<FileState>,
    /// When times and sizes are compared next. Kept across calls, so that other events never
    /// postpone it.
    next_poll: Instant,
    /// Whether the kernel has refused a watch, which is logged once.
    refused: bool,
}

/// A file's state: device, inode, change time (seconds and nanoseconds) and length. None where the
/// file does not exist.
type FileState = (PathBuf, Option<(u64, u64, i64, i64, u64)>);

impl Watch {
    /// Starts watching `paths`, including those that do not exist yet.
    pub fn new(paths: &[PathBuf]) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let (paths, next_poll) = (paths.to_vec(), Instant::now() + POLL_INTERVAL);
        let mut watch =
            Self { paths, sender, changes, watcher: None, seen: vec![], next_poll, refused: false };
        watch.renew();
        watch
    }

    /// Renews the watches for what the paths lead to now. Call this before the files are read, so
    /// that no change is missed.
    pub fn renew(&mut self) {
        let mut set = WatchSet::default();
        for path in &self.paths {
            set.add(path);
        }
        let WatchSet { folders, names, listed } = set;
        let sender = self.sender.clone();
        let changed = move |event: notify::Result<notify::Event>| {
            let relevant = |path: &PathBuf| {
                names.contains(path)
                    || path.parent().is_some_and(|folder| listed.contains(folder))
                        && is_manifest(path)
            };
            if event.is_ok_and(|e| {
                e.kind.is_access() || !e.need_rescan() && !e.paths.iter().any(relevant)
            }) {
                return;
            }
            // The channel holds one message. If it is full, a change is announced already.
            let _ = sender.try_send(());
        };
        let mut watcher = notify::recommended_watcher(changed).ok();
        let mut watch = |folder: &PathBuf| {
            watcher
                .as_mut()
                .is_some_and(|watcher| watcher.watch(folder, RecursiveMode::NonRecursive).is_ok())
        };
        // A folder that was removed meanwhile does not count as refused; the comparison below
        // notices it.
        let refused: Vec<&PathBuf> =
            folders.iter().filter(|folder| !watch(folder) && folder.exists()).collect();
        if let Some(folder) = refused.first()
            && !std::mem::replace(&mut self.refused, true)
        {
            tracing::warn!(path = %folder.display(), "the folder cannot be watched; it is checked \
                each second instead");
        }
        // The old watches end only now, so that no change falls into a gap.
        self.watcher = watcher;
        self.seen = snapshot(&self.paths);
    }

    /// Returns when something has changed. Cancel safe: a change is not lost.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.changes.recv() => return,
                () = tokio::time::sleep_until(self.next_poll) => {
                    self.next_poll = Instant::now() + POLL_INTERVAL;
                    if snapshot(&self.paths) != self.seen {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the burst of changes that has begun is over.
    pub async fn debounce(&mut self) {
        let end = Instant::now() + MAX_DEBOUNCE;
        while let Ok(Some(())) =
            tokio::time::timeout_at(end.min(Instant::now() + DEBOUNCE), self.changes.recv()).await
        {
        }
    }
}

/// The folders to watch, and the changes in them that matter.
#[derive(Default)]
struct WatchSet {
    folders: BTreeSet<PathBuf>,
    /// The paths whose changes matter, and the watched folders themselves.
    names: BTreeSet<PathBuf>,
    /// Folders in which every manifest matters.
    listed: BTreeSet<PathBuf>,
}

impl WatchSet {
    /// Adds an input, and, where it is a directory, the files in it.
    fn add(&mut self, path: &Path) {
        let Some(real) = self.follow(path) else { return };
        if !real.is_dir() {
            return;
        }
        self.names.insert(real.clone());
        self.folders.insert(real.clone());
        for entry in real.read_dir().into_iter().flatten().flatten() {
            let link = entry.file_type().is_ok_and(|t| t.is_symlink());
            if link && is_manifest(&entry.path()) {
                self.follow(&entry.path());
            }
        }
        self.listed.insert(real);
    }

    /// Resolves the path as the kernel does, and adds every step to the set. Returns where the path
    /// ends; None where it leads nowhere.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let mut left: VecDeque<OsString> = parts(&path);
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = left.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let about = match next.symlink_metadata() {
                Ok(about) => about,
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::debug!(path = %next.display(), %error, "a part of a watched path \
                            could not be read");
                    }
                    self.watch(at, next);
                    return None;
                }
            };
            if about.is_symlink() {
                links += 1;
                let target = next.read_link().ok().filter(|_| links <= MAX_SYMLINKS)?;
                self.watch(at.clone(), next);
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            } else if left.is_empty() && !about.is_dir() {
                self.watch(at, next.clone());
                return Some(next);
            } else {
                at = next;
            }
        }
        Some(at)
    }

    fn watch(&mut self, folder: PathBuf, name: PathBuf) {
        self.names.insert(name);
        // The folder itself may be removed or moved.
        self.names.insert(folder.clone());
        self.folders.insert(folder);
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// The states of the paths, and of the manifests in those that are directories.
fn snapshot(paths: &[PathBuf]) -> Vec<FileState> {
    let mut seen = Vec::new();
    let about = |path: &Path| {
        let about = path.metadata().ok()?;
        // A directory's time changes with files that do not matter.
        let (time, length) = if about.is_dir() {
            ((0, 0), 0)
        } else {
            // The change time also covers the mode, which may have prevented reading.
            ((about.ctime(), about.ctime_nsec()), about.len())
        };
        Some((about.dev(), about.ino(), time.0, time.1, length))
    };
    for path in paths {
        seen.push((path.clone(), about(path)));
        let files = path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        seen.extend(
            files.filter(|file| is_manifest(file)).map(|file| (file.clone(), about(&file))),
        );
    }
    seen.sort();
    seen
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A folder that is gone with its value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("netpolc-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Fails where the change is heard of only by looking each second.
    async fn heard(watch: &mut Watch) {
        watch.next_poll = Instant::now() + Duration::from_secs(60);
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .expect("a change is heard of");
        watch.debounce().await;
        watch.renew();
    }

    async fn quiet(watch: &mut Watch) {
        watch.next_poll = Instant::now() + Duration::from_secs(60);
        let change = tokio::time::timeout(Duration::from_millis(200), watch.changed()).await;
        assert!(change.is_err(), "nothing of ours has changed");
    }

    /// S12: a change is heard of well within 50 ms, however it is made.
    #[tokio::test]
    async fn s12_writing_replacing_and_removing_are_changes() {
        let folder = Folder::new("changes");
        let file = folder.0.join("policy.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&file));
        fs::write(&file, "b").unwrap();
        heard(&mut watch).await;
        fs::write(folder.0.join("new"), "c").unwrap();
        fs::rename(folder.0.join("new"), &file).unwrap();
        heard(&mut watch).await;
        fs::remove_file(&file).unwrap();
        heard(&mut watch).await;
        fs::write(folder.0.join("log"), "beside it").unwrap();
        quiet(&mut watch).await;
        fs::write(&file, "again").unwrap();
        heard(&mut watch).await;
    }

    /// S12: watches stand on what is there now, whatever was moved, removed or made anew before.
    #[tokio::test]
    async fn s12_folders_that_are_made_anew_are_watched_again() {
        let folder = Folder::new("anew");
        let inner = folder.0.join("above/inner");
        let file = inner.join("policy.yaml");
        let mut watch = Watch::new(std::slice::from_ref(&inner));
        for _ in 0..3 {
            fs::create_dir_all(&inner).unwrap();
            heard(&mut watch).await;
            for text in ["a", "b"] {
                fs::write(&file, text).unwrap();
                heard(&mut watch).await;
            }
            fs::remove_dir_all(folder.0.join("above")).unwrap();
            heard(&mut watch).await;
        }
        let mut watch = Watch::new(std::slice::from_ref(&file));
        fs::create_dir_all(&inner).unwrap();
        heard(&mut watch).await;
        fs::write(&file, "a").unwrap();
        heard(&mut watch).await;
        fs::rename(&inner, folder.0.join("moved")).unwrap();
        heard(&mut watch).await;
        fs::create_dir(&inner).unwrap();
        heard(&mut watch).await;
        fs::write(&file, "b").unwrap();
        heard(&mut watch).await;
    }

    /// S12: links on the way, at its end, and among the files; those of a ConfigMap volume, too.
    #[tokio::test]
    async fn s12_links_are_watched_where_they_stand_and_where_they_lead() {
        let folder = Folder::new("links");
        let at = |name: &str| folder.0.join(name);
        for name in ["one", "two", "far", "volume/..1", "volume/..2"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        symlink("one", at("link")).unwrap();
        let swap = |target: &str, link: &str| {
            symlink(target, at("swap")).unwrap();
            fs::rename(at("swap"), at(link)).unwrap();
        };
        let mut watch = Watch::new(&[at("link")]);
        fs::write(at("one/a.yaml"), "a").unwrap();
        heard(&mut watch).await;
        swap("two", "link");
        heard(&mut watch).await;
        fs::write(at("two/a.yaml"), "a").unwrap();
        heard(&mut watch).await;
        fs::write(at("far/b.yaml"), "b").unwrap();
        symlink(at("far/b.yaml"), at("two/b.yaml")).unwrap();
        heard(&mut watch).await;
        fs::write(at("far/b.yaml"), "c").unwrap();
        heard(&mut watch).await;
        fs::write(at("far/other.yaml"), "d").unwrap();
        quiet(&mut watch).await;

        fs::write(at("volume/..1/p.yaml"), "1").unwrap();
        fs::write(at("volume/..2/p.yaml"), "2").unwrap();
        symlink("..1", at("volume/..data")).unwrap();
        symlink("..data/p.yaml", at("volume/p.yaml")).unwrap();
        let mut watch = Watch::new(&[at("volume")]);
        swap("..2", "volume/..data");
        heard(&mut watch).await;
        swap("..1", "volume/..data");
        heard(&mut watch).await;
        symlink("loop.yaml", at("volume/loop.yaml")).unwrap();
        heard(&mut watch).await;
    }

    /// S12: what no watch tells of is seen by looking.
    #[tokio::test]
    async fn s12_everything_is_looked_at_each_second() {
        let folder = Folder::new("poll");
        let file = folder.0.join("a.yaml");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&folder.0));
        watch.watcher = None;
        while watch.changes.try_recv().is_ok() {}
        for text in ["2", "3"] {
            fs::write(&file, text).unwrap();
            tokio::time::timeout(Duration::from_secs(10), watch.changed())
                .await
                .expect("a change is seen");
            watch.renew();
            watch.watcher = None;
        }
        let before = snapshot(std::slice::from_ref(&folder.0));
        fs::write(folder.0.join(".hidden"), "x").unwrap();
        assert_eq!(snapshot(std::slice::from_ref(&folder.0)), before);
    }
}
