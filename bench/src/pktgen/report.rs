//! What a generator did.

use std::fmt;
use std::ops::{AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a generator did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Frames that were given to the device.
    pub offered: u64,
    /// Of these, those that the device did not take (its transmit drops during the run; a veth whose peer's ring is full).
    pub refused: u64,
    /// Bytes of the frames offered.
    pub bytes: u64,
    /// From the first frame to the last.
    pub elapsed: Duration,
    /// What the generator's thread used, in the program and in the kernel. On one CPU the kernel's part may hold work of the
    /// device under test: frames are delivered in the sender's context.
    pub user_time: Duration,
    /// In the kernel.
    pub system_time: Duration,
    /// The most that a frame was sent after its time, at a fixed rate.
    pub latest: Duration,
    /// The sizes that were sent, after raising those too small.
    pub sizes: Vec<u16>,
}

impl Report {
    /// Frames that the device took.
    pub fn sent(&self) -> u64 {
        self.offered - self.refused.min(self.offered)
    }

    /// Frames offered a second.
    pub fn offered_per_second(&self) -> f64 {
        per_second(self.offered, self.elapsed)
    }

    /// Frames taken a second.
    pub fn sent_per_second(&self) -> f64 {
        per_second(self.sent(), self.elapsed)
    }

    /// Bits offered a second.
    pub fn bits_per_second(&self) -> f64 {
        8.0 * per_second(self.bytes, self.elapsed)
    }
}

/// How far a generator or a receiver is, for whoever shows it to people.
#[derive(Debug, Default)]
pub struct Progress {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, frames: u64, bytes: u64) {
        self.frames.store(frames, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// How many a second; 0 in no time.
pub(super) fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "offered    {} frames in {:.3} s: {} frames/s, {}bit/s",
            self.offered,
            self.elapsed.as_secs_f64(),
            Scaled(self.offered_per_second()),
            Scaled(self.bits_per_second())
        )?;
        writeln!(f, "taken      {} frames: {} frames/s", self.sent(), Scaled(self.sent_per_second()))?;
        write!(
            f,
            "CPU        {:.2} s user, {:.2} s system",
            self.user_time.as_secs_f64(),
            self.system_time.as_secs_f64()
        )
    }
}

/// A number for people, with a decimal prefix.
#[derive(Clone, Copy, Debug)]
pub struct Scaled(pub f64);

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, prefix) = match self.0 {
            value if value >= 1e9 => (value / 1e9, "G"),
            value if value >= 1e6 => (value / 1e6, "M"),
            value if value >= 1e3 => (value / 1e3, "k"),
            value => (value, ""),
        };
        write!(f, "{value:.3} {prefix}")
    }
}

/// What a counting [`super::Sink`] has seen since it was opened. Subtract an earlier reading for what came between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCounters {
    /// UDP and TCP frames, counted and dropped.
    pub frames: u64,
    /// Their bytes, without the frame check sequence.
    pub bytes: u64,
    /// Of these, frames with a stamp.
    pub stamped: u64,
    /// Stamped frames that came after a later one of their group (RFC 4737's reordered singletons).
    pub reordered: u64,
    /// Stamped frames that had come before.
    pub duplicates: u64,
    /// Stamped frames so late that it can't be told whether they are duplicates (beyond the window of their group).
    pub stale: u64,
    /// Frames of any other kind, left to the kernel: ARP, neighbour discovery and the like.
    pub passed: u64,
}

impl SinkCounters {
    /// Different frames that came.
    pub fn distinct(&self) -> u64 {
        self.frames - self.duplicates
    }
}

impl AddAssign for SinkCounters {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.stamped += other.stamped;
        self.reordered += other.reordered;
        self.duplicates += other.duplicates;
        self.stale += other.stale;
        self.passed += other.passed;
    }
}

impl Sub for SinkCounters {
    type Output = SinkCounters;

    fn sub(self, earlier: Self) -> Self {
        SinkCounters {
            frames: self.frames - earlier.frames,
            bytes: self.bytes - earlier.bytes,
            stamped: self.stamped - earlier.stamped,
            reordered: self.reordered - earlier.reordered,
            duplicates: self.duplicates - earlier.duplicates,
            stale: self.stale - earlier.stale,
            passed: self.passed - earlier.passed,
        }
    }
}
