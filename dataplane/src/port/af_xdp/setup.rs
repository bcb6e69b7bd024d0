//! Setting an AF_XDP port up: what is checked, the socket, the program, and the first chunks lent.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::program::Program;
use super::umem::{self, Umem, refusal};
use super::{AfXdp, AfXdpOptions, Holder, MTU_LIMIT, Unmarked};
use crate::port::claim::Claim;
use crate::port::link::{self, Link};
use crate::port::xsk::{HEADROOM, RING, Socket};
use crate::port::{Capabilities, ETHERNET_AND_TAG, Pool, PortCounters, PortError, PortKind};
use crate::time::Time;

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
        let index = link.index().map_err(|source| PortError::of(device, "looking up the interface", source))?;
        let socket = bind(device, index, queue, &umem)?;
        let descriptor = socket.descriptor().as_raw_fd();
        let program = Program::attach(device, mtu, index, queue, descriptor, options.attach)?;
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
            is_zero_copy: is_zero_copy(descriptor),
            socket,
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

/// Makes the socket and binds it to the queue.
fn bind(device: &str, index: i32, queue: u32, umem: &Umem) -> Result<Socket, PortError> {
    let make = || Socket::bind(index as u32, queue, &umem.region);
    let mut made = make();
    // The kernel frees a queue a moment after its last socket was closed.
    for _ in 0..10 {
        if !made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        made = make();
    }
    made.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => PortError::QueueBusy { device: device.to_owned(), queue },
        Some(libc::EINVAL) => PortError::Unsupported {
            device: device.to_owned(),
            kind: PortKind::AfXdp.name(),
            reason: format!("it has no queue {queue}"),
            remedy: "name a queue that `ethtool -l` shows",
        },
        _ => refusal(device, "binding the AF_XDP socket", Some(&source)),
    })
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
