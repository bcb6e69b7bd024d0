//! What happened, for people: on standard error, or appended to a file. Never on standard output, which is the runtime's.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the lines of one call go.
pub(super) struct Log {
    file: Option<PathBuf>,
    about: String,
}

impl Log {
    pub(super) fn new(file: Option<PathBuf>, command: &str, container: Option<&str>) -> Self {
        Log { file, about: format!("{command} {}", container.unwrap_or("-")) }
    }

    /// Writes a line. That it cannot be written is no reason to fail.
    pub(super) fn line(&self, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("{}.{:03} {} {text}\n", now.as_secs(), now.subsec_millis(), self.about);
        let opened = self.file.as_ref().map(|path| OpenOptions::new().create(true).append(true).open(path));
        let _unwritten = match opened {
            Some(Ok(mut file)) => file.write_all(line.as_bytes()),
            _ => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
