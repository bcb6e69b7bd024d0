//! A device belongs to one port: two readers of the same device would each forward a frame, by policies of their own.
//!
//! A claim is a listening socket with an abstract name (unix(7)) that holds the device's index. Such names are apart in
//! each network namespace, as devices are, and go with the process that holds them, however it ends: nothing is left
//! to clean up. Whoever is refused can learn from the socket who holds the device.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};

use crate::port::PortError;
use crate::port::link::Link;

/// A claim that was just given up is held for a moment by a child process that has not come to its exec yet.
const RETRIES: usize = 5;
const RETRY: Duration = Duration::from_millis(20);

/// The right to be a device's port, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: OwnedFd,
}

impl Claim {
    /// Claims a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`PortError::Claimed`] when another port has it, in this process or another one.
    pub(crate) fn take(link: &Link, device: &str) -> Result<Claim, PortError> {
        let fail = |source: io::Error| PortError::of(device, "claiming the interface", source);
        let name = format!("penstock/port/{}", link.index().map_err(fail)?);
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(|error| fail(error.into()))?;
        for attempt in 0..=RETRIES {
            let socket = stream().map_err(|error| fail(error.into()))?;
            match bind(&socket, &address).and_then(|()| listen(&socket, 1)) {
                Ok(()) => return Ok(Claim { _socket: socket }),
                Err(Errno::ADDRINUSE) if attempt < RETRIES => std::thread::sleep(RETRY),
                Err(Errno::ADDRINUSE) => break,
                Err(error) => return Err(fail(error.into())),
            }
        }
        Err(PortError::Claimed { device: device.to_owned(), holder: holder(&address).unwrap_or_default() })
    }
}

fn stream() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Who holds the name, for people.
fn holder(address: &SocketAddrUnix) -> Option<String> {
    let socket = stream().ok()?;
    connect(&socket, address).ok()?;
    let process = sockopt::socket_peercred(&socket).ok()?.pid;
    Some(match process == rustix::process::getpid() {
        true => " of this process".to_owned(),
        false => format!(" of process {process}"),
    })
}
