//! Frames for tests: a builder of well-formed frames, and a seeded generator of frames of every kind.
//!
//! Tests, benchmarks and fuzzers of several crates share it, so it is compiled with the engine; nothing of a running
//! wire uses it. It panics on impossible requests (an IPv6 option in an IPv4 packet), allocates, and writes its
//! headers byte by byte, so that it checks [`crate::parse`] instead of sharing its parser's mistakes.

mod builder;
mod checksum;
mod forbidden;
mod generator;
mod malformed;

pub use builder::FrameBuilder;
pub use checksum::{crc32c, internet_checksum};
pub use forbidden::{endpoint, forbidden};
pub use generator::Generator;
pub use malformed::{PAIRS, malformed};
