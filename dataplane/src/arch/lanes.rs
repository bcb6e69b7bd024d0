//! Eight rules compared with a packet at a time, and bits gathered from a word: what looking up a rule list
//! ([`crate::classify::list`]) is made of.
//!
//! The processor is asked once a burst ([`run`]): the whole walk is compiled for each kind ([`Wide`]), so that nothing in it
//! is a call.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lanes in a block.
pub const LANES: usize = 8;

/// Words of a lane in a block: seven that are compared, and its rank.
pub const LANE_WORDS: usize = 8;

/// Words that have to be readable behind the last block of a slice: eight lanes are read where there are fewer.
pub const PADDING: usize = LANES;

/// A packet: source, destination, source port and destination port (high and low half), TCP flags and protocol
/// (second and lowest byte).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key(pub [u32; 4]);

impl Key {
    /// The key as two words, the first field highest.
    #[inline(always)]
    pub fn bits(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)]
    }
}

/// What a kind of processor does quickly.
pub trait Wide: Copy {
    /// The bits of `word` that `mask` has, moved together at the low end (x86's PEXT).
    fn gather(self, word: u64, mask: u64) -> u64;

    /// Starts fetching the cache line of a word; there need be no such word.
    fn prefetch(self, words: &[u32], index: usize);

    /// Which of the `lanes` lanes (1 to 8) in the block at `offset` match: a bit each. A block is one field after the other,
    /// `lanes` words of each: source, addresses behind it, destination, addresses behind it, both first ports, both numbers
    /// of ports behind, flags and protocol with their mask in the high half; then the ranks, which are not looked at.
    /// `words` reaches [`PADDING`] beyond it.
    ///
    /// # Panics
    /// If it does not.
    fn matching(self, words: &[u32], offset: usize, lanes: usize, key: &Key) -> u32;
}

/// Something to be done with the means of this processor.
pub trait Job {
    /// What comes of it.
    type Output;

    /// Does it. Has to be `#[inline(always)]`, or it is compiled for no processor in particular.
    fn run<W: Wide>(self, wide: W) -> Self::Output;
}

/// Does a job with the best means of this processor.
#[inline]
pub fn run<J: Job>(job: J) -> J::Output {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("popcnt") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { run_avx2(job) };
    }
    job.run(Portable)
}

/// # Safety
/// The processor has AVX2, BMI2 and POPCNT.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2,popcnt")]
unsafe fn run_avx2<J: Job>(job: J) -> J::Output {
    job.run(Avx2(()))
}

/// Any processor.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Wide for Portable {
    #[inline(always)]
    fn gather(self, word: u64, mut mask: u64) -> u64 {
        let (mut gathered, mut next) = (0, 0);
        while mask != 0 {
            gathered |= (word >> mask.trailing_zeros() & 1) << next;
            mask &= mask - 1;
            next += 1;
        }
        gathered
    }

    #[inline(always)]
    fn prefetch(self, _: &[u32], _: usize) {}

    #[inline(always)]
    fn matching(self, words: &[u32], offset: usize, lanes: usize, key: &Key) -> u32 {
        let [source, destination, ports, kind] = key.0;
        let block = &words[offset..offset + LANE_WORDS * lanes];
        let mut matching = 0;
        for lane in 0..lanes {
            let word = |field: usize| block[field * lanes + lane];
            let port = |shift: u32| {
                let [port, first, span] = [ports, word(4), word(5)].map(|pair| (pair >> shift) as u16);
                port.wrapping_sub(first) <= span
            };
            let matches = source.wrapping_sub(word(0)) <= word(1)
                && destination.wrapping_sub(word(2)) <= word(3)
                && port(16)
                && port(0)
                && (kind ^ word(6)) & (word(6) >> 16) == 0;
            matching |= u32::from(matches) << lane;
        }
        matching
    }
}

/// A processor with AVX2, BMI2 and POPCNT. Made in [`run`] alone, which has looked.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Wide for Avx2 {
    #[inline(always)]
    fn gather(self, word: u64, mask: u64) -> u64 {
        // SAFETY: who has an `Avx2` has BMI2.
        unsafe { _pext_u64(word, mask) }
    }

    #[inline(always)]
    fn prefetch(self, words: &[u32], index: usize) {
        // SAFETY: prefetching reads nothing that the program could see, at whatever address; the pointer is not used.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(index).cast()) }
    }

    #[inline(always)]
    fn matching(self, words: &[u32], offset: usize, lanes: usize, key: &Key) -> u32 {
        let lanes = lanes.min(LANES);
        let block = &words[offset..offset + (LANE_WORDS - 1) * lanes + PADDING];
        let [source, destination, ports, kind] = key.0;
        // SAFETY: who has an `Avx2` has AVX2. The last field read is the seventh, at 6 × lanes, and eight words from there
        // are within the block; the others lie before it.
        unsafe {
            let field = |index: usize| _mm256_loadu_si256(block.as_ptr().add(index * lanes).cast());
            let all = |word: u32| _mm256_set1_epi32(word as i32);
            // In a range: what lies between its beginning and the value is no more than its span.
            let within = |value: u32, first: usize| {
                let beyond = _mm256_sub_epi32(all(value), field(first));
                _mm256_cmpeq_epi32(_mm256_min_epu32(beyond, field(first + 1)), beyond)
            };
            let beyond = _mm256_sub_epi16(all(ports), field(4));
            let both_ports = _mm256_cmpeq_epi16(_mm256_min_epu16(beyond, field(5)), beyond);
            let wanted = field(6);
            let differing = _mm256_and_si256(_mm256_xor_si256(all(kind), wanted), _mm256_srli_epi32::<16>(wanted));
            let kinds = _mm256_cmpeq_epi32(differing, _mm256_setzero_si256());
            let addresses = _mm256_and_si256(within(source, 0), within(destination, 2));
            let rest = _mm256_and_si256(both_ports, kinds);
            // Both halves of a lane have to be ones, where its ports are.
            let matches = _mm256_cmpeq_epi32(_mm256_and_si256(addresses, rest), all(u32::MAX));
            _mm256_movemask_ps(_mm256_castsi256_ps(matches)) as u32 & ((1 << lanes) - 1)
        }
    }
}

#[cfg(test)]
mod tests;
