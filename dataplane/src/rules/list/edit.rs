//! Changes of a list.

use std::sync::Arc;

use super::{Content, ListRule, NoSuchPosition, Place, RuleList};

/// A change of one rule, by its position at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A rule more, which stands at this position; what stood there and behind moves one on.
    Insert(usize, ListRule),
    /// The rule at this position less.
    Remove(usize),
    /// Another rule at this position.
    Replace(usize, ListRule),
}

impl RuleList {
    /// The list with a rule more, which stands at this position; what stood there and behind moves one on.
    ///
    /// # Errors
    /// A position beyond the end.
    pub fn insert(&self, position: usize, rule: ListRule) -> Result<RuleList, NoSuchPosition> {
        self.edited(&[Edit::Insert(position, rule)])
    }

    /// The list without the rule at this position.
    ///
    /// # Errors
    /// A position that the list does not have.
    pub fn remove(&self, position: usize) -> Result<RuleList, NoSuchPosition> {
        self.edited(&[Edit::Remove(position)])
    }

    /// The list with another rule at this position.
    ///
    /// # Errors
    /// A position that the list does not have.
    pub fn replace(&self, position: usize, rule: ListRule) -> Result<RuleList, NoSuchPosition> {
        self.edited(&[Edit::Replace(position, rule)])
    }

    /// The list after these changes, one after the other.
    ///
    /// # Errors
    /// A position that the list does not have when it is asked for.
    pub fn edited(&self, edits: &[Edit]) -> Result<RuleList, NoSuchPosition> {
        let (base, delta) = (Arc::clone(&self.base), self.delta.clone());
        let mut list = RuleList { base, delta, default: self.default, content: Content::fresh() };
        edits.iter().try_for_each(|edit| list.edit(edit))?;
        list.delta.compile();
        Ok(list)
    }

    /// This list in the place of one that says the same: wires that follow it take over its name, and no flow is judged again.
    /// Whoever calls this knows that both have the same rules in the same order.
    pub fn in_place_of(self, same: &RuleList) -> RuleList {
        debug_assert!(self == *same, "the lists differ");
        RuleList { content: same.content, ..self }
    }

    /// How many rules have been added to the base and removed from it: what lookups pay for until the next merge.
    pub fn beside_base(&self) -> usize {
        self.delta.added().len() + self.delta.removed_count()
    }

    /// Changes what the delta says; what is compiled from it is not yet.
    fn edit(&mut self, edit: &Edit) -> Result<(), NoSuchPosition> {
        let base = self.base.rules.len();
        match *edit {
            Edit::Insert(position, rule) => {
                let (before, index) = if position == self.len() {
                    (base as u32, self.delta.added().len())
                } else {
                    match self.place(position)? {
                        Place::Base(rank) => (rank, self.delta.added_until(rank)),
                        Place::Added(index) => (self.delta.added()[index].before, index),
                    }
                };
                self.delta.add(index, before, rule);
            }
            Edit::Remove(position) => match self.place(position)? {
                Place::Base(rank) => self.delta.remove_base(rank, base),
                Place::Added(index) => self.delta.remove_added(index),
            },
            Edit::Replace(position, rule) => match self.place(position)? {
                Place::Base(rank) => {
                    let index = self.delta.added_until(rank);
                    self.delta.add(index, rank, rule);
                    self.delta.remove_base(rank, base);
                }
                Place::Added(index) => self.delta.replace_added(index, rule),
            },
        }
        Ok(())
    }
}
