//! The sending half of an AF_XDP port: a frame made fit for a device that takes bytes only, and the transmit ring.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use arrayvec::ArrayVec;

use super::umem::{HEADROOM, RING};
use super::{AfXdp, Holder};
use crate::frame::{BURST, Burst, Checksum, Frame};
use crate::port::segment::Plan;
use crate::port::{Chunk, Pool, checksum};

/// Bytes of the two MAC addresses, after which a tag belongs.
const MAC_ADDRESSES: usize = 12;

/// Bytes of a tag.
const TAG: usize = 4;

/// System calls that may follow each other to get one burst sent: older kernels send 32 frames with each.
const KICKS: usize = 4;

/// What becomes of a frame of a burst.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Its own memory goes onto the ring.
    InPlace,
    /// A copy is on the ring.
    Copied,
    /// The device cannot carry it.
    Refused,
    /// There is no room now.
    NoRoom,
}

impl AfXdp {
    /// Moves frames from the front of the burst onto the transmit ring, and wakes the kernel.
    pub(super) fn transmit_burst(
        &mut self,
        mut own: Option<&mut Pool>,
        pool: &mut Pool,
        burst: &mut Burst,
    ) -> io::Result<()> {
        self.reap(own.as_deref_mut().unwrap_or(pool));
        if self.is_down {
            // What was on the ring is tried again: it tells whether the device is back.
            self.is_down = false;
            self.kick()?;
        }
        let mut outcomes = ArrayVec::<Outcome, BURST>::new();
        let mut room = self.transmit.nb_free(RING) as usize;
        for frame in burst.iter_mut() {
            let outcome = match own.as_deref_mut() {
                _ if self.is_down => Outcome::Refused,
                Some(own) => self.copy_out(frame, own, &mut room),
                None => self.make_fit(frame, &mut room),
            };
            if outcome == Outcome::NoRoom {
                break;
            }
            self.counters.send_errors += u64::from(outcome == Outcome::Refused);
            outcomes.push(outcome);
        }
        let taken = outcomes.len();
        for (frame, outcome) in burst.drain(..taken).zip(outcomes) {
            match outcome {
                Outcome::InPlace => self.produce(frame.head, pool),
                _ => pool.release(frame),
            }
        }
        if self.is_down { Ok(()) } else { self.kick_waiting() }
    }

    /// Makes a frame of shared memory fit to be sent as it lies: checksum complete, tag in the bytes, at the place in its chunk
    /// that descriptors name.
    fn make_fit(&mut self, frame: &mut Frame, room: &mut usize) -> Outcome {
        let (offset, length) = (frame.head.offset(), frame.head.len());
        let total = length + if frame.vlan.is_some() { TAG } else { 0 };
        if frame.gso.is_some() || frame.segments() > 1 || length < MAC_ADDRESSES || total > self.capabilities.max_frame
        {
            return Outcome::Refused;
        }
        if *room == 0 {
            return Outcome::NoRoom;
        }
        if !self.complete(frame) {
            return Outcome::Refused;
        }
        *room -= 1;
        if offset == HEADROOM && frame.vlan.is_none() {
            return Outcome::InPlace;
        }
        let whole = frame.head.whole_mut();
        match frame.vlan.take() {
            None => whole.copy_within(offset..offset + length, HEADROOM),
            Some(tag) => {
                let mut start = [0; MAC_ADDRESSES + TAG];
                start[..MAC_ADDRESSES].copy_from_slice(&whole[offset..offset + MAC_ADDRESSES]);
                start[MAC_ADDRESSES..MAC_ADDRESSES + 2].copy_from_slice(&tag.protocol.to_be_bytes());
                start[MAC_ADDRESSES + 2..].copy_from_slice(&tag.control.to_be_bytes());
                whole.copy_within(offset + MAC_ADDRESSES..offset + length, HEADROOM + start.len());
                whole[HEADROOM..HEADROOM + start.len()].copy_from_slice(&start);
            }
        }
        frame.head.set_range(HEADROOM, total);
        Outcome::InPlace
    }

    /// Copies a frame into memory of the port's own, as one packet or as the segments of a super-frame: all of them or none.
    fn copy_out(&mut self, frame: &mut Frame, own: &mut Pool, room: &mut usize) -> Outcome {
        if frame.gso.is_none() && !self.complete(frame) {
            return Outcome::Refused;
        }
        let Some(plan) = Plan::new(frame) else { return Outcome::Refused };
        let count = plan.count();
        // More segments than the ring or the memory will ever hold are refused, or they would block the wire for good.
        if plan.longest() > self.capabilities.max_frame || count > (RING as usize).min(self.umem.count() / 4) {
            return Outcome::Refused;
        }
        if count > *room || count > own.available() {
            return Outcome::NoRoom;
        }
        for i in 0..count {
            let Some(mut chunk) = own.take() else { break };
            let length = plan.write(frame, i, &mut chunk.whole_mut()[HEADROOM..]);
            chunk.set_range(HEADROOM, length);
            self.produce(chunk, own);
        }
        *room -= count;
        self.counters.checksums_completed += if frame.gso.is_some() { count as u64 } else { 0 };
        Outcome::Copied
    }

    fn complete(&mut self, frame: &mut Frame) -> bool {
        if !matches!(frame.checksum, Checksum::Partial { .. }) {
            return true;
        }
        let completed = checksum::complete(frame);
        self.counters.checksums_completed += u64::from(completed);
        completed
    }

    /// Puts a chunk, whose bytes are at [`HEADROOM`], onto the transmit ring. The caller has seen room for it.
    fn produce(&mut self, chunk: Chunk, memory: &mut Pool) {
        let descriptor = self.umem.descriptor(chunk.index(), chunk.len());
        self.lend(chunk, Holder::Transmit, memory);
        // SAFETY: the chunk is of this UMEM and was just marked as lent; nobody touches it until its address comes back.
        let produced = unsafe { self.transmit.produce_one(&descriptor) };
        debug_assert_eq!(produced, 1);
    }

    /// Wakes the kernel when something waits on the transmit ring.
    pub(super) fn kick_waiting(&mut self) -> io::Result<()> {
        if self.transmitting == 0 || self.transmit.nb_free_exact() == RING {
            return Ok(());
        }
        self.kick()
    }

    /// Has the kernel send what is on the transmit ring.
    fn kick(&mut self) -> io::Result<()> {
        for _ in 0..KICKS {
            if !self.transmit.needs_wakeup() {
                return Ok(());
            }
            // SAFETY: no bytes are passed; the call only wakes the kernel.
            let result = unsafe {
                let socket = self.transmit.fd().as_raw_fd();
                libc::sendto(socket, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0)
            };
            if result >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
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
