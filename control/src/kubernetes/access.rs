//! How the API server is reached, and as whom: a kubeconfig or the pod's service account.
//!
//! Tokens in files, and those that a command hands out, are renewed by the client. Certificates are not: when the server does not
//! accept what it is given, the configuration is read anew ([`Connection::renew`]).

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::trouble::{SetupError, cause};

/// Connecting takes at most this long.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the API server is, and as whom it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// The service account that Kubernetes mounts into a pod.
    InCluster,
    /// A kubeconfig.
    Kubeconfig {
        /// The file; otherwise what `KUBECONFIG` names, otherwise `~/.kube/config`.
        file: Option<PathBuf>,
        /// The context; otherwise the file's current one.
        context: Option<String>,
    },
    /// A server that wants no credentials, by its URL: `kubectl proxy`, tests.
    Url(String),
}

impl Access {
    /// The service account inside a cluster, the usual kubeconfig elsewhere.
    pub fn infer() -> Access {
        match std::env::var_os("KUBERNETES_SERVICE_HOST") {
            Some(_) => Access::InCluster,
            None => Access::Kubeconfig { file: None, context: None },
        }
    }

    /// Where the credentials come from, for people.
    fn origin(&self) -> String {
        match self {
            Access::InCluster => "the service account".to_owned(),
            Access::Kubeconfig { file: Some(file), .. } => file.display().to_string(),
            Access::Kubeconfig { file: None, .. } => match std::env::var("KUBECONFIG") {
                Ok(files) if !files.is_empty() => format!("{files} (KUBECONFIG)"),
                _ => "~/.kube/config".to_owned(),
            },
            Access::Url(url) => url.clone(),
        }
    }

    async fn config(&self) -> Result<Config, SetupError> {
        let wrong = |reason: String| SetupError::Kubeconfig { file: self.origin(), reason };
        match self {
            Access::InCluster => Config::incluster().map_err(|error| SetupError::NoServiceAccount(cause(&error))),
            Access::Kubeconfig { file, context } => {
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let config = match file {
                    Some(file) => match Kubeconfig::read_from(file) {
                        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                        Err(error) => Err(error),
                    },
                    None => Config::from_kubeconfig(&options).await,
                };
                let config = config.map_err(|error| {
                    let mut reason = one_line(&error);
                    if reason.contains("Permission denied") {
                        reason += &format!(
                            " (it is read as user {}: let that one read it)",
                            rustix::process::geteuid().as_raw()
                        );
                    }
                    wrong(reason)
                })?;
                match (config.cluster_url.scheme_str(), config.cluster_url.host()) {
                    (Some("http" | "https"), Some(_)) => Ok(config),
                    _ => Err(wrong(format!(
                        "server: {} is no URL of a server, such as https://10.0.0.1:6443",
                        config.cluster_url
                    ))),
                }
            }
            Access::Url(url) => match url.parse() {
                Ok(url) => Ok(Config::new(url)),
                Err(_) => Err(wrong("not a URL".to_owned())),
            },
        }
    }
}

/// An error and its cause in one line.
fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let (text, cause) = (error.to_string(), cause(error));
    let text = if text.contains(&cause) { text } else { format!("{text}: {cause}") };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A way to the API server that can be renewed.
pub(super) struct Connection {
    access: Access,
    silence: Duration,
    client: Mutex<Client>,
    /// The server's address, for people.
    pub(super) place: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.place)
    }
}

impl Connection {
    /// Reads the configuration. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub(super) async fn open(access: Access, silence: Duration) -> Result<Connection, SetupError> {
        let config = access.config().await?;
        let place = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Mutex::new(client(config, silence, &access)?);
        Ok(Connection { access, silence, client, place })
    }

    pub(super) fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration anew. One that can't be used changes nothing: it may be half written.
    pub(super) async fn renew(&self) {
        let renewed = self.access.config().await.and_then(|config| client(config, self.silence, &self.access));
        match renewed {
            Ok(client) => *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client,
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

fn client(mut config: Config, silence: Duration, access: &Access) -> Result<Client, SetupError> {
    config.connect_timeout = Some(CONNECT);
    // A server that vanished without closing its connections.
    config.read_timeout = Some(silence);
    config.reset_reader_on_write = true;
    // Attempts are spaced out by the one who asks.
    config.default_retry = false;
    Client::try_from(config)
        .map_err(|error| SetupError::Credentials { origin: access.origin(), reason: one_line(&error) })
}
