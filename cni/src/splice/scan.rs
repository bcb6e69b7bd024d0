//! What is spliced, what should be, and what is left over.

use std::path::PathBuf;

use super::{Scene, recover};
use crate::error::Result;
use crate::netns::Namespace;
use crate::state::{Splice, Store};

/// An interface of a pod that leads to the host without a wire: no policy holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unspliced {
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// The interface in it.
    pub interface: String,
    /// The other end, on the host.
    pub host_interface: String,
    /// The container, if other interfaces of it are behind wires.
    pub container: Option<String>,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Pods behind wires.
    pub spliced: Vec<Splice>,
    /// Interfaces that are not.
    pub unspliced: Vec<Unspliced>,
    /// Containers with a half-made wire, or a wire that has lost an end: [`super::repair`] deals with them.
    pub stale: Vec<String>,
    /// What could not be read, and why.
    pub broken: Vec<String>,
}

/// Looks at all splices, and at these network namespaces (those of the node's pods). One that is the host's own, or is
/// gone meanwhile, is passed over.
///
/// # Errors
/// When the directory of splices cannot be read.
pub fn scan(store: &Store, host: &Namespace, namespaces: impl IntoIterator<Item = PathBuf>) -> Result<Scan> {
    let (spliced, broken) = store.list()?;
    let mut scan = Scan { broken: broken.iter().map(ToString::to_string).collect(), ..Scan::default() };
    for splice in &spliced {
        if recover::is_stale(splice, host)? {
            scan.stale.push(splice.container.clone());
        }
    }
    for path in namespaces {
        let Ok(pod) = Namespace::open(&path) else { continue };
        if pod.identity() == host.identity() {
            continue;
        }
        let known = spliced.iter().find(|splice| splice.sandbox.identity == pod.identity());
        let found = Scene::open(host, pod).and_then(|mut scene| scene.direct_pairs());
        match found {
            Ok(pairs) => scan.unspliced.extend(pairs.into_iter().map(|(end, host_end)| Unspliced {
                netns: path.clone(),
                interface: end.like.name,
                host_interface: host_end.like.name,
                container: known.map(|splice| splice.container.clone()),
            })),
            Err(error) => scan.broken.push(error.to_string()),
        }
    }
    scan.spliced = spliced;
    Ok(scan)
}
