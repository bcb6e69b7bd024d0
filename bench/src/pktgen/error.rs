//! Why traffic could not be made or counted, each as one sentence with its remedy.

use std::io;

use dataplane::port::PortError;

/// Why traffic could not be made or counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Input(String),
    /// The port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Nobody answered for an address.
    #[error(
        "{address} did not answer {question} on {interface} within {seconds} s; check the cable and the address, or name the MAC address with --destination-mac"
    )]
    NoNeighbour {
        /// Whose MAC address was asked for.
        address: std::net::IpAddr,
        /// ARP or neighbour discovery.
        question: &'static str,
        /// Where.
        interface: String,
        /// How long.
        seconds: u64,
    },
    /// Namespaces for a test could not be made.
    #[error("{0}; run it as root")]
    Namespaces(String),
    /// The kernel refused.
    #[error("{action} on {interface} failed: {source}; {remedy}")]
    System {
        /// The interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
}

impl Error {
    /// An error of the input.
    pub(super) fn input(text: impl Into<String>) -> Self {
        Error::Input(text.into())
    }

    /// What the kernel said to an action.
    pub(super) fn system(interface: &str, action: &'static str, source: io::Error) -> Self {
        let remedy = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "run as root, or give the process CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"
            }
            Some(libc::ENODEV | libc::ENXIO) => "`ip link` lists the interfaces that can be used",
            Some(libc::EBUSY | libc::EEXIST) => {
                "another XDP program is attached: detach it with `ip link set DEVICE xdp off`, or use --port af-packet"
            }
            Some(libc::EOPNOTSUPP) => "this driver or kernel cannot do that: use --port af-packet",
            Some(libc::EINVAL) => "this kernel may be too old (live frames need Linux 5.18): use --port af-packet",
            _ => "see `dmesg` for what the kernel adds",
        };
        Error::System { interface: interface.to_owned(), action, source, remedy }
    }

    /// Whether the system refused, rather than the input being wrong: exit code 3, not 2.
    pub fn is_system_refusal(&self) -> bool {
        match self {
            Error::Input(_) => false,
            Error::Port(error) => error.is_system_refusal(),
            Error::NoNeighbour { .. } | Error::Namespaces(_) | Error::System { .. } => true,
        }
    }
}

/// The system's own error inside one of a library.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        next = error.source();
    }
    io::Error::other(error.to_string())
}
