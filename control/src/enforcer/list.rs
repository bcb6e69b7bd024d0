//! A gateway's rule list in force: changed rule by rule, merged in the background.
//!
//! A change makes a list that shares the base with the one before, so that it costs what it touches
//! ([`dataplane::rules::list`]); a lookup pays a little for each rule that stands beside the base. When there are many of those, a thread
//! makes a new base of all while changes go on: it takes a list as it is then, compiles it, repeats what has been changed meanwhile,
//! and publishes. The rules are the same as before that, so no flow is judged again for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dataplane::publish::{Change, Generation};
use dataplane::rules::list::{Edit, NoSuchPosition, RuleList};
use dataplane::rules::{Policy, WireId, WireRules};

use super::{Enforcer, EnforcerError};

/// Changes that are repeated while those who make others wait: tens of microseconds.
const FEW: usize = 16;

/// Changes that may be made while a merge goes on; who makes more waits for its end. It bounds what a lookup reads.
const MANY: usize = 16 * RuleList::MAX_DELTA;

/// Why a change of a list is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The list does not have that position; it is as it was.
    #[error(transparent)]
    Position(#[from] NoSuchPosition),
    /// What the engine says. The list has the change where that is [`EnforcerError::NotAcknowledged`].
    #[error(transparent)]
    Enforcer(#[from] EnforcerError),
}

/// A rule list in force on wires, in both directions. Dropping it leaves the rules in force as they are.
pub struct LiveList {
    shared: Arc<Shared>,
    merging: Mutex<Option<JoinHandle<()>>>,
}

/// What changes and the merge share.
struct Shared {
    enforcer: Arc<Enforcer>,
    wires: Vec<WireId>,
    /// Held from a list to its publication, so that those follow one another.
    state: Mutex<State>,
}

struct State {
    list: Arc<RuleList>,
    /// What has been changed since the merge began that is going on.
    since: Option<Vec<Edit>>,
    /// How many merges have been published.
    merges: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LiveList {
    /// Compiles a list, puts it in force on wires and returns when every worker follows it.
    ///
    /// # Errors
    /// When it cannot be compiled, or a worker does not acknowledge it.
    pub fn start(enforcer: Arc<Enforcer>, wires: Vec<WireId>, list: RuleList) -> Result<LiveList, EnforcerError> {
        let list = Arc::new(list);
        let state = Mutex::new(State { list: Arc::clone(&list), since: None, merges: 0 });
        let shared = Arc::new(Shared { enforcer, wires, state });
        shared.publish(&list)?;
        Ok(LiveList { shared, merging: Mutex::default() })
    }

    /// The list as it is.
    pub fn list(&self) -> Arc<RuleList> {
        Arc::clone(&lock(&self.shared.state).list)
    }

    /// How often a merged list has been put in force.
    pub fn merges(&self) -> u64 {
        lock(&self.shared.state).merges
    }

    /// Puts changes in force, all at once, and returns when every worker follows them.
    ///
    /// # Errors
    /// A position that the list does not have, or what the engine says.
    pub fn change(&self, edits: &[Edit]) -> Result<Generation, ListError> {
        let is_crowded = |state: &State| state.since.as_ref().is_some_and(|since| since.len() > MANY);
        let crowded = is_crowded(&lock(&self.shared.state));
        if crowded {
            self.settle();
        }
        let mut state = lock(&self.shared.state);
        if is_crowded(&state) && lock(&self.merging).is_none() {
            // The merge has died, and with it what it was to repeat.
            state.since = None;
        }
        let changed = Arc::new(state.list.edited(edits)?);
        let published = match self.shared.publish(&changed) {
            Err(error) if !matches!(error, EnforcerError::NotAcknowledged(_)) => return Err(error.into()),
            published => published,
        };
        state.list = changed;
        if let Some(since) = &mut state.since {
            since.extend_from_slice(edits);
        } else if state.list.wants_merge() {
            self.merge(&mut state);
        }
        drop(state);
        Ok(published?)
    }

    /// Waits until no merge is going on.
    pub fn settle(&self) {
        let merging = lock(&self.merging).take();
        // A panic of the merge has been told; the list goes on without it.
        let _panicked = merging.map(JoinHandle::join);
    }

    fn merge(&self, state: &mut State) {
        let (shared, list) = (Arc::clone(&self.shared), Arc::clone(&state.list));
        let thread = std::thread::Builder::new().name("penstock-merge".to_owned());
        if let Ok(thread) = thread.spawn(move || shared.merge(&list)) {
            state.since = Some(Vec::new());
            // The one before has published, and only has to end.
            *lock(&self.merging) = Some(thread);
        }
    }
}

impl Drop for LiveList {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Shared {
    fn publish(&self, list: &Arc<RuleList>) -> Result<Generation, EnforcerError> {
        let policy = || Policy::List(Arc::clone(list));
        let rules = |&wire: &WireId| WireRules { wire, egress: policy(), ingress: policy() };
        self.enforcer.change(&Change { wires: self.wires.iter().map(rules).collect(), ..Change::default() })
    }

    /// Makes a base of its own for a list, and puts it in force with all that has been changed meanwhile.
    fn merge(&self, list: &RuleList) {
        let mut merged = list.merged();
        merged.prepare();
        let mut repeated = 0;
        loop {
            let state = lock(&self.state);
            let edits = state.since.as_deref().unwrap_or_default()[repeated..].to_vec();
            if edits.len() <= FEW {
                return self.finish(state, &merged, &edits);
            }
            drop(state);
            repeated += edits.len();
            // The positions are those of the same rules as when the changes were made, so there are none that it does not have.
            merged = merged.edited(&edits).unwrap_or(merged);
        }
    }

    fn finish(&self, mut state: MutexGuard<'_, State>, merged: &RuleList, edits: &[Edit]) {
        state.since = None;
        let Ok(merged) = merged.edited(edits) else { return };
        let merged = Arc::new(merged.in_place_of(&state.list));
        let published = self.publish(&merged);
        if matches!(published, Ok(_) | Err(EnforcerError::NotAcknowledged(_))) {
            state.list = merged;
            state.merges += 1;
        }
    }
}

#[cfg(test)]
mod tests;
