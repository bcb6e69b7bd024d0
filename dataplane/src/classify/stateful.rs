//! A gateway's rules by the state of connections, in their compiled form: a [`ListTable`] a state.

use std::sync::Arc;

use super::list::ListTable;
use crate::packet::Direction;
use crate::rules::stateful::{ConnectionState, StatefulRules};
use crate::rules::{Decision, Query};

/// Rules, ready to be asked.
#[derive(Clone, Debug)]
pub struct StatefulTable {
    rules: Arc<StatefulRules>,
    tables: [ListTable; 4],
}

impl StatefulTable {
    /// Compiles rules. Lists that have been compiled, here or in other rules, are not compiled again.
    pub fn new(rules: &Arc<StatefulRules>) -> Self {
        let tables = ConnectionState::ALL.map(|state| ListTable::new(rules.list(state)));
        StatefulTable { rules: Arc::clone(rules), tables }
    }

    /// The rules.
    pub fn rules(&self) -> &Arc<StatefulRules> {
        &self.rules
    }

    /// Bytes on the heap, but for lists that stand for several states once only.
    pub fn memory(&self) -> usize {
        let counted = |at: usize| {
            let same = |before: &ListTable| Arc::ptr_eq(before.list(), self.tables[at].list());
            !self.tables[..at].iter().any(same)
        };
        (0..self.tables.len()).filter(|&at| counted(at)).map(|at| self.tables[at].memory()).sum()
    }

    /// What the list for this state decides: an action, or a course ([`crate::rules::Action::Course`]).
    #[inline]
    pub fn judge(&self, direction: Direction, state: ConnectionState, query: Query) -> Decision {
        self.tables[state as usize].judge(direction, query)
    }

    /// The same about packets that open connections.
    pub fn judge_new(&self, direction: Direction, queries: &[Query], decisions: &mut [Decision]) {
        self.tables[ConnectionState::New as usize].judge_burst(direction, queries, decisions);
    }
}
