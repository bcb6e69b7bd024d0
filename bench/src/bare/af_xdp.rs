//! Two AF_XDP sockets over one UMEM. A frame is forwarded by writing the descriptor that the kernel put onto one socket's
//! receive ring onto the other's transmit ring; what was sent is offered for receiving again.

use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use dataplane::port::xsk::{RING, Region, Socket};

use super::bpf::Redirect;
use super::{Bare, Counters, End};

/// Frames that are moved with one system call.
const BURST: u32 = 64;

/// Chunks that each socket has to receive into.
const OFFERED: u32 = RING / 2;

/// Bytes of a chunk: any MTU that XDP takes on veth.
const CHUNK: u64 = 4096;

/// What of an address names the chunk.
const CHUNK_MASK: u64 = !(CHUNK - 1);

/// The sockets, and the programs that hand them their frames.
pub(super) struct Sockets {
    ends: [Socket; 2],
    _programs: [Redirect; 2],
    /// Last, so that it goes after its sockets.
    _memory: Region,
}

impl Sockets {
    pub(super) fn open(ends: [&End; 2]) -> Result<Self> {
        let memory = Region::new(2 * OFFERED as usize, CHUNK as usize).context("mapping the UMEM")?;
        let mut sockets = [bind(ends[0], &memory)?, bind(ends[1], &memory)?];
        let mut next = 0;
        for socket in &mut sockets {
            for i in 0..socket.fill.room(OFFERED) {
                socket.fill.put(i, next);
                next += CHUNK;
            }
            socket.fill.submit(OFFERED);
        }
        let attach = |i: usize| {
            let descriptor = sockets[i].descriptor();
            ends[i].within(|| Redirect::attach(ends[i].index()?, descriptor))
        };
        let programs = [attach(0)?, attach(1)?];
        Ok(Sockets { ends: sockets, _programs: programs, _memory: memory })
    }
}

/// Binds a socket to queue 0 of a device. The kernel frees a queue a moment after its last socket was closed.
fn bind(end: &End, memory: &Region) -> Result<Socket> {
    end.within(|| {
        let index = end.index()?;
        for _ in 0..10 {
            match Socket::bind(index, 0, memory) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => thread::sleep(Duration::from_millis(20)),
                made => return made.context("binding the AF_XDP socket"),
            }
        }
        anyhow::bail!("queue 0 of {} is taken", end.device)
    })
}

impl Bare for Sockets {
    fn round(&mut self, counters: &mut Counters) -> usize {
        let [inside, outside] = &mut self.ends;
        (forward(inside, outside, counters, 0) + forward(outside, inside, counters, 1)) as usize
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.ends[0].descriptor(), self.ends[1].descriptor()]
    }
}

/// Moves one burst from one socket to the other.
fn forward(from: &mut Socket, to: &mut Socket, counters: &mut Counters, direction: usize) -> u32 {
    recycle(to, from);
    let count = from.receive.filled(BURST);
    let room = to.transmit.room(count);
    let mut bytes = 0;
    for i in 0..room {
        let descriptor = from.receive.get(i);
        bytes += u64::from(descriptor.length);
        to.transmit.put(i, descriptor);
    }
    if count > 0 {
        from.receive.pass(room);
        to.transmit.submit(room);
        counters.frames[direction] += u64::from(room);
        counters.bytes[direction] += bytes;
    }
    if !to.transmit.is_drained() {
        // A device that is full takes the rest with the next kick.
        let _full = to.wake_transmit();
    }
    count
}

/// Offers what `sent` has sent to `to` for receiving: all chunks of a direction come back to where they started.
fn recycle(sent: &mut Socket, to: &mut Socket) {
    let done = sent.completion.filled(RING);
    let room = to.fill.room(done);
    for i in 0..room {
        to.fill.put(i, sent.completion.get(i) & CHUNK_MASK);
    }
    if room > 0 {
        sent.completion.pass(room);
        to.fill.submit(room);
    }
}
