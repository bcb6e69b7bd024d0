//! What `penstock apply` and the other commands ask a gateway's daemon: one connection, one request, answers until it is closed.
//!
//! All are lines of JSON on a Unix socket. An answer that cannot be given is a line `{"error":"…"}`, with `"input":true` where what was
//! asked for is at fault.

use serde::{Deserialize, Serialize};

/// Where the daemon listens unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/penstock/gateway.sock";

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Request {
    /// What these rules would change: one [`Plan`], which waits to be carried out.
    Plan {
        /// The rules, as one rule file without includes.
        rules: String,
    },
    /// What going back would change: one [`Plan`].
    PlanRollback {
        /// To this version; otherwise to the one before that in force.
        to: Option<u32>,
    },
    /// Carry a plan out: one [`Applied`].
    Apply {
        /// Its number.
        plan: u64,
        /// Go back by itself after so many seconds, unless confirmed.
        confirm: Option<u64>,
    },
    /// What is in force is to stay: one [`Applied`].
    Confirm,
    /// A [`RuleLine`] for each rule, chain by chain.
    Rules,
    /// A [`VersionLine`] for each version that is kept.
    Versions,
    /// One [`Changed`]: other elements in a set.
    Set {
        /// The set's name.
        name: String,
        /// Elements more.
        add: Vec<String>,
        /// Elements less.
        remove: Vec<String>,
        /// Whether a restart is to know of it.
        save: bool,
    },
    /// A [`crate::node::api::Flow`] for each live flow.
    Flows,
}

/// What a change of the rules would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// By which it is carried out. A later plan takes its place.
    pub plan: u64,
    /// Kinds of packets that pass and did not, each with an example and both deciding rules.
    pub allows: Vec<String>,
    /// Kinds of packets that passed and will not.
    pub denies: Vec<String>,
    /// Kinds of packets that are refused as before, but otherwise: told or not.
    pub refuses: Vec<String>,
    /// What of the comparison is missing, if it is.
    pub incomplete: Option<String>,
    /// Live flows that will be cut: the first of them.
    pub cuts: Vec<String>,
    /// How many will be.
    pub cut: u64,
    /// Live flows in all.
    pub flows: u64,
    /// The version that is in force.
    pub version: u32,
}

/// What has been done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The version in force.
    pub version: u32,
    /// Seconds until it goes back by itself, if it will.
    pub unconfirmed: Option<u64>,
    /// From the command to the last worker's acknowledgement, in microseconds.
    pub took: u64,
}

/// A rule, and what it has met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleLine {
    /// Its chain.
    pub chain: String,
    /// The chain's family, if it is for one.
    pub family: Option<String>,
    /// The hook's policy, on the line that stands for it.
    pub policy: Option<String>,
    /// Its number in the chain, from 1; 0 of a policy.
    pub number: u32,
    /// Its name.
    pub name: Option<String>,
    /// Its comment.
    pub comment: Option<String>,
    /// What it means and does, as it is written.
    pub rule: String,
    /// Packets that it met.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds since it met the last one.
    pub last: Option<u64>,
}

/// A version that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionLine {
    /// Its number.
    pub version: u32,
    /// Whether it is in force.
    pub in_force: bool,
    /// Its file.
    pub file: String,
}

/// A set has other elements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Elements in the set now.
    pub elements: u64,
    /// From the request to the last worker's acknowledgement, in microseconds.
    pub took: u64,
}
