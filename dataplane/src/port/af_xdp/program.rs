//! The XDP program that hands a queue's frames to its socket, loaded and attached.

use std::io;
use std::os::fd::RawFd;

use aya::maps::XskMap;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::XdpChoice;
use super::umem::{os_error, refusal};
use crate::port::{PortError, PortKind};

/// Compiled by `build.rs` from `redirect.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// An attached program. Dropping it detaches it, and so does the end of the process.
pub(super) struct Program {
    link: Option<FdLink>,
    _program: Ebpf,
    /// Whether the kernel runs it on socket buffers, for want of support in the driver.
    pub(super) is_generic: bool,
}

impl Program {
    /// Loads the program, registers the socket for the queue, and attaches it in the namespace of the calling thread.
    pub(super) fn attach(
        device: &str,
        mtu: usize,
        index: i32,
        queue: u32,
        socket: RawFd,
        choice: XdpChoice,
    ) -> Result<Self, PortError> {
        let fail = |action: &'static str| {
            move |error: &(dyn std::error::Error + 'static)| refusal(device, action, os_error(error).as_ref())
        };
        let loaded = EbpfLoader::new().map_max_entries("sockets", queue + 1).load(OBJECT);
        let mut program = loaded.map_err(|error| fail("loading the XDP program")(&error))?;
        let map = program.map_mut("sockets").expect("the object defines the map");
        let mut sockets = XskMap::try_from(map).map_err(|error| fail("finding the XDP map")(&error))?;
        sockets.set(queue, socket, 0).map_err(|error| fail("registering the AF_XDP socket")(&error))?;
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
        Ok(Program { link: Some(link), _program: program, is_generic })
    }

    /// Detaches the program and waits until no processor runs it any more: afterwards the kernel writes no more frames.
    pub(super) fn detach(&mut self) {
        if self.link.take().is_some() {
            // An RCU grace period: frames in flight were handled within one. Without the call, a while does as well.
            if rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).is_err() {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
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
