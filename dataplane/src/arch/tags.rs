//! Sixteen bytes compared with one: where a bucket of a hash table has a tag.
#![allow(unsafe_code)]

/// Which of the sixteen bytes are equal to `tag`: bit `i` for byte `i`.
#[inline(always)]
pub fn equal_bytes(bytes: &[u8; 16], tag: u8) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: SSE2 is part of every x86-64; the unaligned load reads the sixteen bytes of the array.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(tag as i8))) as u32
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_bytes_portable(bytes, tag)
}

/// [`equal_bytes`] for machines without a form of their own: the definition.
#[inline(always)]
pub fn equal_bytes_portable(bytes: &[u8; 16], tag: u8) -> u32 {
    bytes.iter().enumerate().fold(0, |mask, (at, byte)| mask | u32::from(*byte == tag) << at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_forms_agree(bytes: [u8; 16], any: u8, at in 0..16usize) {
            for tag in [any, bytes[at], 0, 255] {
                prop_assert_eq!(equal_bytes(&bytes, tag), equal_bytes_portable(&bytes, tag));
            }
            prop_assert!(equal_bytes(&bytes, bytes[at]) >> at & 1 == 1);
        }
    }
}
