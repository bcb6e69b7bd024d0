//! Which bits of the key tell rules apart best: greedily, one after the other.

use super::lane::Bits;

/// Bits of a key.
const KEY_BITS: usize = 128;

/// So many rules speak for all where there are more.
const SAMPLE: usize = 4096;

/// For each byte its bits as bytes, so that eight counters are one addition.
const SPREAD: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[byte] |= ((byte as u64 >> bit) & 1) << (bit * 8);
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// What a choice aims at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// At most so many bits.
    pub(super) most: u32,
    /// No further bit once a cell has so few rules, as rules meet them.
    pub(super) cell: f64,
    /// What a copy of a rule costs: 1 weighs memory like time; towards 0, time alone counts.
    pub(super) thrift: f64,
}

/// Chosen bits of both words of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask(pub(super) [u64; 2]);

impl Mask {
    /// How many bits are chosen.
    pub(super) fn count(self) -> u32 {
        self.0[0].count_ones() + self.0[1].count_ones()
    }

    fn set(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn has(self, bit: usize) -> bool {
        self.0[bit / 64] >> (bit % 64) & 1 == 1
    }
}

/// How many rules want each bit to be 0, and to be 1.
struct Counts {
    zeros: [u32; KEY_BITS],
    ones: [u32; KEY_BITS],
}

impl Counts {
    fn of(rules: &[Bits]) -> Self {
        let mut counts = Counts { zeros: [0; KEY_BITS], ones: [0; KEY_BITS] };
        // A counter of one byte holds so many.
        for some in rules.chunks(255) {
            let mut zeros = [0u64; KEY_BITS / 8];
            let mut ones = [0u64; KEY_BITS / 8];
            for rule in some {
                for word in 0..2 {
                    let wanted = rule.value[word].to_le_bytes();
                    let unwanted = (rule.care[word] ^ rule.value[word]).to_le_bytes();
                    for byte in 0..8 {
                        ones[word * 8 + byte] += SPREAD[wanted[byte] as usize];
                        zeros[word * 8 + byte] += SPREAD[unwanted[byte] as usize];
                    }
                }
            }
            for (counters, packed) in [(&mut counts.zeros, zeros), (&mut counts.ones, ones)] {
                for (counter, count) in counters.iter_mut().zip(packed.into_iter().flat_map(u64::to_le_bytes)) {
                    *counter += u32::from(count);
                }
            }
        }
        counts
    }
}

/// Chooses bits that spread these rules over cells, one for each value of the bits. A rule to which a bit is all the same
/// is in the cells of both its values; the cost of a choice is the number of rules that a rule finds in its cell, itself
/// included, times the copies that the choice makes of a rule (to the power of [`Aim::thrift`]).
pub(super) fn select(rules: &[Bits], aim: Aim) -> Mask {
    // Every n-th rule: lists are in some order, so the parts of a list are all heard.
    let mut sample: Vec<Bits> = rules.iter().step_by(rules.len().div_ceil(SAMPLE).max(1)).copied().collect();
    let scale = rules.len() as f64 / sample.len().max(1) as f64;
    let begun = sample.len() as f64;
    let mut cells = vec![sample.len()];
    let mut mask = Mask::default();
    let mut cost = begun;
    let mut next = Vec::new();
    while mask.count() < aim.most {
        let Some((bit, least)) = cheapest(&sample, &cells, mask, begun, aim.thrift) else { break };
        if least >= cost * 0.98 {
            break;
        }
        cost = least;
        mask.set(bit);
        cells = split(&sample, &cells, bit, &mut next);
        std::mem::swap(&mut sample, &mut next);
        let (squares, all) = cells.iter().fold((0.0, 0.0), |(squares, all), &cell| {
            let cell = cell as f64;
            (squares + cell * cell, all + cell)
        });
        if squares / all * scale < aim.cell {
            break;
        }
    }
    mask
}

/// The bit that costs least when it is chosen as well, and what the choice costs then.
fn cheapest(sample: &[Bits], cells: &[usize], mask: Mask, begun: f64, thrift: f64) -> Option<(usize, f64)> {
    let mut squares = [0u64; KEY_BITS];
    let mut all = [0u64; KEY_BITS];
    let mut alone = 0;
    let mut from = 0;
    for &cell in cells {
        let rules = &sample[from..from + cell];
        from += cell;
        if cell == 1 {
            // Nothing to be told apart, and its copies are not counted: as good as nothing under each bit.
            alone += 1;
            continue;
        }
        let counts = Counts::of(rules);
        for bit in 0..KEY_BITS {
            let (low, high) = (cell as u64 - u64::from(counts.ones[bit]), cell as u64 - u64::from(counts.zeros[bit]));
            squares[bit] += low * low + high * high;
            all[bit] += low + high;
        }
    }
    let cost = |bit: usize| {
        let (squares, all) = ((squares[bit] + alone) as f64, (all[bit] + alone) as f64);
        squares / all * (all / begun).powf(thrift)
    };
    (0..KEY_BITS).filter(|&bit| !mask.has(bit)).map(|bit| (bit, cost(bit))).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Splits each cell into those of both values of a bit; the rules go to `next`, the sizes of cells with any are returned.
fn split(sample: &[Bits], cells: &[usize], bit: usize, next: &mut Vec<Bits>) -> Vec<usize> {
    next.clear();
    let mut sizes = Vec::with_capacity(cells.len() * 2);
    let (word, shift) = (bit / 64, bit % 64);
    let mut from = 0;
    for &cell in cells {
        let rules = &sample[from..from + cell];
        from += cell;
        for value in 0..2 {
            let begin = next.len();
            let fits = |rule: &&Bits| rule.care[word] >> shift & 1 == 0 || rule.value[word] >> shift & 1 == value;
            next.extend(rules.iter().filter(fits));
            if next.len() > begin {
                sizes.push(next.len() - begin);
            }
        }
    }
    sizes
}
