//! [`HeldFrames`]: frames that wait, in lists through one array.

use super::Held;
use crate::rules::WireId;
use crate::verdict::DropReason;

/// End of a list.
const NONE: u32 = u32::MAX;

/// Frames in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldList {
    first: u32,
    last: u32,
    pub(super) count: u32,
}

impl Default for HeldList {
    fn default() -> Self {
        HeldList { first: NONE, last: NONE, count: 0 }
    }
}

struct Place {
    held: Option<Held>,
    next: u32,
    /// Why it is to be dropped, on the list of the discarded.
    reason: DropReason,
}

/// All frames that are held.
pub(super) struct HeldFrames {
    places: Box<[Place]>,
    free: Vec<u32>,
    discarded: HeldList,
}

impl HeldFrames {
    pub(super) fn new(capacity: usize) -> Self {
        let place = |_| Place { held: None, next: NONE, reason: DropReason::FragmentTimeout };
        HeldFrames {
            places: (0..capacity).map(place).collect(),
            free: (0..capacity as u32).rev().collect(),
            discarded: HeldList::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Frames of a wire.
    pub(super) fn of_wire(&self, wire: WireId) -> usize {
        self.places.iter().filter_map(|place| place.held.as_ref()).filter(|held| held.wire == wire).count()
    }

    /// Adds a frame to the end of a list. Only while not full.
    pub(super) fn push(&mut self, list: &mut HeldList, held: Held) {
        let Some(at) = self.free.pop() else { return };
        self.places[at as usize] = Place { held: Some(held), next: NONE, reason: DropReason::FragmentTimeout };
        self.append(list, at, at, 1);
    }

    /// Takes the first frame of a list.
    pub(super) fn pop(&mut self, list: &mut HeldList) -> Option<Held> {
        let place = self.places.get_mut(list.first as usize)?;
        let held = place.held.take();
        self.free.push(list.first);
        list.first = place.next;
        list.count -= 1;
        if list.count == 0 {
            *list = HeldList::default();
        }
        held
    }

    /// Moves a list to the discarded frames.
    pub(super) fn discard_all(&mut self, list: &mut HeldList, reason: DropReason) {
        let mut at = list.first;
        while let Some(place) = self.places.get_mut(at as usize) {
            place.reason = reason;
            at = place.next;
        }
        let mut discarded = self.discarded;
        if list.count > 0 {
            self.append(&mut discarded, list.first, list.last, list.count);
        }
        self.discarded = discarded;
        *list = HeldList::default();
    }

    pub(super) fn has_discarded(&self) -> bool {
        self.discarded.count > 0
    }

    /// Takes the first discarded frame, and why it is to be dropped.
    pub(super) fn pop_discarded(&mut self) -> Option<(Held, DropReason)> {
        let reason = self.places.get(self.discarded.first as usize)?.reason;
        let mut discarded = self.discarded;
        let held = self.pop(&mut discarded);
        self.discarded = discarded;
        held.map(|held| (held, reason))
    }

    /// Appends a chain of places to a list.
    fn append(&mut self, list: &mut HeldList, first: u32, last: u32, count: u32) {
        match self.places.get_mut(list.last as usize) {
            Some(place) => place.next = first,
            None => list.first = first,
        }
        list.last = last;
        list.count += count;
    }
}
