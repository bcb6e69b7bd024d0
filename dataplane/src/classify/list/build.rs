//! From rules to a [`Forest`].

use super::forest::{Entry, Forest, NODE_WORDS, Tree, UNIT};
use super::lane::{Bits, Lane};
use super::select::{Aim, Mask, select};
use crate::arch::lanes::{LANES, PADDING, Portable, Wide};

/// A side whose range has so many leading bits in common is narrow.
const NARROW: u32 = 10;

/// Rules that are compared with a packet rather than told apart further.
const LEAF: usize = 8;

/// Fewer rules than this take more room for each, and are told apart in fewer steps: it stays in the cache.
const SMALL: usize = 1 << 15;

/// Levels of a tree: what is not told apart after so many bits never is.
const LEVELS: u32 = 8;

/// Bits of a root, and of a node below.
const ROOT_BITS: u32 = 18;
const NODE_BITS: u32 = 8;

/// A rule on its way into trees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) lane: Lane,
    pub(super) rank: u32,
    pub(super) bits: Bits,
}

impl Item {
    pub(super) fn new(lane: Lane, rank: u32) -> Self {
        Item { lane, rank, bits: lane.bits() }
    }

    fn is_narrow(&self, side: usize) -> bool {
        ((self.bits.care[0] >> (32 * (1 - side))) as u32).leading_ones() >= NARROW
    }
}

/// What the trees of one group are built for.
#[derive(Clone, Copy)]
struct Shape {
    /// Entries of a node for each rule in it.
    entries: f64,
    thrift: f64,
}

/// Groups, by which side is narrow: the side on which more rules are goes first, the other side takes the rest, and what is
/// wide on both sides remains. In each group some bits tell nearly all rules apart, so that a tree hardly copies any.
pub(super) fn build(items: &[Item]) -> Forest {
    let narrow = [0, 1].map(|side| items.iter().filter(|item| item.is_narrow(side)).count());
    let sides = if narrow[0] >= narrow[1] { [0, 1] } else { [1, 0] };
    let mut groups: [Vec<Item>; 3] = Default::default();
    for item in items {
        let group = sides.iter().position(|&side| item.is_narrow(side)).unwrap_or(2);
        groups[group].push(*item);
    }
    let copies = items.len() * 2 + (1 << 16);
    let mut builder = Builder { words: Vec::new(), lanes: 0, most_lanes: copies };
    let mut trees = Vec::new();
    for (group, items) in groups.iter().enumerate().filter(|(_, items)| !items.is_empty()) {
        // There are few of the last group, and what they need not be compared with saves time.
        let shape = if group < 2 {
            Shape { entries: if items.len() < SMALL { 4.0 } else { 1.5 }, thrift: 1.0 }
        } else {
            Shape { entries: 8.0, thrift: 0.5 }
        };
        builder.most_lanes = builder.lanes + copies;
        trees.push(builder.tree(items, shape));
    }
    trees.sort_by_key(|tree| tree.first_rank);
    builder.words.extend([0; PADDING]);
    Forest::new(builder.words, trees)
}

struct Builder {
    words: Vec<u32>,
    lanes: usize,
    /// When there are so many, nothing is divided any further: it bounds the memory whatever the rules are.
    most_lanes: usize,
}

impl Builder {
    fn tree(&mut self, items: &[Item], shape: Shape) -> Tree {
        let mask = self.mask(items, shape, ROOT_BITS);
        let root = self.table(mask.count());
        self.children(items, mask, shape, 0, root);
        Tree { mask: mask.0, root: root as u32, first_rank: items[0].rank }
    }

    /// Room for a node's entries; where it begins.
    fn table(&mut self, bits: u32) -> usize {
        let begin = self.words.len();
        self.words.resize(begin + (1usize << bits).next_multiple_of(UNIT), Entry::EMPTY.0);
        begin
    }

    fn mask(&self, items: &[Item], shape: Shape, most: u32) -> Mask {
        let bits: Vec<Bits> = items.iter().map(|item| item.bits).collect();
        let most = ((items.len() as f64 * shape.entries).log2().ceil() as u32).clamp(1, most);
        select(&bits, Aim { most, cell: LEAF as f64 / 4.0, thrift: shape.thrift })
    }

    fn children(&mut self, items: &[Item], mask: Mask, shape: Shape, level: u32, table: usize) {
        let (cells, members) = partition(items, mask);
        let mut cell_items = Vec::new();
        for (index, range) in cells.windows(2).enumerate() {
            cell_items.clear();
            cell_items.extend(members[range[0]..range[1]].iter().map(|&member| items[member as usize]));
            // Where one cell has everything, further bits have been tried.
            let further = level < LEVELS && cell_items.len() < items.len();
            let entry = self.entry(&cell_items, shape, level + 1, further);
            self.words[table + index] = entry.0;
        }
    }

    fn entry(&mut self, items: &[Item], shape: Shape, level: u32, further: bool) -> Entry {
        if items.len() <= LEAF || !further || self.lanes + items.len() > self.most_lanes {
            return self.leaf(items);
        }
        let mask = self.mask(items, shape, NODE_BITS);
        if mask.count() == 0 {
            return self.leaf(items);
        }
        let begin = self.words.len();
        self.words.extend(mask.0.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]));
        let table = self.table(mask.count());
        debug_assert_eq!(table, begin + NODE_WORDS);
        self.children(items, mask, shape, level, table);
        Entry::node(begin)
    }

    fn leaf(&mut self, items: &[Item]) -> Entry {
        if items.is_empty() {
            return Entry::EMPTY;
        }
        let begin = self.words.len();
        if items.len() > Entry::MOST_LANES {
            self.words.extend([items.len() as u32, 0, 0, 0]);
        }
        self.lanes += items.len();
        push_blocks(&mut self.words, items.iter().map(|item| (item.lane, item.rank)));
        Entry::leaf(begin, items.len())
    }
}

/// Blocks of lanes as [`Wide::matching`] reads them; all but the last have [`LANES`].
pub(super) fn push_blocks(words: &mut Vec<u32>, lanes: impl ExactSizeIterator<Item = (Lane, u32)>) {
    let lanes: Vec<(Lane, u32)> = lanes.collect();
    for block in lanes.chunks(LANES) {
        for field in 0..Lane::WORDS {
            words.extend(block.iter().map(|(lane, _)| lane.words()[field]));
        }
        words.extend(block.iter().map(|(_, rank)| rank));
    }
}

/// The rules of each cell, in their order: where each cell's begin, and one end more; and their places in `items`.
fn partition(items: &[Item], mask: Mask) -> (Vec<usize>, Vec<u32>) {
    let count = 1usize << mask.count();
    let mut begins = vec![0usize; count + 1];
    for item in items {
        each_cell(item, mask, |cell| begins[cell + 1] += 1);
    }
    for cell in 0..count {
        begins[cell + 1] += begins[cell];
    }
    let mut next = begins.clone();
    let mut members = vec![0u32; begins[count]];
    for (place, item) in (0..).zip(items) {
        each_cell(item, mask, |cell| {
            members[next[cell]] = place;
            next[cell] += 1;
        });
    }
    (begins, members)
}

/// The cells that a rule is in: each value that the chosen bits can have when the rule matches.
fn each_cell(item: &Item, mask: Mask, mut visit: impl FnMut(usize)) {
    let gather = |words: [u64; 2]| {
        let [high, low] = [0, 1].map(|word| Portable.gather(words[word], mask.0[word]));
        (high << mask.0[1].count_ones() | low) as usize
    };
    let fixed = gather(item.bits.value);
    let free = !gather(item.bits.care) & ((1 << mask.count()) - 1);
    // All subsets of the free bits.
    let mut subset = free;
    loop {
        visit(fixed | subset);
        if subset == 0 {
            break;
        }
        subset = (subset - 1) & free;
    }
}
