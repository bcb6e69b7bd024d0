//! Labels, interned: a key or a value is a number, so that comparing, hashing and storing them is cheap however many
//! pods carry the same ones.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// An interned text: equal symbols of one [`Interner`] are equal texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(u32);

/// The table of texts. It only grows: label keys and values recur far more often than new ones appear.
#[derive(Clone, Debug, Default)]
pub struct Interner {
    texts: Vec<Arc<str>>,
    symbols: HashMap<Arc<str>, Symbol>,
    /// How many texts the first table of this line had; 0 in that table itself.
    fresh: usize,
}

/// Texts beyond twice as many as a first table had, before a line of tables ends.
const SPARE_TEXTS: usize = 4_096;

impl Interner {
    /// The symbol of a text, new if the text has not been seen.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.symbols.get(text) {
            return symbol;
        }
        let symbol = Symbol(u32::try_from(self.texts.len()).expect("fewer than 2^32 distinct label texts"));
        let text: Arc<str> = Arc::from(text);
        self.texts.push(Arc::clone(&text));
        self.symbols.insert(text, symbol);
        symbol
    }

    /// The symbol of a text that has been seen.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.symbols.get(text).copied()
    }

    /// The table that the next reading of the same objects goes on with, so that what both have in common has one number in both;
    /// an empty one once most of it would be texts that nobody has any more.
    pub fn successor(&self) -> Interner {
        let fresh = if self.fresh == 0 { self.texts.len() } else { self.fresh };
        if self.texts.len() > 2 * fresh + SPARE_TEXTS {
            Interner::default()
        } else {
            Interner { fresh, ..self.clone() }
        }
    }

    /// Whether all symbols of an older table mean the same texts in this one.
    pub fn extends(&self, older: &Interner) -> bool {
        // Tables only grow and never share a text but by [`Interner::successor`]: one place stands for those in front of it.
        older
            .texts
            .last()
            .is_none_or(|text| self.texts.get(older.texts.len() - 1).is_some_and(|same| Arc::ptr_eq(same, text)))
    }

    /// The text of a symbol of this table.
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize]
    }
}

/// The labels of an object: keys with values, sorted by key symbol, each key once.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[(Symbol, Symbol)]>);

impl Labels {
    /// Interns labels.
    pub fn intern(labels: &BTreeMap<String, String>, symbols: &mut Interner) -> Self {
        let mut pairs: Vec<_> =
            labels.iter().map(|(key, value)| (symbols.intern(key), symbols.intern(value))).collect();
        pairs.sort_unstable();
        Labels(pairs.into())
    }

    /// The value of a key.
    pub fn get(&self, key: Symbol) -> Option<Symbol> {
        self.0.binary_search_by_key(&key, |&(key, _)| key).ok().map(|index| self.0[index].1)
    }

    /// Whether somebody else has them too.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Keys and values, sorted by key.
    pub fn pairs(&self) -> &[(Symbol, Symbol)] {
        &self.0
    }

    /// Keys and values as text, sorted by key text.
    pub fn to_text(&self, symbols: &Interner) -> BTreeMap<String, String> {
        self.0.iter().map(|&(key, value)| (symbols.text(key).to_owned(), symbols.text(value).to_owned())).collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(key, value)| (key.0, value.0))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_key_is_not_an_empty_value() {
        let mut symbols = Interner::default();
        let labels = Labels::intern(&BTreeMap::from([("tier".into(), String::new())]), &mut symbols);
        let (tier, app, empty) = (symbols.intern("tier"), symbols.intern("app"), symbols.intern(""));
        assert_eq!(labels.get(tier), Some(empty));
        assert_eq!(labels.get(app), None);
        assert_eq!(symbols.find("never"), None);
        assert_eq!(labels.to_text(&symbols), BTreeMap::from([("tier".into(), String::new())]));
    }

    #[test]
    fn a_line_of_tables_keeps_numbers_until_it_is_mostly_past() {
        let mut table = Interner::default();
        let tier = table.intern("tier");
        let mut next = table.successor();
        next.intern("other");
        assert_eq!((next.find("tier"), next.extends(&table), table.extends(&next)), (Some(tier), true, false));
        let mut stranger = Interner::default();
        stranger.intern("tier");
        assert!(!stranger.extends(&table) && stranger.extends(&Interner::default()));
        for round in 0.. {
            assert!(round < 10 * SPARE_TEXTS, "texts of the past pile up without end");
            let mut newer = next.successor();
            newer.intern(&format!("value {round}"));
            if !newer.extends(&next) {
                break;
            }
            next = newer;
        }
    }
}
