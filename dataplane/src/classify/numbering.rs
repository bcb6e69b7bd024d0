//! Numbers for everything that rules name: sets of addresses, services, chains. What is equal has one number and keeps it as
//! long as a rule names it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use super::table::{CompiledChain, NumberedChain};
use crate::rules::{AddressSet, GroupId};

/// Values and their numbers, in the order of arrival.
#[derive(Debug)]
pub(super) struct Interner<T> {
    numbers: HashMap<T, u32>,
    pub(super) values: Vec<T>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner { numbers: HashMap::new(), values: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    pub(super) fn number(&mut self, value: T) -> u32 {
        match self.numbers.entry(value) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let number = self.values.len() as u32;
                self.values.push(entry.key().clone());
                *entry.insert(number)
            }
        }
    }
}

/// What a set's number stands for.
#[derive(Clone, Debug)]
enum Meaning {
    /// Nothing: no rule names it, and no class is in it.
    Free,
    /// Ranges that do not change.
    Fixed(Arc<AddressSet>),
    /// Single addresses that come and go.
    Group(GroupId),
}

#[derive(Debug)]
struct Set {
    meaning: Meaning,
    /// Whether the classes of addresses know it. A group that nobody is in is known.
    applied: bool,
    /// The chains that name it.
    chains: Vec<u32>,
}

/// Sets of addresses by number.
#[derive(Debug, Default)]
pub(super) struct Sets {
    sets: Vec<Set>,
    fixed: HashMap<Arc<AddressSet>, u32>,
    groups: HashMap<GroupId, u32>,
    free: Vec<u32>,
}

impl Sets {
    /// The number of a set of ranges.
    pub(super) fn fixed(&mut self, set: &Arc<AddressSet>) -> u32 {
        if let Some(&number) = self.fixed.get(set) {
            return number;
        }
        let number = self.add(Meaning::Fixed(Arc::clone(set)), false);
        self.fixed.insert(Arc::clone(set), number);
        number
    }

    /// The number of a group.
    pub(super) fn group(&mut self, group: GroupId) -> u32 {
        if let Some(&number) = self.groups.get(&group) {
            return number;
        }
        let number = self.add(Meaning::Group(group), true);
        self.groups.insert(group, number);
        number
    }

    fn add(&mut self, meaning: Meaning, applied: bool) -> u32 {
        let set = Set { meaning, applied, chains: Vec::new() };
        match self.free.pop() {
            Some(number) => {
                self.sets[number as usize] = set;
                number
            }
            None => {
                self.sets.push(set);
                self.sets.len() as u32 - 1
            }
        }
    }

    /// The number of a group, if a rule has ever named it.
    pub(super) fn known_group(&self, group: GroupId) -> Option<u32> {
        self.groups.get(&group).copied()
    }

    /// Whether a number is that of a group.
    pub(super) fn is_group(&self, set: u32) -> bool {
        matches!(self.sets[set as usize].meaning, Meaning::Group(_))
    }

    /// The chains that name a set.
    pub(super) fn chains(&self, set: u32) -> &[u32] {
        &self.sets[set as usize].chains
    }

    /// The ranges of the fixed sets that a rule names, by number; none for others, whose numbers are about to be used again.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &[(u128, u128)]> {
        self.sets.iter().map(|set| match &set.meaning {
            Meaning::Fixed(ranges) if !set.chains.is_empty() => ranges.ranges(),
            Meaning::Fixed(_) | Meaning::Free | Meaning::Group(_) => &[],
        })
    }

    /// The sets of ranges that no class knows yet.
    pub(super) fn unapplied(&self) -> Vec<(u32, Arc<AddressSet>)> {
        let sets = (0..).zip(&self.sets).filter(|(_, set)| !set.applied);
        let fixed = sets.filter_map(|(number, set)| match &set.meaning {
            Meaning::Fixed(ranges) => Some((number, Arc::clone(ranges))),
            Meaning::Free | Meaning::Group(_) => None,
        });
        fixed.collect()
    }

    /// From now on the classes know them.
    pub(super) fn set_applied(&mut self) {
        self.sets.iter_mut().for_each(|set| set.applied = true);
    }

    /// Forgets the sets that no rule names; their numbers are used again. No class may be in one any more.
    pub(super) fn forget_unnamed(&mut self) {
        for (number, set) in (0..).zip(&mut self.sets) {
            if !set.chains.is_empty() {
                continue;
            }
            match std::mem::replace(&mut set.meaning, Meaning::Free) {
                Meaning::Free => continue,
                Meaning::Fixed(ranges) => self.fixed.remove(&ranges),
                Meaning::Group(group) => self.groups.remove(&group),
            };
            self.free.push(number);
        }
    }

    /// How many sets are named, and how many are known beside them.
    pub(super) fn count(&self) -> (usize, usize) {
        let named = self.sets.iter().filter(|set| !set.chains.is_empty()).count();
        (named, self.fixed.len() + self.groups.len() - named)
    }
}

/// A chain with a number.
#[derive(Debug)]
struct Slot {
    numbered: Arc<NumberedChain>,
    /// Directions of wires that have it.
    uses: usize,
    /// `None` until its table is built.
    compiled: Option<CompiledChain>,
}

/// Chains by number.
#[derive(Debug, Default)]
pub(super) struct Chains {
    slots: Vec<Option<Slot>>,
    numbers: HashMap<Arc<NumberedChain>, u32>,
    free: Vec<u32>,
}

/// The sets that a chain names, each once.
fn named(chain: &NumberedChain) -> Vec<u32> {
    let mut sets: Vec<u32> = chain.iter().flat_map(|(rules, _)| rules).filter_map(|rule| rule.set).collect();
    sets.sort_unstable();
    sets.dedup();
    sets
}

impl Chains {
    /// The number of a chain, for one more direction.
    pub(super) fn hold(&mut self, chain: NumberedChain, sets: &mut Sets) -> u32 {
        if let Some(&number) = self.numbers.get(&chain) {
            self.hold_again(number);
            return number;
        }
        let numbered = Arc::new(chain);
        let slot = Some(Slot { numbered: Arc::clone(&numbered), uses: 1, compiled: None });
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[number as usize] = slot;
        for set in named(&numbered) {
            sets.sets[set as usize].chains.push(number);
        }
        self.numbers.insert(numbered, number);
        number
    }

    /// One more direction has it.
    pub(super) fn hold_again(&mut self, number: u32) {
        if let Some(slot) = &mut self.slots[number as usize] {
            slot.uses += 1;
        }
    }

    /// One direction less has it. Answers the number of cells that went with it if it was the last.
    pub(super) fn release(&mut self, number: u32, sets: &mut Sets) -> usize {
        let place = &mut self.slots[number as usize];
        let Some(slot) = place else { return 0 };
        slot.uses -= 1;
        if slot.uses > 0 {
            return 0;
        }
        for set in named(&slot.numbered) {
            sets.sets[set as usize].chains.retain(|&chain| chain != number);
        }
        self.numbers.remove(&slot.numbered);
        let cells = slot.compiled.as_ref().map_or(0, |compiled| compiled.table.cells());
        *place = None;
        self.free.push(number);
        cells
    }

    /// The chains without a table.
    pub(super) fn uncompiled(&self) -> Vec<(u32, Arc<NumberedChain>)> {
        let slots = (0..).zip(&self.slots).filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        slots
            .filter(|(_, slot)| slot.compiled.is_none())
            .map(|(number, slot)| (number, Arc::clone(&slot.numbered)))
            .collect()
    }

    /// Puts a chain's table in its place.
    pub(super) fn set_compiled(&mut self, number: u32, compiled: CompiledChain) {
        if let Some(slot) = &mut self.slots[number as usize] {
            slot.compiled = Some(compiled);
        }
    }

    /// Takes all tables away.
    pub(super) fn forget_compiled(&mut self) {
        self.slots.iter_mut().flatten().for_each(|slot| slot.compiled = None);
    }

    /// A chain's table.
    pub(super) fn compiled_mut(&mut self, number: u32) -> Option<&mut CompiledChain> {
        self.slots[number as usize].as_mut()?.compiled.as_mut()
    }

    /// All tables by number; `None` for a number that no chain has.
    pub(super) fn compiled(&self) -> impl Iterator<Item = Option<&CompiledChain>> {
        self.slots.iter().map(|slot| slot.as_ref()?.compiled.as_ref())
    }
}
