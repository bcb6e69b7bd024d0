//! The part of a configuration that makes the daemon a node's.

use std::path::PathBuf;

use super::file::{self, KubeProxy, NodePort, RunningPods, ServiceMixed};
use super::{Checker, ConfigError};
use crate::kubernetes::Access;

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// How the API server is reached.
    pub access: Access,
    /// The node's name, as the API server has it.
    pub name: String,
    /// What happens to pods that run already.
    pub pods: RunningPods,
    /// Where things are.
    pub paths: Paths,
    /// The key of the taint that the node comes with, to be taken off when pods may start.
    pub startup_taint: Option<String>,
    /// Whether denied traffic is told as Kubernetes Events.
    pub events: bool,
    /// By whom connections from the node's own address are judged.
    pub node_port: NodePort,
    /// What becomes of connections to Services of which policy allows some endpoints.
    pub service_mixed: ServiceMixed,
    /// Whether kube-proxy rewrites addresses on the node.
    pub kube_proxy: KubeProxy,
}

/// Where a node's daemon has its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Sockets, pinned namespaces and flows: what does not outlive the machine. `/run/penstock` unless said otherwise.
    pub run: PathBuf,
    /// The last state of the cluster. `/var/lib/penstock` unless said otherwise.
    pub state: PathBuf,
    /// The CNI plugin, in the host's mount namespace. `/opt/cni/bin/penstock-cni` unless said otherwise.
    pub plugin: PathBuf,
    /// The runtime's CNI configuration, in the host's mount namespace. `/etc/cni/net.d` unless said otherwise.
    pub conflists: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Paths {
            run: "/run/penstock".into(),
            state: "/var/lib/penstock".into(),
            plugin: "/opt/cni/bin/penstock-cni".into(),
            conflists: "/etc/cni/net.d".into(),
        }
    }
}

impl Paths {
    /// The socket that the CNI plugin speaks to.
    pub fn cni_socket(&self) -> PathBuf {
        self.run.join("cni.sock")
    }

    /// The socket that `penstock status` and the others speak to.
    pub fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// The numbers of wires: in a directory that control, which has no privileges, may write to.
    pub fn wires(&self) -> PathBuf {
        self.run.join("control").join("wires.json")
    }

    /// The state of the cluster.
    pub fn cluster(&self) -> PathBuf {
        self.state.join("cluster")
    }
}

/// `$NODE_NAME`, otherwise the host's name.
fn own_name() -> Option<String> {
    let told = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    told.or_else(|| rustix::system::uname().nodename().to_str().ok().map(str::to_lowercase))
}

impl Checker<'_> {
    /// Takes what makes the daemon a node's out of the file; `None` if it describes wires.
    pub(super) fn node(&self, file: &mut file::File) -> Result<Option<NodeConfig>, ConfigError> {
        let Some(kubernetes) = file.kubernetes.take() else {
            return self.no_node(file).map(|()| None);
        };
        let others =
            [("policy", file.policy.is_some()), ("wires", file.wires.is_some()), ("rules", file.rules.is_some())];
        if let Some((field, _)) = others.into_iter().find(|(_, there)| *there) {
            let reason = "policies and pods come from the API server; leave it away, or leave kubernetes away";
            return Err(self.error(field, reason));
        }
        let name = match file.node.take().or_else(own_name) {
            Some(name) if is_node_name(&name) => name,
            name => {
                let name = name.unwrap_or_default();
                let reason = format!("{name:?} is not a node's name; write the one that `kubectl get nodes` shows");
                return Err(self.error("node", reason));
            }
        };
        let access = self.access(kubernetes)?;
        Ok(Some(NodeConfig {
            access,
            name,
            pods: file.pods.unwrap_or_default(),
            paths: self.paths(file.paths.take())?,
            startup_taint: self.startup_taint(file.startup_taint.take())?,
            events: file.events.take().is_some_and(|events| events.denied),
            node_port: file.node_port.unwrap_or_default(),
            service_mixed: file.service_mixed.unwrap_or_default(),
            kube_proxy: file.kube_proxy.unwrap_or_default(),
        }))
    }

    /// A configuration of wires has both of its parts, and nothing of a node.
    fn no_node(&self, file: &file::File) -> Result<(), ConfigError> {
        let node_only = [
            ("node", file.node.is_some()),
            ("pods", file.pods.is_some()),
            ("paths", file.paths.is_some()),
            ("startupTaint", file.startup_taint.is_some()),
            ("events", file.events.is_some()),
            ("nodePort", file.node_port.is_some()),
            ("serviceMixed", file.service_mixed.is_some()),
            ("kubeProxy", file.kube_proxy.is_some()),
        ];
        for (field, there) in node_only {
            if there {
                return Err(self.error(field, "it goes with kubernetes; add `kubernetes: {}`, or leave it away"));
            }
        }
        let policy = file.policy.is_some() || file.rules.is_some();
        for (field, there) in [("policy", policy), ("wires", file.wires.is_some())] {
            if !there {
                let reason = "it is missing; write policy and wires, rules and wires for a gateway, or `kubernetes: {}` for a node of \
                              a cluster";
                return Err(self.error(field, reason));
            }
        }
        Ok(())
    }

    fn access(&self, kubernetes: file::Kubernetes) -> Result<Access, ConfigError> {
        let file::Kubernetes { kubeconfig, context, server } = kubernetes;
        match (kubeconfig, server) {
            (Some(_), Some(_)) => {
                let reason = "the kubeconfig names the server; leave one of them away";
                Err(self.error("kubernetes.server", reason))
            }
            (Some(file), None) => {
                let file = self.relative(&file);
                // Control works in another directory.
                let file = std::path::absolute(&file).unwrap_or(file);
                Ok(Access::Kubeconfig { file: Some(file), context })
            }
            (None, _) if context.is_some() => {
                let reason = "a context is one of a kubeconfig; name the file as kubernetes.kubeconfig";
                Err(self.error("kubernetes.context", reason))
            }
            (None, Some(url)) if url.starts_with("http://") || url.starts_with("https://") => Ok(Access::Url(url)),
            (None, Some(url)) => {
                let reason =
                    format!("{url:?} is no URL; write http://ADDRESS:PORT of a server that wants no credentials");
                Err(self.error("kubernetes.server", reason))
            }
            (None, None) => Ok(Access::infer()),
        }
    }

    fn startup_taint(&self, key: Option<String>) -> Result<Option<String>, ConfigError> {
        let is_part = |part: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.len() <= 253 && part.bytes().all(inner)
        };
        match key {
            Some(key) if key.split('/').count() <= 2 && key.split('/').all(is_part) => Ok(Some(key)),
            Some(key) => {
                let reason =
                    format!("{key:?} is no key of a taint; write one such as penstock.io/not-ready, without effect");
                Err(self.error("startupTaint", reason))
            }
            None => Ok(None),
        }
    }

    fn paths(&self, paths: Option<file::Paths>) -> Result<Paths, ConfigError> {
        let (told, usual) = (paths.unwrap_or_default(), Paths::default());
        let absolute = |field: &str, path: Option<PathBuf>, usual: PathBuf| match path {
            None => Ok(usual),
            Some(path) if path.is_absolute() => Ok(path),
            Some(path) => {
                let reason = format!("{} is relative; write a path that begins with /", path.display());
                Err(self.error(format!("paths.{field}"), reason))
            }
        };
        Ok(Paths {
            run: absolute("run", told.run, usual.run)?,
            state: absolute("state", told.state, usual.state)?,
            plugin: absolute("plugin", told.plugin, usual.plugin)?,
            conflists: absolute("conflists", told.conflists, usual.conflists)?,
        })
    }
}

/// A DNS subdomain, as the API server wants it.
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
