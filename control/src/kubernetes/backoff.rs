//! Waiting between attempts.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Twice as long each time, up to a limit, less a random part of up to a half.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, next: first }
    }

    /// The next attempt is a first one.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait before the next attempt.
    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait - wait * Self::below(1_000) / 2_000
    }

    /// A random number below another: from the seeds that the standard library draws for its tables, which is enough for
    /// spreading attempts.
    pub(super) fn below(limit: u32) -> u32 {
        let random = RandomState::new().hash_one(0_u8);
        (random % u64::from(limit)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut seen = std::collections::BTreeSet::new();
        let mut backoff = Backoff::new(first, longest);
        let mut most = first;
        for _ in 0..50 {
            let wait = backoff.next_wait();
            assert!(wait >= most / 2 && wait <= most, "{wait:?} of {most:?}");
            most = (most * 2).min(longest);
            seen.insert(wait);
        }
        assert!(seen.len() > 10, "{seen:?}");
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }
}
