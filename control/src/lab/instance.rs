//! A lab's name on this machine, and what dead labs left behind.
//!
//! Each lab holds a lock on `/run/penstock/lab/ID.lock` for as long as it lives; its namespaces are named
//! `penstock-lab-ID-…`. A lock file that nobody holds belongs to a lab that was killed: whoever starts next removes its
//! namespaces and then the file. The lock on the directory keeps two starts apart while they look.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use super::error::{LabError, Result};
use super::netns::{self, Namespace};

/// Where locks are kept.
const LOCKS: &str = "/run/penstock/lab";
/// What the namespaces of all labs start with.
const PREFIX: &str = "penstock-lab-";

/// A living lab's hold on its names. Dropping it removes whatever namespaces of that name are left, then the lock.
#[derive(Debug)]
pub struct Instance {
    id: String,
    path: PathBuf,
    _lock: File,
}

impl Instance {
    /// Removes what killed labs left, and takes a new name.
    ///
    /// # Errors
    /// Without the capabilities that a lab needs, or when the lock directory cannot be used.
    pub fn start() -> Result<Instance> {
        check_capabilities()?;
        let refused = |error| LabError::system(format!("use {LOCKS}"), error);
        fs::create_dir_all(LOCKS).map_err(refused)?;
        let directory = File::open(LOCKS).map_err(refused)?;
        flock(directory.as_fd(), FlockOperation::LockExclusive).map_err(|error| refused(error.into()))?;
        sweep()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let mut number = (u128::from(std::process::id()) << 20) ^ now;
        loop {
            // Short enough to type, and two starts in the same nanosecond differ by their process.
            let id = format!("{:06x}", number & 0xff_ffff);
            let path = Path::new(LOCKS).join(format!("{id}.lock"));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(lock) => {
                    flock(lock.as_fd(), FlockOperation::LockExclusive).map_err(|error| refused(error.into()))?;
                    return Ok(Instance { id, path, _lock: lock });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// A namespace of this lab.
    pub fn namespace(&self, name: &str) -> Namespace {
        // A file name holds 255 bytes; pods' names are ASCII, and the part that makes them unique comes first.
        let mut full = format!("{PREFIX}{}-{name}", self.id);
        full.truncate(200);
        Namespace::named(full)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.id) {
            tracing::warn!(%error, "the lab's namespaces are left to the next start");
            return;
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the namespaces of labs whose lock nobody holds.
fn sweep() -> Result<()> {
    let refused = |error| LabError::system(format!("use {LOCKS}"), error);
    for entry in fs::read_dir(LOCKS).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".lock")) else { continue };
        let Ok(lock) = File::open(&path) else { continue };
        if flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_all(id)?;
            fs::remove_file(&path).map_err(refused)?;
        }
    }
    Ok(())
}

fn remove_all(id: &str) -> Result<()> {
    netns::remove(&netns::with_prefix(&format!("{PREFIX}{id}-")))
}

/// A lab makes namespaces and interfaces: it needs both capabilities.
fn check_capabilities() -> Result<()> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    for (number, name) in [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")] {
        if held & (1 << number) == 0 {
            return Err(LabError::System(format!(
                "the lab needs {name} to make network namespaces and interfaces: run it as root (sudo penstock lab …)"
            )));
        }
    }
    Ok(())
}
