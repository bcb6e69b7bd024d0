//! The two sockets of a node.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use cni::protocol::{self, Answer, Outcome, Reason, VERSION};
use serde::Deserialize;

use super::adding::refused;
use super::answers;
use super::core::Core;
use super::shared::Node;
use crate::sockets::{Answers, listen, say};

/// How long a call of the plugin may take: longer than a pod is waited for.
const CALL: Duration = Duration::from_secs(30);

impl Answers for Node {
    fn is_stopping(&self) -> bool {
        Node::is_stopping(self)
    }
}

/// Serves both sockets until the node stops.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(node: &Arc<Node>, cni: UnixListener, api: UnixListener) -> io::Result<()> {
    listen("cni", Arc::clone(node), cni, serve_cni)?;
    listen("api", Arc::clone(node), api, answers::serve)
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
