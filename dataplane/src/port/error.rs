//! Why a port could not be opened, each as one sentence with its remedy.

use std::io;
use std::path::PathBuf;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The device does not exist.
    #[error("there is no interface {device} in {namespace}; `ip link` there lists the names that can be used")]
    NoSuchDevice {
        /// The device's name.
        device: String,
        /// The namespace, for people.
        namespace: String,
    },
    /// The namespace does not exist.
    #[error(
        "the network namespace {namespace} cannot be opened ({source}); `ip netns list` shows the named ones, and a path \
         or a process number is taken too"
    )]
    NoSuchNamespace {
        /// What was asked for.
        namespace: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device's name cannot be one.
    #[error("{device:?} is not an interface name: use 1 to 15 characters, without a slash or a space")]
    BadName {
        /// The name.
        device: String,
    },
    /// A privilege is missing.
    #[error("{action} on {device} was not permitted; run as root or give the process {capability}")]
    Permission {
        /// The device's name.
        device: String,
        /// What was tried.
        action: &'static str,
        /// The capabilities that allow it.
        capability: &'static str,
    },
    /// The kernel or the device lacks a feature.
    #[error("{device} cannot be opened as {kind}: {reason}; {remedy}")]
    Unsupported {
        /// The device's name.
        device: String,
        /// The kind of port, by its name.
        kind: &'static str,
        /// What is missing.
        reason: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The device's MTU does not fit what the port can carry.
    #[error(
        "{device} has an MTU of {mtu} and {kind} carries {limit} at most; lower the MTU of it and of its peer, or use af_packet"
    )]
    MtuTooLarge {
        /// The device's name.
        device: String,
        /// The kind of port, by its name.
        kind: &'static str,
        /// The device's MTU, in bytes.
        mtu: usize,
        /// The most that is possible, in bytes.
        limit: usize,
    },
    /// Somebody else holds the queue.
    #[error("queue {queue} of {device} is taken by another AF_XDP socket; stop the program that holds it")]
    QueueBusy {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// Another port has the device: of another wire, or of another daemon.
    #[error("{device} is already the port of a wire{holder}; name another interface, or stop that process")]
    Claimed {
        /// The device's name.
        device: String,
        /// Whose, with a space before it; empty when that can't be told.
        holder: String,
    },
    /// Somebody else's XDP program is attached.
    #[error("{device} has another XDP program attached; detach it with `ip link set {device} xdp off` first")]
    ProgramBusy {
        /// The device's name.
        device: String,
    },
    /// A TAP or TUN device of that name exists already.
    #[error("{device} exists already; remove it with `ip link del {device}` or choose another name")]
    DeviceExists {
        /// The device's name.
        device: String,
    },
    /// A capture file cannot be read or written.
    #[error("{}: {reason}", .path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The two ends of a wire do not fit each other.
    #[error("{inside} and {outside} cannot be joined: {reason}")]
    Mismatch {
        /// The inside port's device.
        inside: String,
        /// The outside port's device.
        outside: String,
        /// Why not.
        reason: &'static str,
    },
    /// Anything else that the system refused.
    #[error("{action} on {device} failed: {source}")]
    System {
        /// The device's name.
        device: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl PortError {
    /// Whether the system refused (a missing privilege, feature or resource), rather than the input being wrong.
    pub fn is_system_refusal(&self) -> bool {
        match self {
            PortError::NoSuchDevice { .. }
            | PortError::NoSuchNamespace { .. }
            | PortError::BadName { .. }
            | PortError::DeviceExists { .. }
            | PortError::Capture { .. }
            | PortError::Mismatch { .. } => false,
            PortError::Permission { .. }
            | PortError::Unsupported { .. }
            | PortError::MtuTooLarge { .. }
            | PortError::QueueBusy { .. }
            | PortError::Claimed { .. }
            | PortError::ProgramBusy { .. }
            | PortError::System { .. } => true,
        }
    }

    /// What the kernel answered to `action`, told apart: no permission, no such device, anything else.
    pub(crate) fn of(device: &str, action: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                PortError::Permission { device: device.to_owned(), action, capability: "CAP_NET_ADMIN and CAP_NET_RAW" }
            }
            _ => PortError::System { device: device.to_owned(), action, source },
        }
    }
}
