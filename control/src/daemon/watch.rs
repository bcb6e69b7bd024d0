//! Watching the manifests: something changed, so read them again.
//!
//! A change may be a file written in place, a new file renamed over the old one, or, as in a ConfigMap mount, a symbolic
//! link that is swapped for one to another directory. The last one does not touch the directory that was watched
//! through the link; so the path is watched, and the directory that each of its symbolic links lives in, and the watches
//! are renewed before every reading.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long it must be quiet before a change counts as complete.
const QUIET: Duration = Duration::from_millis(100);
/// The longest that a change may be put off by further ones.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most symbolic links that are followed, as in path resolution (ELOOP).
const MAX_LINKS: usize = 40;

/// A watch on a file or directory.
pub(super) struct Watch {
    path: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    /// What counts in directories that other things live in too: the path itself and the links that lead to it.
    names: Arc<Mutex<BTreeSet<PathBuf>>>,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    /// When the system gives no watch; the text is one sentence with its remedy.
    pub(super) fn new(path: &Path) -> Result<Watch, String> {
        let (sender, changes) = mpsc::channel(1);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let names: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let (directory, counting) = (path.clone(), names.clone());
        let handler = move |event: notify::Result<notify::Event>| {
            let names = counting.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = |place: &PathBuf| place.parent() == Some(&directory) || names.contains(place);
            let change = match &event {
                Ok(event) => event.need_rescan() || is_change(&event.kind) && event.paths.iter().any(counts),
                Err(_) => true,
            };
            if change {
                // A full channel says already what there is to say.
                let _full = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler).map_err(|error| refused(&path, &error))?;
        let mut watch = Watch { path, watcher, watched: BTreeSet::new(), names, changes };
        watch.renew()?;
        Ok(watch)
    }

    /// Watches what the path leads to now, which a swapped link or a replaced directory may have changed.
    ///
    /// # Errors
    /// As for [`Watch::new`]. Something that is not there just now is no error as long as its directory is.
    pub(super) fn renew(&mut self) -> Result<(), String> {
        for old in std::mem::take(&mut self.watched) {
            // The kernel has forgotten it already if it was removed.
            let _gone = self.watcher.unwatch(&old);
        }
        let mut failure = None;
        let (places, names) = places(&self.path);
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        for place in places {
            match self.watcher.watch(&place, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(place)),
                Err(error) => failure = Some(refused(&place, &error)),
            }
        }
        match failure {
            Some(failure) if self.watched.is_empty() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Waits for a change, and until it is complete.
    pub(super) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher is part of this; it cannot be gone.
            return std::future::pending().await;
        }
        let latest = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            if timeout_at(quiet, self.changes.recv()).await.is_err() || Instant::now() >= latest {
                return;
            }
        }
    }
}

fn refused(path: &Path, error: &notify::Error) -> String {
    format!(
        "{} cannot be watched ({error}); raise fs.inotify.max_user_watches and max_user_instances if they are used up",
        path.display()
    )
}

/// Whether the manifests may differ after such an event; reading them is one too.
fn is_change(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

/// What is to be watched: the path itself, the directory that it lives in, and for each symbolic link on the way the
/// directory that the link lives in. And the names in those directories that count.
fn places(path: &Path) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    let mut places = BTreeSet::from([path.to_owned()]);
    let mut names = places.clone();
    places.extend(path.parent().map(Path::to_owned));
    let parts = |path: &Path| path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect::<Vec<_>>();
    let mut rest = parts(path);
    let mut at = PathBuf::new();
    while let Some(part) = rest.pop() {
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if names.len() <= MAX_LINKS => {
                places.insert(at.clone());
                names.insert(next);
                rest.extend(parts(&target));
            }
            _ => at = next,
        }
    }
    places.retain(|place| !place.as_os_str().is_empty());
    (places, names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn sees(watch: &mut Watch, change: impl FnOnce()) -> bool {
        watch.renew().unwrap();
        // What was seen of the setting up is not what the change is judged by.
        while tokio::time::timeout(Duration::from_millis(50), watch.changes.recv()).await.is_ok() {}
        change();
        tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn every_way_to_change_a_directory_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let policies = root.path().join("policies");
        fs::create_dir(&policies).unwrap();
        let mut watch = Watch::new(&policies).unwrap();
        let file = policies.join("a.yaml");
        assert!(sees(&mut watch, || fs::write(&file, "a").unwrap()).await, "a new file");
        assert!(sees(&mut watch, || fs::write(&file, "b").unwrap()).await, "written in place");
        let temporary = root.path().join("a.new");
        fs::write(&temporary, "c").unwrap();
        assert!(sees(&mut watch, || fs::rename(&temporary, &file).unwrap()).await, "renamed over");
        assert!(sees(&mut watch, || fs::remove_file(&file).unwrap()).await, "removed");
        assert!(sees(&mut watch, || fs::rename(&policies, root.path().join("old")).unwrap()).await, "moved away");
        assert!(sees(&mut watch, || fs::create_dir(&policies).unwrap()).await, "and back");
        assert!(sees(&mut watch, || fs::write(&file, "d").unwrap()).await, "in the new directory");
    }

    #[tokio::test]
    async fn a_swapped_link_is_seen_as_in_a_configmap_mount() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("mount");
        for version in ["..1", "..2"] {
            fs::create_dir_all(mount.join(version)).unwrap();
            fs::write(mount.join(version).join("a.yaml"), version).unwrap();
        }
        symlink("..1", mount.join("..data")).unwrap();
        symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
        let swap = |target: &str| {
            symlink(target, mount.join("..tmp")).unwrap();
            fs::rename(mount.join("..tmp"), mount.join("..data")).unwrap();
        };
        let mut whole = Watch::new(&mount).unwrap();
        assert!(sees(&mut whole, || swap("..2")).await, "the directory is watched");
        let mut one = Watch::new(&mount.join("a.yaml")).unwrap();
        assert!(sees(&mut one, || swap("..1")).await, "the file is watched");
        let mut data = Watch::new(&mount.join("..data")).unwrap();
        assert!(sees(&mut data, || swap("..2")).await, "the link is watched");
    }

    #[tokio::test]
    async fn reading_and_neighbours_are_no_change() {
        let root = tempfile::tempdir().unwrap();
        let policies = root.path().join("policies");
        fs::create_dir(&policies).unwrap();
        let file = policies.join("a.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(&policies).unwrap();
        fs::read(&file).unwrap();
        fs::read_dir(&policies).unwrap().count();
        fs::write(root.path().join("neighbour.yaml"), "b").unwrap();
        let noticed = tokio::time::timeout(Duration::from_millis(300), watch.changes.recv()).await;
        assert!(noticed.is_err(), "reading, or a file beside the directory, was taken for a change");
    }
}
