//! Classes of values in one dimension: those in between which no rule's set of values begins or ends.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};

use crate::model::{Family, States};
use crate::space::{Protocols, Span, icmp};

use super::lists::{Dimension, Entry, Values};
use super::pick::{self, Pick};

/// A class: which entries of either list have it, in order, and a value that stands for it.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) lists: [Vec<u32>; 2],
    pub(super) value: u128,
}

/// What is swept over.
pub(super) struct Sweep<'s> {
    pub(super) values: &'s Values,
    pub(super) entries: [&'s [Entry]; 2],
    pub(super) lists: [&'s [u32]; 2],
    /// The places in `lists` whose packets are looked for.
    pub(super) wanted: [&'s [bool]; 2],
    pub(super) family: Family,
    pub(super) state: States,
    pub(super) protocol: Option<u8>,
}

/// The entries that share one set of values.
#[derive(Default)]
struct Sharing {
    lists: [Vec<u32>; 2],
    wanted: usize,
}

impl Sweep<'_> {
    /// The classes that some wanted entry has, and how many steps it took to find them.
    pub(super) fn classes(&self, dimension: Dimension) -> (Vec<Class>, u64) {
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        let mut sharing: Vec<Sharing> = Vec::new();
        let mut always = Sharing::default();
        for side in 0..2 {
            for (place, &index) in self.lists[side].iter().enumerate() {
                let value = self.entries[side][index as usize].values[dimension as usize];
                let slot = match value {
                    0 => &mut always,
                    _ => {
                        let number = *numbers.entry(value).or_insert_with(|| {
                            sharing.push(Sharing::default());
                            sharing.len() - 1
                        });
                        &mut sharing[number]
                    }
                };
                slot.lists[side].push(index);
                slot.wanted += usize::from(self.wanted[side][place]);
            }
        }
        let mut events: Vec<(u128, usize, bool)> = Vec::new();
        let domain = dimension.domain(self.family);
        let mut add = |number: usize, span: Span<u128>| {
            events.push((span.first, number, true));
            if span.last < domain.last {
                events.push((span.last + 1, number, false));
            }
        };
        for (&value, &number) in &numbers {
            self.values.spans(dimension, value, |span| add(number, span));
        }
        if dimension == Dimension::Protocol {
            // Protocols with other dimensions are never of one class.
            let apart =
                [vec![6], Protocols::with_ports().iter().filter(|port| *port != 6).collect(), vec![icmp(self.family)]];
            for (kind, numbers) in apart.into_iter().enumerate() {
                for number in numbers.into_iter().map(u128::from) {
                    add(sharing.len() + kind, Span { first: number, last: number });
                }
            }
        }
        sharing.resize_with(sharing.len() + 3, Sharing::default);
        events.sort_unstable();
        self.collect(dimension, &sharing, &always, &events)
    }

    fn collect(
        &self,
        dimension: Dimension,
        sharing: &[Sharing],
        always: &Sharing,
        events: &[(u128, usize, bool)],
    ) -> (Vec<Class>, u64) {
        let domain = dimension.domain(self.family);
        let mut classes: Vec<(Class, Pick)> = Vec::new();
        // A class is known by the sum of random numbers, one for each set of values that has it: 128 bits never meet by chance.
        let mut known: HashMap<u128, usize> = HashMap::new();
        let (mut alive, mut sum, mut wanted) = (BTreeSet::new(), 0_u128, always.wanted);
        let mut work = events.len() as u64;
        let mut first = domain.first;
        let mut place = 0;
        loop {
            while let Some(&(at, number, begins)) = events.get(place).filter(|(at, ..)| *at <= first) {
                debug_assert_eq!(at, first);
                sum ^= random(number);
                if begins {
                    alive.insert(number);
                    wanted += sharing[number].wanted;
                } else {
                    alive.remove(&number);
                    wanted -= sharing[number].wanted;
                }
                place += 1;
            }
            let next = events.get(place).map(|(at, ..)| *at);
            if wanted > 0 {
                let span = Span { first, last: next.map_or(domain.last, |next| next - 1) };
                let pick = pick::pick(dimension, span, self.family, self.state, self.protocol);
                match known.entry(sum) {
                    Slot::Occupied(known) => {
                        let class = &mut classes[*known.get()];
                        class.1 = class.1.min(pick);
                    }
                    Slot::Vacant(slot) => {
                        slot.insert(classes.len());
                        let lists = [0, 1].map(|side| {
                            let some = alive.iter().flat_map(|number| &sharing[*number].lists[side]);
                            let mut list: Vec<u32> = some.chain(&always.lists[side]).copied().collect();
                            list.sort_unstable();
                            work += list.len() as u64;
                            list
                        });
                        classes.push((Class { lists, value: 0 }, pick));
                    }
                }
            }
            match next {
                Some(next) => first = next,
                None => break,
            }
        }
        (classes.into_iter().map(|(class, (_, value))| Class { value, ..class }).collect(), work)
    }
}

/// A number's own 128 random bits (SplitMix64, twice).
fn random(number: usize) -> u128 {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(z ^ (z >> 31))
    };
    let number = number as u64;
    mix(2 * number + 1) << 64 | mix(2 * number + 2)
}
