//! Paths to texts: which files there are, and which of them are read.
//!
//! A policy that is left out opens what it would shut. What may hold one and cannot be read is therefore an error, and
//! what is not looked into is warned of.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{ManifestError, Place, Warning};

/// The most bytes that one file may have.
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// How many directories below one another are searched for manifests that nobody reads.
const MAX_DEPTH: usize = 4;

/// What a path means.
#[derive(Default)]
pub(super) struct Listing {
    /// The files to read, sorted by name.
    pub(super) files: Vec<PathBuf>,
    /// What is not read and may be missed.
    pub(super) warnings: Vec<Warning>,
    /// What should be read and cannot be.
    pub(super) errors: Vec<ManifestError>,
}

/// The files that a path means: itself, or a directory's `*.yaml`, `*.yml` and `*.json`. Directories within it are left
/// alone.
pub(super) fn list(path: &Path) -> Listing {
    let mut listing = Listing::default();
    if let Err(error) = fill(&mut listing, path) {
        listing.errors.push(ManifestError::Unreadable { file: path.display().to_string(), error });
    }
    listing.files.sort_unstable();
    listing.warnings.sort_unstable_by(|a, b| a.place.file.cmp(&b.place.file));
    listing
}

fn fill(listing: &mut Listing, path: &Path) -> io::Result<()> {
    if is_standard_input(path) {
        listing.files.push(path.to_owned());
        return Ok(());
    }
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_dir() {
        // A pipe is what a shell's process substitution gives.
        if kind.is_file() || kind.is_fifo() {
            listing.files.push(path.to_owned());
        } else {
            listing.errors.push(not_a_file(path, kind));
        }
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        list_entry(listing, &entry?.path());
    }
    if listing.files.is_empty() && listing.errors.is_empty() {
        listing.errors.push(ManifestError::EmptyDirectory(path.display().to_string()));
    }
    Ok(())
}

fn list_entry(listing: &mut Listing, path: &Path) {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_manifest = is_manifest(path);
    match std::fs::metadata(path) {
        // A mounted ConfigMap keeps its files below `..data` and links to them.
        Ok(found) if found.is_dir() => {
            if !name.starts_with(b".") && holds_manifests(path, MAX_DEPTH) {
                let place = Place { file: path.display().to_string(), document: None, line: None };
                let message = "manifests in a directory within a directory are not read; name it with -f of its own";
                listing.warnings.push(Warning { place, message: message.to_owned() });
            }
        }
        _ if !is_manifest => {}
        Ok(found) if found.is_file() => listing.files.push(path.to_owned()),
        Ok(found) => listing.errors.push(not_a_file(path, found.file_type())),
        // Emacs marks a file that is being edited with a link that leads nowhere: `.#policy.yaml`.
        Err(_) if name.starts_with(b".#") => {}
        // Removed since the directory was listed.
        Err(_) if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
        Err(error) => {
            let target = std::fs::read_link(path);
            let target = target.map(|target| format!(" (a symbolic link to {})", target.display()));
            let file = format!("{}{}", path.display(), target.unwrap_or_default());
            listing.errors.push(ManifestError::UnreadableEntry { file, error });
        }
    }
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin")
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a directory, or one in it, has manifests. What cannot be read has none: this is for a warning alone.
fn holds_manifests(directory: &Path, depth: usize) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => depth > 1 && holds_manifests(&entry.path(), depth - 1),
        Ok(_) => is_manifest(&entry.path()),
        Err(_) => false,
    })
}

fn not_a_file(path: &Path, kind: FileType) -> ManifestError {
    let what = match kind {
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    ManifestError::NotAFile { file: path.display().to_string(), what }
}

/// Reads a file, `-` being the standard input. The name is the one for errors.
pub(super) fn read(path: &Path) -> Result<(String, String), ManifestError> {
    let (file, bytes) = if is_standard_input(path) {
        ("standard input".to_owned(), read_limited(io::stdin().lock(), MAX_BYTES))
    } else {
        (path.display().to_string(), File::open(path).and_then(|file| read_limited(file, MAX_BYTES)))
    };
    let bytes = match bytes {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(ManifestError::TooLarge(file)),
        Err(error) => return Err(ManifestError::Unreadable { file, error }),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok((file, text)),
        Err(error) => Err(ManifestError::Syntax {
            place: Place { file, document: None, line: None },
            reason: format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()),
        }),
    }
}

/// All that there is; `None` if it is more than `limit` bytes.
fn read_limited(source: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = source.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((read as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_read_no_further_than_the_limit() {
        assert_eq!(read_limited(io::repeat(b' '), 1000).unwrap(), None);
        assert_eq!(read_limited(io::repeat(b' ').take(1000), 1000).unwrap(), Some(vec![b' '; 1000]));
    }
}
