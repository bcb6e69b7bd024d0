//! Choosing flows: the order in which frames are of them.

use super::plan::Plan;
use super::spec::{Order, Spec};
use crate::random::Random;

/// Draws of a random order that are repeated (`DRAWS` in the XDP program).
pub(super) const DRAWS: u32 = 1 << 20;

/// What a random order starts from, in both generators.
pub(super) fn first_random(seed: u64) -> u64 {
    Random::new(seed).next_u64() | 1
}

/// The draws of Zipf's law, for both generators.
pub(super) fn draws(flows: u32, exponent: f64, seed: u64) -> impl Iterator<Item = u32> {
    let zipf = Zipf::new(flows, exponent);
    let mut random = Random::new(seed);
    (0..DRAWS).map(move |_| zipf.draw(&mut random))
}

/// Chooses flows as the XDP program does.
#[derive(Debug)]
pub(super) struct Picker {
    order: Order,
    flows: u64,
    space: u64,
    first: u64,
    new_per_second: u64,
    cursor: u64,
    random: u64,
    draws: Vec<u32>,
}

impl Picker {
    pub(super) fn new(spec: &Spec, plan: &Plan) -> Self {
        let flows = &spec.flows;
        let draws = match flows.order {
            Order::Zipf { exponent } => draws(flows.active, exponent, flows.seed).collect(),
            _ => Vec::new(),
        };
        Picker {
            order: flows.order,
            flows: flows.active.into(),
            space: plan.space,
            first: plan.first,
            new_per_second: flows.new_per_second.unwrap_or(0).into(),
            cursor: 0,
            random: first_random(flows.seed),
            draws,
        }
    }

    /// The next frame's flow, so many nanoseconds after the start.
    pub(super) fn next(&mut self, elapsed: u64) -> u64 {
        let picked = match self.order {
            Order::Sequential => {
                let picked = self.cursor;
                self.cursor = if picked + 1 == self.flows { 0 } else { picked + 1 };
                picked
            }
            Order::Uniform => {
                self.random ^= self.random << 13; // xorshift64 (Marsaglia 2003)
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                ((self.random >> 32) * self.flows) >> 32
            }
            Order::Zipf { .. } => {
                let drawn = self.draws[(self.cursor % u64::from(DRAWS)) as usize];
                self.cursor += 1;
                drawn.into()
            }
        };
        let moved = elapsed.saturating_mul(self.new_per_second) / 1_000_000_000;
        let flow = (self.first + moved) % self.space + picked;
        if flow >= self.space { flow - self.space } else { flow }
    }
}

/// A sampler of ranks from 0 by Zipf's law, by rejection-inversion: constant time and memory for any number of ranks (Hörmann,
/// Derflinger: "Rejection-inversion to generate variates from monotone discrete distributions", 1996).
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    ranks: f64,
    exponent: f64,
    /// The integral at 1.5, less 1, and behind the last rank.
    low: f64,
    high: f64,
    /// Within this distance of a rank it is taken without a further look.
    sure: f64,
}

impl Zipf {
    pub(super) fn new(ranks: u32, exponent: f64) -> Self {
        let mut zipf = Zipf { ranks: f64::from(ranks), exponent, low: 0.0, high: 0.0, sure: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.ranks + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// The weight of a rank, counted from 1.
    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the density.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        // (e^t - 1) / t, without loss near zero.
        log * if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 }
    }

    fn inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.exponent)).max(-1.0);
        (y * if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 }).exp()
    }

    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let unit = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let y = self.high + unit * (self.low - self.high);
            let x = self.inverse(y);
            let rank = x.round().clamp(1.0, self.ranks);
            if rank - x <= self.sure || y >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u32 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        for exponent in [0.5, 1.0, 1.3] {
            let (ranks, draws) = (50u32, 200_000);
            let zipf = Zipf::new(ranks, exponent);
            let mut random = Random::new(7);
            let mut counts = vec![0u32; ranks as usize];
            (0..draws).for_each(|_| counts[zipf.draw(&mut random) as usize] += 1);
            let total: f64 = (1..=ranks).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for (rank, count) in (1u32..).zip(&counts) {
                let expected = f64::from(draws) * f64::from(rank).powf(-exponent) / total;
                let off = (f64::from(*count) - expected).abs();
                assert!(off < 5.0 * expected.sqrt() + 1.0, "rank {rank}, exponent {exponent}: {count}, not {expected}");
            }
        }
        assert_eq!(Zipf::new(1, 1.0).draw(&mut Random::new(1)), 0);
    }
}
