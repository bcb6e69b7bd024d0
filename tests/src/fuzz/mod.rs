//! What the fuzz targets do with their bytes. Each is an ordinary function that panics when something is wrong, so that
//! seeds and past crashes are replayed as ordinary tests, too.

mod flows;
mod manifests;
mod parse;

pub use flows::{encode, flows};
pub use manifests::manifests;
pub use parse::parse;

/// A fuzz target's function.
pub type Target = fn(&[u8]);

/// All targets, by name: their seeds lie in `tests/fuzz/seeds/NAME`, past crashes in `tests/fuzz/crashes/NAME`.
pub const TARGETS: [(&str, Target); 3] = [("parse", parse), ("flows", flows), ("manifests", manifests)];
