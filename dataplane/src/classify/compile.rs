//! Rule sets to tables: numbers for everything that is named, each thing once, then classes, then tables.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use super::partition::Classes;
use super::table::{ClassesByWord, NumberedChain, NumberedRule, Tables};
use super::trie::Trie;
use super::{Addresses, Classifier, CompileError, OPEN, ports};
use crate::address::Address;
use crate::rules::{AddressSet, Chain, Peers, Policy, Rule, RuleSet, WireId};

/// Compiles a rule set, into tables of at most so many cells.
pub(super) fn compile(rules: &RuleSet, max_cells: usize) -> Result<Classifier, CompileError> {
    let wires = sorted_wires(rules)?;
    let mut numbering = Numbering::default();
    let directions = wires
        .iter()
        .map(|&(_, index)| {
            let wire = &rules.wires[index];
            [&wire.egress, &wire.ingress].map(|policy| numbering.policy(policy))
        })
        .collect();
    let (addresses, words) = addresses(&numbering.sets)?;
    let mut tables = Tables::new(words, &numbering.services.values, max_cells);
    let chains = numbering.chains.iter().map(|chain| tables.chain(chain)).collect::<Result<_, _>>()?;
    Ok(Classifier {
        wires: wires.into_iter().map(|(wire, _)| wire).collect(),
        directions,
        addresses,
        chains,
        decisions: tables.into_decisions(),
    })
}

/// The wires in the order of their ids, with their place in the rule set.
fn sorted_wires(rules: &RuleSet) -> Result<Vec<(WireId, usize)>, CompileError> {
    let mut wires: Vec<_> = rules.wires.iter().enumerate().map(|(index, wire)| (wire.wire, index)).collect();
    wires.sort_unstable();
    match wires.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(CompileError::DuplicateWire(pair[0].0)),
        None => Ok(wires),
    }
}

/// Values and their numbers, in the order of arrival.
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

/// Numbers for sets, services and chains: by address first, since most are shared, then by content.
#[derive(Default)]
struct Numbering<'a> {
    set_pointers: HashMap<*const AddressSet, u32>,
    set_numbers: HashMap<&'a AddressSet, u32>,
    sets: Vec<&'a AddressSet>,
    services: Interner<Vec<(u128, u128)>>,
    chain_pointers: HashMap<*const Chain, u32>,
    chain_numbers: HashMap<NumberedChain, u32>,
    chains: Vec<NumberedChain>,
}

impl<'a> Numbering<'a> {
    fn policy(&mut self, policy: &'a Policy) -> u32 {
        let Policy::Chain(chain) = policy else { return OPEN };
        if let Some(&number) = self.chain_pointers.get(&Arc::as_ptr(chain)) {
            return number;
        }
        let numbered: NumberedChain = chain
            .tiers
            .iter()
            .map(|tier| (tier.rules.iter().filter_map(|rule| self.rule(rule)).collect(), tier.default))
            .collect();
        let next = self.chains.len() as u32;
        let number = *self.chain_numbers.entry(numbered).or_insert_with_key(|numbered| {
            self.chains.push(numbered.clone());
            next
        });
        self.chain_pointers.insert(Arc::as_ptr(chain), number);
        number
    }

    fn rule(&mut self, rule: &'a Rule) -> Option<NumberedRule> {
        let set = match &rule.peers {
            Peers::Any => None,
            Peers::Set(set) if set.is_empty() => return None,
            Peers::Set(set) => Some(self.set(set)),
        };
        let ranges = ports::ranges(&rule.services);
        if ranges.is_empty() {
            return None;
        }
        let services = self.services.number(ranges);
        Some(NumberedRule { action: rule.action, log: rule.log, id: rule.id, set, services })
    }

    fn set(&mut self, set: &'a Arc<AddressSet>) -> u32 {
        *self.set_pointers.entry(Arc::as_ptr(set)).or_insert_with(|| {
            let next = self.sets.len() as u32;
            *self.set_numbers.entry(set).or_insert_with(|| {
                self.sets.push(set);
                next
            })
        })
    }
}

/// Both tries, and which sets each of their classes is in.
fn addresses(sets: &[&AddressSet]) -> Result<(Addresses, ClassesByWord), CompileError> {
    let first_v4 = Address::v4([0; 4]).to_bits();
    let last_v4 = Address::v4([255; 4]).to_bits();
    let ranges = || sets.iter().map(|set| set.ranges());
    let mut classes = Classes::new();
    let v4 = classes.partition(ranges(), first_v4, last_v4)?;
    // IPv6 is all but the window in which IPv4 lives: left in, its ranges would be in both tries.
    let mut v6 = classes.partition(ranges(), 0, first_v4 - 1)?;
    v6.extend(classes.partition(ranges(), last_v4 + 1, u128::MAX)?);
    v6.dedup_by_key(|cut| cut.class);

    let mut words: ClassesByWord = vec![Vec::new(); sets.len().div_ceil(64)];
    for (class, members) in (0..).zip(classes.members()) {
        for &(word, bits) in members {
            words[word as usize].push((class, bits));
        }
    }
    Ok((Addresses { v4: Trie::new(&v4, 32), v6: Trie::new(&v6, 128), classes: classes.len() }, words))
}
