//! UMEM: memory that AF_XDP sockets and a pool share.
#![allow(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use xsk_rs::FrameDesc;
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

use crate::port::netns::NetworkNamespace;
use crate::port::{Pool, PoolId, PortError, PortKind};

/// Slots of each ring.
pub(super) const RING: u32 = 2048;

/// Bytes before a frame's bytes in a chunk: the kernel keeps them for XDP programs (`XDP_PACKET_HEADROOM`).
pub(super) const HEADROOM: usize = 256;

/// Memory that the AF_XDP ports of a wire share, so that a frame is forwarded without being copied. Made together with its
/// pool by [`umem`]. The kernel keeps the queue of the first port that is opened with it until ports, pool and this are
/// gone.
#[derive(Clone)]
pub struct Umem {
    pub(super) xsk: xsk_rs::Umem,
    /// The descriptor of every chunk, with its frame at [`HEADROOM`] and of length 0.
    descriptors: Arc<[FrameDesc]>,
    pub(super) pool: PoolId,
    pub(super) chunk_size: usize,
    /// The namespace that the memory's own socket was made in: the first port binds that very socket.
    home: (u64, u64),
    bound: Arc<AtomicBool>,
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Umem({} × {} bytes)", self.descriptors.len(), self.chunk_size)
    }
}

/// Makes a UMEM of `count` chunks of `chunk_size` bytes (2048 or 4096) and the pool over it. It has to be made in the
/// network namespace of the first port that will use it.
///
/// # Errors
/// [`PortError::Unsupported`] without AF_XDP, [`PortError::Permission`] without CAP_NET_RAW.
///
/// # Panics
/// If `count` is zero or `chunk_size` is neither 2048 nor 4096.
pub fn umem(count: u32, chunk_size: usize) -> Result<(Umem, Pool), PortError> {
    assert!(matches!(chunk_size, 2048 | 4096), "the kernel takes chunks of a power of two within a page");
    let count = NonZeroU32::new(count).expect("a UMEM has chunks");
    let home = NetworkNamespace::current()?.identity();
    let built = QueueSize::new(RING).ok().zip(FrameSize::new(chunk_size as u32).ok()).and_then(|(ring, chunk)| {
        UmemConfig::builder()
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .frame_size(chunk)
            .frame_headroom(0)
            .build()
            .ok()
    });
    let config = built.expect("the sizes are valid");
    let (xsk, mut descriptors) = xsk_rs::Umem::new(config, count, false)
        .map_err(|error| refusal("the AF_XDP memory", "making it", os_error(&error).as_ref()))?;
    // SAFETY: the first descriptor is of this UMEM, and nothing else uses the memory yet. Without user headroom the data
    // of chunk 0 begins HEADROOM bytes after the region's start.
    let data = unsafe { xsk.data_mut(&mut descriptors[0]).contents_mut().as_mut_ptr() };
    let base = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(data.expose_provenance() - HEADROOM))
        .expect("mmap does not answer 0");
    // SAFETY: the region has count × chunk_size bytes from `base`; the clone of the UMEM keeps it mapped, and only the
    // chunks of this pool and the kernel reach it.
    let pool = unsafe { Pool::from_region(base, count.get() as usize, chunk_size, HEADROOM, Box::new(xsk.clone())) };
    let umem = Umem {
        xsk,
        descriptors: descriptors.into(),
        pool: pool.id(),
        chunk_size,
        home,
        bound: Arc::new(AtomicBool::new(false)),
    };
    Ok((umem, pool))
}

impl Umem {
    /// Number of chunks.
    pub(super) fn count(&self) -> usize {
        self.descriptors.len()
    }

    /// Whether a port in the calling thread's namespace can be opened: any, once there is a first.
    pub(super) fn is_at_home(&self) -> Result<bool, PortError> {
        Ok(self.bound.load(Ordering::Acquire) || NetworkNamespace::current()?.identity() == self.home)
    }

    /// Notes that a port was opened.
    pub(super) fn note_bound(&self) {
        self.bound.store(true, Ordering::Release);
    }

    /// The descriptor of a chunk with `length` bytes at [`HEADROOM`].
    pub(super) fn descriptor(&self, index: u32, length: usize) -> FrameDesc {
        let mut descriptor = self.descriptors[index as usize];
        // SAFETY: the descriptor is of this UMEM. The slice that `data_mut` makes is not read or written; the chunk belongs
        // to the caller, who is about to lend it to the kernel.
        unsafe { self.xsk.data_mut(&mut descriptor).cursor().set_pos(length) };
        descriptor
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
