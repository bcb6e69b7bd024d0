//! How long frames take.
//!
//! A frame's stamp says when it was *due*, by the fixed rate, not when the generator came to sending it: what was held up counts with
//! its whole delay (no coordinated omission). So a rate that the device or the generator cannot keep shows as ever growing
//! latency.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A distribution of times, to three digits.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Histogram<u64>);

/// What is said of a distribution, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// How many frames.
    pub count: u64,
    /// The least.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// Half of all frames took no longer.
    pub p50: u64,
    /// Of 10, 9.
    pub p90: u64,
    /// Of 100, 99.
    pub p99: u64,
    /// Of 1,000, 999.
    pub p999: u64,
    /// Of 10,000, 9,999.
    pub p9999: u64,
    /// The most.
    pub max: u64,
}

impl Latency {
    /// Without any time.
    pub fn new() -> Self {
        // Up to a minute; what takes longer counts as that.
        Latency(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are right"))
    }

    /// From times with how many frames took each.
    pub fn from_bins(bins: &[(u64, u64)]) -> Self {
        let mut latency = Latency::new();
        bins.iter().for_each(|&(time, count)| latency.0.saturating_record_n(time.max(1), count));
        latency
    }

    /// Adds a time in nanoseconds.
    pub fn record(&mut self, time: u64) {
        self.0.saturating_record(time.max(1));
    }

    /// Times in rising order with how many frames took each, in nanoseconds: for a plot.
    pub fn bins(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|bin| (bin.value_iterated_to(), bin.count_since_last_iteration())).collect()
    }

    /// The figures.
    pub fn summary(&self) -> LatencySummary {
        let at = |quantile| self.0.value_at_quantile(quantile);
        if self.0.is_empty() {
            return LatencySummary::default();
        }
        LatencySummary {
            count: self.0.len(),
            min: self.0.min(),
            mean: self.0.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.0.max(),
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

impl fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "latency    min {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, p99.99 {:.1}, max {:.1} µs ({} frames)",
            us(self.min),
            us(self.p50),
            us(self.p90),
            us(self.p99),
            us(self.p999),
            us(self.p9999),
            us(self.max),
            self.count
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_distribution() {
        let mut latency = Latency::new();
        (1..=10_000u64).for_each(|time| latency.record(time * 1_000));
        let summary = latency.summary();
        let near = |found: u64, expected: u64| found.abs_diff(expected) * 500 <= expected;
        assert!(
            near(summary.p50, 5_000_000) && near(summary.p999, 9_990_000) && near(summary.max, 10_000_000),
            "{summary}"
        );
        assert_eq!(summary.count, 10_000);
        assert_eq!(Latency::from_bins(&latency.bins()).summary().count, 10_000);
        assert_eq!(Latency::new().summary(), LatencySummary::default());
        latency.record(u64::MAX);
        assert!(latency.summary().max >= 59_000_000_000);
    }
}
