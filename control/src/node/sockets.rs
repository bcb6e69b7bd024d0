//! The two sockets: a thread for each connection, since callers wait and are few.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cni::protocol::{self, Answer, Outcome, Reason, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::adding::refused;
use super::answers;
use super::core::Core;
use super::shared::Node;

/// Connections at a time, of each socket.
const MOST: usize = 256;
/// How soon a listener notices that it is time to end.
const NOTICE: Duration = Duration::from_millis(200);
/// How long a caller may take to say what it wants, and to take an answer.
const HEAR: Duration = Duration::from_secs(10);
/// How long a call of the plugin may take: longer than a pod is waited for.
const CALL: Duration = Duration::from_secs(30);

/// Serves both sockets until the node stops.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(node: &Arc<Node>, cni: UnixListener, api: UnixListener) -> io::Result<()> {
    listen("cni", Arc::clone(node), cni, serve_cni)?;
    listen("api", Arc::clone(node), api, answers::serve)
}

fn listen(name: &str, node: Arc<Node>, listener: UnixListener, serve: fn(&Arc<Node>, &UnixStream)) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let connections = Arc::new(AtomicUsize::new(0));
    let thread = name.to_owned();
    std::thread::Builder::new().name(thread.clone()).spawn(move || {
        while !node.is_stopping() {
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
            let (node, connections) = (Arc::clone(&node), Arc::clone(&connections));
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
                    serve(&node, &stream);
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

/// A request, as far as it can be read whatever its version.
#[derive(Deserialize)]
struct AnyRequest {
    version: u32,
    #[serde(flatten)]
    rest: serde_json::Value,
}

fn serve_cni(node: &Arc<Node>, stream: &UnixStream) {
    let Ok(request) = protocol::read::<AnyRequest>(stream) else { return };
    let answer = if request.version == VERSION {
        let outcome = match serde_json::from_value(request.rest) {
            Ok(call) => call_core(node, call),
            Err(error) => refused(Reason::Failed, format!("the request cannot be read: {error}")),
        };
        Core::count(&outcome, &node.counts.calls);
        Answer { version: VERSION, outcome }
    } else {
        protocol::refuse_version(request.version)
    };
    say(stream, &answer);
}

fn call_core(node: &Node, call: protocol::Call) -> Outcome {
    let (sender, answer) = std::sync::mpsc::sync_channel(1);
    node.tell(move |core| {
        let reply = move |outcome| {
            // The plugin may have gone.
            let _gone = sender.send(outcome);
        };
        core.call(call, Box::new(reply));
    });
    let message = "the daemon is busy or ends; the runtime tries again";
    answer.recv_timeout(CALL).unwrap_or_else(|_| refused(Reason::Later, message))
}

/// Says something to a caller; whether it is there still.
pub(super) fn say(stream: &UnixStream, message: &impl Serialize) -> bool {
    protocol::write(stream, message).is_ok()
}
