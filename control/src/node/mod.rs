//! A node of a cluster: its pods behind wires, judged by the policies of the API server.
//!
//! ```text
//!            kubernetes::Source ─▶ LiveRules ─▶ Engine::change          (what may pass)
//!  runtime ─▶ penstock-cni ─▶ cni.sock ─▶ pods ─▶ Engine::attach         (which wires there are)
//!                        Wirer: what needs privileges, and nothing else
//!  people ─▶ api.sock                                                    (what it does)
//! ```

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use self::wirer::{Notice, Wirer};
use crate::command::CommandResult;
use crate::daemon::config::Config;
use crate::enforcer::Engine;

pub mod api;
pub mod wirer;

/// What control of a node is given by whoever starts it.
pub struct Handles {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What needs privileges.
    pub wirer: Arc<dyn Wirer>,
    /// What happens without having been asked for.
    pub notices: UnboundedReceiver<Notice>,
    /// Where the CNI plugin calls.
    pub cni: UnixListener,
    /// Where people ask.
    pub api: UnixListener,
    /// The configuration; [`Config::node`] is there.
    pub config: Config,
}

/// Controls a node until a signal ends it.
///
/// # Errors
/// Bad input and refusals of the system, each in one sentence.
pub fn run(handles: Handles) -> CommandResult {
    let Handles { engine, wirer, notices, cni, api, config } = handles;
    drop((engine, wirer, notices, cni, api, config));
    Err(crate::command::Failure::System("control of a node is not there yet".to_owned()))
}
