//! The daemon: `penstock run --config FILE`.
//!
//! ```text
//!  configuration, manifests ─▶ checked ─▶ preflight ─▶ workers ─▶ wires ─▶ first policy ─▶ ready
//!                                                         │                     ▲
//!   log of drops ◀─ events ◀──────────────────────────────┘      changed files, SIGHUP
//! ```
//! Everything that can be refused is refused before the first wire is opened: a bad configuration or manifest (exit
//! code 2), a capability, interface or kernel feature that is not there (3). Once it runs, nothing that is wrong with the
//! manifests stops it: the running policy stays in force and the reason is told. When it ends, its wires close and
//! nothing passes through them.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::gateway::model::Ruleset;
use clap::Args;
use dataplane::flow::{FlowConfig, MidStream as EngineMidStream};
use dataplane::guard::Endpoint;
use dataplane::worker::Pinning;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

use self::config::{Config, LogFormat, MidStream, NodeConfig};
use self::running::Daemon;
use self::watch::Watch;
use crate::command::{CommandResult, Failure, Outcome};
use crate::enforcer::{Enforcer, EnforcerConfig};
use crate::gateway::Gateway;
use crate::kubernetes::Access;
use crate::observe::drops::Clocks;
use crate::observe::events::{Output, open};
use crate::observe::http;
use crate::policy::cluster::Cluster;
use crate::policy::manifest::Loaded;
use crate::process::{self, Settings};

pub mod config;
mod events;
mod gateway;
mod host;
pub(crate) mod interfaces;
mod metrics;
mod peer;
mod preflight;
mod running;
mod watch;

/// How often it is looked whether the wires' interfaces are there, and lost wires are tried again.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// Enforce policies on wires, as a daemon.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file: wires, where the manifests are, workers, metrics, log.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration and the manifests, and end; nothing is opened.
    #[arg(long)]
    pub check: bool,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// Bad input and refusals of the system, each in one sentence, before any wire is open.
pub fn run(args: &RunArgs) -> CommandResult {
    let config = Config::load(&args.config).map_err(Failure::input)?;
    if let Some(node) = &config.node {
        return run_node(args, &config, node);
    }
    // Before the manifests are read, so that no change is missed.
    let watch = config.policy.as_deref().map(Watch::new).transpose().map_err(Failure::System)?;
    let loaded = running::load(&config, &Cluster::new()).map_err(Failure::BadInput)?;
    let addresses = running::addresses(&config, &loaded.cluster).map_err(Failure::BadInput)?;
    let rules = config.gateway.as_ref().map(crate::gateway::load).transpose().map_err(Failure::BadInput)?;
    let warnings = rules.iter().flat_map(|(ruleset, _)| ruleset.check()).map(|problem| problem.to_string());
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).chain(warnings).collect();
    if args.check {
        return checked(&config, &loaded, rules.as_ref().map(|(ruleset, _)| ruleset), &warnings);
    }
    let _level_stays = start_log(&config);
    for warning in warnings {
        warn!("{warning}");
    }
    preflight::check(&config).map_err(Failure::System)?;
    crate::gateway::session::check(&config).map_err(Failure::BadInput)?;
    let endpoints = config.wires.iter().zip(addresses).map(|(wire, addresses)| running::endpoint(wire, addresses));
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>().map_err(Failure::BadInput)?;
    let drops = open(config.log.drops.file.as_deref()).map_err(Failure::System)?;
    let listener = config.metrics.map(http::bind).transpose().map_err(Failure::System)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::system)?;
    let gateway = gateway::prepare(&config, rules)?;
    let prepared = Prepared { config, loaded, endpoints, watch, drops, listener, gateway };
    runtime.block_on(serve(prepared))
}

/// Runs a node's daemon, or says that its configuration is valid.
fn run_node(args: &RunArgs, config: &Config, node: &NodeConfig) -> CommandResult {
    if let Access::Kubeconfig { file: Some(file), .. } = &node.access
        && !file.is_file()
    {
        let (config, file) = (config.file.display(), file.display());
        let reason = format!("{config}: kubernetes.kubeconfig: {file} is no file; name one that kubectl can use");
        return Err(Failure::BadInput(reason));
    }
    if args.check {
        println!("{}: valid: node {}, policies and pods from the API server", config.file.display(), node.name);
        return Ok(Outcome::Done);
    }
    start_log(config);
    let settings = Settings::of(config, node)?;
    match process::wirer::is_leaving() {
        true => process::wirer::leave(config, &settings),
        false => process::wirer::run(settings),
    }
}

/// What `--check` says.
fn checked(config: &Config, loaded: &Loaded, ruleset: Option<&Ruleset>, warnings: &[String]) -> CommandResult {
    for warning in warnings {
        eprintln!("penstock: warning: {warning}");
    }
    let (wires, policies) = (config.wires.len(), loaded.cluster.policies().count());
    let rules = ruleset.map(|ruleset| ruleset.chains.iter().map(|chain| chain.rules.len()).sum::<usize>());
    let rules = rules.map(|rules| format!(", {rules} rules")).unwrap_or_default();
    println!("{}: valid: {wires} wires, {policies} policies{rules}", config.file.display());
    Ok(Outcome::Done)
}

/// Messages go to standard error.
pub(crate) fn start_log(config: &Config) -> Option<LogHandle> {
    let (level, handle) = reload::Layer::new(LevelFilter::from(config.log.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match config.log.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Only an embedding program can have set a log up already; then that one is right.
    tracing_subscriber::registry().with(level).with(lines).try_init().is_ok().then_some(handle)
}

/// By which the log's level is changed.
pub(crate) type LogHandle = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

fn engine_config(config: &Config) -> EnforcerConfig {
    let mid_stream = match config.mid_stream {
        MidStream::Refuse => EngineMidStream::Refuse,
        MidStream::Adopt(window) => EngineMidStream::Until(Clocks::read().engine + window),
        MidStream::Always => EngineMidStream::Always,
    };
    EnforcerConfig {
        workers: config.workers.iter().map(|cpu| cpu.map_or(Pinning::None, Pinning::Cpu)).collect(),
        flows: config.flows,
        tracking: FlowConfig { mid_stream, ..FlowConfig::default() },
        trace: false,
    }
}

/// All that can be refused, before any of it is put to work.
struct Prepared {
    config: Config,
    loaded: Loaded,
    endpoints: Vec<Option<Endpoint>>,
    watch: Option<Watch>,
    drops: Output,
    listener: Option<TcpListener>,
    gateway: Option<Gateway>,
}

async fn serve(prepared: Prepared) -> CommandResult {
    let Prepared { config, loaded, endpoints, watch, drops, listener, gateway } = prepared;
    let signals = Signals::new().map_err(Failure::system)?;
    let enforcer = Enforcer::start(&engine_config(&config)).map_err(Failure::system)?;
    let daemon = Arc::new(Daemon::new(config, enforcer, gateway));
    let events = events::start(daemon.clone(), drops).map_err(Failure::system)?;
    let server = listener.map(|listener| tokio::spawn(http::serve(listener, daemon.clone())));
    let starting = daemon.clone();
    let started = spawn_blocking(move || starting.start(endpoints, loaded.cluster)).await.map_err(Failure::system)?;
    if let Err(error) = started {
        daemon.close();
        return Err(Failure::system(error));
    }
    if let Some(gateway) = &daemon.config.gateway
        && let Err(reason) = crate::gateway::start(&gateway.socket, &daemon)
    {
        daemon.close();
        return Err(Failure::System(reason));
    }
    info!(generation = daemon.enforcer.generation().0, wires = daemon.config.wires.len(), "ready");
    tell_manager(&[NotifyState::Ready]);
    attend(&daemon, signals, watch).await;
    tell_manager(&[NotifyState::Stopping]);
    if let Some(server) = server {
        server.abort();
    }
    info!("stopping: the wires close, and nothing passes through them until penstock runs again");
    daemon.close();
    drop(events);
    Ok(Outcome::Done)
}

/// Tells who manages services (sd_notify(3)), if it asked for that.
fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("the service manager can't be told how penstock is ({error})");
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Follows signals and changes until it is time to end.
async fn attend(daemon: &Arc<Daemon>, mut signals: Signals, mut watch: Option<Watch>) {
    let mut look_after = tokio::time::interval(LOOK_AFTER);
    look_after.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = look_after.tick() => {
                on_thread(daemon, Daemon::look_after_wires).await;
                continue;
            }
            _ = signals.hang_up.recv() => {
                info!("SIGHUP: the manifests are read again, the log of drops is opened anew");
                daemon.reopen.store(true, Ordering::Release);
            }
            () = changed(&mut watch) => {}
        }
        // Before the reading, so that what changes during it is noticed.
        if let Some(Err(reason)) = watch.as_mut().map(Watch::renew) {
            error!("{reason}; changes are not noticed until SIGHUP");
        }
        on_thread(daemon, Daemon::reload).await;
    }
}

/// Waits for a change of what is watched.
async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Does what may wait for the workers, while `/livez` and the others go on answering.
async fn on_thread(daemon: &Arc<Daemon>, action: fn(&Daemon)) {
    let daemon = daemon.clone();
    // A panic is a bug that has been told on standard error; the policy in force stays.
    let _panicked = spawn_blocking(move || action(&daemon)).await;
}
