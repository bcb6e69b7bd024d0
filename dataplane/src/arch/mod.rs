//! What the instruction set and the memory system offer beyond Rust's own types, behind safe functions: hints to fetch memory
//! early, huge pages, and comparisons of many lanes at once.
//!
//! What every machine of an architecture has (SSE2 on x86-64, NEON on AArch64) is used without asking; what only some
//! have is asked for at run time. Each function has a portable form that does the same, and a test that holds
//! the two equal. Here and in [`crate::port`] is the crate's `unsafe` code; each file that has some says so on top.

pub mod lanes;
pub mod pages;
pub mod prefetch;
pub mod tags;
