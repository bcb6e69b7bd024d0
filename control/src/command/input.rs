//! Manifests as every command takes them.

use std::path::PathBuf;

use super::exit::Failure;
use super::live::SocketArgs;
use crate::policy::cluster::Cluster;
use crate::policy::manifest;

/// How a command answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Where the objects are.
#[derive(Clone, Debug, clap::Args)]
pub struct ManifestArgs {
    /// Kubernetes manifests: a file, a directory, or - for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub paths: Vec<PathBuf>,
}

impl ManifestArgs {
    /// Reads the objects; warnings go to stderr.
    ///
    /// # Errors
    /// Bad input, one sentence for each object that is.
    pub fn load(&self) -> Result<Cluster, Failure> {
        load(&self.paths)
    }
}

/// Where the objects are: in manifests, or with the daemon of this node.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Kubernetes manifests: a file, a directory, or - for standard input; repeatable. Without any, the daemon of this node is asked
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    socket: SocketArgs,
}

impl ClusterArgs {
    /// Reads the objects; warnings go to stderr.
    ///
    /// # Errors
    /// Bad input, one sentence for each object that is; or that no daemon answers.
    pub(super) fn load(&self) -> Result<Cluster, Failure> {
        if self.paths.is_empty() { self.socket.cluster() } else { load(&self.paths) }
    }
}

/// Reads manifests; warnings go to stderr.
///
/// # Errors
/// Bad input, one sentence for each object that is.
pub fn load(paths: &[PathBuf]) -> Result<Cluster, Failure> {
    load_again(paths, &Cluster::new())
}

/// Reads manifests once more, after what they meant before; warnings go to stderr.
///
/// # Errors
/// Bad input, one sentence for each object that is.
pub fn load_again(paths: &[PathBuf], before: &Cluster) -> Result<Cluster, Failure> {
    let loaded = manifest::load_again(paths, before).map_err(Failure::input)?;
    for warning in &loaded.warnings {
        eprintln!("penstock: warning: {warning}");
    }
    Ok(loaded.cluster)
}
