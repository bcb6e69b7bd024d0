//! Hints that memory will be read soon. A hint never faults, changes nothing, and may be ignored: on architectures
//! without one these functions do nothing.
//!
//! A read that misses all caches takes 100 ns and more, but a core can wait for a dozen or two of them at the
//! same time: ask for a burst's lines first, use them afterwards.
#![allow(unsafe_code)]

/// Asks for the cache line in which `value` begins.
#[inline(always)]
pub fn prefetch_read<T>(value: &T) {
    prefetch_address(std::ptr::from_ref(value).cast());
}

/// Asks for the cache line in which element `index` begins. Nothing happens beyond the end.
#[inline(always)]
pub fn prefetch_slice<T>(slice: &[T], index: usize) {
    if index < slice.len() {
        prefetch_address(slice.as_ptr().wrapping_add(index).cast());
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_address(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: PREFETCHT0 is part of SSE, which every x86-64 has; it neither faults nor accesses memory as the
    // program sees it, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn prefetch_address(address: *const u8) {
    // SAFETY: PRFM is a hint of the base instruction set: it neither faults nor accesses memory as the program sees it,
    // whatever the address, and changes no register or flag.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
pub(crate) fn prefetch_address(_address: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_change_nothing_and_stay_within_the_slice() {
        let values = [1u64, 2, 3];
        prefetch_read(&values);
        for index in [0, 2, 3, usize::MAX] {
            prefetch_slice(&values, index);
        }
        prefetch_slice::<u64>(&[], 0);
        assert_eq!(values, [1, 2, 3]);
    }
}
