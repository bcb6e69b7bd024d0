//! A multibit trie from an address to its class: a byte a level, leaves pushed down to the entries, equal neighbouring
//! entries kept once (a 256-bit bitmap with rank finds them), levels at which nothing is decided skipped.
//!
//! A lookup touches a root entry, then a node and an entry a level: at most two levels below a 16-bit root for IPv4, and
//! for IPv6 as many as there are bytes at which the addresses of the rules part.
//!
//! Nodes live in *chunks*, each with the entries of its nodes, behind an [`Arc`]: a clone of the trie shares all of them, and
//! [`Trie::update`] copies those on the way to what it changes. Nodes that an update no longer needs stay where they are
//! until the trie is built anew ([`Trie::garbage`]).

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::partition::Cut;

/// Above this many cuts the root is a table indexed by sixteen bits, below it a single entry.
const TABLE_FROM: usize = 64;

/// Nodes of a chunk: what an update of one address copies, with their entries.
const CHUNK: usize = 16;

/// A class, or with the high bit set the number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u32);

impl Entry {
    const NODE: u32 = 1 << 31;

    fn node(number: usize) -> Self {
        Entry(number as u32 | Self::NODE)
    }

    fn is_node(self) -> bool {
        self.0 & Self::NODE != 0
    }

    /// The node's chunk, and its place there.
    fn place(self) -> (usize, usize) {
        let number = (self.0 & !Self::NODE) as usize;
        (number / CHUNK, number % CHUNK)
    }
}

/// A look-up on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    number: u128,
    entry: Entry,
}

impl Default for Walk {
    fn default() -> Self {
        Walk { number: 0, entry: Entry(0) }
    }
}

impl Walk {
    /// What was looked up, once there is no further step.
    #[inline(always)]
    pub(super) fn class(&self) -> u32 {
        self.entry.0
    }
}

/// One byte of the address, in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Node {
    /// A bit for each value of the byte whose entry differs from the one before it; bit 0 is always set.
    starts: [u64; 4],
    /// The bytes above, and zeros from this byte on.
    prefix: u128,
    /// The class of all addresses with another prefix that come here.
    outside: u32,
    /// Where its entries begin in its chunk.
    entries: u32,
    /// Bits set in `starts` before each word.
    before: [u8; 4],
    /// Bits below this byte.
    shift: u32,
}

impl Node {
    /// A node of these entries, which begin at a place of its chunk; what is kept of them follows.
    fn new(all: &[Entry; 256], prefix: u128, outside: u32, shift: u32, entries: usize) -> (Node, ArrayVec<Entry, 256>) {
        let mut node = Node { starts: [0; 4], prefix, outside, entries: entries as u32, before: [0; 4], shift };
        let mut kept = ArrayVec::<Entry, 256>::new();
        for (byte, &entry) in all.iter().enumerate() {
            if kept.last() != Some(&entry) {
                kept.push(entry);
                node.starts[byte / 64] |= 1 << (byte % 64);
            }
        }
        for word in 1..4 {
            node.before[word] = node.before[word - 1] + node.starts[word - 1].count_ones() as u8;
        }
        (node, kept)
    }

    #[inline(always)]
    fn entry(&self, byte: usize) -> usize {
        let word = byte / 64;
        let set = (self.starts[word] & (u64::MAX >> (63 - byte % 64))).count_ones();
        self.entries as usize + usize::from(self.before[word]) + set as usize - 1
    }

    /// How many entries it has.
    fn len(&self) -> usize {
        usize::from(self.before[3]) + self.starts[3].count_ones() as usize
    }

    /// Its first address and its last.
    fn range(&self) -> (u128, u128) {
        (self.prefix, self.prefix | low_bits(self.shift + 8))
    }
}

/// A number of so many ones.
fn low_bits(bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}

/// Some nodes and their entries.
#[derive(Clone, Debug, Default)]
struct Chunk {
    nodes: ArrayVec<Node, CHUNK>,
    entries: Vec<Entry>,
}

impl Chunk {
    /// All 256 entries of a node.
    fn expand(&self, place: usize) -> [Entry; 256] {
        let node = &self.nodes[place];
        std::array::from_fn(|byte| self.entries[node.entry(byte)])
    }

    /// Puts other entries in the place of a node's; the entries of those behind it move.
    fn replace(&mut self, place: usize, all: &[Entry; 256], outside: u32) {
        let old = self.nodes[place];
        let (node, kept) = Node::new(all, old.prefix, outside, old.shift, old.entries as usize);
        let from = old.entries as usize;
        self.entries.splice(from..from + old.len(), kept.iter().copied());
        for behind in &mut self.nodes[place + 1..] {
            behind.entries = behind.entries + kept.len() as u32 - old.len() as u32;
        }
        self.nodes[place] = node;
    }
}

/// The addresses of one family, or any other part of the 128-bit numbers.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    root: Arc<[Entry]>,
    root_shift: u32,
    chunks: Arc<[Arc<Chunk>]>,
    /// The first number and how many bits are below it.
    low: u128,
    bits: u32,
    nodes: usize,
    garbage: usize,
}

impl Trie {
    /// From the cuts of all numbers that share everything but the lowest `bits` (a multiple of 8, at least 24) with the
    /// first cut, which stands at their beginning.
    pub(super) fn new(cuts: &[Cut], bits: u32) -> Self {
        let mut builder = Builder::default();
        let low = cuts.first().map_or(0, |cut| cut.first);
        let (root, root_shift): (Arc<[Entry]>, u32) = if cuts.len() < TABLE_FROM || bits > 32 {
            ([builder.build(cuts, low, bits)].into(), 0)
        } else {
            let root_shift = bits - 16;
            let mut root = Vec::with_capacity(1 << 16);
            for block in Blocks::new(cuts, low, root_shift, 1 << 16) {
                let entry = builder.build(block.cuts, block.low, root_shift);
                root.extend(std::iter::repeat_n(entry, block.run));
            }
            (root.into(), root_shift)
        };
        let nodes = builder.nodes.len();
        Trie { root, root_shift, chunks: builder.into_chunks(), low, bits, nodes, garbage: 0 }
    }

    /// The class of a number.
    #[inline]
    pub(super) fn lookup(&self, number: u128) -> u32 {
        // The root has one entry or 65,536: a mask of its length is an index into it.
        let mut entry = self.root[(number >> self.root_shift) as usize & (self.root.len() - 1)];
        while entry.is_node() {
            let (chunk, place) = entry.place();
            let chunk = &*self.chunks[chunk];
            let node = &chunk.nodes[place];
            // Both questions at once: a prefix that differs leaves bits above the byte.
            let byte = (number ^ node.prefix) >> node.shift;
            if byte > 0xff {
                return node.outside;
            }
            entry = chunk.entries[node.entry(byte as usize)];
        }
        entry.0
    }

    /// Begins a look-up that goes on step by step beside others.
    #[inline(always)]
    pub(super) fn start(&self, number: u128) -> Walk {
        let entry = self.root[(number >> self.root_shift) as usize & (self.root.len() - 1)];
        Walk { number, entry }
    }

    /// Goes a level down. Whether there may be another one below.
    #[inline(always)]
    pub(super) fn step(&self, walk: &mut Walk) -> bool {
        if !walk.entry.is_node() {
            return false;
        }
        let (chunk, place) = walk.entry.place();
        let chunk = &*self.chunks[chunk];
        let node = &chunk.nodes[place];
        let byte = (walk.number ^ node.prefix) >> node.shift;
        walk.entry = if byte > 0xff { Entry(node.outside) } else { chunk.entries[node.entry(byte as usize)] };
        walk.entry.is_node()
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        let chunk = |chunk: &Arc<Chunk>| size_of::<Chunk>() + chunk.entries.capacity() * size_of::<Entry>();
        size_of_val(&*self.root) + size_of_val(&*self.chunks) + self.chunks.iter().map(chunk).sum::<usize>()
    }

    /// How many nodes there are, and how many of them nothing leads to any more.
    pub(super) fn garbage(&self) -> (usize, usize) {
        (self.nodes, self.garbage)
    }

    /// Gives other classes to the numbers from `first` to `last`: to each one that `class_of` answers for the one it has.
    pub(super) fn update(&mut self, first: u128, last: u128, class_of: &mut dyn FnMut(u32) -> u32) {
        if self.root_shift == 0 {
            let (low, bits) = (self.low, self.bits);
            let entry = self.change(self.root[0], Block128 { low, bits }, (first, last), class_of);
            if self.root[0] != entry {
                self.root = [entry].into();
            }
            return;
        }
        let bits = self.root_shift;
        for index in (first - self.low) >> bits..=(last - self.low) >> bits {
            let block = Block128 { low: self.low + (index << bits), bits };
            let range = (first.max(block.low), last.min(block.low | low_bits(bits)));
            let old = self.root[index as usize];
            let entry = self.change(old, block, range, class_of);
            if entry != old {
                Arc::make_mut(&mut self.root)[index as usize] = entry;
            }
        }
    }

    /// The entry of a block after a change of a range in it.
    fn change(
        &mut self,
        entry: Entry,
        block: Block128,
        (first, last): (u128, u128),
        class_of: &mut dyn FnMut(u32) -> u32,
    ) -> Entry {
        if !entry.is_node() {
            let class = class_of(entry.0);
            if class == entry.0 || (first, last) == (block.low, block.low | low_bits(block.bits)) {
                return Entry(class);
            }
            let cuts = [Cut { first: block.low, class: entry.0 }, Cut { first, class }];
            let after = (last < block.low | low_bits(block.bits)).then(|| Cut { first: last + 1, class: entry.0 });
            let cuts: ArrayVec<Cut, 3> = cuts.into_iter().skip(usize::from(first == block.low)).chain(after).collect();
            return self.build(&cuts, block);
        }
        let (chunk, place) = entry.place();
        let node = self.chunks[chunk].nodes[place];
        let (node_first, node_last) = node.range();
        let around = first < node_first || last > node_last;
        let outside = if around { class_of(node.outside) } else { node.outside };
        let whole = (first, last) == (block.low, block.low | low_bits(block.bits));
        if outside != node.outside && !whole {
            // A node above it, of the smallest block that holds both it and the range.
            let differing = 128 - (first.min(node_first) ^ last.max(node_last)).leading_zeros();
            let shift = differing.next_multiple_of(8).min(block.bits) - 8;
            let prefix = first & !low_bits(shift + 8);
            let mut entries = [Entry(node.outside); 256];
            entries[((node_first - prefix) >> shift) as usize] = entry;
            self.change_entries(&mut entries, Block128 { low: prefix, bits: shift + 8 }, (first, last), class_of);
            return self.push(&entries, prefix, node.outside, shift);
        }
        let mut entries = self.chunks[chunk].expand(place);
        let old = entries;
        if first <= node_last && last >= node_first {
            let range = (first.max(node_first), last.min(node_last));
            self.change_entries(&mut entries, Block128 { low: node_first, bits: node.shift + 8 }, range, class_of);
        }
        if entries.iter().all(|&entry| entry == Entry(outside)) {
            self.garbage += 1;
            return Entry(outside);
        }
        if entries != old || outside != node.outside {
            Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]).replace(place, &entries, outside);
        }
        entry
    }

    /// Changes a range in the 256 entries of a block.
    fn change_entries(
        &mut self,
        entries: &mut [Entry; 256],
        block: Block128,
        (first, last): (u128, u128),
        class_of: &mut dyn FnMut(u32) -> u32,
    ) {
        let bits = block.bits - 8;
        for byte in (first - block.low) >> bits..=(last - block.low) >> bits {
            let child = Block128 { low: block.low + (byte << bits), bits };
            let range = (first.max(child.low), last.min(child.low | low_bits(bits)));
            entries[byte as usize] = self.change(entries[byte as usize], child, range, class_of);
        }
    }

    /// The entry for a block that a few cuts cover.
    fn build(&mut self, cuts: &[Cut], block: Block128) -> Entry {
        let mut builder = Builder { first: self.nodes, ..Builder::default() };
        let entry = builder.build(cuts, block.low, block.bits);
        for node in &builder.nodes {
            let entries = std::array::from_fn(|byte| builder.entries[node.entry(byte)]);
            self.push(&entries, node.prefix, node.outside, node.shift);
        }
        entry
    }

    fn push(&mut self, entries: &[Entry; 256], prefix: u128, outside: u32, shift: u32) -> Entry {
        if self.nodes.is_multiple_of(CHUNK) {
            self.chunks = self.chunks.iter().cloned().chain([Arc::default()]).collect();
        }
        let (chunk, _) = Entry(self.nodes as u32).place();
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]);
        let (node, kept) = Node::new(entries, prefix, outside, shift, chunk.entries.len());
        chunk.nodes.push(node);
        chunk.entries.extend(kept);
        self.nodes += 1;
        Entry::node(self.nodes - 1)
    }

    /// All numbers as cuts, in order; neighbours differ in class.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for (index, &entry) in (0..).zip(self.root.iter()) {
            self.append_cuts(entry, self.low + (index << self.root_shift), &mut cuts);
        }
        // Where a node ends with the block around it, what follows stands at the same place: the last word counts.
        cuts.dedup_by(|next, cut| {
            let same = next.first == cut.first;
            if same {
                cut.class = next.class;
            }
            same
        });
        let last = self.low | low_bits(self.bits);
        cuts.retain(|cut| cut.first <= last);
        cuts.dedup_by_key(|cut| cut.class);
        cuts
    }

    fn append_cuts(&self, entry: Entry, low: u128, cuts: &mut Vec<Cut>) {
        let mut push = |first: u128, class: u32| {
            if cuts.last().is_none_or(|cut: &Cut| cut.class != class) {
                cuts.push(Cut { first, class });
            }
        };
        if !entry.is_node() {
            return push(low, entry.0);
        }
        let (chunk, place) = entry.place();
        let chunk = &*self.chunks[chunk];
        let node = &chunk.nodes[place];
        let (first, last) = node.range();
        if low < first {
            push(low, node.outside);
        }
        for byte in 0..256 {
            let entry = chunk.entries[node.entry(byte)];
            self.append_cuts(entry, first + ((byte as u128) << node.shift), cuts);
        }
        if let Some(after) = last.checked_add(1) {
            cuts.push(Cut { first: after, class: node.outside });
        }
    }
}

/// The numbers that share everything but the lowest bits.
#[derive(Clone, Copy)]
struct Block128 {
    low: u128,
    bits: u32,
}

/// Nodes and entries in the making, each in one list.
#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
    /// The number of the first node.
    first: usize,
}

impl Builder {
    /// The entry for the block of `bits` bits at `low`, which `cuts` cover: the first one begins at or before it.
    fn build(&mut self, cuts: &[Cut], low: u128, mut bits: u32) -> Entry {
        let [before, .., after] = cuts else { return Entry(cuts.first().map_or(0, |cut| cut.class)) };
        let mut prefix = low;
        if before.class == after.class {
            // All that differs from `before` lies between these two: go straight to the smallest block with both.
            let (first, last) = (cuts[1].first, after.first - 1);
            let differing = 128 - (first ^ last).leading_zeros();
            bits = bits.min(differing.next_multiple_of(8).max(8));
            prefix = first >> (bits - 1) >> 1 << (bits - 1) << 1;
        }
        let shift = bits - 8;
        let mut entries = [Entry(0); 256];
        for block in Blocks::new(cuts, prefix, shift, 256) {
            let entry = self.build(block.cuts, block.low, shift);
            entries[block.index..block.index + block.run].fill(entry);
        }
        let (node, kept) = Node::new(&entries, prefix, before.class, shift, self.entries.len());
        self.nodes.push(node);
        self.entries.extend(kept);
        Entry::node(self.first + self.nodes.len() - 1)
    }

    /// In chunks: a chunk's entries stand together, since nodes and entries were appended at once.
    fn into_chunks(self) -> Arc<[Arc<Chunk>]> {
        let chunks = self.nodes.chunks(CHUNK).map(|nodes| {
            let from = nodes.first().map_or(0, |node| node.entries);
            let to = nodes.last().map_or(0, |node| node.entries as usize + node.len());
            let entries = self.entries[from as usize..to].to_vec();
            let nodes = nodes.iter().map(|&node| Node { entries: node.entries - from, ..node }).collect();
            Arc::new(Chunk { nodes, entries })
        });
        chunks.collect()
    }
}

/// The blocks of `1 << shift` numbers from a place on, with the cuts that cover each.
struct Blocks<'a> {
    /// From the cut that covers the next block.
    rest: &'a [Cut],
    low: u128,
    shift: u32,
    index: usize,
    count: usize,
}

/// A block, or as many neighbours as one cut covers.
struct Block<'a> {
    index: usize,
    run: usize,
    low: u128,
    /// The first begins at or before the block, the others in it.
    cuts: &'a [Cut],
}

impl<'a> Blocks<'a> {
    /// So many from `low` on, which the first cut covers.
    fn new(cuts: &'a [Cut], low: u128, shift: u32, count: usize) -> Self {
        Blocks { rest: cuts, low, shift, index: 0, count }
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        if self.index == self.count {
            return None;
        }
        let low = self.low + ((self.index as u128) << self.shift);
        let high = low + ((1 << self.shift) - 1);
        let skip = self.rest.iter().skip(1).take_while(|cut| cut.first <= low).count();
        self.rest = &self.rest[skip..];
        let more = self.rest.iter().skip(1).take_while(|cut| cut.first <= high).count();
        let left = self.count - self.index;
        let run = match self.rest.get(1) {
            _ if more > 0 => 1,
            Some(next) => usize::try_from((next.first - low) >> self.shift).map_or(left, |run| run.min(left)),
            None => left,
        };
        let block = Block { index: self.index, run, low, cuts: &self.rest[..=more] };
        self.index += run;
        Some(block)
    }
}

#[cfg(test)]
mod tests;
