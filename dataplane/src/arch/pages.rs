//! [`Pages`]: memory for tables that are set up once, in huge pages where it is large enough.
//!
//! A flow table of a million entries is read at random: with pages of 4 KiB nearly every access also misses the TLB. The
//! kernel is asked for huge pages (`madvise(2)`, `MADV_HUGEPAGE`), which takes effect where transparent huge pages are set
//! to `madvise` or `always`; where they are not, or memory is too fragmented, the pages are small and nothing else differs.
#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use bytemuck::Pod;
use rustix::fs::{FlockOperation, flock, fstat};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// The size of a huge page (x86-64, and AArch64 with a granule of 4 KiB).
const HUGE: usize = 2 << 20;

/// What is at least this long gets whole huge pages, the last one in part unused; what is shorter stays on small pages.
const WORTH: usize = HUGE / 4;

/// A slice of plain old data in memory of its own, zeroed, of a length fixed at construction.
pub struct Pages<T: Pod> {
    start: NonNull<T>,
    length: usize,
    /// What was mapped: the slice lies in it.
    mapping: NonNull<std::ffi::c_void>,
    mapped: usize,
}

// SAFETY: `Pages` owns its mapping alone, as a `Box<[T]>` owns its allocation; `T: Pod` has no ties to a thread.
unsafe impl<T: Pod + Send> Send for Pages<T> {}
// SAFETY: as above; shared access gives out `&T` only.
unsafe impl<T: Pod + Sync> Sync for Pages<T> {}

impl<T: Pod> Pages<T> {
    /// `length` elements, all zeros. As with other allocations the process ends when there is no memory.
    ///
    /// # Panics
    /// If the size in bytes does not fit a `usize`.
    pub fn zeroed(length: usize) -> Self {
        const { assert!(align_of::<T>() <= 4096) };
        let bytes = length.checked_mul(size_of::<T>()).expect("a table that fits the address space").max(1);
        // Room to start at a huge page's border.
        let is_huge = bytes >= WORTH;
        let mapped = if is_huge { bytes.checked_add(2 * HUGE).expect("the same") } else { bytes };
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let mapping = unsafe {
            mmap_anonymous(std::ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let Some(mapping) = mapping.ok().and_then(NonNull::new) else {
            handle_alloc_error(Layout::array::<T>(length).unwrap_or(Layout::new::<T>()));
        };
        let skip = if is_huge { mapping.as_ptr().align_offset(HUGE) } else { 0 };
        // SAFETY: `skip < HUGE`, and the mapping is more than HUGE longer than `bytes` whenever `skip` is not 0.
        let start = unsafe { mapping.byte_add(skip) };
        if is_huge {
            // The last page too: an index of 1 MiB on small pages costs a walk of their table for nearly every frame, twice as
            // deep in a virtual machine. A refusal costs only speed.
            // SAFETY: the range, up to `skip + bytes + HUGE`, lies in the mapping, and the advice changes none of its content.
            let _ = unsafe { madvise(start.as_ptr(), bytes.next_multiple_of(HUGE), Advice::LinuxHugepage) };
        }
        Pages { start: start.cast(), length, mapping, mapped }
    }

    /// `length` elements, all zeros, of which only what is touched takes memory: on small pages, given back whole when it is dropped. For
    /// what is large and used in part.
    ///
    /// # Panics
    /// As [`Pages::zeroed`].
    pub fn sparse(length: usize) -> Self {
        const { assert!(align_of::<T>() <= 4096) };
        let bytes = length.checked_mul(size_of::<T>()).expect("memory that fits the address space").max(1);
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let mapping = unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let Some(mapping) = mapping.ok().and_then(NonNull::new) else {
            handle_alloc_error(Layout::array::<T>(length).unwrap_or(Layout::new::<T>()));
        };
        // SAFETY: the whole mapping, none of whose content the advice changes. A refusal costs only memory.
        let _ = unsafe { madvise(mapping.as_ptr(), bytes, Advice::LinuxNoHugepage) };
        Pages { start: mapping.cast(), length, mapping, mapped: bytes }
    }

    /// `length` elements of a file from this offset (a multiple of 4,096), shared with it: what is written stays in the file.
    /// The open file is locked for this process (flock(2)), so that nobody else who asks here has it at the same time.
    ///
    /// # Errors
    /// When the file is shorter, somebody else has it, or the system refuses.
    pub fn shared(file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096) };
        let too_short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than what it should hold");
        let bytes = length.checked_mul(size_of::<T>()).ok_or_else(too_short)?.max(1);
        let end = offset.checked_add(bytes as u64).ok_or_else(too_short)?;
        if u64::try_from(fstat(file)?.st_size).unwrap_or(0) < end {
            return Err(too_short());
        }
        flock(file, FlockOperation::NonBlockingLockExclusive)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of this process.
        let mapping = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, offset)
        }?;
        let mapping = NonNull::new(mapping).ok_or_else(|| io::Error::other("the kernel mapped nothing"))?;
        Ok(Pages { start: mapping.cast(), length, mapping, mapped: bytes })
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned (to a page), and `length` elements behind it are mapped, readable, initialised (to zeros or
        // what a file holds, which `T: Pod` allows) and owned by `self` until it is dropped. Of a file: it was long enough and
        // its owner does not shorten it, and by the lock no other process writes through a mapping of its own.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<T: Pod> Drop for Pages<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; nobody borrows from it any more.
        let _ = unsafe { munmap(self.mapping.as_ptr(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_writable_and_aligned() {
        for length in [0, 1, 511, 512, 65_536, 262_143, 262_144, 700_001] {
            let mut pages = Pages::<u64>::zeroed(length);
            assert_eq!(pages.len(), length);
            assert!(pages.iter().all(|value| *value == 0));
            if length * 8 >= WORTH {
                assert!(pages.as_ptr().addr().is_multiple_of(HUGE));
            }
            pages.iter_mut().enumerate().for_each(|(at, value)| *value = at as u64);
            assert!(pages.iter().enumerate().all(|(at, value)| *value == at as u64));
        }
    }
}
