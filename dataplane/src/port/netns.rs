//! Network namespaces: naming one, and doing something inside it.
//!
//! A namespace belongs to a thread, and a socket or device belongs for good to the namespace of the thread that made
//! it. So [`enter`] runs a closure on a thread of its own, which ends with the closure, and what the closure made is
//! used from any thread afterwards.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::port::PortError;

/// An open network namespace. It lives as long as this, whatever becomes of its name.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    name: String,
    identity: (u64, u64),
}

impl NetworkNamespace {
    /// The directory in which `ip netns` keeps the names.
    pub const NAMES: &'static str = "/run/netns";

    /// Opens what a person would write: the name of a namespace in [`NetworkNamespace::NAMES`], a path, or the number
    /// of a process that lives in it.
    ///
    /// # Errors
    /// [`PortError::NoSuchNamespace`] when there is none, or it may not be opened.
    pub fn open(text: &str) -> Result<Self, PortError> {
        if text.contains('/') {
            return Self::open_path(Path::new(text), text);
        }
        let named = Path::new(Self::NAMES).join(text);
        match text.parse::<u32>() {
            Ok(process) if !named.exists() => Self::open_process(process),
            _ => Self::open_path(&named, text),
        }
    }

    /// Opens the namespace that is bound to a path.
    ///
    /// # Errors
    /// As [`NetworkNamespace::open`].
    pub fn open_at(path: &Path) -> Result<Self, PortError> {
        Self::open_path(path, &path.display().to_string())
    }

    /// Opens the namespace that a process lives in.
    ///
    /// # Errors
    /// As [`NetworkNamespace::open`].
    pub fn open_process(process: u32) -> Result<Self, PortError> {
        let path = PathBuf::from(format!("/proc/{process}/ns/net"));
        Self::open_path(&path, &format!("process {process}"))
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// As [`NetworkNamespace::open`]; only without `/proc`.
    pub fn current() -> Result<Self, PortError> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"), "the current network namespace")
    }

    /// Makes a namespace without a name. It ends with this, unless somebody is in it.
    ///
    /// # Errors
    /// When the kernel has none to give (CAP_SYS_ADMIN is needed), as [`PortError::NoSuchNamespace`].
    pub fn unnamed() -> Result<Self, PortError> {
        let name = "that is new";
        let fail = |source| PortError::NoSuchNamespace { namespace: name.to_owned(), source };
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn(|| {
            // SAFETY: the network namespace is the thread's alone; neither memory nor descriptors are concerned.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok::<_, io::Error>(Self::current())
        });
        let made =
            thread.map_err(fail)?.join().unwrap_or_else(|payload| panic::resume_unwind(payload)).map_err(fail)?;
        made.map(|made| NetworkNamespace { name: name.to_owned(), ..made })
    }

    fn open_path(path: &Path, name: &str) -> Result<Self, PortError> {
        let fail = |source| PortError::NoSuchNamespace { namespace: name.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !is_namespace(&file) {
            return Err(fail(io::Error::other("it is not a network namespace")));
        }
        Ok(NetworkNamespace { name: name.to_owned(), identity: (metadata.dev(), metadata.ino()), file })
    }

    /// The name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells two namespaces apart: device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Asks the kernel of which kind the namespace is (`NS_GET_NSTYPE`, ioctl_ns(2)).
fn is_namespace(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the ioctl takes no argument and only answers a number; on a file that is no namespace it fails.
    unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) == libc::CLONE_NEWNET }
}

/// Runs `f` on a thread of its own inside the namespace, and waits for it. A panic in `f` goes on in the caller.
///
/// # Errors
/// When the kernel does not let the thread in (CAP_SYS_ADMIN is needed).
pub fn enter<T: Send>(namespace: &NetworkNamespace, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, || {
            move_into_link_name_space(namespace.descriptor(), Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })?;
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

/// Runs `f` inside the namespace, or right here when there is none to enter.
pub(crate) fn within<T: Send>(
    namespace: Option<&NetworkNamespace>,
    device: &str,
    f: impl FnOnce() -> Result<T, PortError> + Send,
) -> Result<T, PortError> {
    match namespace {
        None => f(),
        Some(namespace) => enter(namespace, f).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => PortError::Permission {
                device: device.to_owned(),
                action: "entering the network namespace",
                capability: "CAP_SYS_ADMIN",
            },
            _ => PortError::System { device: device.to_owned(), action: "entering the network namespace", source },
        })?,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_process_and_path() {
        let own = NetworkNamespace::current().unwrap();
        let by_process = NetworkNamespace::open(&std::process::id().to_string()).unwrap();
        let by_path = NetworkNamespace::open("/proc/self/ns/net").unwrap();
        assert_eq!(own.identity(), by_process.identity());
        assert_eq!(own.identity(), by_path.identity());
    }

    #[test]
    fn what_is_no_network_namespace_is_refused_with_its_name() {
        for text in ["no-such-namespace", "/proc/self/ns/mnt", "/dev/null"] {
            let error = NetworkNamespace::open(text).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(!error.is_system_refusal());
        }
    }
}
