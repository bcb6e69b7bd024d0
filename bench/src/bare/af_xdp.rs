//! Two AF_XDP sockets over one UMEM. A frame is forwarded by writing the descriptor that the kernel put onto one socket's
//! receive ring onto the other's transmit ring; what was sent is offered for receiving again.

use std::os::fd::BorrowedFd;

use anyhow::Result;

use super::bpf::Redirect;
use super::xsk::{CHUNK, RING, Socket, Umem};
use super::{Bare, Counters, End};

/// Frames that are moved with one system call.
const BURST: u32 = 64;

/// Chunks that each socket has to receive into.
const OFFERED: u32 = RING / 2;

/// What of an address names the chunk.
const CHUNK_MASK: u64 = !(CHUNK - 1);

/// The sockets, and the programs that hand them their frames.
pub(super) struct Sockets {
    ends: [Socket; 2],
    _programs: [Redirect; 2],
    /// Last, so that it goes after its sockets.
    _umem: Umem,
}

impl Sockets {
    pub(super) fn open(ends: [&End; 2]) -> Result<Self> {
        let umem = Umem::new(2 * u64::from(OFFERED))?;
        let inside = ends[0].within(|| Socket::bind(ends[0].index()?, &umem, None))?;
        let first = inside.descriptor();
        let outside = ends[1].within(|| Socket::bind(ends[1].index()?, &umem, Some(first)))?;
        let mut sockets = [inside, outside];
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
        Ok(Sockets { ends: sockets, _programs: programs, _umem: umem })
    }
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
        bytes += u64::from(descriptor.len);
        to.transmit.put(i, descriptor);
    }
    if count > 0 {
        from.receive.pass(room);
        to.transmit.submit(room);
        counters.frames[direction] += u64::from(room);
        counters.bytes[direction] += bytes;
    }
    if !to.transmit.is_drained() {
        to.kick();
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
