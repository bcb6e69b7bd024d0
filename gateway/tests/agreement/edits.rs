//! Changes of dumps: lines that are replaced by others.

use gateway::model::Family;

use crate::rulesets::Named;

/// A change of one rule set, for one family.
pub(crate) struct Edit {
    pub(crate) of: Named,
    /// What is done, in words.
    pub(crate) what: &'static str,
    /// Lines of the dump, or of the sets, that stand there just once, one after the other.
    pub(crate) old: &'static str,
    /// The lines in their place; none where they are taken out.
    new: &'static str,
}

/// A change of an IPv4 dump.
pub(crate) const fn v4(name: &'static str, what: &'static str, old: &'static str, new: &'static str) -> Edit {
    Edit { of: Named { name, family: Family::V4 }, what, old, new }
}

/// A change of an IPv6 dump.
pub(crate) const fn v6(name: &'static str, what: &'static str, old: &'static str, new: &'static str) -> Edit {
    Edit { of: Named { name, family: Family::V6 }, what, old, new }
}

impl Edit {
    /// The dump and the sets with the change.
    pub(crate) fn apply(&self, dump: &str, ipset: Option<&str>) -> (String, Option<String>) {
        match (self.replaced(dump), ipset.and_then(|ipset| self.replaced(ipset))) {
            (Some(dump), None) => (dump, ipset.map(str::to_owned)),
            (None, Some(ipset)) => (dump.to_owned(), Some(ipset)),
            (None, None) => panic!("{} ({:?}): no such lines: {:?}", self.what, self.of, self.old),
            (Some(_), Some(_)) => panic!("{} ({:?}): {:?} stands in both", self.what, self.of, self.old),
        }
    }

    fn replaced(&self, text: &str) -> Option<String> {
        let old = format!("\n{}\n", self.old);
        let text = format!("\n{text}");
        let count = text.matches(&old).count();
        assert!(count < 2, "{} ({:?}): {:?} stands there {count} times", self.what, self.of, self.old);
        let new = if self.new.is_empty() { "\n".to_owned() } else { format!("\n{}\n", self.new) };
        (count == 1).then(|| text.replacen(&old, &new, 1)[1..].to_owned())
    }
}

/// The changes of one rule set.
pub(crate) fn of(edits: &'static [Edit], named: Named) -> impl Iterator<Item = &'static Edit> {
    edits.iter().filter(move |edit| (edit.of.name, edit.of.family) == (named.name, named.family))
}
