//! UMEM: memory that AF_XDP sockets and a pool share.
#![allow(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::port::xsk::{HEADROOM, Region};
use crate::port::{Pool, PoolId, PortError, PortKind};

/// Memory that the AF_XDP ports of a wire share, so that a frame is forwarded without being copied. Made together with its
/// pool by [`umem`].
#[derive(Clone)]
pub struct Umem {
    pub(super) region: Arc<Region>,
    pub(super) pool: PoolId,
    pub(super) chunk_size: usize,
    count: usize,
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Umem({} × {} bytes)", self.count, self.chunk_size)
    }
}

/// Makes a UMEM of `count` chunks of `chunk_size` bytes (2048 or 4096) and the pool over it. The kernel learns of it when the
/// first port is opened with it.
///
/// # Errors
/// [`PortError::System`] when there is not that much memory.
///
/// # Panics
/// If `count` is zero or `chunk_size` is neither 2048 nor 4096.
pub fn umem(count: u32, chunk_size: usize) -> Result<(Umem, Pool), PortError> {
    assert!(matches!(chunk_size, 2048 | 4096), "the kernel takes chunks of a power of two within a page");
    assert!(count > 0, "a UMEM has chunks");
    let count = count as usize;
    let made = Region::new(count, chunk_size);
    let region = Arc::new(made.map_err(|error| PortError::of("the AF_XDP memory", "making it", error))?);
    // SAFETY: the region has count × chunk_size bytes from its base; the pool keeps it mapped, and only the chunks of this
    // pool and the kernel reach it.
    let pool = unsafe { Pool::from_region(region.base(), count, chunk_size, HEADROOM, Box::new(Arc::clone(&region))) };
    let umem = Umem { region, pool: pool.id(), chunk_size, count };
    Ok((umem, pool))
}

impl Umem {
    /// Number of chunks.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Where a chunk begins in the region.
    #[inline]
    pub(super) fn address(&self, index: u32) -> u64 {
        u64::from(index) << self.chunk_size.trailing_zeros()
    }

    /// The chunk that an address is in, and how far from its start.
    #[inline]
    pub(super) fn place(&self, address: u64) -> (usize, usize) {
        ((address >> self.chunk_size.trailing_zeros()) as usize, address as usize & (self.chunk_size - 1))
    }
}

/// The kernel's answer somewhere below an error.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(code));
        }
        next = error.source();
    }
    None
}

/// What the kernel's answer means for AF_XDP.
pub(super) fn refusal(device: &str, action: &'static str, source: Option<&io::Error>) -> PortError {
    let code = source.and_then(io::Error::raw_os_error);
    match code {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::ENOSYS) => {
            PortError::Unsupported {
                device: device.to_owned(),
                kind: PortKind::AfXdp.name(),
                reason: "this kernel has no AF_XDP, or does not let this process use it".to_owned(),
                remedy: "use af_packet, or a kernel with CONFIG_XDP_SOCKETS",
            }
        }
        Some(libc::EPERM | libc::EACCES) => PortError::Permission {
            device: device.to_owned(),
            action,
            capability: "CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
        },
        Some(libc::ENOBUFS) => PortError::Permission {
            device: device.to_owned(),
            action: "locking the AF_XDP memory",
            capability: "CAP_IPC_LOCK, or raise RLIMIT_MEMLOCK",
        },
        Some(code) => {
            PortError::System { device: device.to_owned(), action, source: io::Error::from_raw_os_error(code) }
        }
        None => PortError::System { device: device.to_owned(), action, source: io::Error::other("no reason given") },
    }
}
