//! When the state is written down: soon after policies changed, now and then while pods come and go, and never for more than a
//! small part of the time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::store;

/// A change of policy is written down after this time, with what comes along with it.
const SOON: Duration = Duration::from_secs(1);

/// Other changes are.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// After writing, at least so many times as long nothing is written.
const REST: u32 = 50;

/// A file that is kept up to date.
#[derive(Debug)]
pub(super) struct Saving {
    path: PathBuf,
    /// When the file is to be written next.
    due: Option<Instant>,
    not_before: Option<Instant>,
    writing: Option<JoinHandle<Result<Duration, String>>>,
    failed: bool,
}

impl Saving {
    pub(super) fn new(path: PathBuf) -> Self {
        Saving { path, due: None, not_before: None, writing: None, failed: false }
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Something changed.
    pub(super) fn changed(&mut self, policies: bool) {
        let due = Instant::now() + if policies { SOON } else { NOW_AND_THEN };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// When [`Saving::write`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.due.filter(|_| self.writing.is_none())?;
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.due.is_some()
    }

    /// Begins to write. Encoding counts as writing.
    pub(super) fn write(&mut self, lines: Vec<u8>, began: Instant) {
        self.due = None;
        let path = self.path.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || match store::write(&path, &lines) {
            Ok(()) => Ok(began.elapsed()),
            Err(error) => Err(error.to_string()),
        }));
    }

    /// Waits for the file to be written, for ever if none is being; the error if it is another one than before.
    pub(super) async fn written(&mut self) -> Option<String> {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let result = writing.await.unwrap_or_else(|error| Err(error.to_string()));
        self.writing = None;
        match result {
            Ok(took) => {
                self.failed = false;
                self.not_before = Some(Instant::now() + took * REST);
                None
            }
            Err(reason) => {
                self.not_before = Some(Instant::now() + NOW_AND_THEN);
                self.changed(false);
                (!std::mem::replace(&mut self.failed, true)).then_some(reason)
            }
        }
    }

    /// Waits for the file to be written if it is being.
    pub(super) async fn finish(&mut self) -> Option<String> {
        if self.writing.is_some() { self.written().await } else { None }
    }
}
