//! Fragments follow their first one's verdict.
//!
//! A datagram's first fragment has the ports and is judged like any packet. Later ones take the first one's tuple and are
//! judged with it; those that arrive before it are held, within bounds. Nothing is reassembled: what the table
//! keeps of a datagram is which byte ranges have passed, so that no two fragments that disagree ever reach the
//! receiver (RFC 1858, RFC 3128, RFC 5722).
//!
//! ```text
//!  admit ─┬─ Whole, First ─▶ judge as a packet; after First: next_held until None, each judged with its tuple
//!         ├─ Later(tuple) ─▶ judge with that tuple
//!         ├─ Hold ─▶ hold
//!         └─ Err ─▶ drop                       every poll: next_discarded until None, each dropped with its reason
//! ```
//!
//! # Invariants
//! * All memory is set up at construction. A wire has at most half of the datagrams and half of the held frames, and makes
//!   room at its own cost, so that a flood on one wire leaves the others room.
//! * A held frame comes back exactly once: from `next_held` or from `next_discarded`.

mod datagram;
mod held;
#[cfg(test)]
mod tests;

use std::time::Duration;

use arrayvec::ArrayVec;
use bytemuck::{Pod, Zeroable};
use siphasher::sip::SipHasher13;

use crate::address::Address;
use crate::flow::{Crossing, Index};
use crate::frame::Frame;
use crate::packet::{Direction, Fragment, Packet, Tuple};
use crate::rules::WireId;
use crate::time::Time;
use crate::verdict::DropReason;

use datagram::{Datagram, MAX_RANGES};
use held::HeldFrames;

/// How long an IPv4 datagram's fragments are waited for (RFC 1122 section 3.3.2 leaves it open; Linux's default).
const LIFETIME_V4: Duration = Duration::from_secs(30);

/// The same for IPv6 (RFC 8200 section 4.5).
const LIFETIME_V6: Duration = Duration::from_secs(60);

/// How a table is set up.
#[derive(Clone, Debug)]
pub struct FragmentConfig {
    /// The key of the hash: random and secret in operation, fixed in tests.
    pub hash_key: [u8; 16],
    /// The most datagrams that are followed at once. About 700 bytes each.
    pub datagrams: usize,
    /// The most frames that are held at once: chunks that the pool is without.
    pub held: usize,
    /// The most frames that are held of one datagram.
    pub held_per_datagram: usize,
}

impl Default for FragmentConfig {
    /// 256 datagrams; 256 held frames, 64 a datagram: two 64 KiB datagrams that arrive last piece first on a link with
    /// an MTU of 1,280 bytes.
    fn default() -> Self {
        FragmentConfig { hash_key: [0; 16], datagrams: 256, held: 256, held_per_datagram: 64 }
    }
}

/// A datagram in pieces. Good until its last held frame has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramRef {
    slot: u32,
    generation: u32,
}

/// What a packet is to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not a fragment.
    Whole,
    /// A datagram's first fragment: judged like any packet. Then come the frames that waited for it, whatever its
    /// verdict ([`FragmentTable::next_held`]).
    First(DatagramRef),
    /// A later fragment of a datagram with this tuple.
    Later(Tuple),
    /// A later fragment whose first one has not come: to be held ([`FragmentTable::hold`]).
    Hold(DatagramRef),
}

/// A frame that waits, or waited, for its datagram's first fragment.
#[derive(Debug)]
pub struct Held {
    /// The frame.
    pub frame: Frame,
    /// The frame, read.
    pub packet: Packet,
    /// Its wire.
    pub wire: WireId,
    /// Which way it goes.
    pub direction: Direction,
}

/// What a datagram is found by (RFC 791, RFC 8200 section 4.5), within a direction of a wire. Without gaps, to be hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
struct DatagramKey {
    source: Address,
    destination: Address,
    id: u32,
    wire: u32,
    /// IPv4's protocol; 0 in IPv6, whose fragments need not agree on it.
    protocol: u16,
    direction: u16,
}

impl DatagramKey {
    fn new(crossing: &Crossing, packet: &Packet, id: u32) -> Self {
        DatagramKey {
            source: packet.source,
            destination: packet.destination,
            id,
            wire: crossing.wire.0,
            protocol: if packet.source.is_v4() { packet.protocol.0.into() } else { 0 },
            direction: crossing.direction as u16,
        }
    }
}

/// The datagrams in pieces of one worker.
pub struct FragmentTable {
    config: FragmentConfig,
    hasher: SipHasher13,
    index: Index,
    datagrams: Box<[Datagram]>,
    /// Whose each datagram is and until when; `None` is free. Beside the datagrams, to be searched quickly.
    owners: Box<[Option<Owner>]>,
    free: Vec<u32>,
    held: HeldFrames,
    /// No datagram runs out before.
    earliest: Time,
}

#[derive(Clone, Copy)]
struct Owner {
    wire: WireId,
    began: Time,
    ends: Time,
}

impl FragmentTable {
    /// An empty table.
    ///
    /// # Panics
    /// If a size of the configuration is 0.
    pub fn new(config: FragmentConfig) -> Self {
        assert!(config.datagrams > 0 && config.held > 0, "a fragment table has room for a datagram and a frame");
        FragmentTable {
            hasher: SipHasher13::new_with_key(&config.hash_key),
            index: Index::new(config.datagrams),
            datagrams: (0..config.datagrams).map(|_| Datagram::default()).collect(),
            owners: vec![None; config.datagrams].into_boxed_slice(),
            free: (0..config.datagrams as u32).rev().collect(),
            held: HeldFrames::new(config.held),
            earliest: Time(u64::MAX),
            config,
        }
    }

    /// Datagrams that are followed now.
    pub fn len(&self) -> usize {
        self.datagrams.len() - self.free.len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frames that are held now, those to be discarded included.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Notes a packet's place in its datagram, and says what to do with it.
    ///
    /// # Errors
    /// [`DropReason::FragmentOverlap`] for a fragment that overlaps another one, and everything after it;
    /// [`DropReason::FragmentLength`] alike for one whose end contradicts another's;
    /// [`DropReason::FragmentDuplicate`] for exactly the same range again; [`DropReason::FragmentOverflow`] for one more
    /// than a datagram may have.
    pub fn admit(&mut self, crossing: &Crossing, packet: &Packet) -> Result<Admission, DropReason> {
        let Some(piece) = packet.fragment.filter(|piece| piece.more || !piece.is_first()) else {
            return Ok(Admission::Whole);
        };
        let range = range(&piece)?;
        let slot = self.find_or_begin(crossing, packet, piece.id)?;
        let datagram = &mut self.datagrams[slot as usize];
        if let Err(reason) = datagram.add(range, piece.more) {
            if datagram.is_poisoned() {
                self.held.discard_all(&mut self.datagrams[slot as usize].held, reason);
            }
            return Err(reason);
        }
        if piece.is_first() {
            datagram.tuple = Some(packet.tuple());
        }
        let reference = DatagramRef { slot, generation: datagram.generation };
        let admission = match datagram.tuple {
            Some(_) if piece.is_first() => Admission::First(reference),
            Some(tuple) => Admission::Later(tuple),
            None => Admission::Hold(reference),
        };
        self.end_if_complete(slot);
        Ok(admission)
    }

    /// Keeps a frame until its datagram's first fragment comes.
    ///
    /// # Errors
    /// The frame, and why it is to be dropped, when there is no room: [`DropReason::FragmentOverflow`]. The wire's oldest
    /// datagram that holds frames then gives them up, for those that come later.
    pub fn hold(
        &mut self,
        datagram: DatagramRef,
        crossing: &Crossing,
        frame: Frame,
        packet: &Packet,
    ) -> Result<(), (Frame, DropReason)> {
        let slot = datagram.slot as usize;
        let Some(kept) = self.datagrams.get_mut(slot).filter(|kept| kept.generation == datagram.generation) else {
            return Err((frame, DropReason::FragmentTimeout));
        };
        if kept.held.count as usize >= self.config.held_per_datagram {
            return Err((frame, DropReason::FragmentOverflow));
        }
        let quota = self.config.held.div_ceil(2);
        if self.held.is_full() || self.held.of_wire(crossing.wire) >= quota {
            self.give_up_held(crossing.wire, slot);
            return Err((frame, DropReason::FragmentOverflow));
        }
        let held = Held { frame, packet: *packet, wire: crossing.wire, direction: crossing.direction };
        self.held.push(&mut kept.held, held);
        Ok(())
    }

    /// The next frame, in the order of arrival, that waited for a first fragment that has come, with the tuple
    /// to judge it by; `None` when there is no more.
    pub fn next_held(&mut self, datagram: DatagramRef) -> Option<(Held, Tuple)> {
        let kept = self.datagrams.get_mut(datagram.slot as usize)?;
        if kept.generation != datagram.generation {
            return None;
        }
        let tuple = kept.tuple?;
        let held = self.held.pop(&mut kept.held);
        self.end_if_complete(datagram.slot);
        held.map(|held| (held, tuple))
    }

    /// The next held frame that is to be dropped, and why: its datagram has run out ([`DropReason::FragmentTimeout`]),
    /// was found to be bad, or had to make room. To be called at every turn, until `None`.
    pub fn next_discarded(&mut self, now: Time) -> Option<(Held, DropReason)> {
        if now >= self.earliest {
            self.expire(now);
        }
        self.held.pop_discarded()
    }

    /// Gives up everything: all held frames come back from [`FragmentTable::next_discarded`].
    pub fn clear(&mut self) {
        for slot in 0..self.datagrams.len() {
            if self.owners[slot].is_some() {
                self.end(slot as u32, DropReason::FragmentTimeout);
            }
        }
    }

    /// Gives up a wire that is gone.
    pub fn clear_wire(&mut self, wire: WireId) {
        for slot in 0..self.datagrams.len() {
            if self.owners[slot].is_some_and(|owner| owner.wire == wire) {
                self.end(slot as u32, DropReason::FragmentTimeout);
            }
        }
    }

    /// When [`FragmentTable::next_discarded`] has something to do next; `None` for never.
    pub fn next_deadline(&self) -> Option<Time> {
        match self.held.has_discarded() {
            true => Some(Time::ZERO),
            false => (!self.is_empty()).then_some(self.earliest),
        }
    }

    fn find_or_begin(&mut self, crossing: &Crossing, packet: &Packet, id: u32) -> Result<u32, DropReason> {
        let key = DatagramKey::new(crossing, packet, id);
        let hash = self.hasher.hash(bytemuck::bytes_of(&key));
        if let Some(slot) = self.index.find(hash, |slot| self.datagrams[slot as usize].key == key) {
            match self.owners[slot as usize] {
                Some(owner) if crossing.now < owner.ends => return Ok(slot),
                _ => self.end(slot, DropReason::FragmentTimeout),
            }
        }
        self.make_room(crossing.wire);
        let slot = self.free.last().copied().ok_or(DropReason::FragmentOverflow)?;
        if !self.index.insert(hash, slot) {
            return Err(DropReason::FragmentOverflow);
        }
        self.free.pop();
        let ends = crossing.now + if packet.source.is_v4() { LIFETIME_V4 } else { LIFETIME_V6 };
        self.owners[slot as usize] = Some(Owner { wire: crossing.wire, began: crossing.now, ends });
        self.earliest = self.earliest.min(ends);
        self.datagrams[slot as usize].begin(key, hash);
        Ok(slot)
    }

    /// Sees to it that a datagram can be added: a wire with its share loses its own oldest, else all lose the oldest.
    fn make_room(&mut self, wire: WireId) {
        let quota = self.datagrams.len().div_ceil(2);
        let own = |owner: &Owner| owner.wire == wire;
        let oldest = if self.len() >= quota && self.owners.iter().flatten().filter(|owner| own(owner)).count() >= quota
        {
            self.oldest(own)
        } else if self.free.is_empty() {
            self.oldest(|_| true)
        } else {
            None
        };
        if let Some(slot) = oldest {
            self.end(slot, DropReason::FragmentOverflow);
        }
    }

    fn oldest(&self, which: impl Fn(&Owner) -> bool) -> Option<u32> {
        let candidates = self.owners.iter().enumerate().filter_map(|(slot, owner)| Some((slot, (*owner)?)));
        let oldest = candidates.filter(|(_, owner)| which(owner)).min_by_key(|(_, owner)| owner.began);
        oldest.map(|(slot, _)| slot as u32)
    }

    /// Discards what the wire's oldest datagram that holds frames holds, another one than `except`.
    fn give_up_held(&mut self, wire: WireId, except: usize) {
        let holds = |slot: &usize| self.datagrams[*slot].held.count > 0 && *slot != except;
        let owned = |slot: &usize| self.owners[*slot].is_some_and(|owner| owner.wire == wire);
        let oldest = (0..self.datagrams.len()).filter(owned).filter(holds);
        if let Some(slot) = oldest.min_by_key(|slot| self.owners[*slot].map(|owner| owner.began)) {
            self.end(slot as u32, DropReason::FragmentOverflow);
        }
    }

    fn expire(&mut self, now: Time) {
        self.earliest = Time(u64::MAX);
        for slot in 0..self.datagrams.len() {
            match self.owners[slot] {
                Some(owner) if owner.ends <= now => self.end(slot as u32, DropReason::FragmentTimeout),
                Some(owner) => self.earliest = self.earliest.min(owner.ends),
                None => {}
            }
        }
    }

    /// A datagram whose fragments have all passed needs no memory: its identification may soon stand for another one.
    fn end_if_complete(&mut self, slot: u32) {
        let datagram = &self.datagrams[slot as usize];
        if datagram.is_complete() && datagram.tuple.is_some() && datagram.held.count == 0 {
            self.end(slot, DropReason::FragmentTimeout);
        }
    }

    /// Frees a datagram; what it holds is discarded for this reason.
    fn end(&mut self, slot: u32, reason: DropReason) {
        let datagram = &mut self.datagrams[slot as usize];
        self.held.discard_all(&mut datagram.held, reason);
        self.index.remove(datagram.hash, slot);
        datagram.generation = datagram.generation.wrapping_add(1);
        self.owners[slot as usize] = None;
        self.free.push(slot);
    }
}

/// A fragment's first byte and the one after its last.
fn range(piece: &Fragment) -> Result<(u16, u16), DropReason> {
    let end = piece.offset.saturating_add(piece.length);
    if piece.length == 0 || (piece.more && !piece.length.is_multiple_of(8)) {
        return Err(DropReason::FragmentLength);
    }
    match (u16::try_from(piece.offset), u16::try_from(end)) {
        (Ok(start), Ok(end)) => Ok((start, end)),
        _ => Err(DropReason::FragmentLength),
    }
}

/// Byte ranges of a datagram, in order.
type Ranges = ArrayVec<(u16, u16), MAX_RANGES>;
