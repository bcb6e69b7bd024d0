//! Network namespaces: entering one, making one, and pinning it to a path so that it outlives every process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::error::{Result, SpliceError};
use crate::netlink::Netlink;

/// What `fstatfs` says of a file that is a namespace (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// What tells two namespaces apart, whatever paths lead to them. Numbers are used again once a namespace is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Device of the namespace file system.
    pub device: u64,
    /// Inode within it.
    pub inode: u64,
}

/// An open network namespace: it lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
    identity: Identity,
}

impl Namespace {
    /// Opens the namespace that is bound to a path.
    ///
    /// # Errors
    /// When there is nothing, or something that is no namespace.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |source| SpliceError::Namespace { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let kind = rustix::fs::fstatfs(&file).map_err(|error| fail(error.into()))?.f_type;
        if kind != NSFS_MAGIC {
            return Err(fail(io::Error::new(io::ErrorKind::NotFound, "it is no namespace (any more)")));
        }
        let metadata = file.metadata().map_err(fail)?;
        let identity = Identity { device: metadata.dev(), inode: metadata.ino() };
        Ok(Namespace { file, path: path.to_owned(), identity })
    }

    /// The calling thread's.
    ///
    /// # Errors
    /// As [`Namespace::open`]; only without `/proc`.
    pub fn current() -> Result<Self> {
        Namespace::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells it from others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The descriptor's number, which the kernel takes in messages.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` on a thread of its own that has moved into the namespace, and waits for it. Sockets made there stay
    /// there, and `/proc/sys/net` shows the namespace's settings.
    ///
    /// # Errors
    /// When the kernel does not let the thread in (CAP_SYS_ADMIN is needed), or it is another kind of namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let answer = on_a_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        answer.map_err(|source| SpliceError::Namespace { path: self.path.clone(), source })
    }

    /// A route netlink socket in it.
    pub(crate) fn netlink(&self) -> Result<Netlink> {
        self.run(Netlink::open)?.map_err(SpliceError::system("opening a netlink socket"))
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

/// Makes a network namespace in which nothing speaks (IPv6 is off for all interfaces), and pins it to a path.
///
/// # Errors
/// When the system refuses; nothing is left then but perhaps an empty file, which [`unpin`] removes.
pub(crate) fn create_pinned(path: &Path) -> Result<Namespace> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(SpliceError::system(format!("making {}", path.display())))?;
    on_a_thread(|| {
        unshare_network()?;
        for scope in ["all", "default"] {
            match std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1") {
                // A kernel without IPv6 speaks none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        mount_bind("/proc/thread-self/ns/net", path)?;
        Ok(())
    })
    .map_err(SpliceError::system(format!("making a network namespace at {}", path.display())))?;
    Namespace::open(path)
}

/// Gives the calling thread a new network namespace.
#[expect(deprecated, reason = "what is not safe about it is the flag FILES, which is not given")]
fn unshare_network() -> io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    Ok(())
}

/// Removes a pin, if it is there. The namespace ends with the last descriptor or process in it.
///
/// # Errors
/// When the file cannot be removed.
pub(crate) fn unpin(path: &Path) -> Result<()> {
    // A crash may have left two mounts upon each other. What is no mount (any more) answers EINVAL.
    while unmount(path, UnmountFlags::DETACH).is_ok() {}
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SpliceError::System { action: format!("removing {}", path.display()), source: error })
        }
        _ => Ok(()),
    }
}

/// Makes mounts below a directory seen in, and gone from, every mount namespace that has a view of the directory: the
/// directory becomes a shared mount of its own, as `ip netns` does it with `/run/netns`.
pub(crate) fn share_mounts(directory: &Path) -> Result<()> {
    let fail = || SpliceError::system(format!("making {} a shared mount", directory.display()));
    let share = || mount_change(directory, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        Err(rustix::io::Errno::INVAL) => {
            mount_bind_recursive(directory, directory).map_err(fail())?;
            share().map_err(fail())
        }
        other => other.map_err(fail()),
    }
}

/// Undoes [`share_mounts`].
pub(crate) fn unshare_mounts(directory: &Path) {
    while unmount(directory, UnmountFlags::DETACH).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused_with_its_path() {
        for path in ["/dev/null", "/no/such/thing"] {
            let error = Namespace::open(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn the_same_namespace_by_two_paths_is_one() {
        let by_thread = Namespace::current().unwrap();
        let by_process = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(by_thread.identity(), by_process.identity());
    }
}
