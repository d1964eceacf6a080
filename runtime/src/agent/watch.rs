//! Tells when files change, soon and not too often.
//!
//! Directories are watched with everything below; for a single file its folder, because editors and
//! ConfigMap volumes replace files instead of writing them. Where the kernel refuses a watch (too many,
//! or a file system that says nothing) times and sizes are compared each second instead.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::Instant};

/// Quiet time that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(3);
/// A burst is acted upon after this, quiet or not.
const BURST: Duration = Duration::from_millis(15);
/// How often what cannot be watched is looked at.
const POLL: Duration = Duration::from_secs(1);

/// Watches the paths it was made with.
pub struct Watch {
    changes: mpsc::Receiver<()>,
    /// Ends the watches when dropped.
    _watcher: Option<notify::RecommendedWatcher>,
    /// Looked at each second.
    polled: Vec<PathBuf>,
    seen: Vec<Seen>,
}

type Seen = (PathBuf, Option<SystemTime>, u64);

impl Watch {
    /// Starts watching `paths`, those that do not exist yet included.
    pub fn new(paths: &[PathBuf]) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let changed = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|e| e.kind.is_access()) {
                return;
            }
            // A full channel holds a change already.
            let _ = sender.try_send(());
        };
        let mut polled = Vec::new();
        let mut watcher = notify::recommended_watcher(changed).ok();
        for path in paths {
            let done = watcher.as_mut().is_some_and(|w| watch(w, path));
            if !done {
                tracing::warn!(path = %path.display(), "cannot be watched; looking at it each second");
                polled.push(path.clone());
            }
        }
        let seen = look(&polled);
        Self { changes, _watcher: watcher, polled, seen }
    }

    /// Returns when something changed and the burst is over. Cancel safe: a change is not lost.
    pub async fn changed(&mut self) {
        loop {
            if self.polled.is_empty() {
                if self.changes.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
                break;
            }
            tokio::select! {
                Some(()) = self.changes.recv() => break,
                () = tokio::time::sleep(POLL) => {
                    let seen = look(&self.polled);
                    if seen != self.seen {
                        self.seen = seen;
                        break;
                    }
                }
            }
        }
    }

    /// Waits until a burst that has begun is over.
    pub async fn settle(&mut self) {
        let end = Instant::now() + BURST;
        while let Ok(Some(())) = tokio::time::timeout_at(end.min(Instant::now() + QUIET), self.changes.recv()).await {}
    }
}

fn watch(watcher: &mut notify::RecommendedWatcher, path: &Path) -> bool {
    if path.is_dir() && watcher.watch(path, RecursiveMode::Recursive).is_err() {
        return false;
    }
    // Its folder also tells when a path is made, removed or replaced.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
}

/// Files below `paths` with time and size.
fn look(paths: &[PathBuf]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut open: Vec<PathBuf> = paths.to_vec();
    while let Some(path) = open.pop() {
        let Ok(about) = std::fs::metadata(&path) else { continue };
        if about.is_dir()
            && let Ok(files) = std::fs::read_dir(&path)
        {
            open.extend(files.filter_map(|f| Some(f.ok()?.path())));
        }
        seen.push((path, about.modified().ok(), about.len()));
    }
    seen.sort();
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("netpolc-watch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// S12: a change is heard of well within 50 ms, however it is made.
    #[tokio::test]
    async fn s12_writing_replacing_and_removing_are_changes() {
        let folder = folder("changes");
        let file = folder.join("policy.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&file));
        let heard = async |watch: &mut Watch| {
            tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("a change is heard of");
            watch.settle().await;
        };
        std::fs::write(&file, "b").unwrap();
        heard(&mut watch).await;
        std::fs::write(folder.join("new"), "c").unwrap();
        std::fs::rename(folder.join("new"), &file).unwrap();
        heard(&mut watch).await;
        std::fs::remove_file(&file).unwrap();
        heard(&mut watch).await;
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn polling_sees_sizes_and_files_below() {
        let folder = folder("poll");
        let before = look(std::slice::from_ref(&folder));
        std::fs::create_dir(folder.join("below")).unwrap();
        std::fs::write(folder.join("below/x"), "1").unwrap();
        let after = look(std::slice::from_ref(&folder));
        assert_ne!(before, after);
        assert_eq!(after.len(), 3);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
