//! Looks connections up for the dataplane, which may not ask the kernel: by tuples that it was asked for, on a thread of its own, so that
//! nothing else waits for it.

use std::io;
use std::os::fd::OwnedFd;

use tracing::warn;

use crate::conntrack::{Conntrack, remote};

/// Begins to answer; the socket is for the dataplane, and ends with it.
pub(super) fn start() -> io::Result<OwnedFd> {
    let [asking, answering] = remote::pair()?;
    let mut conntrack = Conntrack::open()?;
    std::thread::Builder::new().name("look-ups".to_owned()).spawn(move || {
        if let Err(error) = remote::serve(&answering, &mut conntrack) {
            warn!("looking connections up: {error}; until the dataplane is started anew, what comes from the node is not known and dropped");
        }
    })?;
    Ok(asking)
}
