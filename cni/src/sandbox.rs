//! Who runs on the node: what runtimes write down about the sandboxes that they have set up.
//!
//! libcni keeps the result of each ADD in a file until DEL (`/var/lib/cni/results/`), with the container, the network namespace, and
//! who the pod is. containerd and CRI-O both go through libcni.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, SpliceError};
use crate::netns::Namespace;
use crate::splice;
use crate::state::{PodIdentity, Store};

/// Where libcni keeps results unless something else is said.
pub const RESULTS: &str = "/var/lib/cni/results";

/// A pod's sandbox, as its runtime keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The runtime's name for it.
    pub container: String,
    /// Path of its network namespace, in the host's mount namespace.
    pub netns: PathBuf,
    /// The interface that the runtime asked for (`CNI_IFNAME`).
    pub attachment: String,
    /// The network (the name in the CNI configuration).
    pub network: String,
    /// Who it is.
    pub pod: PodIdentity,
}

/// The interface of the network that containerd attaches every pod to (`cni-loopback`).
const LOOPBACK: &str = "lo";

/// One of libcni's files, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    container_id: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    netns: Option<PathBuf>,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: serde_json::Value,
}

impl Cached {
    fn into_sandbox(self) -> Option<Sandbox> {
        if self.kind != "cniCacheV1" {
            return None;
        }
        let argument = |name: &str| {
            let found = self.cni_args.iter().flatten().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let pod = PodIdentity {
            namespace: argument("K8S_POD_NAMESPACE"),
            name: argument("K8S_POD_NAME"),
            uid: argument("K8S_POD_UID"),
        };
        // Older libcni does not write the namespace down, but the result names it with the pod's interfaces.
        let told = || {
            let interfaces = self.result.get("interfaces")?.as_array()?;
            let sandbox = |interface: &serde_json::Value| interface.get("sandbox")?.as_str().map(PathBuf::from);
            interfaces.iter().filter_map(sandbox).find(|path| path.is_absolute())
        };
        let netns = self.netns.clone().or_else(told)?;
        Some(Sandbox { container: self.container_id, netns, attachment: self.if_name, network: self.network_name, pod })
    }
}

/// All sandboxes of pods that are written down. Files that are none of libcni's are passed over.
///
/// # Errors
/// When the directory can't be read. That there is none means that there is no sandbox.
pub fn running(results: &Path) -> Result<Vec<Sandbox>> {
    let entries = match std::fs::read_dir(results) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(SpliceError::system(format!("reading {}", results.display())))?,
    };
    let read = |entry: std::fs::DirEntry| std::fs::read(entry.path()).ok();
    let parse = |bytes: Vec<u8>| serde_json::from_slice::<Cached>(&bytes).ok()?.into_sandbox();
    let mut sandboxes: Vec<Sandbox> = entries.flatten().filter_map(read).filter_map(parse).collect();
    sandboxes.sort_by(|one, other| one.container.cmp(&other.container));
    Ok(sandboxes)
}

/// Those of them that have an interface without a wire, each once: by the attachment that is such an interface, if one is. A
/// runtime attaches every pod's loopback interface as well; that leads nowhere.
///
/// # Errors
/// As [`running`] and [`splice::scan`].
pub fn unspliced(store: &Store, host: &Namespace, results: &Path) -> Result<Vec<Sandbox>> {
    let mut sandboxes = running(results)?;
    sandboxes.retain(|sandbox| !sandbox.pod.name.is_empty() && sandbox.attachment != LOOPBACK);
    let namespaces: BTreeSet<PathBuf> = sandboxes.iter().map(|sandbox| sandbox.netns.clone()).collect();
    let found = splice::scan(store, host, namespaces)?.unspliced;
    sandboxes.retain(|sandbox| found.iter().any(|one| one.netns == sandbox.netns));
    let is_meant =
        |sandbox: &Sandbox| found.iter().any(|one| one.netns == sandbox.netns && one.interface == sandbox.attachment);
    sandboxes.sort_by(|one, other| {
        let by_container = one.container.cmp(&other.container);
        by_container.then(is_meant(other).cmp(&is_meant(one))).then_with(|| one.attachment.cmp(&other.attachment))
    });
    sandboxes.dedup_by(|one, other| one.container == other.container);
    Ok(sandboxes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_read_from_what_libcni_writes() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = r#""cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web"],["K8S_POD_UID","u1"]]"#;
        let common = r#""kind":"cniCacheV1","config":"e30=","ifName":"eth0","networkName":"net""#;
        let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
        write("net-b-eth0", format!(r#"{{{common},"containerId":"b","netns":"/run/netns/b",{arguments}}}"#));
        let result = r#""result":{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/a"}]}"#;
        write("net-a-eth0", format!(r#"{{{common},"containerId":"a",{arguments},{result}}}"#));
        write("garbage", "{".to_owned());
        write("other", r#"{"kind":"other"}"#.to_owned());
        let found = running(directory.path()).unwrap();
        let pod = PodIdentity { namespace: "shop".to_owned(), name: "web".to_owned(), uid: "u1".to_owned() };
        let expected = |container: &str| Sandbox {
            container: container.to_owned(),
            netns: format!("/run/netns/{container}").into(),
            attachment: "eth0".to_owned(),
            network: "net".to_owned(),
            pod: pod.clone(),
        };
        assert_eq!(found, [expected("a"), expected("b")]);
        assert!(running(Path::new("/no/such/directory")).unwrap().is_empty());
    }
}
