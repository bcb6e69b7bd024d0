//! [`Generator`]: sets like the one that it learnt from.
//!
//! What is learnt, after ClassBench's own generator:
//! * *Shapes.* Both prefix lengths, both port ranges, protocol and flags of a filter, jointly, and where in the list it
//!   stands.
//! * *Nesting.* Of the tree of source prefixes, and of the tree of destination prefixes: at a given depth, with a given number
//!   of filters below, how the filters divide between the two subtrees. These are kept as samples, not as means.
//! * *Likeness.* How often a filter's destination goes on as its source does, while the two have been equal so far.
//!
//! What is not: that filters of one source have ports in common beyond what their shapes say. Prefixes of different
//! lengths nest somewhat more often than in the learnt set.

use std::collections::HashSet;

use dataplane::rules::AddressSet;
use ipnet::IpNet;

use super::{Filter, Kind, ReadError, Size, read_set, reader};
use crate::random::Random;

/// Bits of an IPv4 address.
const DEPTHS: usize = 32;

/// Powers of two that numbers of filters are told apart by.
const WEIGHTS: usize = 24;

/// Divisions kept for each depth and number of filters.
const SAMPLES: usize = 256;

/// Generates sets.
#[derive(Debug)]
pub struct Generator {
    learnt: Vec<Filter>,
    source: Nesting,
    destination: Nesting,
    /// For each depth how often, of 1, the destination's bit is the source's.
    alike: [f32; DEPTHS],
}

/// How filters divide: the share of the smaller side.
#[derive(Debug)]
struct Nesting(Vec<Vec<f32>>);

/// A prefix of a filter.
#[derive(Clone, Copy, Debug)]
struct Item {
    bits: u32,
    length: u8,
    /// The prefix of the other side that this one may follow.
    other: u32,
    other_length: u8,
    filter: u32,
}

impl Generator {
    /// Learns from a set of IPv4 filters.
    pub fn learn(filters: &[Filter]) -> Self {
        let items = |net: fn(&Filter) -> &IpNet| -> Vec<Item> {
            let items = (0..).zip(filters).map(|(filter, rule)| {
                let net = net(rule);
                Item { bits: bits(net), length: net.prefix_len(), other: 0, other_length: 0, filter }
            });
            items.collect()
        };
        Generator {
            learnt: filters.to_vec(),
            source: Nesting::learn(items(|filter| &filter.source)),
            destination: Nesting::learn(items(|filter| &filter.destination)),
            alike: likeness(filters),
        }
    }

    /// One that has learnt from the file whose size is nearest: small sets of a kind differ from large ones.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(kind: Kind, count: usize) -> Result<Self, ReadError> {
        let size = match count {
            ..3_200 => Size::K1,
            3_200..32_000 => Size::K10,
            _ => Size::K100,
        };
        Ok(Self::learn(&read_set(kind, size)?))
    }

    /// A set of `count` filters, no two alike (fewer if the learnt set does not give as many). If the learnt set ends
    /// with a filter that matches everything, so does this one.
    pub fn generate(&self, count: usize, seed: u64) -> Vec<Filter> {
        let everything = |filter: &&Filter| filter.source.prefix_len() == 0 && filter.destination.prefix_len() == 0;
        let last = self.learnt.last().filter(everything);
        let wanted = count.saturating_sub(usize::from(last.is_some()));
        let mut filters = Vec::new();
        // Some come out twice, so that more are drawn than are wanted.
        for quarters in [5, 7, 12] {
            let mut known = HashSet::new();
            filters = self.draw(count * quarters / 4, seed);
            filters.retain(|filter| Some(filter) != last && known.insert(*filter));
            if filters.len() >= wanted {
                break;
            }
        }
        // What is too much goes evenly.
        let (mut random, mut left, mut keep) = (Random::new(seed), filters.len(), wanted.min(filters.len()));
        filters.retain(|_| {
            let kept = (random.below(left as u32) as usize) < keep;
            (left, keep) = (left - 1, keep - usize::from(kept));
            kept
        });
        filters.extend(last);
        filters
    }

    /// As many filters, some of them perhaps alike.
    fn draw(&self, count: usize, seed: u64) -> Vec<Filter> {
        let mut random = Random::new(seed);
        let shapes = self.shapes(count, &mut random);
        let mut sources: Vec<Item> = (0..)
            .zip(&shapes)
            .map(|(filter, shape)| Item {
                bits: 0,
                length: shape.source.prefix_len(),
                other: 0,
                other_length: 0,
                filter,
            })
            .collect();
        self.source.draw(&mut sources, None, &mut random);
        let mut destinations: Vec<Item> = sources
            .iter()
            .map(|source| Item {
                bits: 0,
                length: shapes[source.filter as usize].destination.prefix_len(),
                other: source.bits,
                other_length: source.length,
                filter: source.filter,
            })
            .collect();
        self.destination.draw(&mut destinations, Some(&self.alike), &mut random);
        let mut filters = shapes;
        for item in &sources {
            filters[item.filter as usize].source = reader::prefix(item.bits, item.length);
        }
        for item in &destinations {
            filters[item.filter as usize].destination = reader::prefix(item.bits, item.length);
        }
        filters
    }

    /// Learnt filters, each as often as the others, in the order of the list.
    fn shapes(&self, count: usize, random: &mut Random) -> Vec<Filter> {
        let mut places: Vec<usize> = (0..self.learnt.len()).collect();
        for index in (1..places.len()).rev() {
            places.swap(index, random.below(index as u32 + 1) as usize);
        }
        let mut places: Vec<usize> = places.into_iter().cycle().take(count).collect();
        places.sort_unstable();
        places.into_iter().map(|place| self.learnt[place]).collect()
    }
}

fn bits(net: &IpNet) -> u32 {
    AddressSet::range_of(net).0 as u32
}

fn bit(bits: u32, depth: usize) -> bool {
    bits >> (31 - depth) & 1 == 1
}

/// How often the destination's bit at each depth is the source's, where both go on and were equal before.
fn likeness(filters: &[Filter]) -> [f32; DEPTHS] {
    let mut seen = [(1u32, 2u32); DEPTHS];
    for filter in filters {
        let (source, destination) = (bits(&filter.source), bits(&filter.destination));
        let depths = usize::from(filter.source.prefix_len().min(filter.destination.prefix_len()));
        for (depth, (alike, all)) in seen.iter_mut().enumerate().take(depths) {
            *all += 1;
            if bit(source, depth) != bit(destination, depth) {
                break;
            }
            *alike += 1;
        }
    }
    seen.map(|(alike, all)| alike as f32 / all as f32)
}

impl Nesting {
    fn place(depth: usize, weight: usize) -> usize {
        depth * WEIGHTS + (weight.ilog2() as usize).min(WEIGHTS - 1)
    }

    fn learn(mut items: Vec<Item>) -> Self {
        let mut nesting = Nesting(vec![Vec::new(); DEPTHS * WEIGHTS]);
        items.sort_unstable_by_key(|item| (item.bits, item.length));
        nesting.visit(&items, 0);
        nesting
    }

    /// Items of one subtree, sorted.
    fn visit(&mut self, items: &[Item], depth: usize) {
        if items.len() < 2 || depth == DEPTHS {
            return;
        }
        // Those that end here come first, having the lowest bits and lengths.
        let items = &items[items.iter().take_while(|item| usize::from(item.length) <= depth).count()..];
        let (zeros, ones) = items.split_at(items.partition_point(|item| !bit(item.bits, depth)));
        if items.len() >= 2 {
            let samples = &mut self.0[Self::place(depth, items.len())];
            let share = zeros.len().min(ones.len()) as f32 / items.len() as f32;
            if samples.len() < SAMPLES {
                samples.push(share);
            } else {
                // An even choice would want a counter; a place that depends on the content serves.
                samples[items.len() % SAMPLES] = share;
            }
        }
        self.visit(zeros, depth + 1);
        self.visit(ones, depth + 1);
    }

    /// The share of the smaller side, as it was met with about as many filters at this depth, or with the nearest number.
    fn share(&self, depth: usize, weight: usize, random: &mut Random) -> f32 {
        let weight = (weight.ilog2() as usize).min(WEIGHTS - 1);
        let at = |weight: usize| Some(&self.0[depth * WEIGHTS + weight]).filter(|samples| !samples.is_empty());
        let nearest = (0..WEIGHTS).find_map(|far| {
            let below = weight.checked_sub(far).and_then(at);
            below.or_else(|| Some(weight + far).filter(|&weight| weight < WEIGHTS).and_then(at))
        });
        nearest.map_or(0.0, |samples| *random.pick(samples))
    }

    /// Draws bits for the items. With `alike`, bits follow the other side's as often as that says.
    fn draw(&self, items: &mut [Item], alike: Option<&[f32; DEPTHS]>, random: &mut Random) {
        let mut work = vec![(0, items.len(), 0)];
        while let Some((from, to, depth)) = work.pop() {
            if depth == DEPTHS || from == to {
                continue;
            }
            let here = &mut items[from..to];
            // Those that end here to the front.
            here.sort_by_key(|item| usize::from(item.length) > depth);
            let ended = here.partition_point(|item| usize::from(item.length) <= depth);
            let here = &mut here[ended..];
            if here.is_empty() {
                continue;
            }
            let zeros = self.divide(here, depth, alike, random);
            for item in &mut here[zeros..] {
                item.bits |= 1 << (31 - depth);
            }
            work.push((from + ended, from + ended + zeros, depth + 1));
            work.push((from + ended + zeros, to, depth + 1));
        }
    }

    /// Orders the items so that those which get a zero bit come first; how many they are.
    fn divide(&self, items: &mut [Item], depth: usize, alike: Option<&[f32; DEPTHS]>, random: &mut Random) -> usize {
        let share = if items.len() < 2 { 0.0 } else { self.share(depth, items.len(), random) };
        let smaller = (share * items.len() as f32).round() as usize;
        // Filters of one length keep together, the lengths in any order: else no two would end in the same prefix.
        let order: [u32; DEPTHS + 1] = std::array::from_fn(|_| 1 + random.below(1 << 30));
        let wish = |item: &Item, random: &mut Random| {
            let follows = alike.is_some_and(|alike| {
                let equal = depth == 0 || (item.bits ^ item.other) >> (32 - depth) == 0;
                equal && usize::from(item.other_length) > depth && unit(random) < alike[depth]
            });
            // A wish of its own stands at the ends of the order, no wish between.
            let none = order[usize::from(item.length)];
            if follows { if bit(item.other, depth) { u32::MAX } else { 0 } } else { none }
        };
        let mut wishes: Vec<(u32, Item)> = items.iter().map(|item| (wish(item, random), *item)).collect();
        wishes.sort_by_key(|wish| wish.0);
        let ones = wishes.iter().filter(|wish| wish.0 == u32::MAX).count();
        let zeros = wishes.iter().filter(|wish| wish.0 == 0).count();
        for (item, wish) in items.iter_mut().zip(&wishes) {
            *item = wish.1;
        }
        let mostly_zeros = if ones == zeros { random.below(2) == 0 } else { zeros > ones };
        if mostly_zeros { items.len() - smaller } else { smaller }
    }
}

/// A number from 0 up to 1.
fn unit(random: &mut Random) -> f32 {
    random.below(1 << 24) as f32 / (1 << 24) as f32
}
