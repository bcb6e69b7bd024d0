//! A node of a cluster: its pods behind wires, judged by the policies of the API server.
//!
//! ```text
//!            kubernetes::Source ─▶ LiveRules ─▶ Engine::change          (what may pass)
//!  runtime ─▶ penstock-cni ─▶ cni.sock ─▶ pods ─▶ Engine::attach         (which wires there are)
//!                        Wirer: what needs privileges, and nothing else
//!  people ─▶ api.sock                                                    (what it does)
//! ```
//! `Core` is all of control's state, and one task's: whoever wants to know or change something sends it a word, and
//! after all words that are there the rules are told to the engine once. So nothing is locked, and fifty pods that come at once are
//! one change.
//!
//! * `core`: the state, and what becomes of news from the API server
//! * `pods`, `numbers`: the pods behind wires here, and the wires' numbers, which outlive control
//! * `adding`: what the CNI plugin asks; `adopt`: running pods, lost wires, new engines
//! * `chain`: whether new pods come by Penstock, and the startup taint
//! * `host`: the node's own addresses, from which it reaches its pods
//! * `sockets`, `answers`, `health`, `drops`, `denials`: what people and programs ask, the log, Kubernetes Events
//!
//! The order at a pod's start: rules that know the pod, acknowledged by every worker; then its wires; then the answer. A wire that is
//! not attached has no reader, so nothing passes before.

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::info;

use self::core::Core;
use self::shared::Node;
use self::wirer::{Notice, Wirer};
use crate::command::{CommandResult, Failure, Outcome};
use crate::daemon;
use crate::daemon::config::Config;
use crate::enforcer::Engine;
use crate::kubernetes::{Source, SourceConfig};
use crate::observe::{events, http};

mod adding;
mod adopt;
mod answers;
pub mod api;
mod chain;
mod core;
mod denials;
mod drops;
mod faces;
mod health;
mod host;
mod numbers;
mod pods;
mod proxy;
mod shared;
mod sockets;
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

/// Controls a node until SIGTERM or SIGINT ends it. SIGHUP opens the log of drops anew and reads the log's level again.
///
/// # Errors
/// Bad input and refusals of the system, each in one sentence.
pub fn run(handles: Handles) -> CommandResult {
    let log = daemon::start_log(&handles.config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(Failure::system)?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::system)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::system)?;
        let ended = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        control(handles, log, ended).await
    });
    // Calls that wait for the engine are not waited for.
    runtime.shutdown_background();
    result
}

/// [`run`] within a runtime of the caller's (of several threads), until a future ends it.
///
/// # Errors
/// As for [`run`].
pub async fn serve(handles: Handles, ended: impl Future<Output = ()>) -> CommandResult {
    control(handles, None, ended).await
}

async fn control(handles: Handles, log: Option<daemon::LogHandle>, ended: impl Future<Output = ()>) -> CommandResult {
    let Handles { engine, wirer, notices, cni, api, config } = handles;
    let Some(own) = config.node.clone() else {
        return Err(Failure::BadInput(format!("{}: kubernetes: it is missing", config.file.display())));
    };
    let output = events::open(config.log.drops.file.as_deref()).map_err(Failure::System)?;
    let listener = config.metrics.map(http::bind).transpose().map_err(Failure::System)?;
    let mut source = SourceConfig::new(own.access.clone());
    source.state = Some(own.paths.cluster());
    let source = Source::open(source).await.map_err(Failure::input)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(Failure::system)?;
    let (node, asks) = Node::new(config, own, engine, wirer);
    let node = Arc::new(node);
    let drops = drops::start(Arc::clone(&node), output).map_err(Failure::system)?;
    sockets::start(&node, cni, api).map_err(Failure::system)?;
    let served = listener.map(|listener| tokio::spawn(http::serve(listener, node.clone())));
    let again = Arc::clone(&node);
    let reload = async move {
        while hang_up.recv().await.is_some() {
            info!("SIGHUP: the log of drops is opened anew, the log's level is read again");
            again.reload(log.as_ref());
        }
    };
    let host = tokio::spawn(host::watch(Arc::clone(&node)));
    let proxy = tokio::spawn(proxy::watch(Arc::clone(&node)));
    let told = node.own.events.then(|| tokio::spawn(denials::tell(Arc::clone(&node), source.writer())));
    let core = Core::new(Arc::clone(&node), source);
    let mut running = std::pin::pin!(core.run(asks, notices));
    let ended = std::pin::pin!(ended);
    let stopped = async {
        tokio::select! {
            () = ended => {}
            () = reload => {}
        }
    };
    let core = tokio::select! {
        core = &mut running => core,
        () = stopped => {
            node.stop();
            running.await
        }
    };
    info!("stopping: pods are not added until control runs again; what is in force stays");
    core.close().await;
    host.abort();
    proxy.abort();
    told.inspect(tokio::task::JoinHandle::abort);
    served.inspect(tokio::task::JoinHandle::abort);
    drop(drops);
    Ok(Outcome::Done)
}
