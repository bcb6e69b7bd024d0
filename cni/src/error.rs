//! What may go wrong in a splice.

use std::io;
use std::path::PathBuf;

use crate::netlink::NetlinkError;

/// Why a splice could not be made, undone or read. Each says what was tried, on what, and what the system answered.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    /// A network namespace cannot be opened or entered.
    #[error("network namespace {}: {source}", path.display())]
    Namespace {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused a change of its network configuration, or an answer about it.
    #[error("{action}: {source}")]
    Kernel {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// Another system call failed.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// What was written down about a splice cannot be read.
    #[error("{}: {reason}; remove the file if no pod of that container runs", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An interface cannot be spliced as it is.
    #[error("interface {interface} can't be put behind a wire: {reason}")]
    Unsuitable {
        /// The interface in the pod.
        interface: String,
        /// What stands against it.
        reason: String,
    },
    /// The container's name cannot be that of a directory.
    #[error(
        "container id {0:?} is not one: letters, digits, '_', '.' and '-', at most 200, starting with a letter or digit"
    )]
    Container(String),
}

/// Shorthand within the crate.
pub(crate) type Result<T> = std::result::Result<T, SpliceError>;

impl SpliceError {
    /// A kernel's refusal of an action.
    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        let action = action.into();
        move |source| SpliceError::Kernel { action, source }
    }

    /// A failed system call.
    pub(crate) fn system<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| SpliceError::System { action, source: source.into() }
    }
}
