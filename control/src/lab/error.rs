//! What can go wrong with a lab.

use std::io;

use crate::command::Failure;

/// Why a lab could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The objects, or an argument, cannot be played on this machine (exit code 2).
    #[error("{0}")]
    Input(String),
    /// The system refused: a missing capability, tool or kernel feature (exit code 3).
    #[error("{0}")]
    System(String),
}

/// The usual result in this module.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

impl LabError {
    /// The system refused `what`.
    pub(crate) fn system(what: impl std::fmt::Display, error: io::Error) -> Self {
        LabError::System(format!("cannot {what}: {error}"))
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        match error {
            LabError::Input(reason) => Failure::BadInput(reason),
            LabError::System(reason) => Failure::System(reason),
        }
    }
}

impl From<Failure> for LabError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::BadInput(reason) => LabError::Input(reason),
            Failure::System(reason) => LabError::System(reason),
        }
    }
}
