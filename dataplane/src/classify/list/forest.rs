//! Trees over the bits of a key, in one piece of memory, and the walk of a burst through them.

use bytemuck::{Pod, Zeroable};

use super::build::push_blocks;
use super::lane::Lane;
use crate::arch::lanes::{Job, Key, LANE_WORDS, LANES, PADDING, Wide};

/// Packets that are looked up together.
pub(crate) const BURST: usize = 32;

/// In place of a rank: no rule.
pub(crate) const NONE: u32 = u32::MAX;

/// Offsets count units of so many words.
pub(super) const UNIT: usize = 4;

/// Words in front of a node's entries: which bits of both words of the key choose among them.
pub(super) const NODE_WORDS: usize = 4;

/// What a value of the bits leads to: a node, or a leaf with so many lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u32);

impl Entry {
    const LEAF: u32 = 1 << 31;
    const COUNT_SHIFT: u32 = 26;
    const OFFSET: u32 = (1 << Entry::COUNT_SHIFT) - 1;
    /// In place of the number of lanes: it is too large for the entry, and stands in front of the lanes.
    const MANY: u32 = 31;

    /// A leaf without lanes.
    pub(super) const EMPTY: Entry = Entry(Entry::LEAF);
    /// The most lanes whose number an entry holds.
    pub(super) const MOST_LANES: usize = Entry::MANY as usize - 1;

    pub(super) fn node(begin: usize) -> Entry {
        Entry(Entry::offset_of(begin))
    }

    pub(super) fn leaf(begin: usize, lanes: usize) -> Entry {
        let count = (lanes as u32).min(Entry::MANY);
        Entry(Entry::LEAF | count << Entry::COUNT_SHIFT | Entry::offset_of(begin))
    }

    fn offset_of(begin: usize) -> u32 {
        debug_assert!(begin.is_multiple_of(UNIT) && begin / UNIT <= Entry::OFFSET as usize);
        (begin / UNIT) as u32
    }

    #[inline(always)]
    fn is_leaf(self) -> bool {
        self.0 & Entry::LEAF != 0
    }

    #[inline(always)]
    fn begin(self) -> usize {
        (self.0 & Entry::OFFSET) as usize * UNIT
    }

    /// Lanes, or [`Entry::MANY`].
    #[inline(always)]
    fn count(self) -> usize {
        (self.0 >> Entry::COUNT_SHIFT & Entry::MANY) as usize
    }
}

/// A tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    /// Which bits of both words of a key are the index into the root's entries.
    pub(super) mask: [u64; 2],
    /// Where those begin.
    pub(super) root: u32,
    /// The rank of its first rule: who has a better match already need not look.
    pub(super) first_rank: u32,
}

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Trees, the one with the first rule first.
#[derive(Debug, Default)]
pub(crate) struct Forest {
    lines: Box<[Line]>,
    trees: Box<[Tree]>,
}

impl Forest {
    pub(super) fn new(mut words: Vec<u32>, trees: Vec<Tree>) -> Self {
        words.resize(words.len().next_multiple_of(16), 0);
        let lines = words.chunks_exact(16).map(|line| Line(line.try_into().unwrap_or([0; 16]))).collect();
        Forest { lines, trees: trees.into() }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.trees)
    }

    #[inline(always)]
    fn words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.lines)
    }
}

/// Where a walk is.
#[derive(Clone, Copy, Default)]
struct Step {
    packet: u8,
    /// A word: of an entry, or where a leaf or node begins.
    at: u32,
    entry: u32,
}

/// Looks a burst up: for each key the rank of the first rule that matches, or [`NONE`]. All packets take each step
/// together, and what the next step reads is fetched meanwhile.
pub(crate) struct Walk<'a> {
    pub(crate) forest: &'a Forest,
    /// At most [`BURST`].
    pub(crate) keys: &'a [Key],
    /// A bit for each rank that does not count; empty for none.
    pub(crate) removed: &'a [u64],
    /// As many as keys; a rank that is there already is kept if it is better.
    pub(crate) best: &'a mut [u32],
}

impl Job for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(mut self, wide: W) {
        for tree in &self.forest.trees {
            self.tree(wide, tree);
        }
    }
}

impl Walk<'_> {
    #[inline(always)]
    fn tree<W: Wide>(&mut self, wide: W, tree: &Tree) {
        let words = self.forest.words();
        let mut steps = [Step::default(); BURST];
        let mut left = 0;
        for (packet, (key, best)) in self.keys.iter().zip(&*self.best).enumerate().take(BURST) {
            if tree.first_rank < *best {
                let at = tree.root + index(wide, key, tree.mask);
                wide.prefetch(words, at as usize);
                steps[left] = Step { packet: packet as u8, at, entry: 0 };
                left += 1;
            }
        }
        let mut leaves = [Step::default(); BURST];
        let mut found = 0;
        while left > 0 {
            let mut nodes = 0;
            for place in 0..left {
                let step = steps[place];
                let entry = Entry(words[step.at as usize]);
                let begin = entry.begin();
                let step = Step { packet: step.packet, at: begin as u32, entry: entry.0 };
                // Which of the two an entry is cannot be predicted: it is put down as both, and counted as one.
                leaves[found % BURST] = step;
                steps[nodes] = step;
                let leaf = usize::from(entry.is_leaf());
                found += leaf & usize::from(entry != Entry::EMPTY);
                nodes += 1 - leaf;
                wide.prefetch(words, begin);
                wide.prefetch(words, begin + 16);
                if entry.is_leaf() && entry.count() > 4 {
                    wide.prefetch(words, begin + 32);
                    wide.prefetch(words, begin + 48);
                }
            }
            for step in &mut steps[..nodes] {
                let at = step.at as usize;
                let node = &words[at..at + NODE_WORDS];
                let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
                let mask = [join(node[0], node[1]), join(node[2], node[3])];
                step.at += NODE_WORDS as u32 + index(wide, &self.keys[step.packet as usize], mask);
                wide.prefetch(words, step.at as usize);
            }
            left = nodes;
        }
        for leaf in &leaves[..found.min(BURST)] {
            let packet = leaf.packet as usize;
            let entry = Entry(leaf.entry);
            let (begin, lanes) = match entry.count() as u32 {
                Entry::MANY => (leaf.at as usize + UNIT, words[leaf.at as usize] as usize),
                count => (leaf.at as usize, count as usize),
            };
            let rank = first_match(wide, words, begin, lanes, &self.keys[packet], self.removed);
            self.best[packet] = self.best[packet].min(rank);
        }
    }
}

/// The value of the chosen bits of a key.
#[inline(always)]
fn index<W: Wide>(wide: W, key: &Key, mask: [u64; 2]) -> u32 {
    let [high, low] = key.bits();
    (wide.gather(high, mask[0]) << (mask[1].count_ones() % 64) | wide.gather(low, mask[1])) as u32
}

/// The rank in the first lane of a leaf that matches and is not removed, or [`NONE`].
#[inline(always)]
fn first_match<W: Wide>(wide: W, words: &[u32], begin: usize, lanes: usize, key: &Key, removed: &[u64]) -> u32 {
    let mut offset = begin;
    let mut left = lanes;
    while left > 0 {
        let count = left.min(LANES);
        let mut matching = wide.matching(words, offset, count, key);
        while matching != 0 {
            let rank = words[offset + Lane::WORDS * count + matching.trailing_zeros() as usize];
            if removed.get(rank as usize / 64).is_none_or(|word| word >> (rank % 64) & 1 == 0) {
                return rank;
            }
            matching &= matching - 1;
        }
        offset += LANE_WORDS * count;
        left -= count;
    }
    NONE
}

/// A leaf by itself, with few lanes: what was added to a list since its trees were built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaf {
    words: Vec<u32>,
    lanes: usize,
}

impl Leaf {
    /// Of these lanes, in this order, each with a rank.
    pub(crate) fn new(lanes: impl Iterator<Item = (Lane, u32)>) -> Self {
        let lanes: Vec<(Lane, u32)> = lanes.collect();
        let mut words = Vec::with_capacity(lanes.len() * LANE_WORDS + PADDING);
        let count = lanes.len();
        push_blocks(&mut words, lanes.into_iter());
        words.extend([0; PADDING]);
        Leaf { words, lanes: count }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        self.words.capacity() * size_of::<u32>()
    }
}

/// For each key the rank in the first lane of a leaf that matches, or [`NONE`].
pub(crate) struct WalkLeaf<'a> {
    pub(crate) leaf: &'a Leaf,
    pub(crate) keys: &'a [Key],
    /// As many as keys.
    pub(crate) best: &'a mut [u32],
}

impl Job for WalkLeaf<'_> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        for (key, best) in self.keys.iter().zip(self.best) {
            *best = first_match(wide, &self.leaf.words, 0, self.leaf.lanes, key, &[]);
        }
    }
}
