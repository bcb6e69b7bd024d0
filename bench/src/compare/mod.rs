//! Peers side by side: every contender in the same place, doing the same work in turns.
//!
//! ```text
//!   experiment ── contenders × one work ──▶ run ── interleaved rounds ──▶ rows ──▶ bars, report, plots
//!                 contender/   workload/           schedule, statistics
//!                     └── topology: generator ── middle ── sink
//! ```
//!
//! A contender is set up in network namespaces of its own, and checked: one that does not forward what is allowed, or
//! forwards what is not, has no row. Everything is taken down again, after Ctrl-C too.

pub mod anchors;
pub mod bars;
pub mod contender;
pub mod experiment;
pub mod gateway;
pub mod gathered;
pub mod policy;
pub mod process;
pub mod report;
pub mod run;
pub mod schedule;
pub mod statistics;
pub mod topology;
pub mod worker;
pub mod workload;
