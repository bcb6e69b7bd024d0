//! Kubernetes objects to rules.
//!
//! ```text
//!  files ─▶ manifest ─▶ validation ─▶ cluster ─▶ resolve ─▶ dataplane::rules::RuleSet + RuleTable
//!                                        │                     ▲
//!                                        └──▶ oracle  ── held equal
//! ```
//!
//! * [`manifest`]: what `-f` names, YAML or JSON, to objects, with places for errors
//! * [`validation`]: objects checked and defaulted as the API server does it
//! * [`cluster`], [`labels`], [`selector`]: the state, with labels interned
//! * [`resolve`]: for each local endpoint and direction, open or a chain of rules; where each rule comes from
//! * [`live`]: the same kept up to date, change after change, with groups in the place of addresses
//! * [`probe`], [`judge`]: questions about single connections, and their answers
//! * [`explain`], [`diff`]: why an answer is what it is, and which answers a change turns round
//! * `shown`: texts from input as errors show them
//! * [`oracle`]: the same answers read straight off the objects, for tests

pub mod behind;
pub mod cluster;
pub mod diff;
pub mod explain;
pub mod judge;
pub mod labels;
pub mod live;
pub mod manifest;
pub mod oracle;
pub mod probe;
pub mod resolve;
pub mod selector;
pub(crate) mod shown;
pub mod validation;
