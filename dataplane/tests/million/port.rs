//! A port whose device is a queue of fixed size: it allocates nothing between its set-up and its end.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use dataplane::frame::{BURST, Burst, VlanTag};
use dataplane::port::{Capabilities, Pool, Port, PortCounters, PortKind, SentFrame};
use dataplane::time::Time;

/// The longest frame that fits.
const LONGEST: usize = 4096;

struct Slot {
    bytes: [u8; LONGEST],
    length: usize,
    vlan: Option<VlanTag>,
}

/// What the test holds of a port.
struct Device {
    slots: Box<[Slot]>,
    queued: usize,
    sent: u64,
    broken: bool,
}

/// The far side of a [`FixedPort`].
#[derive(Clone)]
pub(crate) struct Far(Arc<Mutex<Device>>);

impl Far {
    fn device(&self) -> MutexGuard<'_, Device> {
        self.0.lock().expect("no test panics while it holds the device")
    }

    /// Puts a frame where the port will receive it. There is room for [`BURST`] frames.
    pub(crate) fn inject(&self, frame: &SentFrame) {
        let mut device = self.device();
        let at = device.queued;
        let slot = &mut device.slots[at];
        slot.bytes[..frame.bytes.len()].copy_from_slice(&frame.bytes);
        (slot.length, slot.vlan) = (frame.bytes.len(), frame.vlan);
        device.queued += 1;
    }

    /// Frames that the port has sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.device().sent
    }

    /// The device goes away.
    pub(crate) fn break_down(&self) {
        self.device().broken = true;
    }
}

/// The port.
pub(crate) struct FixedPort {
    far: Far,
    ethernet: bool,
}

impl FixedPort {
    /// A port and its far side.
    pub(crate) fn new(ethernet: bool) -> (FixedPort, Far) {
        let slots = (0..BURST).map(|_| Slot { bytes: [0; LONGEST], length: 0, vlan: None }).collect();
        let far = Far(Arc::new(Mutex::new(Device { slots, queued: 0, sent: 0, broken: false })));
        (FixedPort { far: far.clone(), ethernet }, far)
    }
}

impl Port for FixedPort {
    fn kind(&self) -> PortKind {
        PortKind::Memory
    }

    fn name(&self) -> &str {
        "fixed"
    }

    fn capabilities(&self) -> Capabilities {
        let ethernet = self.ethernet;
        Capabilities {
            gso: true,
            partial_checksum: true,
            multi_segment: true,
            vlan: true,
            ethernet,
            max_frame: LONGEST,
        }
    }

    fn limit(&mut self, _both: Capabilities) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        let mut device = self.far.device();
        for slot in &device.slots[..device.queued] {
            let mut frame = pool.frame(&slot.bytes[..slot.length]).expect("the pool has room for a burst");
            frame.vlan = slot.vlan;
            burst.push(frame);
        }
        device.queued = 0;
        Ok(())
    }

    fn send(&mut self, pool: &mut Pool, burst: &mut Burst, _now: Time) -> io::Result<()> {
        let mut device = self.far.device();
        if device.broken {
            return Err(io::ErrorKind::NotConnected.into());
        }
        for frame in burst.drain(..) {
            device.sent += 1;
            pool.release(frame);
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        PortCounters::default()
    }

    fn close(&mut self, _pool: &mut Pool) {}
}
