//! Exit codes, as the command line's contract has them.

use std::process::ExitCode;

/// How a command ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done: 0.
    Done,
    /// The answer is no: 1.
    No,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The input is bad: 2.
    #[error("{0}")]
    BadInput(String),
    /// The system refused: 3.
    #[error("{0}")]
    System(String),
}

impl Failure {
    /// Bad input, told by any error.
    pub fn input(error: impl std::fmt::Display) -> Failure {
        Failure::BadInput(error.to_string())
    }

    /// A refusal of the system, told by any error.
    pub fn system(error: impl std::fmt::Display) -> Failure {
        Failure::System(error.to_string())
    }

    /// The code that the process ends with.
    pub fn code(&self) -> u8 {
        match self {
            Failure::BadInput(_) => 2,
            Failure::System(_) => 3,
        }
    }
}

/// What every command gives back.
pub type CommandResult = Result<Outcome, Failure>;

/// Tells a failure on stderr, in one sentence, and gives the process's exit code.
pub fn finish(result: CommandResult) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("penstock: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
