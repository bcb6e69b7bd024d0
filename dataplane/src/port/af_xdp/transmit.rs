//! The sending half of an AF_XDP port: a frame made fit for a device that takes bytes only, and the transmit ring.

use std::io;

use super::{AfXdp, Holder};
use crate::frame::{BURST, Burst, Checksum, Frame};
use crate::port::segment::Plan;
use crate::port::xsk::{Descriptor, HEADROOM, RING};
use crate::port::{Pool, checksum};

/// Bytes of the two MAC addresses, after which a tag belongs.
const MAC_ADDRESSES: usize = 12;

/// Bytes of a tag.
const TAG: usize = 4;

/// System calls that may follow each other to get one burst sent: older kernels send 32 frames with each.
const KICKS: usize = 4;

/// Which frames of a burst are released rather than left to the kernel, a bit each.
type Released = u64;

const _: () = assert!(BURST <= Released::BITS as usize);

impl AfXdp {
    /// Moves frames from the front of the burst onto the transmit ring, and wakes the kernel.
    pub(super) fn transmit_burst(
        &mut self,
        own: Option<&mut Pool>,
        pool: &mut Pool,
        burst: &mut Burst,
    ) -> io::Result<()> {
        if self.is_down {
            // What was on the ring is tried again: it tells whether the device is back.
            self.is_down = false;
            self.kick()?;
        }
        let (taken, released) = match own {
            _ if self.is_down => {
                self.counters.send_errors += burst.len() as u64;
                (burst.len(), Released::MAX)
            }
            Some(own) => self.put_copies(own, burst),
            None => self.put_frames(pool, burst),
        };
        if released == 0 && taken == burst.len() {
            // The kernel has all of them.
            burst.clear();
        } else {
            for (i, frame) in burst.drain(..taken).enumerate() {
                if released >> i & 1 == 1 {
                    pool.release(frame);
                }
            }
        }
        if self.is_down { Ok(()) } else { self.kick_waiting() }
    }

    /// Puts frames of shared memory onto the transmit ring as they lie. Answers how many were taken from the burst's front,
    /// and which of them the device cannot carry.
    fn put_frames(&mut self, pool: &Pool, burst: &mut Burst) -> (usize, Released) {
        let room = self.socket.transmit.room(burst.len() as u32);
        let (mut taken, mut put, mut released): (usize, u32, Released) = (0, 0, 0);
        for frame in burst.iter_mut() {
            if !self.carries(frame) {
                released |= 1 << taken;
            } else if put == room {
                break;
            } else if self.make_fit(frame) {
                let chunk = &frame.head;
                assert_eq!(chunk.pool(), pool.id(), "a frame of another pool than the port's");
                let address = self.umem.address(chunk.index()) + chunk.offset() as u64;
                self.holders[chunk.index() as usize] = Holder::Transmit;
                self.socket.transmit.put(put, Descriptor { address, length: chunk.len() as u32, options: 0 });
                put += 1;
            } else {
                released |= 1 << taken;
            }
            taken += 1;
        }
        self.counters.send_errors += u64::from(released.count_ones());
        self.submit(put);
        (taken, released)
    }

    /// Puts copies of frames onto the transmit ring. Answers as [`AfXdp::put_frames`]: all that were taken are released.
    fn put_copies(&mut self, own: &mut Pool, burst: &mut Burst) -> (usize, Released) {
        let mut room = self.socket.transmit.room(RING);
        let mut taken = 0;
        for frame in burst.iter_mut() {
            match self.copy_out(frame, own, room) {
                None => self.counters.send_errors += 1,
                Some(0) => break,
                Some(count) => room -= count,
            }
            taken += 1;
        }
        (taken, Released::MAX)
    }

    /// Gives the kernel what was put onto the transmit ring.
    fn submit(&mut self, count: u32) {
        if count > 0 {
            self.transmitting += count as usize;
            self.socket.transmit.submit(count);
        }
    }

    /// Whether a frame of shared memory can be sent at all.
    #[inline]
    fn carries(&self, frame: &Frame) -> bool {
        let length = frame.head.len();
        let total = length + if frame.vlan.is_some() { TAG } else { 0 };
        frame.gso.is_none() && frame.segments() == 1 && length >= MAC_ADDRESSES && total <= self.capabilities.max_frame
    }

    /// Makes a frame of shared memory fit to be sent as it lies: checksum complete, tag in the bytes. `false` when its metadata
    /// does not fit its bytes.
    #[inline]
    fn make_fit(&mut self, frame: &mut Frame) -> bool {
        if !self.complete(frame) {
            return false;
        }
        if frame.vlan.is_some() {
            insert_tag(frame);
        }
        true
    }

    /// Copies a frame into memory of the port's own, as one packet or as the segments of a super-frame: all of them or none.
    /// Answers how many, 0 when there is no room now, and nothing when the device cannot carry them.
    fn copy_out(&mut self, frame: &mut Frame, own: &mut Pool, room: u32) -> Option<u32> {
        if frame.gso.is_none() && !self.complete(frame) {
            return None;
        }
        let plan = Plan::new(frame)?;
        let count = plan.count();
        // More segments than the ring or the memory will ever hold are refused, or they would block the wire for good.
        if plan.longest() > self.capabilities.max_frame || count > (RING as usize).min(self.umem.count() / 4) {
            return None;
        }
        if count > room as usize || count > own.available() {
            return Some(0);
        }
        let mut put = 0;
        while (put as usize) < count {
            let Some(mut chunk) = own.take() else { break };
            let length = plan.write(frame, put as usize, &mut chunk.whole_mut()[HEADROOM..]);
            let index = own.lend(chunk);
            self.holders[index as usize] = Holder::Transmit;
            let address = self.umem.address(index) + HEADROOM as u64;
            self.socket.transmit.put(put, Descriptor { address, length: length as u32, options: 0 });
            put += 1;
        }
        self.submit(put);
        self.counters.checksums_completed += if frame.gso.is_some() { u64::from(put) } else { 0 };
        Some(put)
    }

    #[inline]
    fn complete(&mut self, frame: &mut Frame) -> bool {
        if !matches!(frame.checksum, Checksum::Partial { .. }) {
            return true;
        }
        let completed = checksum::complete(frame);
        self.counters.checksums_completed += u64::from(completed);
        completed
    }

    /// Wakes the kernel when something waits on the transmit ring.
    pub(super) fn kick_waiting(&mut self) -> io::Result<()> {
        if self.transmitting == 0 || self.socket.transmit.is_drained() {
            return Ok(());
        }
        self.kick()
    }

    /// Has the kernel send what is on the transmit ring.
    fn kick(&mut self) -> io::Result<()> {
        for _ in 0..KICKS {
            let Err(error) = self.socket.wake_transmit() else { return Ok(()) };
            match error.raw_os_error() {
                // A step was sent and more is waiting, or too much is in flight.
                Some(libc::EAGAIN | libc::EINTR) => {}
                // The device has no room: the next call tries again.
                Some(libc::EBUSY | libc::ENOBUFS) => return Ok(()),
                Some(libc::ENETDOWN) => {
                    self.is_down = true;
                    return Ok(());
                }
                _ => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes a frame's tag into its bytes: into the room before them where there is some, so that only the MAC addresses move.
fn insert_tag(frame: &mut Frame) {
    let Some(tag) = frame.vlan.take() else { return };
    let (offset, length) = (frame.head.offset(), frame.head.len());
    let whole = frame.head.whole_mut();
    let start = match offset.checked_sub(TAG) {
        Some(start) => {
            whole.copy_within(offset..offset + MAC_ADDRESSES, start);
            start
        }
        None => {
            let rest = offset + MAC_ADDRESSES;
            whole.copy_within(rest..offset + length, rest + TAG);
            offset
        }
    };
    let at = start + MAC_ADDRESSES;
    whole[at..at + 2].copy_from_slice(&tag.protocol.to_be_bytes());
    whole[at + 2..at + TAG].copy_from_slice(&tag.control.to_be_bytes());
    frame.head.set_range(start, length + TAG);
}
