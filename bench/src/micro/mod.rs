//! Parts of the engine measured alone, each beside the library that does the same elsewhere. `cargo bench` and
//! `penstock-bench compare` call the same functions.
//!
//! * [`lists`]: rule lists of gateways, against `librte_acl`.
//! * [`flows`]: the flow table, against `rte_hash`.
//! * [`allocations`]: counting what the heap is asked for.
//!
//! Both sides run on one CPU and take turns, a round each; a ratio is taken within a round, and the median of the
//! ratios is what counts.

#![allow(unsafe_code)] // pinning to a CPU

pub mod allocations;
pub mod flows;
pub mod lists;

use serde::Serialize;

/// Figures of rounds, in the order in which they were taken.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    /// The median; of an even number the mean of the middle two; not a number if there are none.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// The least and the greatest.
    pub fn spread(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }

    /// Round by round, this divided by another.
    pub fn ratio(&self, other: &Rounds) -> Rounds {
        Rounds(self.0.iter().zip(&other.0).map(|(mine, other)| mine / other).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl std::fmt::Display for Rounds {
    /// Median and spread.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (least, greatest) = self.spread();
        write!(f, "{:.1} ({least:.1}–{greatest:.1})", self.median())
    }
}

/// Keeps this thread on a CPU, as the peers are. Says whether it could.
pub fn pin(cpu: usize) -> bool {
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET checks the number against the set's size; the kernel reads
    // the set while the call lasts.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set) == 0
    }
}

/// CPU time of this thread. What others do on the machine while it waits for the CPU is not in it; what they do to the
/// caches is. The peers measure by the same clock.
pub fn thread_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A seed that no run before had.
pub fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}

/// Bytes as megabytes.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_up_by_their_middle() {
        let rounds = Rounds(vec![3.0, 1.0, 100.0]);
        assert_eq!(rounds.median(), 3.0);
        assert_eq!(rounds.spread(), (1.0, 100.0));
        assert_eq!(Rounds(vec![1.0, 2.0, 3.0, 10.0]).median(), 2.5);
        assert_eq!(rounds.ratio(&Rounds(vec![1.0, 2.0, 50.0])).0, [3.0, 0.5, 2.0]);
        assert!(Rounds::default().median().is_nan());
        assert_eq!(rounds.to_string(), "3.0 (1.0–100.0)");
    }
}
