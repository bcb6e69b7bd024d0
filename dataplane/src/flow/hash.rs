//! [`KeyedHash`]: from a flow's key to 64 bits that an attacker who does not know the secret cannot steer.
//!
//! The secret is random for each process. Six words of a key are hashed in three steps, the first two with a proof that needs no
//! assumption about the input but that it does not depend on the secret:
//! 1. NH, the first step of UMAC (RFC 4418 section 5.2; Black and others, "UMAC: fast and secure message
//!    authentication", 1999, theorem 4.2) with words of 64 bits: `Σ (m₂ᵢ + k₂ᵢ mod 2⁶⁴) · (m₂ᵢ₊₁ + k₂ᵢ₊₁ mod 2⁶⁴) mod 2¹²⁸`. Two
//!    different inputs of the same length have the same sum for at most 2⁻⁶⁴ of the secrets.
//! 2. Multiply-shift (Dietzfelbinger 1996; Thorup, "High speed hashing for integers and strings", section 3.5) of the two
//!    halves: `(a·high + b·low + c mod 2¹²⁸) div 2⁶⁴`. The hashes of two different sums are independent and
//!    uniform, in all bits.
//! 3. A fixed mixing of the bits, which is one to one and so takes nothing from that. It is for the traffic of every day:
//!    addresses and ports in a row are a lattice, and the two steps, which are nearly linear, would map it to another,
//!    evenly spread for most secrets and in heaps for some.
//!
//! So whoever chooses tuples, without having seen hashes, makes two of them meet in a bucket as rarely as chance
//! does, however he chooses them. What he might learn from the time that his own packets take is bounded by the index's limit
//! on probing: a look-up reads at most so many lines, and a flow that finds no room within it is refused.
//!
//! Eight multiplications, no branch, no table, the same value on every machine of one byte order. SipHash, which gives a
//! pseudo-random function (more than a table needs), takes a chain of rounds for each word instead; AES rounds are
//! quick, but not present everywhere, and their use as a hash rests on no proof.

use siphasher::sip::SipHasher13;

/// Words that a hash is made of.
pub(super) const WORDS: usize = 6;

/// A hash function, chosen by a secret.
#[derive(Clone)]
pub(super) struct KeyedHash {
    nh: [u64; WORDS],
    high: u128,
    low: u128,
    offset: u128,
}

impl KeyedHash {
    /// The function that this secret chooses. SipHash as a pseudo-random function makes its numbers from it.
    pub(super) fn new(secret: &[u8; 16]) -> Self {
        let source = SipHasher13::new_with_key(secret);
        let number = |at: u64| source.hash(&at.to_le_bytes());
        let wide = |at| u128::from(number(at)) << 64 | u128::from(number(at + 1));
        KeyedHash { nh: std::array::from_fn(|at| number(at as u64)), high: wide(6), low: wide(8), offset: wide(10) }
    }

    /// The hash of six words.
    #[inline(always)]
    pub(super) fn hash(&self, words: &[u64; WORDS]) -> u64 {
        // Spelled out: this has to become a handful of instructions wherever it is called.
        let part = |at: usize| {
            let (left, right) = (words[at].wrapping_add(self.nh[at]), words[at + 1].wrapping_add(self.nh[at + 1]));
            u128::from(left) * u128::from(right)
        };
        let sum = part(0).wrapping_add(part(2)).wrapping_add(part(4));
        let high = self.high.wrapping_mul(sum >> 64);
        let low = self.low.wrapping_mul(u128::from(sum as u64));
        mix((high.wrapping_add(low).wrapping_add(self.offset) >> 64) as u64)
    }
}

/// Mixes bits, one to one: a shift by half the width and a multiplication by an odd number can both be undone (the numbers
/// are those of "rrmxmx", Evensen 2018).
#[inline(always)]
pub(super) fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ hash >> 32
}
