//! Rule lists by number, for as long as a wire has them.

use std::sync::Arc;

use super::list::ListTable;
use crate::rules::list::RuleList;

/// The lists that are held, each with the number of directions that have it.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<Option<(ListTable, usize)>>);

impl Lists {
    /// The number of a list, which one more direction has now. A list that says the same as one that is held gets its number,
    /// and takes its place: it may be the better merged one.
    pub(super) fn hold(&mut self, list: &Arc<RuleList>) -> u32 {
        let same = |held: &Option<(ListTable, usize)>| held.as_ref().is_some_and(|(table, _)| table.list().says(list));
        if let Some(number) = self.0.iter().position(same) {
            if let Some((table, holders)) = &mut self.0[number] {
                *holders += 1;
                if !Arc::ptr_eq(table.list(), list) {
                    *table = ListTable::new(list);
                }
            }
            return number as u32;
        }
        let free = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[free] = Some((ListTable::new(list), 1));
        free as u32
    }

    /// A direction has the list no more.
    pub(super) fn release(&mut self, number: u32) {
        if let Some(held) = self.0.get_mut(number as usize)
            && let Some((_, holders)) = held
        {
            *holders -= 1;
            if *holders == 0 {
                *held = None;
            }
        }
    }

    /// The tables by number.
    pub(super) fn tables(&self) -> Box<[Option<ListTable>]> {
        self.0.iter().map(|held| held.as_ref().map(|(table, _)| table.clone())).collect()
    }
}
