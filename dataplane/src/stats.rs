//! Counters: written by one worker, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::packet::Direction;
use crate::verdict::DropReason;

/// A counter with a single writer, so that adding is a plain load and store, never a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the owning worker may.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes back what was counted too early. Only the owning worker may.
    pub fn retract(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(amount), Ordering::Relaxed);
    }

    /// Sets. Only the owning worker may.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads; anybody may.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a wire counts for one direction.
#[derive(Debug)]
pub struct DirectionStats {
    /// Frames that were taken from the port.
    pub received: Counter,
    /// Frames that were forwarded.
    pub forwarded: Counter,
    /// Packets of the medium that those stand for: a super-frame counts as its segments.
    pub forwarded_segments: Counter,
    /// Bytes that were forwarded.
    pub forwarded_bytes: Counter,
    /// Frames that asked the classifier: new flows and flows that were judged again.
    pub classified: Counter,
    /// Flows that were judged again because their policy epoch was older than the wire's.
    pub rejudged: Counter,
    /// Frames that were handed to the worker that owns their flow, which is not the one whose queue they came by.
    pub handed_over: Counter,
    dropped: Box<[Counter]>,
}

impl Default for DirectionStats {
    fn default() -> Self {
        DirectionStats {
            received: Counter::default(),
            forwarded: Counter::default(),
            forwarded_segments: Counter::default(),
            forwarded_bytes: Counter::default(),
            classified: Counter::default(),
            rejudged: Counter::default(),
            handed_over: Counter::default(),
            dropped: DropReason::ALL.iter().map(|_| Counter::default()).collect(),
        }
    }
}

impl DirectionStats {
    /// All counters, those of drops last.
    fn all(&self) -> impl Iterator<Item = &Counter> {
        let taken = [&self.received, &self.forwarded, &self.forwarded_segments, &self.forwarded_bytes];
        let asked = [&self.classified, &self.rejudged, &self.handed_over];
        taken.into_iter().chain(asked).chain(&self.dropped)
    }

    /// Frames that were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.dropped[reason as usize]
    }

    /// Frames that were dropped, for whatever reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}

/// What a port counts ([`crate::port::PortCounters`]), as everybody may read it: of the moment of the last
/// [`crate::worker::Command::CountPorts`].
#[derive(Debug, Default)]
pub struct PortStats {
    /// Frames that the device lost before they could be taken.
    pub receive_overflow: Counter,
    /// Frames that came but could not be taken over.
    pub receive_errors: Counter,
    /// Frames that the device refused for good.
    pub send_errors: Counter,
    /// Checksums that were completed in software.
    pub checksums_completed: Counter,
}

impl PortStats {
    fn all(&self) -> impl Iterator<Item = &Counter> {
        [&self.receive_overflow, &self.receive_errors, &self.send_errors, &self.checksums_completed].into_iter()
    }
}

/// What a wire counts.
#[derive(Debug, Default)]
pub struct WireStats {
    directions: [DirectionStats; 2],
    ports: [PortStats; 2],
    /// Flows that live now.
    pub flows: Counter,
}

impl WireStats {
    /// All counters, in an order that is always the same.
    fn all(&self) -> impl Iterator<Item = &Counter> {
        let directions = self.directions.iter().flat_map(DirectionStats::all);
        std::iter::once(&self.flows).chain(directions).chain(self.ports.iter().flat_map(PortStats::all))
    }

    /// What all counters say, in an order that is always the same: for [`WireStats::set_values`] in another process of the same
    /// program.
    pub fn values(&self) -> Vec<u64> {
        self.all().map(Counter::get).collect()
    }

    /// Sets all counters to what [`WireStats::values`] gave. Only for one that no worker counts in.
    pub fn set_values(&self, values: &[u64]) {
        self.all().zip(values).for_each(|(counter, &value)| counter.set(value));
    }

    /// Sets all counters to the sums of others. Only for one that no worker counts in.
    pub fn set_sum<'a>(&self, parts: impl Iterator<Item = &'a WireStats>) {
        let mut sums = vec![0u64; self.all().count()];
        for part in parts {
            for (sum, counter) in sums.iter_mut().zip(part.all()) {
                *sum += counter.get();
            }
        }
        for (counter, sum) in self.all().zip(sums) {
            counter.set(sum);
        }
    }

    /// One direction's counters.
    pub fn direction(&self, direction: Direction) -> &DirectionStats {
        &self.directions[direction as usize]
    }

    /// The counters of the port whose frames go in this direction: `Egress` for the inside port.
    pub fn port(&self, direction: Direction) -> &PortStats {
        &self.ports[direction as usize]
    }
}
