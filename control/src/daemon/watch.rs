//! Watching the manifests: something changed, so read them again.
//!
//! A change may be a file written in place, a new file renamed over the old one, or, as in a ConfigMap mount, a symbolic
//! link that is swapped for one to another directory. The last one does not touch the directory that was watched
//! through the link, and a change of what a link in the directory leads to does not touch the directory either. So all
//! links are followed, the path's and those in the directory: the directory that each link lives in is watched, and the
//! one that it leads to, and the watches are renewed before every reading.
//!
//! Paths are resolved before they are watched, because one directory under two names would be told of by one of them.

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

/// Whose changes count.
#[derive(Default)]
struct Counting {
    /// The path, resolved: all that lives in it counts.
    directory: PathBuf,
    /// What counts in directories that other things live in too: the path itself, links and what they lead to.
    names: BTreeSet<PathBuf>,
}

impl Counting {
    fn counts(&self, place: &Path) -> bool {
        place.parent() == Some(&self.directory) || self.names.contains(place)
    }
}

/// A watch on a file or directory.
pub(super) struct Watch {
    path: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    counting: Arc<Mutex<Counting>>,
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
        let counting: Arc<Mutex<Counting>> = Arc::default();
        let known = counting.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = |place: &PathBuf| known.counts(place);
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
        let mut watch = Watch { path, watcher, watched: BTreeSet::new(), counting, changes };
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
        let (places, counting) = places(&self.path);
        *self.counting.lock().unwrap_or_else(PoisonError::into_inner) = counting;
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

/// What is to be watched: what the path leads to, the directory that this lives in, the same for each symbolic link in it
/// if it is a directory, and the directory of every link on the way. And whose changes count there.
fn places(path: &Path) -> (BTreeSet<PathBuf>, Counting) {
    let mut names = BTreeSet::new();
    let directory = follow(path, &mut names);
    for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            follow(&entry.path(), &mut names);
        }
    }
    let mut places: BTreeSet<_> = names.iter().filter_map(|name| name.parent()).map(Path::to_owned).collect();
    places.insert(directory.clone());
    (places, Counting { directory, names })
}

/// What an absolute path leads to, without symbolic links. Adds it to the names, and every link on the way.
fn follow(path: &Path, names: &mut BTreeSet<PathBuf>) -> PathBuf {
    let parts = |path: &Path| path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect::<Vec<_>>();
    let mut rest = parts(path);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part.as_os_str() == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                names.insert(next);
                rest.extend(parts(&target));
            }
            _ => at = next,
        }
    }
    names.insert(at.clone());
    at
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
    async fn what_links_in_the_directory_lead_to_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let (mount, away) = (root.path().join("mount"), root.path().join("away"));
        let (first, second, far) = (mount.join("..1/a.yaml"), mount.join("..2/a.yaml"), away.join("b.yaml"));
        for file in [&first, &second, &far] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "a").unwrap();
        }
        symlink("..1", mount.join("..data")).unwrap();
        symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
        // A second name for the directory, with `..` in it.
        symlink("../away/../mount/../away/b.yaml", mount.join("b.yaml")).unwrap();
        symlink("../mount/plain.yaml", mount.join("c.yaml")).unwrap();
        let through = root.path().join("through");
        symlink("mount", &through).unwrap();
        for path in [&mount, &through] {
            let mut watch = Watch::new(path).unwrap();
            assert!(sees(&mut watch, || fs::write(&first, "b").unwrap()).await, "written in place");
            let temporary = away.join("new");
            fs::write(&temporary, "c").unwrap();
            assert!(sees(&mut watch, || fs::rename(&temporary, &first).unwrap()).await, "renamed over");
            assert!(sees(&mut watch, || fs::write(&far, "b").unwrap()).await, "outside the directory");
            assert!(sees(&mut watch, || fs::write(mount.join("plain.yaml"), "b").unwrap()).await, "no link");
            let swap = |target: &str| {
                symlink(target, mount.join("..tmp")).unwrap();
                fs::rename(mount.join("..tmp"), mount.join("..data")).unwrap();
            };
            assert!(sees(&mut watch, || swap("..2")).await, "swapped");
            assert!(sees(&mut watch, || fs::write(&second, "b").unwrap()).await, "written in place after the swap");
            swap("..1");
        }
        let mut watch = Watch::new(&mount).unwrap();
        fs::write(away.join("neighbour.yaml"), "b").unwrap();
        let noticed = tokio::time::timeout(Duration::from_millis(300), watch.changes.recv()).await;
        assert!(noticed.is_err(), "a file beside the one that is led to was taken for a change");
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
