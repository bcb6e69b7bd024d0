//! Numbers that are the same in every run.

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, nearly uniform; 0 if `end` is 0.
    pub fn below(&mut self, end: u32) -> u32 {
        // The high half of a 32 × 32 bit product.
        (((self.next_u64() >> 32) * u64::from(end)) >> 32) as u32
    }

    /// One of the values, which are some.
    pub fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        // The first number of seed 0 in the reference implementation.
        assert_eq!(Random::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
        let draw = |seed| std::iter::repeat_with(move || seed).take(1).map(|seed| Random::new(seed).below(10)).next();
        assert!(draw(1).is_some_and(|number| number < 10));
        assert_eq!(Random::new(1).below(0), 0);
    }
}
