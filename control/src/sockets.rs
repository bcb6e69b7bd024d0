//! Unix sockets that daemons listen on: a thread for each connection, since callers wait and are few.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cni::protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tracing::warn;

/// Connections at a time, of each socket.
const MOST: usize = 256;
/// How soon a listener notices that it is time to end.
const NOTICE: Duration = Duration::from_millis(200);
/// How long a caller may take to say what it wants, and to take an answer.
const HEAR: Duration = Duration::from_secs(10);

/// Whoever answers.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Whether it is time to end.
    fn is_stopping(&self) -> bool;
}

/// A listening socket for root alone, in the place of one that was left there.
///
/// # Errors
/// When it can't be made.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode)?;
    Ok(listener)
}

/// Answers connections, each by a thread, until it is time to end.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn listen<T: Answers>(
    name: &str,
    who: Arc<T>,
    listener: UnixListener,
    serve: fn(&Arc<T>, &UnixStream),
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let connections = Arc::new(AtomicUsize::new(0));
    let thread = name.to_owned();
    std::thread::Builder::new().name(thread.clone()).spawn(move || {
        while !who.is_stopping() {
            let mut waiting = [PollFd::new(&listener, PollFlags::IN)];
            let notice = Timespec::try_from(NOTICE).ok();
            // What goes wrong here goes wrong with accept too.
            let _ready = poll(&mut waiting, notice.as_ref());
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => {
                    warn!("{thread}.sock: {error}");
                    std::thread::sleep(NOTICE);
                    continue;
                }
            };
            let (who, connections) = (Arc::clone(&who), Arc::clone(&connections));
            if connections.fetch_add(1, Ordering::AcqRel) >= MOST {
                // Who is refused hears the end of the connection, and tries again.
                connections.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let ended = Arc::clone(&connections);
            let spawned = std::thread::Builder::new().name(thread.clone()).spawn(move || {
                let timeouts = stream.set_nonblocking(false);
                let timeouts = timeouts.and_then(|()| stream.set_read_timeout(Some(HEAR)));
                if timeouts.and_then(|()| stream.set_write_timeout(Some(HEAR))).is_ok() {
                    serve(&who, &stream);
                }
                connections.fetch_sub(1, Ordering::AcqRel);
            });
            if let Err(error) = spawned {
                ended.fetch_sub(1, Ordering::AcqRel);
                warn!("{thread}.sock: no thread for a caller ({error})");
            }
        }
    })?;
    Ok(())
}

/// Says something to a caller; whether it is there still.
pub(crate) fn say(stream: &UnixStream, message: &impl Serialize) -> bool {
    protocol::write(stream, message).is_ok()
}
