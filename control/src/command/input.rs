//! Manifests as every command takes them.

use std::path::PathBuf;
use std::time::Duration;

use super::exit::Failure;
use super::live::SocketArgs;
use crate::kubernetes::{Access, Source, SourceConfig, Update};
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

/// How long the API server may take to tell its whole state.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// How the API server is reached.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The kubeconfig of the cluster; otherwise the service account inside a pod, the usual kubeconfig elsewhere
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of it, if not the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ServerArgs {
    /// Where the server is, and as whom it is asked.
    pub(super) fn access(&self) -> Access {
        match (&self.kubeconfig, &self.context) {
            (None, None) => Access::infer(),
            (file, context) => Access::Kubeconfig { file: file.clone(), context: context.clone() },
        }
    }

    /// Whether something was said.
    fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// What the API server has of all kinds that policies are about.
    ///
    /// # Errors
    /// A kubeconfig that cannot be used, or a server that does not answer in time.
    fn cluster(&self) -> Result<Cluster, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::system)?;
        runtime.block_on(async {
            let mut source = Source::open(SourceConfig::new(self.access())).await.map_err(Failure::input)?;
            let told = tokio::time::timeout(PATIENCE, async {
                loop {
                    match source.next().await {
                        Update::Synced(_) => return Ok(()),
                        Update::Disconnected { trouble, .. } => return Err(trouble),
                        Update::Report(report) => eprintln!("penstock: warning: {report}"),
                        Update::Restored(..) | Update::Changed(_) | Update::Connected => {}
                    }
                }
            });
            let late = || Failure::System("the API server has not told its whole state in time; try again".to_owned());
            told.await.map_err(|_| late())?.map_err(Failure::system)?;
            source.cluster().cloned().ok_or_else(late)
        })
    }
}

/// Where the objects are: in manifests, with the API server, or with the daemon of this node.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Kubernetes manifests: a file, a directory, or - for standard input; repeatable. Without any, the API server of --kubeconfig or else the daemon of this node is asked
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

impl ClusterArgs {
    /// Reads the objects; warnings go to stderr.
    ///
    /// # Errors
    /// Bad input, one sentence for each object that is; or that nobody answers.
    pub(super) fn load(&self) -> Result<Cluster, Failure> {
        match (self.paths.is_empty(), self.server.is_given()) {
            (false, false) => load(&self.paths),
            (true, true) => self.server.cluster(),
            (true, false) => self.socket.cluster(),
            (false, true) => Err(Failure::BadInput(
                "both manifests (-f) and a kubeconfig are given; leave one of them away".to_owned(),
            )),
        }
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
