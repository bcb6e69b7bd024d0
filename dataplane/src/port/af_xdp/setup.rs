//! Setting an AF_XDP port up: what is checked, the socket, the program, and the first chunks lent.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use super::program::{Device, Program};
use super::umem::{self, Umem, refusal};
use super::{AfXdp, AfXdpOptions, Holder, MTU_LIMIT, Unmarked};
use crate::port::claim::Claim;
use crate::port::link::{self, Link};
use crate::port::xsk::{HEADROOM, RING, Socket};
use crate::port::{Capabilities, ETHERNET_AND_TAG, Pool, PortCounters, PortError, PortKind};
use crate::time::Time;

/// The most queues of a device that are read.
const MAX_QUEUES: u32 = 64;

/// Memory that ports share, and its pool.
pub type Shared<'a> = (&'a Umem, &'a mut Pool);

impl AfXdp {
    /// Opens ports on a device of the calling thread's namespace, which `namespace` names for people: one for each queue that
    /// the options ask for. They are dealt out to the memories that they share, in turn, and come in that order; with none,
    /// each has memory of its own. The warnings are sentences for the person who asked for it.
    ///
    /// # Errors
    /// [`PortError`]: no such device, a busy queue, another XDP program, a large MTU, no AF_XDP, no privilege.
    pub fn open(
        device: &str,
        namespace: &str,
        options: AfXdpOptions,
        shared: &mut [Shared<'_>],
    ) -> Result<(Vec<Self>, Vec<String>), PortError> {
        let link = Link::open(device, namespace)?;
        let mtu = check_device(device, &link)?;
        let claim = Claim::take(&link, device)?;
        let queues = match options.queue {
            Some(queue) => queue..queue + 1,
            None => 0..link.receive_queues().min(MAX_QUEUES),
        };
        let mut memories = Vec::new();
        for (number, _) in queues.clone().enumerate() {
            memories.push(match shared.len() {
                0 => own_memory(mtu, options.chunks)?,
                count => {
                    let (umem, pool) = &mut shared[number % count];
                    check_memory(device, mtu, umem, pool)?;
                    (umem.clone(), None)
                }
            });
        }
        let index = link.index().map_err(|source| PortError::of(device, "looking up the interface", source))?;
        let mut sockets = Vec::new();
        for (queue, (umem, _)) in queues.clone().zip(&memories) {
            sockets.push(bind(device, index, queue, umem)?);
        }
        let registered: Vec<_> =
            queues.clone().zip(sockets.iter().map(|socket| socket.descriptor().as_raw_fd())).collect();
        let program = Program::attach(device, mtu, index, &registered, options.attach)?;
        let (is_generic, driver) = (program.is_generic, link.driver());
        let (restore, stubborn) = link.plain_receive(is_generic);
        let warnings = warnings(device, is_generic, &stubborn);
        let owner = Arc::new(Device::new(link, program, restore, claim));
        let complete_unmarked = match options.unmarked {
            Unmarked::Auto => is_generic || matches!(driver.as_str(), "veth" | "tun"),
            Unmarked::Complete => true,
            Unmarked::Ignore => false,
        };
        // Ports of one memory have a quarter of it to receive into, all together: another device has as much.
        let sharing = queues.len().div_ceil(shared.len().max(1));
        let mut ports = Vec::new();
        for (number, (((umem, own), socket), queue)) in memories.into_iter().zip(sockets).zip(queues).enumerate() {
            let target = if own.is_none() { umem.count() / 4 / sharing } else { umem.count() / 2 };
            let mut port = AfXdp {
                name: device.to_owned(),
                capabilities: Capabilities {
                    gso: own.is_some(),
                    partial_checksum: false,
                    multi_segment: false,
                    vlan: false,
                    ethernet: true,
                    max_frame: mtu + ETHERNET_AND_TAG,
                },
                counters: PortCounters::default(),
                is_zero_copy: is_zero_copy(socket.descriptor().as_raw_fd()),
                socket,
                queue,
                holders: vec![Holder::Us; umem.count()].into(),
                receiving: 0,
                transmitting: 0,
                target: target.min(RING as usize),
                complete_unmarked,
                is_down: false,
                checked: Time::ZERO,
                umem,
                own: None,
                is_closed: false,
                device: Arc::clone(&owner),
            };
            // From here on frames can arrive, so that a worker may sleep before its first receive.
            match (own, shared.len()) {
                (Some(mut own), _) => {
                    port.refill(&mut own);
                    port.own = Some(own);
                }
                (None, count) => port.refill(shared[number % count].1),
            }
            ports.push(port);
        }
        Ok((ports, warnings))
    }
}

/// Memory of a port's own, and its pool.
fn own_memory(mtu: usize, chunks: u32) -> Result<(Umem, Option<Pool>), PortError> {
    let chunk_size = if mtu + ETHERNET_AND_TAG + HEADROOM <= 2048 { 2048 } else { 4096 };
    let (umem, pool) = umem::umem(chunks, chunk_size)?;
    Ok((umem, Some(pool)))
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
fn check_device(device: &str, link: &Link) -> Result<usize, PortError> {
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
