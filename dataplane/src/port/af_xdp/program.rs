//! The XDP program that hands each queue's frames to its socket, loaded and attached, and the device that it is attached to.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use aya::maps::XskMap;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::XdpChoice;
use super::umem::{os_error, refusal};
use crate::port::claim::Claim;
use crate::port::link::{Link, Restore};
use crate::port::{PortError, PortKind};

/// Compiled by `build.rs` from `redirect.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// An attached program. Dropping it detaches it, and so does the end of the process.
pub(super) struct Program {
    link: Option<FdLink>,
    program: Ebpf,
    /// Queues whose frames go to a socket.
    open: usize,
    /// Whether the kernel runs it on socket buffers, for want of support in the driver.
    pub(super) is_generic: bool,
}

impl Program {
    /// Loads the program, registers a socket for each queue, and attaches it in the namespace of the calling thread.
    pub(super) fn attach(
        device: &str,
        mtu: usize,
        index: i32,
        sockets: &[(u32, RawFd)],
        choice: XdpChoice,
    ) -> Result<Self, PortError> {
        let fail = |action: &'static str| {
            move |error: &(dyn std::error::Error + 'static)| refusal(device, action, os_error(error).as_ref())
        };
        let entries = sockets.iter().map(|&(queue, _)| queue + 1).max().unwrap_or(1);
        let loaded = EbpfLoader::new().map_max_entries("sockets", entries).load(OBJECT);
        let mut program = loaded.map_err(|error| fail("loading the XDP program")(&error))?;
        let map = program.map_mut("sockets").expect("the object defines the map");
        let mut map = XskMap::try_from(map).map_err(|error| fail("finding the XDP map")(&error))?;
        for &(queue, socket) in sockets {
            map.set(queue, socket, 0).map_err(|error| fail("registering the AF_XDP socket")(&error))?;
        }
        let xdp: &mut Xdp = program
            .program_mut("redirect")
            .expect("the object defines the program")
            .try_into()
            .map_err(|error: ProgramError| fail("finding the XDP program")(&error))?;
        xdp.load().map_err(|error| fail("loading the XDP program")(&error))?;
        let mut attach = |mode: XdpMode| {
            let id = xdp.attach_to_if_index(index as u32, mode)?;
            FdLink::try_from(xdp.take_link(id)?).map_err(|_| {
                // Without bpf_link the program would outlive us, and would be detached in the wrong namespace.
                ProgramError::SyscallError(aya::sys::SyscallError {
                    call: "bpf_link_create",
                    io_error: io::Error::from_raw_os_error(libc::EOPNOTSUPP),
                })
            })
        };
        let (attached, is_generic) = match choice {
            XdpChoice::Generic => (attach(XdpMode::Skb), true),
            XdpChoice::Native => (attach(XdpMode::Driver), false),
            XdpChoice::Auto => match attach(XdpMode::Driver) {
                Err(error) if os_error(&error).and_then(|e| e.raw_os_error()) == Some(libc::EOPNOTSUPP) => {
                    (attach(XdpMode::Skb), true)
                }
                result => (result, false),
            },
        };
        let link = attached.map_err(|error| explain(device, mtu, &error))?;
        Ok(Program { link: Some(link), program, open: sockets.len(), is_generic })
    }

    /// Takes a queue's frames from its socket, drops them, and waits until no processor hands over one any more: afterwards the
    /// kernel writes no more frames. Detaches the program with the last queue, and says so.
    fn close(&mut self, queue: u32) -> bool {
        self.open = self.open.saturating_sub(1);
        if self.link.is_some() {
            let map = self.program.map_mut("sockets").expect("the object defines the map");
            let unset = XskMap::try_from(map).and_then(|mut sockets| sockets.unset(queue));
            // A queue that keeps its socket has to be kept from it by all means: its chunks are about to be used again.
            if self.open == 0 || unset.is_err() {
                self.link = None;
            }
            // An RCU grace period: frames in flight were handled within one. Without the call, a while does as well.
            if rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).is_err() {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        self.open == 0
    }
}

/// What the ports of a device have in common, one a queue.
pub(super) struct Device {
    link: Link,
    program: Mutex<Program>,
    restore: Mutex<Restore>,
    /// Last, so that the device is free only once nothing reads it.
    _claim: Claim,
}

impl Device {
    pub(super) fn new(link: Link, program: Program, restore: Restore, claim: Claim) -> Self {
        Device { link, program: Mutex::new(program), restore: Mutex::new(restore), _claim: claim }
    }

    /// Gives up a queue, and with the last one the program, and what was changed at the device.
    pub(super) fn close(&self, queue: u32) {
        let was_last = self.program.lock().unwrap_or_else(PoisonError::into_inner).close(queue);
        if was_last {
            self.link.restore(std::mem::take(&mut *self.restore.lock().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}

/// Why the kernel did not attach the program.
fn explain(device: &str, mtu: usize, error: &ProgramError) -> PortError {
    let source = os_error(error);
    let unsupported = |reason: &str, remedy| PortError::Unsupported {
        device: device.to_owned(),
        kind: PortKind::AfXdp.name(),
        reason: reason.to_owned(),
        remedy,
    };
    match source.as_ref().and_then(io::Error::raw_os_error) {
        Some(libc::EBUSY | libc::EEXIST) => PortError::ProgramBusy { device: device.to_owned() },
        Some(libc::ERANGE) => PortError::MtuTooLarge {
            device: device.to_owned(),
            kind: PortKind::AfXdp.name(),
            mtu,
            limit: super::MTU_LIMIT,
        },
        Some(libc::ENOSPC) => unsupported(
            "its veth peer sends on more queues than it receives on",
            "make the pair with `numtxqueues 1`, or use af_packet",
        ),
        Some(libc::ENOTCONN) => unsupported("its veth peer is gone", "make the pair anew"),
        Some(libc::EOPNOTSUPP) => {
            unsupported("its driver or this kernel cannot attach an XDP program", "use af_packet")
        }
        _ => refusal(device, "attaching the XDP program", source.as_ref()),
    }
}
