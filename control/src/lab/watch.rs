//! Watches files that people edit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::error::{LabError, Result};

/// An editor writes, renames and touches in quick succession: all of it is one edit.
const SETTLE: Duration = Duration::from_millis(150);

/// A watch on files and directories. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
    edits: mpsc::UnboundedReceiver<()>,
}

impl Watch {
    /// Watches these; what is `-` (standard input) stands still.
    ///
    /// # Errors
    /// When the system refuses (inotify's limits).
    pub(super) fn start(paths: &[PathBuf]) -> Result<Watch> {
        let refused = |error: notify::Error| {
            LabError::System(format!(
                "cannot watch the files: {error}; raise fs.inotify.max_user_watches, or use --once"
            ))
        };
        let (sender, edits) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files is an access too, and would come back as an edit for ever.
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                let _ = sender.send(());
            }
        })
        .map_err(refused)?;
        for (directory, mode) in directories(paths) {
            watcher.watch(&directory, mode).map_err(refused)?;
        }
        Ok(Watch { _watcher: watcher, edits })
    }

    /// Waits for an edit, and until the files have settled.
    pub(super) async fn edited(&mut self) {
        if self.edits.recv().await.is_none() {
            return std::future::pending().await;
        }
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.edits.recv()).await {}
    }
}

/// What to watch: a directory itself, a file's directory, because editors replace files.
fn directories(paths: &[PathBuf]) -> BTreeMap<PathBuf, RecursiveMode> {
    let real = paths.iter().filter(|path| path.as_path() != Path::new("-"));
    let files = real.clone().filter(|path| !path.is_dir()).filter_map(|path| {
        let parent = path.parent()?;
        Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
    });
    let trees = real.filter(|path| path.is_dir()).cloned().map(|path| (path, RecursiveMode::Recursive));
    files.map(|path| (path, RecursiveMode::NonRecursive)).chain(trees).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn edits_are_told_once_and_reading_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&file)).unwrap();
        for text in ["b", "c"] {
            std::fs::write(directory.path().join("new"), text).unwrap();
            std::fs::rename(directory.path().join("new"), &file).unwrap();
            watch.edited().await;
        }
        std::fs::read(&file).unwrap();
        assert!(tokio::time::timeout(SETTLE * 2, watch.edited()).await.is_err());
    }
}
