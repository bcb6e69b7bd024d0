//! `penstock uninstall`: takes Penstock off a cluster's nodes.

use std::time::Duration;

use super::exit::{CommandResult, Failure, Outcome};
use super::input::ServerArgs;
use crate::kubernetes::{Removal, RemovalError};

/// Take Penstock off all nodes of a cluster: pods get their own interfaces back, nothing is filtered, and the DaemonSet can be deleted
#[derive(Clone, Debug, clap::Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The DaemonSet's namespace
    #[arg(short, long, default_value = "penstock")]
    namespace: String,
    /// The DaemonSet
    #[arg(long, default_value = "penstock")]
    daemonset: String,
    /// How long to wait for the nodes
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Carries the command out.
///
/// # Errors
/// A kubeconfig that cannot be used, an API server that refuses, or nodes that are not done in time.
pub(super) fn run(args: &UninstallArgs) -> CommandResult {
    let removal = Removal {
        namespace: args.namespace.clone(),
        daemonset: args.daemonset.clone(),
        patience: Duration::from_secs(args.timeout),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::system)?;
    let say = |done, of| eprintln!("penstock: {done} of {of} nodes are without Penstock");
    match runtime.block_on(removal.carry_out(args.server.access(), say)) {
        Ok(()) => Ok(Outcome::Done),
        Err(error @ (RemovalError::Setup(_) | RemovalError::NoDaemonSet { .. })) => Err(Failure::input(error)),
        Err(error) => Err(Failure::system(error)),
    }
}
