//! Errors as the specification has them: JSON on standard output, with a code.

use std::fmt;

use serde::Serialize;

use super::VERSIONS;
use crate::error::SpliceError;
use crate::protocol::{CallError, Reason};

/// Codes: those below 100 are the specification's.
pub(super) mod code {
    /// Incompatible CNI version.
    pub(crate) const VERSION: u32 = 1;
    /// A variable of the environment is missing or wrong.
    pub(crate) const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub(crate) const INPUT: u32 = 5;
    /// The configuration is no JSON, or not of the right form.
    pub(crate) const DECODE: u32 = 6;
    /// The configuration makes no sense.
    pub(crate) const CONFIG: u32 = 7;
    /// Something that may be different soon: the runtime should try again.
    pub(crate) const TRY_AGAIN: u32 = 11;
    /// The plugin cannot serve ADD.
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// The kernel or the system refused a step of the splice.
    pub(crate) const SPLICE: u32 = 100;
    /// The pod has nothing that could be put behind a wire, or something that cannot.
    pub(crate) const UNSUITABLE: u32 = 101;
    /// The daemon refused.
    pub(crate) const DAEMON: u32 = 102;
    /// CHECK found that something is not as ADD made it.
    pub(crate) const NOT_AS_MADE: u32 = 103;
}

/// What is told to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PluginError {
    #[serde(rename = "cniVersion")]
    version: String,
    code: u32,
    msg: String,
}

impl PluginError {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        let version = VERSIONS[VERSIONS.len() - 1].to_owned();
        PluginError { version, code, msg: format!("penstock-cni: {}", message.into()) }
    }

    /// The specification's code, or one of ours from 100.
    pub fn code(&self) -> u32 {
        self.code
    }

    pub(super) fn of_version(self, version: &str) -> Self {
        PluginError { version: version.to_owned(), ..self }
    }

    pub(super) fn with_code(self, code: u32) -> Self {
        PluginError { code, ..self }
    }

    /// The document that the runtime reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)
    }
}

impl std::error::Error for PluginError {}

impl From<SpliceError> for PluginError {
    fn from(error: SpliceError) -> Self {
        let code = match error {
            SpliceError::Container(_) | SpliceError::Namespace { .. } => code::ENVIRONMENT,
            SpliceError::Unsuitable { .. } => code::UNSUITABLE,
            SpliceError::State { .. } => code::INPUT,
            SpliceError::Kernel { .. } | SpliceError::System { .. } => code::SPLICE,
        };
        PluginError::new(code, error.to_string())
    }
}

impl From<CallError> for PluginError {
    fn from(error: CallError) -> Self {
        let code = match error {
            CallError::Absent { .. } | CallError::Silent { .. } | CallError::Refused { reason: Reason::Later, .. } => {
                code::TRY_AGAIN
            }
            CallError::Refused { .. } => code::DAEMON,
        };
        PluginError::new(code, error.to_string())
    }
}
