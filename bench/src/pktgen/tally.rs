//! Loss, reordering and duplicates, counted from stamps.

use super::frame::Stamp;
use super::report::SinkCounters;

/// How far back a group remembers which sequence numbers came.
const WINDOW: u32 = 1024;

/// A group's sequence numbers.
#[derive(Clone, Debug)]
struct Group {
    is_started: bool,
    /// After the highest that came.
    next: u32,
    /// Bit `n % WINDOW` says whether `n` came, for the last [`WINDOW`] before `next`.
    seen: [u64; WINDOW as usize / 64],
}

impl Group {
    const NEW: Group = Group { is_started: false, next: 0, seen: [0; WINDOW as usize / 64] };

    fn bit(sequence: u32) -> (usize, u64) {
        let bit = sequence % WINDOW;
        (bit as usize / 64, 1 << (bit % 64))
    }

    fn advance(&mut self, sequence: u32, ahead: u32) {
        if ahead >= WINDOW {
            self.seen = [0; WINDOW as usize / 64];
        } else {
            for skipped in 0..ahead {
                let (word, bit) = Self::bit(self.next.wrapping_add(skipped));
                self.seen[word] &= !bit;
            }
        }
        let (word, bit) = Self::bit(sequence);
        self.seen[word] |= bit;
        self.next = sequence.wrapping_add(1);
    }
}

/// Counts stamped frames by the sequences of their groups.
///
/// A frame is *reordered* when one with a higher number came before it (RFC 4737 section 3.3). It is a *duplicate* when its number
/// came before; that is known of the last 1,024 numbers of a group, and what is later than that is *stale*. What is lost is what
/// was sent and is not among the different frames that came: it needs no sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    groups: Vec<Group>,
    pub(super) counters: SinkCounters,
}

impl Tally {
    /// Counts a frame of this length, whose stamp was found or not.
    pub(super) fn count(&mut self, length: usize, stamp: Option<Stamp>) {
        self.counters.frames += 1;
        self.counters.bytes += length as u64;
        let Some(stamp) = stamp else { return };
        self.counters.stamped += 1;
        let index = usize::from(stamp.group);
        if index >= self.groups.len() {
            self.groups.resize(index + 1, Group::NEW);
        }
        let group = &mut self.groups[index];
        if !group.is_started {
            group.is_started = true;
            group.advance(stamp.sequence, WINDOW);
            return;
        }
        let ahead = stamp.sequence.wrapping_sub(group.next);
        if ahead < 1 << 31 {
            group.advance(stamp.sequence, ahead);
            return;
        }
        let (word, bit) = Group::bit(stamp.sequence);
        if ahead.wrapping_neg() > WINDOW {
            self.counters.stale += 1;
            self.counters.reordered += 1;
        } else if group.seen[word] & bit != 0 {
            self.counters.duplicates += 1;
        } else {
            group.seen[word] |= bit;
            self.counters.reordered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::random::Random;

    #[test]
    fn counts_agree_with_remembering_everything() {
        let seed = std::env::var("PENSTOCK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(11);
        println!("PENSTOCK_SEED={seed}");
        let mut random = Random::new(seed);
        let mut tally = Tally::default();
        let mut plain: HashMap<u16, (HashSet<u64>, u64)> = HashMap::new();
        let mut expected = SinkCounters::default();
        // Near the end of 32 bits, so that numbers wrap; two groups; now and then a gap, a step back, the same again.
        let start = u64::from(u32::MAX) - 5_000;
        let mut next = [start; 2];
        for _ in 0..50_000 {
            let group = random.below(2);
            let at = &mut next[group as usize];
            let sequence = match random.below(20) {
                0 => at.saturating_sub(u64::from(random.below(120)) + 1).max(start),
                1 => {
                    *at += u64::from(random.below(1_500));
                    *at
                }
                _ => *at,
            };
            *at = (*at).max(sequence + 1);
            let (seen, highest) = plain.entry(group as u16).or_insert((HashSet::new(), 0));
            expected.frames += 1;
            expected.stamped += 1;
            expected.bytes += 60;
            if !seen.insert(sequence) {
                expected.duplicates += 1;
            } else if sequence < *highest {
                expected.reordered += 1;
            }
            *highest = (*highest).max(sequence);
            tally.count(60, Some(Stamp { group: group as u16, sequence: sequence as u32, time: 0 }));
        }
        assert!(expected.duplicates > 100 && expected.reordered > 100, "{expected:?}");
        assert_eq!(tally.counters, expected);
    }

    #[test]
    fn what_is_too_late_to_tell_is_stale() {
        let mut tally = Tally::default();
        for sequence in [0, 5_000, 3_000, 3_976, 3_977] {
            tally.count(60, Some(Stamp { group: 3, sequence, time: 0 }));
        }
        assert_eq!((tally.counters.stale, tally.counters.reordered, tally.counters.duplicates), (2, 3, 0));
    }
}
