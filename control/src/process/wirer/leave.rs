//! Taking Penstock off a node: what `penstock run` does instead while [`UNINSTALL`] is set.
//!
//! The DaemonSet's pods are the ones who reach every node, so that they take away what they brought: with the variable in their
//! template the rollout ends when no node has a trace of Penstock, and says which nodes it waits for. Then the DaemonSet
//! can be deleted.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::DescriptorEncoder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::plugin::Plugin;
use super::prepare;
use crate::command::{CommandResult, Failure, Outcome};
use crate::daemon::config::Config;
use crate::observe::http::{self, Health, Observed};
use crate::observe::metrics::gauge;
use crate::process::Settings;

/// The environment variable that says, by any value, that Penstock is to leave the node.
pub const UNINSTALL: &str = "PENSTOCK_UNINSTALL";

/// How soon what did not work is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Whether Penstock is to leave the node.
pub fn is_leaving() -> bool {
    std::env::var_os(UNINSTALL).is_some_and(|value| !value.is_empty())
}

/// Why it is not done yet; it is, if `None`.
struct Leaving(Mutex<Option<String>>);

impl Leaving {
    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why it has not worked, once.
    fn note(&self, now: Option<String>) {
        let mut reason = self.reason();
        if let Some(now) = now.as_ref().filter(|now| reason.as_ref() != Some(now)) {
            error!("Penstock cannot leave this node yet: {now}; it is tried again");
        }
        *reason = now;
    }
}

impl Observed for Leaving {
    fn metrics(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        gauge(encoder, "node_left", "1 once nothing of Penstock is on the node", self.reason().is_none().into())
    }

    fn alive(&self) -> Health {
        Ok("alive\n".to_owned())
    }

    fn ready(&self) -> Health {
        match &*self.reason() {
            None => Ok("Penstock has left this node\n".to_owned()),
            Some(reason) => Err(format!("Penstock has not left this node yet: {reason}\n")),
        }
    }
}

/// Gives all pods their interfaces back and takes everything off the node, again and again until it has worked; then waits to be
/// ended. `/readyz` says whether it has.
///
/// # Errors
/// When the address of the metrics is taken, or the system refuses what is needed at the start.
pub fn leave(config: &Config, settings: &Settings) -> CommandResult {
    let listener = config.metrics.map(http::bind).transpose().map_err(Failure::System)?;
    let leaving = Arc::new(Leaving(Mutex::new(Some("it has not begun yet".to_owned()))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::system)?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::system)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::system)?;
        if let Some(listener) = listener {
            tokio::spawn(http::serve(listener, leaving.clone()));
        }
        tokio::select! {
            () = go(settings, &leaving) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(Outcome::Done)
    });
    // It may still wait for another wirer's end.
    runtime.shutdown_background();
    result
}

/// Tries until it has worked, and never ends.
async fn go(settings: &Settings, leaving: &Leaving) {
    loop {
        let settings = settings.clone();
        let tried = spawn_blocking(move || clear(&settings)).await;
        let result = tried.unwrap_or_else(|error| Err(error.to_string()));
        let done = result.is_ok();
        leaving.note(result.err());
        if done {
            break;
        }
        tokio::time::sleep(AGAIN).await;
    }
    info!("Penstock has left this node: pods have their own interfaces, nothing is filtered");
    std::future::pending().await
}

/// Takes everything off the node.
fn clear(settings: &Settings) -> Result<(), String> {
    // One that still runs would put wires where they were taken from.
    let _lock = prepare(settings).map_err(|failure| failure.to_string())?;
    warn!("{UNINSTALL} is set: all pods of this node get their own interfaces back");
    let own = ["flows", "control", "cni.sock", "api.sock", "wirer.lock"].map(|name| settings.run.join(name));
    let state = ["cluster", "cluster.new"].map(|name| settings.state.join(name));
    own.iter().chain(&state).try_for_each(remove)?;
    Plugin::of(settings).uninstall([&settings.run, &settings.state])
}

/// Removes a file, or a directory with all that is in it; either need not be there.
fn remove(path: &PathBuf) -> Result<(), String> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(sentence(path, &error)),
        _ => Ok(()),
    }
}

fn sentence(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be removed ({error})", path.display())
}
