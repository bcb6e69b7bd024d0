//! Payloads, and the checksums by which what arrived is compared with what was sent.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// Random bytes.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).expect("reading /dev/urandom");
    bytes
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256_of(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("running sha256sum");
    assert!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("sha256sum prints text");
    text.split_whitespace().next().expect("sha256sum prints a sum").to_owned()
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("making a temporary file");
    std::fs::write(file.path(), bytes).expect("writing a temporary file");
    sha256_of(file.path())
}
