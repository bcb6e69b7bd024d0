//! Setting an AF_XDP port up: what is checked, the socket, the program, and the first chunks lent.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::program::Program;
use super::umem::{self, HEADROOM, RING, Umem, os_error, refusal};
use super::{AfXdp, AfXdpOptions, Holder, MTU_LIMIT, Unmarked};
use crate::frame::BURST;
use crate::port::claim::Claim;
use crate::port::link::{self, Link};
use crate::port::{Capabilities, ETHERNET_AND_TAG, Pool, PortCounters, PortError, PortKind};
use crate::time::Time;

/// Bytes of frames that the socket may have in transmission.
const SEND_BUFFER: i32 = 16 << 20;

impl AfXdp {
    /// Opens a port on a device of the calling thread's namespace, which `namespace` names for people: with memory that it
    /// shares (and its pool), or of its own. The warnings are sentences for the person who asked for it.
    ///
    /// # Errors
    /// [`PortError`]: no such device, several queues, a busy queue, another XDP program, a large MTU, no AF_XDP, no privilege.
    pub fn open(
        device: &str,
        namespace: &str,
        options: AfXdpOptions,
        shared: Option<(&Umem, &mut Pool)>,
    ) -> Result<(Self, Vec<String>), PortError> {
        let link = Link::open(device, namespace)?;
        let mtu = check_device(device, &link, options)?;
        let claim = Claim::take(&link, device)?;
        let is_shared = shared.is_some();
        let max_frame = mtu + ETHERNET_AND_TAG;
        let mut own = None;
        let (umem, pool) = match shared {
            Some((umem, pool)) => (umem.clone(), pool),
            None => {
                let chunk_size = if max_frame + HEADROOM <= 2048 { 2048 } else { 4096 };
                let (umem, pool) = umem::umem(options.chunks, chunk_size)?;
                (umem, own.insert(pool))
            }
        };
        check_memory(device, mtu, &umem, pool)?;
        let queue = options.queue.unwrap_or(0);
        let (transmit, receive, fill, completion) = bind(device, queue, &umem)?;
        let index = link.index().map_err(|source| PortError::of(device, "looking up the interface", source))?;
        let program = Program::attach(device, mtu, index, queue, receive.fd().as_raw_fd(), options.attach)?;
        let (restore, stubborn) = link.plain_receive(program.is_generic);
        let warnings = warnings(device, program.is_generic, &stubborn);
        let target = umem.count() / if is_shared { 4 } else { 2 };
        let is_local = program.is_generic || matches!(link.driver().as_str(), "veth" | "tun");
        let mut port = AfXdp {
            name: device.to_owned(),
            capabilities: Capabilities {
                gso: !is_shared,
                partial_checksum: false,
                multi_segment: false,
                vlan: false,
                ethernet: true,
                max_frame,
            },
            counters: PortCounters::default(),
            is_zero_copy: is_zero_copy(receive.fd().as_raw_fd()),
            receive,
            transmit,
            fill,
            completion,
            program,
            link,
            restore,
            holders: vec![Holder::Us; umem.count()].into(),
            receiving: 0,
            transmitting: 0,
            target: target.min(RING as usize),
            complete_unmarked: match options.unmarked {
                Unmarked::Auto => is_local,
                Unmarked::Complete => true,
                Unmarked::Ignore => false,
            },
            is_down: false,
            checked: Time::ZERO,
            scratch: Box::new([FrameDesc::default(); BURST]),
            umem,
            own: None,
            _claim: claim,
        };
        // From here on frames can arrive, so that a worker may sleep before its first receive.
        port.refill(pool);
        port.own = own;
        Ok((port, warnings))
    }
}

/// Whether the memory suits the device, and the pool the memory.
fn check_memory(device: &str, mtu: usize, umem: &Umem, pool: &Pool) -> Result<(), PortError> {
    if pool.id() != umem.pool {
        return Err(PortError::System {
            device: device.to_owned(),
            action: "sharing the AF_XDP memory",
            source: io::Error::new(io::ErrorKind::InvalidInput, "the pool is not the memory's own"),
        });
    }
    let limit = umem.chunk_size - HEADROOM - ETHERNET_AND_TAG;
    if mtu > limit {
        let kind = PortKind::AfXdp.name();
        return Err(PortError::MtuTooLarge { device: device.to_owned(), kind, mtu, limit });
    }
    Ok(())
}

/// What can be said of a device before anything is made: its MTU, when it fits.
fn check_device(device: &str, link: &Link, options: AfXdpOptions) -> Result<usize, PortError> {
    let fail = |action| move |source| PortError::of(device, action, source);
    let hardware = link.hardware().map_err(fail("reading the link type"))?;
    if hardware != libc::ARPHRD_ETHER {
        return Err(PortError::Unsupported {
            device: device.to_owned(),
            kind: PortKind::AfXdp.name(),
            reason: format!("its link layer (ARPHRD type {hardware}) is not Ethernet"),
            remedy: "use an Ethernet device",
        });
    }
    let mtu = link.mtu().map_err(fail("reading the MTU"))?;
    if mtu > MTU_LIMIT {
        let kind = PortKind::AfXdp.name();
        return Err(PortError::MtuTooLarge { device: device.to_owned(), kind, mtu, limit: MTU_LIMIT });
    }
    let queues = link.receive_queues();
    if options.queue.is_none() && queues > 1 {
        return Err(PortError::SeveralQueues { device: device.to_owned(), queues });
    }
    Ok(mtu)
}

type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

/// Makes the socket and binds it to the queue.
fn bind(device: &str, queue: u32, umem: &Umem) -> Result<Rings, PortError> {
    if !umem.is_at_home()? {
        return Err(PortError::System {
            device: device.to_owned(),
            action: "sharing the AF_XDP memory",
            source: io::Error::new(io::ErrorKind::InvalidInput, "it was made in another network namespace"),
        });
    }
    let ring = QueueSize::new(RING).expect("a power of two");
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let interface: Interface = device.parse().map_err(|_| PortError::BadName { device: device.to_owned() })?;
    // SAFETY: programs are never loaded by libxdp (INHIBIT_PROG_LOAD), which is what the function asks for when a queue is
    // bound twice.
    let make = || unsafe { Socket::new(config, &umem.xsk, &interface, queue) };
    let mut made = make();
    // The kernel frees a queue a moment after its last socket was closed.
    for _ in 0..10 {
        if !made.as_ref().is_err_and(|error| os_error(error).is_some_and(|e| e.raw_os_error() == Some(libc::EBUSY))) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        made = make();
    }
    let (transmit, receive, rings) = made.map_err(|error| {
        let source = os_error(&error);
        match source.as_ref().and_then(io::Error::raw_os_error) {
            Some(libc::EBUSY) => PortError::QueueBusy { device: device.to_owned(), queue },
            Some(libc::EINVAL) => PortError::Unsupported {
                device: device.to_owned(),
                kind: PortKind::AfXdp.name(),
                reason: format!("it has no queue {queue}"),
                remedy: "name a queue that `ethtool -l` shows",
            },
            _ => refusal(device, "binding the AF_XDP socket", source.as_ref()),
        }
    })?;
    // The same queue twice over one memory: the rings belong to the first socket.
    let (fill, completion) = rings.ok_or_else(|| PortError::QueueBusy { device: device.to_owned(), queue })?;
    umem.note_bound();
    tune(receive.fd().as_raw_fd());
    Ok((transmit, receive, fill, completion))
}

/// Lets one system call send a whole ring. Both are improvements only: a kernel that knows neither sends in smaller steps.
fn tune(socket: i32) {
    // XDP_MAX_TX_SKB_BUDGET, since 6.17.
    const MAX_TX_SKB_BUDGET: i32 = 9;
    let _ = link::set_option(&socket, libc::SOL_XDP, MAX_TX_SKB_BUDGET, RING);
    let _ = link::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER);
}

/// Whether the driver reads and writes the memory itself.
fn is_zero_copy(socket: i32) -> bool {
    link::option::<u32>(socket, libc::SOL_XDP, libc::XDP_OPTIONS)
        .is_ok_and(|options| options & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

fn warnings(device: &str, is_generic: bool, stubborn: &[&str]) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_generic {
        warnings.push(format!(
            "{device} runs XDP in generic mode, because its driver has none of its own or it was asked for: every frame is \
             copied, and af_packet is likely to be faster"
        ));
    }
    for offload in stubborn {
        warnings.push(format!(
            "{offload} of {device} could not be switched off: merged frames are lost and VLAN tags may be; see `ethtool -k \
             {device}`"
        ));
    }
    warnings
}
