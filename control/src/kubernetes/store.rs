//! The state of last time, kept in a file, so that a restart without API server enforces it.
//!
//! The file is lines of JSON in one zstd frame with a checksum: a header with the format's number, the objects, and a last line
//! with their count. It is written beside the old one, synced and moved over it: a crash leaves the old one. A file that is
//! damaged, cut off, or of another format is not used at all.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lean::Object;

/// The format that is written, and the only one that is read.
const FORMAT: u32 = 1;

/// Compression: most of what can be had for little time.
const LEVEL: i32 = 1;

/// The longest line that is read: a policy's size is limited by etcd's, 1.5 MiB by default.
const LONGEST_LINE: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// The first line.
    Header {
        format: u32,
        /// In seconds since 1970.
        written: u64,
    },
    Object(Object),
    /// The last line: how many objects there were.
    End(u64),
}

/// What was kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) objects: Vec<Object>,
    /// When it was written.
    pub(super) written: SystemTime,
}

/// Objects as lines, to be written.
pub(super) fn encode(objects: impl Iterator<Item = Object>) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut lines = Vec::new();
    let mut add = |line: &Line| {
        // Texts and numbers into memory: nothing of that can fail.
        serde_json::to_writer(&mut lines, line).expect("a line is plain JSON");
        lines.push(b'\n');
    };
    add(&Line::Header { format: FORMAT, written: now.as_secs() });
    let mut count = 0;
    for object in objects {
        add(&Line::Object(object));
        count += 1;
    }
    add(&Line::End(count));
    lines
}

/// Writes lines to a file, whole or not at all.
///
/// # Errors
/// Why not; the file before stays.
pub(super) fn write(path: &Path, lines: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let beside = beside(path);
    // It tells who may speak to whom: nobody else's business.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let mut encoder = zstd::Encoder::new(BufWriter::new(file), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(lines)?;
    let file = encoder.finish()?.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Reads a file; `None` where there is none.
///
/// # Errors
/// Why it is of no use.
pub(super) fn read(path: &Path) -> Result<Option<Kept>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let decoder = zstd::Decoder::new(file).map_err(|error| error.to_string())?;
    let mut lines = Lines { reader: BufReader::new(decoder), line: Vec::new() };
    let written = match lines.next()? {
        Some(Line::Header { format: FORMAT, written }) => UNIX_EPOCH + Duration::from_secs(written),
        Some(Line::Header { format, .. }) => return Err(format!("it is of format {format}, not {FORMAT}")),
        _ => return Err("it does not begin as such a file does".to_owned()),
    };
    let mut objects = Vec::new();
    loop {
        match lines.next()? {
            Some(Line::Object(object)) => objects.push(object),
            Some(Line::End(count)) if count == objects.len() as u64 => break,
            Some(_) => return Err("it is damaged: its lines are not those that were written".to_owned()),
            None => return Err("it is cut off".to_owned()),
        }
    }
    // The checksum stands at the end.
    match lines.next()? {
        None => Ok(Some(Kept { objects, written })),
        Some(_) => Err("it is damaged: it goes on after its end".to_owned()),
    }
}

struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<Line>, String> {
        use std::io::Read;
        self.line.clear();
        let limited = &mut self.reader.by_ref().take(LONGEST_LINE);
        limited.read_until(b'\n', &mut self.line).map_err(|error| format!("it is damaged: {error}"))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&self.line).map(Some).map_err(|error| format!("it is damaged: {error}"))
    }
}

#[cfg(test)]
mod tests;
