//! What rounds are summed up to: medians with their spread, and ratios taken round by round.

use serde::{Deserialize, Serialize};

/// The samples of one row, one a round, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(pub Vec<f64>);

/// A median and what it was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle sample; the mean of the two in the middle where the number is even.
    pub median: f64,
    /// The smallest sample.
    pub least: f64,
    /// The largest sample.
    pub most: f64,
    /// How many samples there are.
    pub rounds: usize,
}

impl Samples {
    /// The median and the spread; `None` without samples.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Summary { median, least, most, rounds: sorted.len() })
    }

    /// The ratio to another row, round by round: what disturbs the machine for a while disturbs both sides of a
    /// round, and cancels. Rounds in which the other has nothing or zero are left out.
    pub fn ratio(&self, to: &Samples) -> Samples {
        let pairs = self.0.iter().zip(&to.0).filter(|(_, other)| **other != 0.0);
        Samples(pairs.map(|(one, other)| one / other).collect())
    }
}

/// The value below which `share` (0 to 1) of the sorted values lie, by the nearest rank; `None` without values.
pub fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_has_its_spread() {
        let summary = Samples(vec![5.0, 1.0, 3.0]).summary().unwrap();
        assert_eq!(summary, Summary { median: 3.0, least: 1.0, most: 5.0, rounds: 3 });
        assert_eq!(Samples(vec![4.0, 1.0, 3.0, 2.0]).summary().unwrap().median, 2.5);
        assert_eq!(Samples::default().summary(), None);
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        // The machine was half as fast in the second round: the ratio does not see it, that of the medians would.
        let (one, other) = (Samples(vec![90.0, 45.0, 90.0]), Samples(vec![100.0, 50.0, 100.0]));
        assert_eq!(one.ratio(&other), Samples(vec![0.9, 0.9, 0.9]));
        assert_eq!(Samples(vec![1.0, 2.0]).ratio(&Samples(vec![0.0, 4.0])), Samples(vec![0.5]));
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 0.5), Some(50));
        assert_eq!(percentile(&values, 0.99), Some(99));
        assert_eq!(percentile(&values, 1.0), Some(100));
        assert_eq!(percentile(&values, 0.0), Some(1));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
