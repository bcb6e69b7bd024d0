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
}

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
}
