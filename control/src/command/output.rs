//! Writing answers.

use std::io::{ErrorKind, Write};

use super::exit::Failure;

/// Writes to standard output. A reader that has gone (`| head`) wants no more: that is no failure.
///
/// # Errors
/// Standard output cannot take it, a full disk for one.
pub(crate) fn write_stdout(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::System(format!("standard output: {error}; check where it leads")))
        }
        _ => Ok(()),
    }
}

/// Writes an answer as JSON for programs.
///
/// # Errors
/// As [`write_stdout`].
pub(super) fn write_json(answer: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(answer).map_err(Failure::system)?;
    write_stdout(&(text + "\n"))
}
