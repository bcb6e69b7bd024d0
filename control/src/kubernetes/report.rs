//! What a person should know of the objects that came, each said once.

use std::path::PathBuf;

use super::lean::Key;
use super::server::Version;

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Report {
    /// A policy that is enforced in part.
    #[error(
        "{policy} is not understood as a whole: {}; what is not understood allows nothing, its pods stay isolated",
        problems.join("; ")
    )]
    PolicyInPart {
        /// Which.
        policy: Key,
        /// What is not understood, each with its field.
        problems: Vec<String>,
    },
    /// An object that cannot be: it is left out, so that nothing is allowed for its sake.
    #[error("{object} is left out: {}", problems.join("; "))]
    Refused {
        /// Which.
        object: Key,
        /// What is wrong, each with its field.
        problems: Vec<String>,
    },
    /// The server does not keep a field of policies.
    #[error(
        "the API server (version {version}) drops endPort from network policies without a word: ranges of ports become their \
         first port; servers keep it from {} on",
        Version::KEEPS_END_PORT
    )]
    DropsEndPort {
        /// The server's version.
        version: Version,
    },
    /// A policy was written with a field that the server did not keep.
    #[error(
        "{policy} was applied with {}, which the API server did not keep: only the first port of the range is allowed; list the \
         ports one by one",
        fields.join(", ")
    )]
    Pruned {
        /// Which.
        policy: Key,
        /// The fields.
        fields: Vec<String>,
    },
    /// The state of last time is of no use.
    #[error("{}: the cluster's last state is not used: {reason}; nothing is known until the API server answers", path.display())]
    StateIgnored {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The state could not be written.
    #[error(
        "{}: the cluster's state cannot be kept: {reason}; after a restart without API server an older one would be enforced",
        path.display()
    )]
    StateNotKept {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}
