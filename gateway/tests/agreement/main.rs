//! Penstock's rules against the kernel's: rule sets that real tools have made (`tests/rulesets`) are imported and, beside that, loaded into
//! the kernel's iptables. What the kernel does with packets is what the imported rules say, and what the engine is told.
//!
//! `PENSTOCK_AGREEMENT_PACKETS` says how many packets each rule set judges at least, `PENSTOCK_SEED` which ones.

mod boundaries;
mod drive;
mod edits;
mod engine;

mod fates;
mod kernel;
mod mutations;
mod neutral;
mod observer;
mod packet;
mod planted;
mod rulesets;
mod sequences;
mod solver;
