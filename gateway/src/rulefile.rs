//! Rule files: a [`Ruleset`] as YAML that people read and write.
//!
//! ```yaml
//! groups:
//!   lan: [eth1]
//!   wan: [eth0]
//! sets:
//!   servers: [10.0.1.1, 10.0.2.0/24]
//! forward:
//!   policy: drop
//!   rules:
//!   - name: web
//!     in: wan
//!     to: {set: servers}
//!     protocol: tcp
//!     toPort: [80, 443]
//!     action: allow
//! ```
//!
//! A match stands under its key, `{not: …}` turns it round, and `all: [{…}, {…}]` has more matches of a kind that a rule has
//! already. A list means any of its members. A file may have several documents, each for a family of its own. All keys are in
//! `gateway/schema/rules.schema.json`.
//!
//! Whatever a rule set holds, [`write`](fn@write) writes so that [`read`] reads it back; a set with a file of its own has its
//! elements there ([`write_elements`]).

mod change;
mod emit;
mod load;
mod node;
mod rule;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;

pub use change::{Change, change_set};
pub use write::{line, write, write_elements};

use crate::check::{Problem, Severity};
use crate::model::Ruleset;

/// Reads a rule file with all that it includes.
///
/// # Errors
/// All that is wrong with it, warnings included, if anything is but warnings; otherwise [`Ruleset::check`] tells the warnings.
pub fn read(path: &Path) -> Result<Ruleset, Vec<Problem>> {
    finish(load::Loader::new().file(path))
}

/// Reads a rule file's text. What it includes is looked for beside `name`, which is also what problems call it.
///
/// # Errors
/// As of [`read`].
pub fn read_str(name: &str, text: &str) -> Result<Ruleset, Vec<Problem>> {
    finish(load::Loader::new().text(name, text))
}

fn finish((ruleset, problems): (Ruleset, Vec<Problem>)) -> Result<Ruleset, Vec<Problem>> {
    if problems.iter().any(|problem| problem.severity == Severity::Error) { Err(problems) } else { Ok(ruleset) }
}
