//! From one moment's rules to the next: [`Compiler`] keeps what a [`Classifier`] is made of, so that a change costs what it
//! touches.
//!
//! * Sets, chains and classes keep their numbers from one classifier to the next. A chain that is named again is not built
//!   again, and wires with equal chains share one.
//! * An address that enters or leaves groups moves to another class: that is a path in a trie. Only a class that did not
//!   exist touches tables, those of the chains that name a set that it is in, and there it is at most a row more.
//! * What nothing leads to any more (sets that no rule names, classes without addresses, nodes of the tries) is harmless and
//!   stays until there is as much of it as of the rest; then everything is numbered anew, at once.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::held::Held;
use super::list::ListTable;
use super::numbering::{Chains, Sets};
use super::partition::{Classes, toggle};
use super::spans::{Spans, V4};
use super::stateful::StatefulTable;
use super::table::{ChainTable, NumberedChain, NumberedRule, Tables, classes_by_word};
use super::trie::Trie;
use super::{Addresses, Classifier, CompileError, LIST, OPEN, STATEFUL, ports};
use crate::address::Address;
use crate::packet::Direction;
use crate::publish::Change;
use crate::rules::{AddressSet, Chain, Decision, GroupId, Peers, Policy, Rule, RuleSet, WireId};

/// Above this many addresses and ranges at once, numbering everything anew is quicker than changing one after the other, unless
/// they are few beside what is there. Tests go both ways.
const MANY: usize = if cfg!(test) { 20 } else { 1_024 };

/// Compiles a rule set, into tables of at most so many cells.
pub(super) fn compile(rules: &RuleSet, max_cells: usize) -> Result<Classifier, CompileError> {
    let change = Change { wires: rules.wires.clone(), ..Change::default() };
    Ok(Compiler::new(max_cells).change(&change)?.classifier)
}

/// A classifier, and in what it differs from the one before.
pub(crate) struct Compiled {
    pub(crate) classifier: Classifier,
    /// For each slot and direction whether an answer may be another one than before, to a wire that was there before.
    pub(crate) changed: Vec<[bool; 2]>,
}

/// The state behind classifiers that follow one another.
pub(crate) struct Compiler {
    /// For each wire the chain of each direction, or [`OPEN`].
    wires: BTreeMap<WireId, [u32; 2]>,
    sets: Sets,
    chains: Chains,
    lists: Held<ListTable>,
    stateful: Held<StatefulTable>,
    tables: Tables,
    classes: Classes,
    addresses: Addresses,
    /// Classes when everything was numbered anew for the last time.
    fresh_classes: u32,
    /// Chains whose sets gained or lost addresses since the last classifier.
    touched: HashSet<u32>,
    decisions: Arc<[Decision]>,
}

impl Compiler {
    /// One that knows nothing, and makes tables of at most so many cells.
    pub(crate) fn new(max_cells: usize) -> Self {
        Compiler {
            wires: BTreeMap::new(),
            sets: Sets::default(),
            chains: Chains::default(),
            lists: Held::default(),
            stateful: Held::default(),
            tables: Tables::new(max_cells),
            classes: Classes::new(),
            addresses: Addresses::default(),
            fresh_classes: 1,
            touched: HashSet::new(),
            decisions: Arc::default(),
        }
    }

    /// Applies a change.
    ///
    /// # Errors
    /// When there is more than tables are made for. The wires keep their rules then; who is in which group is known all the
    /// same, and a later change brings it.
    pub(crate) fn change(&mut self, change: &Change) -> Result<Compiled, CompileError> {
        let mut named = HashSet::new();
        if let Some(twice) = change.wires.iter().find(|wire| !named.insert(wire.wire)) {
            return Err(CompileError::DuplicateWire(twice.wire));
        }
        let mut pointers = Pointers::default();
        let policies = change.wires.iter().map(|wire| {
            let chains = [&wire.egress, &wire.ingress].map(|policy| self.hold(policy, &mut pointers));
            (wire.wire, chains)
        });
        let new: Vec<(WireId, [u32; 2])> = policies.collect();
        if let Err(error) = self.follow(change) {
            new.iter().for_each(|&(_, chains)| self.release(chains));
            return Err(error);
        }
        let mut before = self.wires.clone();
        if change.whole {
            self.wires.clear();
        } else {
            self.wires.retain(|wire, _| !change.gone.contains(wire));
        }
        self.wires.extend(new);
        let changed = self.wires.iter().map(|(wire, chains)| {
            let before = before.get(wire);
            Direction::BOTH.map(|direction| {
                let chain = chains[direction as usize];
                before.is_none_or(|before| before[direction as usize] != chain) || self.touched.contains(&chain)
            })
        });
        let changed = changed.collect();
        self.touched.clear();
        before.retain(|wire, _| change.whole || named.contains(wire) || !self.wires.contains_key(wire));
        before.into_values().for_each(|chains| self.release(chains));
        Ok(Compiled { classifier: self.classifier(), changed })
    }

    /// Brings addresses and tables up to date with the chains that are held.
    fn follow(&mut self, change: &Change) -> Result<(), CompileError> {
        let unapplied = self.sets.unapplied();
        let ranges: usize = unapplied.iter().map(|(_, set)| set.ranges().len()).sum();
        let known = self.addresses.v4.garbage().0 + self.addresses.v6.garbage().0;
        if ranges + change.members.len() > MANY.max(known) || self.is_littered() {
            self.renumber(change)?;
        } else {
            let from = self.classes.len();
            for (number, set) in &unapplied {
                self.apply_set(*number, set);
            }
            for (address, groups) in &change.members {
                self.move_address(*address, groups);
            }
            self.add_classes(from);
        }
        self.sets.set_applied();
        let uncompiled = self.chains.uncompiled();
        if !uncompiled.is_empty() {
            let words = classes_by_word(&self.classes);
            for (number, chain) in uncompiled {
                let compiled = self.tables.chain(&chain, &words)?;
                self.chains.set_compiled(number, compiled);
            }
        }
        Ok(())
    }

    /// Whether there is more that is dead than alive.
    fn is_littered(&self) -> bool {
        let litter = |(alive, dead): (usize, usize)| dead > alive.max(MANY);
        let nodes = |(nodes, garbage): (usize, usize)| litter((nodes - garbage, garbage));
        let classes = (self.fresh_classes as usize, (self.classes.len() - self.fresh_classes) as usize);
        nodes(self.addresses.v4.garbage())
            || nodes(self.addresses.v6.garbage())
            || litter(self.sets.count())
            || litter(classes)
    }

    /// Puts the ranges of a set that no class knows into it.
    fn apply_set(&mut self, number: u32, set: &AddressSet) {
        let Compiler { classes, addresses, .. } = self;
        let mut with_set = HashMap::new();
        for &(first, last) in set.ranges().iter().filter(|(first, last)| first <= last) {
            addresses.update(first, last, &mut |class| {
                *with_set.entry(class).or_insert_with(|| {
                    let mut members = classes.of(class).to_vec();
                    toggle(&mut members, number);
                    classes.number(&members)
                })
            });
        }
        addresses.classes = classes.len();
    }

    /// Gives an address the class of the groups that it is in now.
    fn move_address(&mut self, address: Address, groups: &[GroupId]) {
        let old = self.addresses.class(address);
        let mut members = self.classes.of(old).to_vec();
        let sets: Vec<u32> = members.iter().flat_map(|&(word, bits)| ports::ones(word, bits)).collect();
        let mut now: Vec<u32> = groups.iter().filter_map(|&group| self.sets.known_group(group)).collect();
        now.sort_unstable();
        now.dedup();
        let left = sets.iter().copied().filter(|&set| self.sets.is_group(set) && now.binary_search(&set).is_err());
        let joined = now.iter().copied().filter(|set| sets.binary_search(set).is_err());
        let moved: Vec<u32> = left.chain(joined).collect();
        for set in &moved {
            toggle(&mut members, *set);
            self.touched.extend(self.sets.chains(*set));
        }
        if !moved.is_empty() {
            let class = self.classes.number(&members);
            self.addresses.update(address.to_bits(), address.to_bits(), &mut |_| class);
            self.addresses.classes = self.classes.len();
        }
    }

    /// Tells the tables of the classes from a number on.
    fn add_classes(&mut self, from: u32) {
        for class in from..self.classes.len() {
            let members = self.classes.of(class);
            let sets = members.iter().flat_map(|&(word, bits)| ports::ones(word, bits));
            let mut chains: Vec<u32> = sets.flat_map(|set| self.sets.chains(set)).copied().collect();
            chains.sort_unstable();
            chains.dedup();
            for chain in chains {
                // A chain that has no table yet gets it with all classes.
                if let Some(compiled) = self.chains.compiled_mut(chain) {
                    self.tables.add_class(compiled, class, members);
                }
            }
        }
    }

    /// Numbers all classes anew, with a change's members and what was not applied yet, and forgets all tables.
    fn renumber(&mut self, change: &Change) -> Result<(), CompileError> {
        self.touch_moved(change);
        // Of two words on one address the later one counts, and the sort is stable.
        let points = if change.members.is_sorted_by_key(|(address, _)| address) {
            Cow::Borrowed(&change.members)
        } else {
            let mut points = change.members.clone();
            points.sort_by_key(|&(address, _)| address);
            Cow::Owned(points)
        };
        let mut classes = Classes::new();
        let family = |first, last, classes: &mut Classes| {
            Spans { classes: &self.classes, addresses: &self.addresses, sets: &self.sets }
                .renumber(first, last, &points, classes)
        };
        let (first_v4, last_v4) = V4;
        let v4 = Trie::new(&family(first_v4, last_v4, &mut classes)?, 32);
        // IPv6 is all but the window in which IPv4 lives: left in, its ranges would be in both tries.
        let mut v6 = family(0, first_v4 - 1, &mut classes)?;
        v6.extend(family(last_v4 + 1, u128::MAX, &mut classes)?);
        v6.dedup_by_key(|cut| cut.class);
        self.addresses = Addresses { v4, v6: Trie::new(&v6, 128), classes: classes.len() };
        self.fresh_classes = classes.len();
        self.classes = classes;
        self.sets.forget_unnamed();
        self.tables.reset();
        self.decisions = Arc::default();
        self.chains.forget_compiled();
        Ok(())
    }

    /// Remembers which chains name a group that an address enters or leaves.
    fn touch_moved(&mut self, change: &Change) {
        if self.wires.is_empty() {
            return;
        }
        for (address, groups) in &change.members {
            let members = self.classes.of(self.addresses.class(*address));
            let sets = members.iter().flat_map(|&(word, bits)| ports::ones(word, bits));
            let before: HashSet<u32> = sets.filter(|&set| self.sets.is_group(set)).collect();
            let now: HashSet<u32> = groups.iter().filter_map(|&group| self.sets.known_group(group)).collect();
            for &set in before.symmetric_difference(&now) {
                self.touched.extend(self.sets.chains(set));
            }
        }
    }

    fn classifier(&mut self) -> Classifier {
        if self.decisions.len() != self.tables.decisions.values.len() {
            self.decisions = self.tables.decisions.values.as_slice().into();
        }
        let none = ChainTable::none();
        let chains =
            self.chains.compiled().map(|chain| chain.map_or_else(|| none.clone(), |chain| chain.table.clone()));
        Classifier {
            wires: self.wires.keys().copied().collect(),
            directions: self.wires.values().copied().collect(),
            addresses: self.addresses.clone(),
            chains: chains.collect(),
            lists: self.lists.tables(),
            stateful: self.stateful.tables(),
            decisions: Arc::clone(&self.decisions),
        }
    }

    /// The number of a policy, which one more direction has now.
    fn hold(&mut self, policy: &Policy, pointers: &mut Pointers) -> u32 {
        let chain = match policy {
            Policy::Open => return OPEN,
            Policy::List(list) => return self.lists.hold(list) | LIST,
            Policy::Stateful(rules) => return self.stateful.hold(rules) | STATEFUL,
            Policy::Chain(chain) => chain,
        };
        if let Some(&number) = pointers.chains.get(&Arc::as_ptr(chain)) {
            self.chains.hold_again(number);
            return number;
        }
        let tiers = chain.tiers.iter().map(|tier| {
            let rules = tier.rules.iter().filter_map(|rule| self.rule(rule, pointers));
            (rules.collect(), tier.default)
        });
        let numbered: NumberedChain = tiers.collect();
        let number = self.chains.hold(numbered, &mut self.sets);
        pointers.chains.insert(Arc::as_ptr(chain), number);
        number
    }

    fn rule(&mut self, rule: &Rule, pointers: &mut Pointers) -> Option<NumberedRule> {
        let set = match &rule.peers {
            Peers::Any => None,
            Peers::Set(set) if set.is_empty() => return None,
            Peers::Set(set) => {
                let number = pointers.sets.entry(Arc::as_ptr(set));
                Some(*number.or_insert_with(|| self.sets.fixed(set)))
            }
            Peers::Group(group) => Some(self.sets.group(*group)),
        };
        let ranges = ports::ranges(&rule.services);
        // A rule that matches nothing is left out, unless it names a group: whoever names one first tells its members, and
        // nobody tells them again.
        if ranges.is_empty() && !matches!(rule.peers, Peers::Group(_)) {
            return None;
        }
        let services = self.tables.services.number(ranges);
        Some(NumberedRule { action: rule.action, log: rule.log, id: rule.id, set, services })
    }

    fn release(&mut self, chains: [u32; 2]) {
        for chain in chains.into_iter().filter(|&chain| chain != OPEN) {
            if chain & LIST != 0 {
                self.lists.release(chain & !LIST);
            } else if chain & STATEFUL != 0 {
                self.stateful.release(chain & !STATEFUL);
            } else {
                self.tables.cells -= self.chains.release(chain, &mut self.sets);
            }
        }
    }
}

/// What was numbered in the course of one change, by address: most of it is shared. Whoever makes the change holds it.
#[derive(Default)]
struct Pointers {
    sets: HashMap<*const AddressSet, u32>,
    chains: HashMap<*const Chain, u32>,
}
