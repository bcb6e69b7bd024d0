//! The memory that frames live in: equal chunks of one region, owned by one worker.
//!
//! A [`Chunk`] is the only handle to its piece of the region: it is neither `Copy` nor `Clone`, so two frames never
//! share bytes. The pool counts the chunks that are out; a pool that is dropped while some are (a frame was forgotten,
//! or the kernel still holds one) leaks its region rather than leave a chunk dangling.
#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;

use crate::arch::pages::Pages;

/// Which pool a chunk belongs to: unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(u32);

/// A piece of pool memory with the bytes in it: `length` bytes from `offset` within the chunk.
pub struct Chunk {
    /// Start of the chunk.
    base: NonNull<u8>,
    index: u32,
    pool: PoolId,
    capacity: u32,
    offset: u32,
    length: u32,
}

// SAFETY: a chunk is the sole handle to its bytes (Pool hands each index out once until it comes back), so moving it
// to another thread moves the bytes with it.
unsafe impl Send for Chunk {}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk(#{} of {:?}, {}+{})", self.index, self.pool, self.offset, self.length)
    }
}

impl Chunk {
    /// The index of the chunk within its pool.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The pool that the chunk has to go back to.
    #[inline]
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the bytes start within the chunk: the room before them.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset as usize
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: offset + length <= capacity (kept by `set_range`), the region outlives the chunk (Pool::drop leaks it
        // otherwise), and `self` is the only handle to it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.offset as usize), self.length as usize) }
    }

    /// The bytes, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(self.offset as usize), self.length as usize) }
    }

    /// The whole chunk, whatever range is in use.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        // SAFETY: the chunk has `capacity` bytes; otherwise as for `bytes_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.capacity as usize) }
    }

    /// Says which bytes of the chunk are in use.
    ///
    /// # Panics
    /// If the range leaves the chunk: a mistake of the calling port, never of a packet.
    #[inline]
    pub fn set_range(&mut self, offset: usize, length: usize) {
        assert!(offset + length <= self.capacity as usize, "range leaves its chunk");
        self.offset = offset as u32;
        self.length = length as u32;
    }
}

/// Equal chunks of memory. Belongs to one worker; not shared.
pub struct Pool {
    id: PoolId,
    base: NonNull<u8>,
    chunk_size: usize,
    count: usize,
    headroom: usize,
    free: Vec<u32>,
    /// Chunks that were given up ([`Pool::abandon`]).
    abandoned: usize,
    /// Keeps the region alive: our own memory, or a UMEM.
    region: Option<Box<dyn Any + Send>>,
}

// SAFETY: the region is owned by the pool (through `region`) and reached only through it and its chunks.
unsafe impl Send for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?}, {} of {} × {} bytes free)", self.id, self.free.len(), self.count, self.chunk_size)
    }
}

impl Pool {
    /// A chunk that takes a 64 KiB super-frame with its headers and a virtio header.
    pub const SUPER_FRAME: usize = 66 * 1024;

    /// Room kept before the bytes of a fresh chunk, for a tag or a virtio header.
    pub const HEADROOM: usize = 64;

    /// A pool of ordinary memory: `count` chunks of `chunk_size` bytes. Only what was used of them takes memory, and what was is
    /// given back with the pool: a node makes and drops one for every pod, of far more than most ever use.
    pub fn new(count: usize, chunk_size: usize) -> Self {
        let mut region = Pages::<u8>::sparse(count * chunk_size);
        let base = NonNull::from(&mut region[..]).cast::<u8>();
        // SAFETY: `base` points to `count * chunk_size` bytes owned by `region`, which nobody else reaches.
        unsafe { Pool::from_region(base, count, chunk_size, Self::HEADROOM, Box::new(region)) }
    }

    /// A pool over memory that somebody else set up, such as a UMEM.
    ///
    /// # Safety
    /// `base` must point to `count * chunk_size` writable bytes that stay valid while `region` lives and that nobody
    /// else reads or writes, except the kernel for chunks that were handed to it.
    pub unsafe fn from_region(
        base: NonNull<u8>,
        count: usize,
        chunk_size: usize,
        headroom: usize,
        region: Box<dyn Any + Send>,
    ) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(headroom < chunk_size && count > 0 && u32::try_from(count).is_ok());
        Pool {
            id: PoolId(NEXT.fetch_add(1, Ordering::Relaxed)),
            base,
            chunk_size,
            count,
            headroom,
            free: (0..count as u32).rev().collect(),
            abandoned: 0,
            region: Some(region),
        }
    }

    /// The pool's identity.
    #[inline]
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// Bytes a chunk.
    pub fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    /// Chunks that can be taken.
    #[inline]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Chunks that are out: in frames, or in the hands of the kernel.
    pub fn outstanding(&self) -> usize {
        self.count - self.free.len() - self.abandoned
    }

    /// An empty chunk with [`Pool::HEADROOM`] (or what the region was set up with) before its bytes.
    #[inline]
    pub fn take(&mut self) -> Option<Chunk> {
        let index = self.free.pop()?;
        Some(self.handle(index))
    }

    #[inline]
    fn handle(&self, index: u32) -> Chunk {
        Chunk {
            // SAFETY: index < count, so the chunk lies within the region.
            base: unsafe { self.base.add(index as usize * self.chunk_size) },
            index,
            pool: self.id,
            capacity: self.chunk_size as u32,
            offset: self.headroom as u32,
            length: 0,
        }
    }

    /// Takes a chunk back.
    ///
    /// # Panics
    /// If the chunk is of another pool: a mistake in the wiring of ports.
    #[inline]
    pub fn give_back(&mut self, chunk: Chunk) {
        assert_eq!(chunk.pool, self.id, "a chunk came back to a pool that is not its own");
        self.free.push(chunk.index);
    }

    /// Gives a chunk up: it is never handed out again, because a device may still write to it, but the region may go, as the
    /// kernel keeps its pages for the device.
    pub(crate) fn abandon(&mut self, chunk: Chunk) {
        assert_eq!(chunk.pool, self.id, "a chunk was abandoned to a pool that is not its own");
        self.abandoned += 1;
    }

    /// Takes all of a frame's memory back.
    #[inline]
    pub fn release(&mut self, frame: crate::frame::Frame) {
        let (head, tail) = frame.into_chunks();
        for chunk in tail {
            self.give_back(chunk);
        }
        self.give_back(head);
    }

    /// Turns a chunk into its index, to be handed to the kernel, and back with [`Pool::reclaim`].
    #[inline]
    pub fn lend(&mut self, chunk: Chunk) -> u32 {
        assert_eq!(chunk.pool, self.id, "a chunk was lent from a pool that is not its own");
        chunk.index
    }

    /// The chunk that was lent under this index.
    ///
    /// # Safety
    /// `index` must come from [`Pool::lend`] of this pool, the kernel must have given it back, and it must not have
    /// been reclaimed since.
    ///
    /// # Panics
    /// If the index lies beyond the pool.
    #[inline]
    pub unsafe fn reclaim(&mut self, index: u32) -> Chunk {
        assert!((index as usize) < self.count, "a chunk index beyond the pool");
        self.handle(index)
    }

    /// Takes a free chunk to be handed to the kernel, by its index.
    #[inline]
    pub(crate) fn lend_free(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Takes back a chunk that was lent under this index.
    ///
    /// # Safety
    /// As [`Pool::reclaim`].
    ///
    /// # Panics
    /// If the index lies beyond the pool.
    #[inline]
    pub(crate) unsafe fn give_back_lent(&mut self, index: u32) {
        assert!((index as usize) < self.count, "a chunk index beyond the pool");
        self.free.push(index);
    }

    /// A frame with a copy of `bytes`, or `None` when the pool is empty or the bytes do not fit into a chunk.
    pub fn frame(&mut self, bytes: &[u8]) -> Option<crate::frame::Frame> {
        if bytes.len() + self.headroom > self.chunk_size {
            return None;
        }
        let mut chunk = self.take()?;
        chunk.set_range(self.headroom, bytes.len());
        chunk.bytes_mut().copy_from_slice(bytes);
        Some(crate::frame::Frame::new(chunk))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.outstanding() > 0 {
            std::mem::forget(self.region.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_and_go() {
        let mut pool = Pool::new(2, 256);
        let frame = pool.frame(b"hello").unwrap();
        let other = pool.frame(&[7; 192]).unwrap();
        assert!(pool.frame(b"none left").is_none());
        assert_eq!((frame.bytes(), other.bytes()), (&b"hello"[..], &[7u8; 192][..]));
        assert_eq!(pool.outstanding(), 2);
        pool.release(frame);
        pool.release(other);
        assert_eq!(pool.outstanding(), 0);
        assert!(pool.frame(&[0; 200]).is_none(), "more than a chunk holds");
    }

    /// Bytes of the pool's region that take memory (mincore(2)).
    fn resident(pool: &Pool) -> usize {
        let mut pages = vec![0u8; (pool.count * pool.chunk_size).div_ceil(4096)];
        // SAFETY: the region is mapped while the pool lives, and there is a byte for each of its pages.
        let told =
            unsafe { libc::mincore(pool.base.as_ptr().cast(), pool.count * pool.chunk_size, pages.as_mut_ptr()) };
        assert_eq!(told, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|page| *page & 1 != 0).count() * 4096
    }

    #[test]
    fn a_pool_takes_what_is_used_of_it_also_where_another_one_was() {
        for _ in 0..4 {
            let mut pool = Pool::new(64, Pool::SUPER_FRAME);
            let frame = pool.frame(&[1; 60]).unwrap();
            pool.release(frame);
            assert!(resident(&pool) <= 8192, "{} bytes for a frame of 60", resident(&pool));
            let frames: Vec<_> = std::iter::from_fn(|| pool.frame(&[1; Pool::SUPER_FRAME - Pool::HEADROOM])).collect();
            assert!(resident(&pool) >= 63 * Pool::SUPER_FRAME);
            frames.into_iter().for_each(|frame| pool.release(frame));
        }
    }

    #[test]
    #[should_panic(expected = "not its own")]
    fn a_chunk_of_another_pool_is_refused() {
        let (mut one, mut two) = (Pool::new(1, 128), Pool::new(1, 128));
        let chunk = one.take().unwrap();
        two.give_back(chunk);
    }
}
