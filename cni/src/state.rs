//! Where splices are written down: a directory a container, with the pins of its wire namespaces and a file that says
//! what they are.
//!
//! ```text
//! /run/penstock/netns/            a shared mount, so that pins come and go in every mount namespace
//!     CONTAINER/                  locked (flock) by whoever changes something
//!         state.json              a Splice; replaced as a whole, by renaming
//!         2                       the wire namespace of the interface that has index 2 in the pod
//!         2.outside               a second one, where both indexes of a pair are the same number
//! ```
//! The file is also the journal: before anything is changed it says what is about to be, with all that is needed to go
//! on or to go back ([`Phase`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Result, SpliceError};
use crate::netns::{self, Identity};
use crate::snapshot::Snapshot;

/// Where splices are written down unless something else is said.
pub const DEFAULT_DIRECTORY: &str = "/run/penstock/netns";

/// The format of the file.
const VERSION: u32 = 1;

const FILE: &str = "state.json";

/// Longest container id: it has to be a file name, and leave room.
const LONGEST_CONTAINER: usize = 200;

/// Who the pod is, as Kubernetes names it. Empty texts outside of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Where the runtime pinned it.
    pub path: PathBuf,
    /// What it was, so that another one at the same path is not taken for it.
    pub identity: Identity,
}

/// How far a wire is. Any but [`Phase::Spliced`] is found only while somebody works, or after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// About to be spliced: the pod's end is where it was, or in the wire namespace, and its replacement is not whole.
    Planned,
    /// The wire is there.
    Spliced,
    /// About to be given back to the pod.
    Restoring,
    /// About to be taken apart, since the pod ends.
    Removing,
}

/// A device of a wire, for the dataplane to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The pin of the network namespace in which it is.
    pub netns: PathBuf,
    /// Its name.
    pub interface: String,
    /// Its index.
    pub index: u32,
}

/// One interface of a pod, behind a wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wire {
    /// The interface that the runtime asked for when this wire was made (`CNI_IFNAME`): the wire ends with it.
    pub attachment: String,
    /// The network (the name in the CNI configuration), if a CNI plugin made the wire.
    pub network: Option<String>,
    /// The interface in the pod.
    pub interface: String,
    /// Its index in the pod.
    pub index: u32,
    /// Its hardware address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its IP addresses, link-local ones included.
    pub addresses: Vec<IpAddr>,
    /// The primary's interface on the host.
    pub host_interface: String,
    /// Its index on the host.
    pub host_index: u32,
    /// The port towards the pod.
    pub inside: End,
    /// The port towards the host.
    pub outside: End,
    /// How far it is.
    pub phase: Phase,
    /// What the interface was, or has to become again.
    pub(crate) snapshot: Snapshot,
}

impl Wire {
    /// The pins of its namespaces: one, or two if the indexes collide.
    pub fn pins(&self) -> Vec<&Path> {
        let mut pins = vec![self.inside.netns.as_path(), self.outside.netns.as_path()];
        pins.dedup();
        pins
    }
}

/// A pod's container sandbox and the wires that it is behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Splice {
    version: u32,
    /// The runtime's name for the sandbox.
    pub container: String,
    /// The pod.
    pub pod: PodIdentity,
    /// Its network namespace.
    pub sandbox: Sandbox,
    /// Its wires.
    pub wires: Vec<Wire>,
}

impl Splice {
    /// A sandbox without wires.
    pub(crate) fn new(container: &str, pod: PodIdentity, sandbox: Sandbox) -> Self {
        Splice { version: VERSION, container: container.to_owned(), pod, sandbox, wires: Vec::new() }
    }
}

/// The directory of all splices.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Store::at(DEFAULT_DIRECTORY)
    }
}

/// Whether this may be a container's identifier, by the CNI specification's rule, and so the name of a file.
pub(crate) fn is_container(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= LONGEST_CONTAINER
}

impl Store {
    /// The store in a directory, which need not exist yet.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Store { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All splices, without waiting for those who change one. What cannot be read is told beside them.
    ///
    /// # Errors
    /// When the directory cannot be read. That there is none means that there is no splice.
    pub fn list(&self) -> Result<(Vec<Splice>, Vec<SpliceError>)> {
        let (mut splices, mut broken) = (Vec::new(), Vec::new());
        for container in self.containers()? {
            match read(&self.directory.join(container).join(FILE)) {
                Ok(splice) => splices.extend(splice),
                Err(error) => broken.push(error),
            }
        }
        Ok((splices, broken))
    }

    /// The splice of one container, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(&self, container: &str) -> Result<Option<Splice>> {
        read(&self.entry(container)?.join(FILE))
    }

    /// The names of all containers that have a directory, in order.
    pub(crate) fn containers(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(SpliceError::system(format!("reading {}", self.directory.display())))?,
        };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut names: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Takes the directory away, if no splice is left: the last step of an uninstallation. Answers whether it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn tear_down(&self) -> Result<bool> {
        if !self.containers()?.is_empty() {
            return Ok(false);
        }
        netns::unshare_mounts(&self.directory);
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SpliceError::System { action: format!("removing {}", self.directory.display()), source: error })
            }
            _ => Ok(true),
        }
    }

    fn entry(&self, container: &str) -> Result<PathBuf> {
        if !is_container(container) {
            return Err(SpliceError::Container(container.to_owned()));
        }
        Ok(self.directory.join(container))
    }

    /// Waits for a container's directory, which is made if need be, and keeps others from it.
    pub(crate) fn lock(&self, container: &str) -> Result<Entry> {
        let directory = self.entry(container)?;
        self.prepare()?;
        loop {
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(SpliceError::System {
                        action: format!("making {}", directory.display()),
                        source: error,
                    });
                }
                _ => {}
            }
            if let Some(entry) = Entry::lock(&directory)? {
                return Ok(entry);
            }
        }
    }

    /// The same for a container that may have none: then there is nothing to lock.
    pub(crate) fn lock_existing(&self, container: &str) -> Result<Option<Entry>> {
        let directory = self.entry(container)?;
        while directory.is_dir() {
            if let Some(entry) = Entry::lock(&directory)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn prepare(&self) -> Result<()> {
        let fail = |action: &str| SpliceError::system(format!("{action} {}", self.directory.display()));
        fs::create_dir_all(&self.directory).map_err(fail("making"))?;
        let directory = File::open(&self.directory).map_err(fail("opening"))?;
        // Two at once would mount it twice.
        flock(&directory, FlockOperation::LockExclusive).map_err(io::Error::from).map_err(fail("locking"))?;
        netns::share_mounts(&self.directory)
    }
}

/// A container's directory, locked.
#[derive(Debug)]
pub(crate) struct Entry {
    directory: PathBuf,
    _lock: File,
}

impl Entry {
    /// Waits for the lock. None if the directory went away meanwhile.
    fn lock(directory: &Path) -> Result<Option<Entry>> {
        let fail = || SpliceError::system(format!("locking {}", directory.display()));
        let file = match File::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail())?,
        };
        flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from).map_err(fail())?;
        let (Ok(held), Ok(named)) = (rustix::fs::fstat(&file), rustix::fs::stat(directory)) else { return Ok(None) };
        let same = (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino);
        Ok(same.then(|| Entry { directory: directory.to_owned(), _lock: file }))
    }

    /// What is written down.
    pub(crate) fn load(&self) -> Result<Option<Splice>> {
        read(&self.directory.join(FILE))
    }

    /// Writes it down, so that a reader sees the old or the new whole. A splice without wires is forgotten, and the
    /// directory with it.
    pub(crate) fn save(&self, splice: &Splice) -> Result<()> {
        if splice.wires.is_empty() {
            return self.forget();
        }
        let path = self.directory.join(FILE);
        let fail = || SpliceError::system(format!("writing {}", path.display()));
        let text = serde_json::to_vec(splice).map_err(io::Error::from).map_err(fail())?;
        let fresh = self.directory.join("state.new");
        let mut file = File::create(&fresh).map_err(fail())?;
        file.write_all(&text).map_err(fail())?;
        // No fsync: the directory lies in memory, and ends with the namespaces that it is about.
        fs::rename(&fresh, &path).map_err(fail())
    }

    /// Removes everything: pins that nobody wrote down too.
    pub(crate) fn forget(&self) -> Result<()> {
        let fail = || SpliceError::system(format!("removing {}", self.directory.display()));
        for file in fs::read_dir(&self.directory).map_err(fail())?.flatten() {
            netns::unpin(&file.path())?;
        }
        fs::remove_dir(&self.directory).map_err(fail())
    }

    /// Where the wire namespace of an interface is pinned, and the second one if there has to be one.
    pub(crate) fn pins(&self, index: u32, host_index: u32) -> (PathBuf, PathBuf) {
        let inside = self.directory.join(index.to_string());
        let outside =
            if index == host_index { self.directory.join(format!("{index}.outside")) } else { inside.clone() };
        (inside, outside)
    }
}

fn read(path: &Path) -> Result<Option<Splice>> {
    let broken = |reason: String| SpliceError::State { path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(SpliceError::system(format!("reading {}", path.display())))?,
    };
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if version != VERSION {
        return Err(broken(format!("it has version {version}, and this program reads version {VERSION}")));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_cannot_lead_out_of_the_directory() {
        let store = Store::at("/nowhere");
        for bad in ["", "..", "a/b", ".hidden", "a\0", &"x".repeat(201)] {
            assert!(matches!(store.find(bad), Err(SpliceError::Container(_))), "{bad:?}");
        }
        assert!(store.find("0a-b_c.d").unwrap().is_none());
    }

    #[test]
    fn a_file_of_another_version_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("c1")).unwrap();
        fs::write(directory.path().join("c1/state.json"), r#"{"version":2,"more":[]}"#).unwrap();
        let store = Store::at(directory.path());
        let error = store.find("c1").unwrap_err().to_string();
        assert!(error.contains("c1/state.json") && error.contains("version 2"), "{error}");
        let (splices, broken) = store.list().unwrap();
        assert_eq!((splices.len(), broken.len()), (0, 1));
    }

    #[test]
    fn a_directory_that_went_away_while_one_waited_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c1");
        fs::create_dir(&path).unwrap();
        let first = Entry::lock(&path).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Entry::lock(&path).unwrap().is_none());
            std::thread::sleep(std::time::Duration::from_millis(20));
            first.forget().unwrap();
            drop(first);
            assert!(waiting.join().unwrap());
        });
    }
}
