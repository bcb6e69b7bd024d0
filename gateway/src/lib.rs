//! Gateway rules: what a gateway's admin writes or brings along from iptables, and what the engine is told of it.
//!
//! ```text
//!   rule file (YAML) ──┐                      ┌──▶ judge: one packet, rule by rule (the definition)
//!                      ├──▶ model::Ruleset ───┼──▶ equivalence: two rule sets over all packets
//!   iptables-save, ────┘          │           └──▶ lists for the engine's classifier
//!   ipset save                    └──▶ rule file (YAML)
//! ```
//!
//! A [`model::Ruleset`] keeps chains, jumps and named sets as they were written, so that every rule has its place, its
//! comment and its counter. [`judge`] says what it means.

pub mod equivalence;
pub mod flat;
pub mod judge;
pub mod model;
pub mod space;
#[cfg(test)]
mod testing;
