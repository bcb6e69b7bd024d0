//! A multibit trie from an address to its class: a byte a level, leaves pushed down to the entries, equal neighbouring
//! entries kept once (a 256-bit bitmap with rank finds them), levels at which nothing is decided skipped.
//!
//! A lookup touches a root entry, then a node and an entry a level: at most two levels below a 16-bit root for IPv4, and
//! for IPv6 as many as there are bytes at which the addresses of the rules part.

use arrayvec::ArrayVec;

use super::partition::Cut;

/// Above this many cuts the root is a table indexed by sixteen bits, below it a single entry.
const TABLE_FROM: usize = 64;

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
    /// Where its entries begin.
    entries: u32,
    /// Bits set in `starts` before each word.
    before: [u8; 4],
    /// Bits below this byte.
    shift: u32,
}

impl Node {
    fn entry(&self, byte: usize) -> usize {
        let word = byte / 64;
        let set = (self.starts[word] & (u64::MAX >> (63 - byte % 64))).count_ones();
        self.entries as usize + usize::from(self.before[word]) + set as usize - 1
    }
}

/// The addresses of one family, or any other part of the 128-bit numbers.
#[derive(Debug)]
pub(super) struct Trie {
    root: Box<[Entry]>,
    root_shift: u32,
    nodes: Vec<Node>,
    entries: Vec<Entry>,
}

impl Trie {
    /// From the cuts of all numbers that share everything but the lowest `bits` (a multiple of 8, at least 24) with the
    /// first cut, which stands at their beginning.
    pub(super) fn new(cuts: &[Cut], bits: u32) -> Self {
        let mut trie = Trie { root: Box::new([Entry(0)]), root_shift: 0, nodes: Vec::new(), entries: Vec::new() };
        let low = cuts.first().map_or(0, |cut| cut.first);
        if cuts.len() < TABLE_FROM || bits > 32 {
            trie.root[0] = trie.build(cuts, low, bits);
        } else {
            trie.root_shift = bits - 16;
            let mut root = Vec::with_capacity(1 << 16);
            for block in Blocks::new(cuts, low, trie.root_shift, 1 << 16) {
                let entry = trie.build(block.cuts, block.low, trie.root_shift);
                root.extend(std::iter::repeat_n(entry, block.run));
            }
            trie.root = root.into();
        }
        trie.nodes.shrink_to_fit();
        trie.entries.shrink_to_fit();
        trie
    }

    /// The class of a number.
    pub(super) fn lookup(&self, number: u128) -> u32 {
        // The root has one entry or 65,536: a mask of its length is an index into it.
        let mut entry = self.root[(number >> self.root_shift) as usize & (self.root.len() - 1)];
        while entry.is_node() {
            let node = &self.nodes[(entry.0 & !Entry::NODE) as usize];
            // Both questions at once: a prefix that differs leaves bits above the byte.
            let byte = (number ^ node.prefix) >> node.shift;
            if byte > 0xff {
                return node.outside;
            }
            entry = self.entries[node.entry(byte as usize)];
        }
        entry.0
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.nodes) + size_of_val(&*self.entries)
    }

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
        let mut starts = [0; 4];
        let mut entries = ArrayVec::<Entry, 256>::new();
        for block in Blocks::new(cuts, prefix, shift, 256) {
            let entry = self.build(block.cuts, block.low, shift);
            if entries.last() != Some(&entry) {
                entries.push(entry);
                starts[block.index / 64] |= 1 << (block.index % 64);
            }
        }
        self.push(
            Node { starts, prefix, outside: before.class, entries: self.entries.len() as u32, before: [0; 4], shift },
            &entries,
        )
    }

    fn push(&mut self, mut node: Node, entries: &[Entry]) -> Entry {
        for word in 1..4 {
            node.before[word] = node.before[word - 1] + node.starts[word - 1].count_ones() as u8;
        }
        self.entries.extend_from_slice(entries);
        self.nodes.push(node);
        Entry::node(self.nodes.len() - 1)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn linear(cuts: &[Cut], number: u128) -> u32 {
        cuts[cuts.partition_point(|cut| cut.first <= number) - 1].class
    }

    /// Cuts of a space of `bits` bits above `low`, many of them close together and on byte boundaries.
    fn cuts(low: u128, bits: u32) -> impl Strategy<Value = Vec<Cut>> {
        let mask = u128::MAX >> (128 - bits);
        let place = (any::<u128>(), prop::sample::select(vec![0, 8, 16, 24, 56, 64, 120]), 0..4u128)
            .prop_map(move |(number, zeros, near)| ((number >> zeros << zeros).wrapping_add(near) & mask) | low);
        prop::collection::vec((place, 0..4u32), 0..200).prop_map(move |places| {
            let mut cuts: Vec<Cut> = vec![Cut { first: low, class: 9 }];
            cuts.extend(places.into_iter().map(|(first, class)| Cut { first, class }));
            cuts.sort_by_key(|cut| cut.first);
            cuts.dedup_by_key(|cut| cut.first);
            cuts.dedup_by_key(|cut| cut.class);
            cuts
        })
    }

    fn check(trie: &Trie, cuts: &[Cut], low: u128, bits: u32) -> Result<(), TestCaseError> {
        let mask = u128::MAX >> (128 - bits);
        for cut in cuts {
            for number in
                [cut.first.wrapping_sub(1), cut.first, cut.first.wrapping_add(1), cut.first ^ (1 << (bits - 1))]
            {
                let number = (number & mask) | low;
                prop_assert_eq!(trie.lookup(number), linear(cuts, number), "{:x}", number);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn equals_a_search_in_the_cuts_v4(cuts in cuts(0xffff_0000_0000, 32)) {
            check(&Trie::new(&cuts, 32), &cuts, 0xffff_0000_0000, 32)?;
        }

        #[test]
        fn equals_a_search_in_the_cuts_v6(cuts in cuts(0, 128)) {
            check(&Trie::new(&cuts, 128), &cuts, 0, 128)?;
        }
    }

    #[test]
    fn a_hundred_thousand_addresses_take_a_few_bytes_each() {
        // Pods as a cluster numbers them: a /24 (a /64) a node, 110 pods each.
        let pods = |node_bits: u32, base: u128| {
            let mut cuts = vec![Cut { first: base, class: 0 }];
            for pod in 0..100_000u128 {
                let first = base + ((pod / 110) << node_bits) + pod % 110 + 2;
                cuts.push(Cut { first, class: 1 + (pod % 1000) as u32 });
                cuts.push(Cut { first: first + 1, class: 0 });
            }
            cuts.dedup_by(|next, cut| {
                next.first == cut.first && {
                    cut.class = next.class;
                    true
                }
            });
            cuts
        };
        for (cuts, bits) in [(pods(8, 0xffff_0000_0000), 32), (pods(64, 0xfd00 << 112), 128)] {
            let trie = Trie::new(&cuts, bits);
            assert_eq!(trie.lookup(cuts[5].first), cuts[5].class);
            assert!(trie.memory() < 2_000_000, "{} bytes", trie.memory());
        }
        // Scattered over all of IPv4, nothing to share.
        let mut cuts = vec![Cut { first: 0xffff_0000_0000, class: 0 }];
        for place in 0..100_000u128 {
            let first = 0xffff_0000_0000 + place * 42_949;
            cuts.push(Cut { first: first + 1, class: 1 });
            cuts.push(Cut { first: first + 2, class: 0 });
        }
        let memory = Trie::new(&cuts, 32).memory();
        assert!(memory < 12_000_000, "{memory} bytes");
    }
}
