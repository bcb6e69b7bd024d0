//! A chain as a table: address class → row, service → column, row × column → decision.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;

use super::CompileError;
use super::numbering::Interner;
use super::partition::{Classes, Members};
use super::ports::{Columns, ServiceList, ServiceMap};
use super::rank::RankBitmap;
use crate::packet::Protocol;
use crate::rules::{Action, Decision, RuleId};

/// A rule in numbers; one that can match nothing is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NumberedRule {
    pub(super) action: Action,
    pub(super) log: bool,
    pub(super) id: RuleId,
    /// `None` for all peers.
    pub(super) set: Option<u32>,
    pub(super) services: u32,
}

/// A chain in numbers, each tier with its default: equal ones decide alike.
pub(super) type NumberedChain = Vec<(Vec<NumberedRule>, Action)>;

/// For each word of the bit vector over all sets, the classes in which it is not zero, in order.
pub(super) type ClassesByWord = Vec<Vec<(u32, u64)>>;

/// Turns round which sets each class is in.
pub(super) fn classes_by_word(classes: &Classes) -> ClassesByWord {
    let mut words = ClassesByWord::new();
    for (class, members) in (0..).zip(classes.members()) {
        for &(word, bits) in members {
            if words.len() <= word as usize {
                words.resize(word as usize + 1, Vec::new());
            }
            words[word as usize].push((class, bits));
        }
    }
    words
}

/// The compiled form of a chain. Clones share their memory.
#[derive(Clone, Debug)]
pub(super) struct ChainTable {
    rows: RowMap,
    services: Arc<ServiceMap>,
    columns: u32,
    /// Numbers of decisions, row after row.
    cells: Arc<[u32]>,
}

impl ChainTable {
    /// In the place of a number that no chain has: nobody asks it.
    pub(super) fn none() -> Self {
        let services = ServiceMap::uniform();
        ChainTable { rows: RowMap::new(&[]), services: Arc::new(services), columns: 1, cells: Arc::new([0]) }
    }

    /// The number of the decision on a peer of this class.
    #[inline]
    pub(super) fn decision(&self, class: u32, protocol: Protocol, port: u16) -> u32 {
        let column = self.services.column(protocol, port);
        self.cells[self.rows.row(class) as usize * self.columns as usize + column as usize]
    }

    /// Bytes on the heap, what it shares with other tables left out.
    pub(super) fn memory(&self) -> usize {
        self.rows.memory() + size_of_val(&*self.cells)
    }

    /// The services, which tables of chains that name the same ones share.
    pub(super) fn services(&self) -> &Arc<ServiceMap> {
        &self.services
    }

    /// How many cells it has.
    pub(super) fn cells(&self) -> usize {
        self.cells.len()
    }
}

/// From address class to row. Classes that the chain's rules do not tell from an address outside of all their sets
/// have row 0, and most do: the others are few beside the classes of all chains together.
#[derive(Clone, Debug)]
struct RowMap {
    classes: RankBitmap,
    rows: Arc<[u32]>,
}

impl RowMap {
    /// From (class, row), in the order of classes, without those of row 0.
    fn new(rows: &[(u32, u32)]) -> Self {
        let length = rows.last().map_or(0, |&(class, _)| class + 1);
        RowMap {
            classes: RankBitmap::new(rows.iter().map(|&(class, _)| class), length),
            rows: rows.iter().map(|&(_, row)| row).collect(),
        }
    }

    fn row(&self, class: u32) -> u32 {
        self.classes.index_of(class).map_or(0, |index| self.rows[index as usize])
    }

    /// Adds a class that is larger than all that it knows.
    fn push(&mut self, class: u32, row: u32) {
        self.classes.push(class);
        self.rows = self.rows.iter().copied().chain([row]).collect();
    }

    fn memory(&self) -> usize {
        self.classes.memory() + size_of_val(&*self.rows)
    }
}

/// A chain, its table, and what it takes to add to the table.
#[derive(Debug)]
pub(super) struct CompiledChain {
    pub(super) table: ChainTable,
    index: RuleIndex,
    defaults: Vec<Action>,
    /// Which columns each of the services means.
    meant: Arc<[Columns]>,
}

/// A map of services, and which of its columns each of them means.
type MeantServices = (Arc<ServiceMap>, Arc<[Columns]>);

/// What the tables of all chains share.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) services: Interner<ServiceList>,
    maps: HashMap<Vec<u32>, MeantServices>,
    pub(super) decisions: Interner<Decision>,
    pub(super) cells: usize,
    /// How many cells there may be.
    limit: usize,
}

impl Tables {
    /// None yet, and at most so many cells.
    pub(super) fn new(limit: usize) -> Self {
        let (services, decisions) = (Interner::default(), Interner::default());
        Tables { services, maps: HashMap::new(), decisions, cells: 0, limit }
    }

    /// Forgets what the tables so far had in common: all are about to be built anew.
    pub(super) fn reset(&mut self) {
        self.maps.clear();
        self.decisions = Interner::default();
        self.cells = 0;
    }

    /// Builds the table of a chain.
    pub(super) fn chain(
        &mut self,
        chain: &NumberedChain,
        words: &ClassesByWord,
    ) -> Result<CompiledChain, CompileError> {
        let index = RuleIndex::new(chain);
        let (services, meant) = self.services(&index.services)?;
        let columns = services.columns();
        let defaults: Vec<Action> = chain.iter().map(|&(_, default)| default).collect();
        let mut rows: Interner<Rc<[u32]>> = Interner::default();
        rows.number(self.row(&defaults, &index.rules_for(&[]), &meant, columns).into());
        let mut by_members = HashMap::new();
        let mut class_rows = Vec::new();
        let known = classes_of(&index.sets, words);
        for (class, members) in known.iter() {
            let row = match by_members.entry(members) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    let rules = index.rules_for(members);
                    let row = rows.number(self.row(&defaults, &rules, &meant, columns).into());
                    if self.cells + rows.values.len() * columns as usize > self.limit {
                        return Err(CompileError::TooManyCells { limit: self.limit });
                    }
                    *entry.insert(row)
                }
            };
            if row != 0 {
                class_rows.push((class, row));
            }
        }
        self.cells += rows.values.len() * columns as usize;
        let rows_of_classes = RowMap::new(&class_rows);
        let table = ChainTable { rows: rows_of_classes, services, columns, cells: rows.values.concat().into() };
        Ok(CompiledChain { table, index, defaults, meant })
    }

    /// Adds a class that is in any of a chain's sets and has a larger number than all before. The limit of cells is for
    /// rules: what addresses add to them is not held against it.
    pub(super) fn add_class(&mut self, chain: &mut CompiledChain, class: u32, members: &Members) {
        let CompiledChain { table, index, defaults, meant } = chain;
        let cells = self.row(defaults, &index.rules_for(members), meant, table.columns);
        let known = table.cells.chunks(table.columns as usize).position(|row| row == cells);
        let row = known.unwrap_or_else(|| {
            self.cells += cells.len();
            let rows = table.cells.len() / cells.len();
            table.cells = table.cells.iter().copied().chain(cells).collect();
            rows
        });
        if row != 0 {
            table.rows.push(class, row as u32);
        }
    }

    /// The map of these services, and which of its columns each means.
    fn services(&mut self, numbers: &[u32]) -> Result<MeantServices, CompileError> {
        if let Some((map, columns)) = self.maps.get(numbers) {
            return Ok((Arc::clone(map), Arc::clone(columns)));
        }
        let lists: Vec<&[(u128, u128)]> =
            numbers.iter().map(|&list| self.services.values[list as usize].as_slice()).collect();
        let (map, columns) = ServiceMap::new(&lists)?;
        let (map, columns): (_, Arc<[Columns]>) = (Arc::new(map), columns.into());
        self.maps.insert(numbers.to_vec(), (Arc::clone(&map), Arc::clone(&columns)));
        Ok((map, columns))
    }

    /// A row: the decision for each column when exactly these rules mean the peer.
    fn row(&mut self, defaults: &[Action], rules: &[&Place], meant: &[Columns], columns: u32) -> Vec<u32> {
        let mut row = vec![0; columns as usize];
        let mut logged = vec![false; columns as usize];
        let mut undecided = Columns::all(columns);
        let mut rules = rules.iter().peekable();
        let mut last: Option<(Decision, u32)> = None;
        for (tier, &default) in (0..).zip(defaults) {
            let mut passed = Columns::none(columns);
            let mut settle = |column: u32, action: Action, rule: Option<RuleId>, log: bool| {
                logged[column as usize] |= log;
                if action == Action::Pass {
                    passed.insert(column);
                } else {
                    let decision = Decision { action, rule, log: logged[column as usize] };
                    // Columns that one rule decides come one after the other.
                    let number = match last {
                        Some((same, number)) if same == decision => number,
                        _ => self.decisions.number(decision),
                    };
                    last = Some((decision, number));
                    row[column as usize] = number;
                }
            };
            while let Some(Place { rule, services, .. }) = rules.next_if(|place| place.tier == tier) {
                let meant = &meant[*services as usize];
                undecided.take_common(meant, |column| settle(column, rule.action, Some(rule.id), rule.log));
            }
            undecided.iter().for_each(|column| settle(column, default, None, false));
            undecided = passed;
        }
        for column in undecided.iter() {
            let decision = Decision { action: Action::Allow, rule: None, log: logged[column as usize] };
            row[column as usize] = self.decisions.number(decision);
        }
        row
    }
}

/// The classes that are in any of the sets (sorted), each with which of them.
fn classes_of(sets: &[u32], words: &ClassesByWord) -> KnownClasses {
    let mut found: Vec<(u32, (u32, u64))> = Vec::new();
    for sets in sets.chunk_by(|a, b| a / 64 == b / 64) {
        let word = sets[0] / 64;
        let mask = sets.iter().fold(0, |mask, set| mask | 1 << (set % 64));
        let classes = words.get(word as usize).into_iter().flatten();
        found.extend(classes.filter(|(_, bits)| bits & mask != 0).map(|&(class, bits)| (class, (word, bits & mask))));
    }
    // Stable, and quick on what is made of a few sorted runs.
    found.sort_by_key(|&(class, _)| class);
    let (classes, members) = found.into_iter().unzip();
    KnownClasses { classes, members }
}

/// The classes that a chain's sets tell from all others: class by class the words of its [`Members`], in order.
struct KnownClasses {
    classes: Vec<u32>,
    members: Vec<(u32, u64)>,
}

impl KnownClasses {
    /// Each class with the chain's sets that it is in.
    fn iter(&self) -> impl Iterator<Item = (u32, &Members)> {
        let mut from = 0;
        self.classes.chunk_by(|a, b| a == b).map(move |words| {
            let members = &self.members[from..from + words.len()];
            from += words.len();
            (words[0], members)
        })
    }
}

/// A rule, and where it stands in its chain.
#[derive(Debug)]
struct Place {
    tier: u32,
    rule: NumberedRule,
    /// Which of the chain's services it means.
    services: u32,
}

/// A chain's rules by the peers they mean.
#[derive(Debug)]
struct RuleIndex {
    /// All, in order.
    places: Vec<Place>,
    /// Those that mean all peers, by index into `places`.
    any: Vec<u32>,
    /// The sets named, sorted.
    sets: Vec<u32>,
    /// The rules that mean each of them.
    by_set: Vec<Vec<u32>>,
    /// The services named, sorted.
    services: Vec<u32>,
}

impl RuleIndex {
    fn new(chain: &NumberedChain) -> Self {
        let rules = || chain.iter().flat_map(|(rules, _)| rules);
        let mut sets: Vec<u32> = rules().filter_map(|rule| rule.set).collect();
        let mut services: Vec<u32> = rules().map(|rule| rule.services).collect();
        for numbers in [&mut sets, &mut services] {
            numbers.sort_unstable();
            numbers.dedup();
        }
        let places = (0..)
            .zip(chain)
            .flat_map(|(tier, (rules, _))| rules.iter().map(move |&rule| (tier, rule)))
            .map(|(tier, rule)| {
                // Every rule's services are in the list; were one not, the rule would mean those after it.
                let services = services.partition_point(|&number| number < rule.services) as u32;
                Place { tier, rule, services }
            })
            .collect::<Vec<_>>();
        let (mut any, mut by_set) = (Vec::new(), vec![Vec::new(); sets.len()]);
        for (index, place) in (0..).zip(&places) {
            match place.rule.set {
                None => any.push(index),
                Some(set) => by_set[sets.partition_point(|&number| number < set)].push(index),
            }
        }
        RuleIndex { places, any, sets, by_set, services }
    }

    /// The rules that mean a peer who is in exactly these sets, in order.
    fn rules_for(&self, members: &Members) -> Vec<&Place> {
        let sets = members.iter().flat_map(|&(word, bits)| super::ports::ones(word, bits));
        let mut indices = self.any.clone();
        let places = sets.filter_map(|set| self.sets.binary_search(&set).ok());
        indices.extend(places.flat_map(|place| &self.by_set[place]));
        indices.sort_unstable();
        indices.iter().map(|&index| &self.places[index as usize]).collect()
    }
}
