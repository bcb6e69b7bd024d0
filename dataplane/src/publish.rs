//! How workers get a new policy, without a lock and without waiting, and how control knows that they have.
//!
//! # What
//!
//! The control side holds a [`Publisher`], every worker a [`PolicyReader`]. [`Publisher::publish`] compiles a rule set,
//! gives each direction of each wire its [`Epoch`], and swaps a pointer: the new [`Snapshot`] carries the next
//! [`Generation`]. A worker calls [`PolicyReader::load`] once a burst, so that a burst never mixes two policies, and
//! [`PolicyReader::park`] before it sleeps. [`Publisher::acknowledged`] is true once no worker judges by anything older:
//! that is when a policy may be reported as applied.
//!
//! # Epochs
//!
//! A direction keeps its epoch while its policy says the same, compared by content: the compiler numbers equal chains alike, and
//! knows which groups of addresses a change touched. Whatever else changes, the wire's flows are left alone. Otherwise it gets an epoch that it has
//! never had, and flows judged before are judged again before their next frame passes. Rule numbers are content: control
//! keeps a rule's number for as long as the rule exists, or every flow of the wire is judged again for nothing.
//!
//! # Ordering
//!
//! Each worker has a *seat*, a single atomic: the generation that it works with, or `PARKED`.
//! * *Unchanged* is one load of the generation number, which is stored after the pointer: who sees the number finds that
//!   snapshot or a newer one behind the pointer. It never goes back, because loads of one atomic by one thread never do.
//! * A worker writes its seat (release) when it has let go of the older snapshot, after the last frame judged by it; the
//!   control side reads it (acquire), so that whatever the worker did with that frame is done too.
//! * *Waking races with publishing.* A worker that wakes first says so, then loads the pointer; the control side first
//!   swaps the pointer, then looks whether the worker is parked. With a sequentially consistent fence between the two steps
//!   on each side, one of them sees the other: either control finds the worker awake, and waits for its word, or
//!   the worker finds the new pointer. Without, both could look past each other, and a policy be reported as applied while
//!   a worker that has just woken judges by the old one.
//!
//! # Memory
//!
//! Freeing a large snapshot takes long, so a worker never does: the publisher keeps every old one until it is the last to
//! hold it, and frees it at its next publication or question ([`Publisher::reclaim`]).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::address::Address;
use crate::classify::compile::{Compiled, Compiler};
use crate::classify::{Classifier, CompileError, MAX_CELLS, WireSlot};
use crate::frontend::{FrontendChange, Frontends};
use crate::packet::Direction;
use crate::rules::{Epoch, GroupId, RuleSet, WireId, WireRules};

#[cfg(test)]
mod tests;

/// The number of a published rule set: 1 for the first, one more each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// Before anything is published: no wire is known, all are closed.
    pub const NONE: Generation = Generation(0);
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// In what the rules are to be other than before: what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The wires named are all that there are from now on; those before that are not named are gone.
    pub whole: bool,
    /// Wires that are new, or whose rules are other ones.
    pub wires: Vec<WireRules>,
    /// Wires that are gone.
    pub gone: Vec<WireId>,
    /// Addresses, each with all groups that it is in from now on. Groups that no rule names are left aside: who names a group
    /// for the first time names its members with it.
    pub members: Vec<(Address, Arc<[GroupId]>)>,
    /// Frontends, which no rule names: what is different among them touches no flow that passes already.
    pub frontends: FrontendChange,
}

/// A published rule set. It never changes.
#[derive(Debug)]
pub struct Snapshot {
    generation: Generation,
    classifier: Classifier,
    /// For each slot the epoch of each direction.
    epochs: Box<[[Epoch; 2]]>,
    frontends: Arc<Frontends>,
}

impl Snapshot {
    /// Which one.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The rules.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Addresses that stand for others.
    pub fn frontends(&self) -> &Frontends {
        &self.frontends
    }

    /// A wire's slot in this snapshot; `None` if it does not know the wire, which is closed then.
    pub fn slot(&self, wire: WireId) -> Option<WireSlot> {
        self.classifier.slot(wire)
    }

    /// The epoch of a direction of a wire; [`Epoch::NONE`], in which no verdict holds, for a slot that is beyond this
    /// snapshot's.
    pub fn epoch(&self, slot: WireSlot, direction: Direction) -> Epoch {
        self.epochs.get(slot.index()).map_or(Epoch::NONE, |epochs| epochs[direction as usize])
    }
}

/// Looks at the workers before sleeping: some ten microseconds.
const SPINS: u32 = 200;

/// A seat's value while its worker sleeps, or is gone: it uses no snapshot, and will load the newest when it wakes.
const PARKED: u64 = u64::MAX;

/// A seat's value while its worker is awake and has not said which snapshot it uses.
const WAKING: u64 = 0;

/// Where one worker says which generation it works with. Alone in its cache lines: only its worker writes it.
#[derive(Debug)]
#[repr(align(128))]
struct Seat(AtomicU64);

/// What both sides share.
struct Shared {
    current: ArcSwap<Snapshot>,
    /// The generation of `current`, stored after it. Apart from the seats, which are written often.
    generation: Padded<AtomicU64>,
}

/// A value alone in its cache lines.
#[repr(align(128))]
struct Padded<T>(T);

/// Wakes a worker that sleeps. Called from the control side; must not block.
type Waker = Arc<dyn Fn() + Send + Sync>;

/// What the next publication is compared with.
struct History {
    compiler: Compiler,
    snapshot: Arc<Snapshot>,
    last_epoch: Epoch,
}

/// The control side.
pub struct Publisher {
    shared: Arc<Shared>,
    history: Mutex<History>,
    retired: Mutex<Vec<Arc<Snapshot>>>,
    seats: Mutex<Vec<Arc<Seat>>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// One that has published nothing: its snapshot is [`Generation::NONE`] and knows no wire.
    pub fn new() -> Self {
        let snapshot = Arc::new(Snapshot {
            generation: Generation::NONE,
            classifier: Classifier::default(),
            epochs: Box::default(),
            frontends: Arc::default(),
        });
        Publisher {
            shared: Arc::new(Shared {
                current: ArcSwap::new(Arc::clone(&snapshot)),
                generation: Padded(AtomicU64::new(snapshot.generation.0)),
            }),
            history: Mutex::new(History { compiler: Compiler::new(MAX_CELLS), snapshot, last_epoch: Epoch::NONE }),
            retired: Mutex::default(),
            seats: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    /// Compiles and publishes all wires' rules: one that is not named is closed. Returns when workers that load from now on get
    /// them; whether all have is [`Publisher::acknowledged`]. Sleeping workers are left asleep.
    ///
    /// # Errors
    /// What [`Classifier::compile`] refuses; the generation that runs stays.
    pub fn publish(&self, rules: RuleSet) -> Result<Generation, CompileError> {
        self.change(&Change { whole: true, wires: rules.wires, ..Change::default() })
    }

    /// Publishes a change, which costs what it touches; otherwise as [`Publisher::publish`].
    ///
    /// # Errors
    /// What [`Classifier::compile`] refuses; the generation that runs stays. Members are taken over all the same, and become
    /// visible with the next change.
    pub fn change(&self, change: &Change) -> Result<Generation, CompileError> {
        // Held while compiling: publications follow one another, and nothing else waits for this lock.
        let mut history = lock(&self.history);
        let compiled = history.compiler.change(change)?;
        let (epochs, last_epoch) = history.epochs(&compiled);
        let generation = Generation(history.snapshot.generation.0 + 1);
        let mut frontends = Arc::clone(&history.snapshot.frontends);
        if change.whole || !change.frontends.is_empty() {
            Arc::make_mut(&mut frontends).apply(&change.frontends, change.whole);
        }
        let snapshot = Arc::new(Snapshot { generation, classifier: compiled.classifier, epochs, frontends });
        let old = self.shared.current.swap(Arc::clone(&snapshot));
        self.shared.generation.0.store(generation.0, Ordering::SeqCst);
        lock(&self.retired).push(old);
        (history.snapshot, history.last_epoch) = (snapshot, last_epoch);
        self.reclaim();
        Ok(generation)
    }

    /// The generation published last.
    pub fn generation(&self) -> Generation {
        Generation(self.shared.generation.0.load(Ordering::SeqCst))
    }

    /// The snapshot published last, for whoever judges outside of a worker.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// A reader for a worker; it begins parked. It holds a seat until it is dropped: keep it on its worker.
    pub fn reader(&self) -> PolicyReader {
        let seat = Arc::new(Seat(AtomicU64::new(PARKED)));
        lock(&self.seats).push(Arc::clone(&seat));
        PolicyReader { shared: Arc::clone(&self.shared), seat, snapshot: None }
    }

    /// Whether this generation is published, and no worker judges by an older one or ever will again.
    pub fn acknowledged(&self, generation: Generation) -> bool {
        if generation > self.generation() {
            return false;
        }
        // Between the swap of the pointer and the look at the seats; the other half is in `PolicyReader::wake`.
        fence(Ordering::SeqCst);
        let mut seats = lock(&self.seats);
        // A seat that nobody else holds is a reader's that was dropped.
        seats.retain(|seat| Arc::strong_count(seat) > 1);
        let all = seats.iter().all(|seat| seat.0.load(Ordering::Acquire) >= generation.0);
        drop(seats);
        if all {
            self.reclaim();
        }
        all
    }

    /// Waits until [`Publisher::acknowledged`], for about `timeout` and not less; whether it is.
    pub fn wait_acknowledged(&self, generation: Generation, timeout: Duration) -> bool {
        // A worker at work says so after its burst, sooner than anybody who sleeps wakes up.
        for _ in 0..SPINS {
            if self.acknowledged(generation) {
                return true;
            }
            std::hint::spin_loop();
        }
        let mut left = timeout;
        let mut pause = Duration::from_micros(50);
        loop {
            if self.acknowledged(generation) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            let sleep = pause.min(left);
            thread::sleep(sleep);
            left -= sleep;
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    /// Frees the old snapshots that no worker holds any more; how many are left. Publishing and asking do it too.
    pub fn reclaim(&self) -> usize {
        let mut retired = lock(&self.retired);
        let (free, held) = retired.drain(..).partition(|snapshot| Arc::strong_count(snapshot) == 1);
        *retired = held;
        let left = retired.len();
        drop(retired);
        // Not a reader's last reference in the making: only `current` is ever loaded, and these have left it.
        drop::<Vec<_>>(free);
        left
    }

    /// Registers how to wake a worker (an eventfd, an unpark), for as long as the publisher lives.
    pub fn subscribe(&self, waker: Box<dyn Fn() + Send + Sync>) {
        lock(&self.wakers).push(waker.into());
    }

    /// Wakes all workers that subscribed: for what cannot wait for their next frame. A new policy can, since a
    /// sleeping worker judges nothing.
    pub fn wake(&self) {
        // Called without the lock, so that a waker may subscribe or take its time.
        let wakers = lock(&self.wakers).clone();
        wakers.iter().for_each(|waker| waker());
    }
}

/// Nothing that these locks guard is left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// The epochs of the next generation by slot, and the last one in use.
    fn epochs(&self, next: &Compiled) -> (Box<[[Epoch; 2]]>, Epoch) {
        let new_epoch = self.last_epoch.next();
        let mut last_epoch = self.last_epoch;
        let slots = next.classifier.wires().iter().zip(&next.changed).map(|(&wire, changed)| {
            let before = self.snapshot.slot(wire);
            Direction::BOTH.map(|direction| match before {
                Some(slot) if !changed[direction as usize] => self.snapshot.epoch(slot, direction),
                _ => {
                    last_epoch = new_epoch;
                    new_epoch
                }
            })
        });
        let epochs = slots.collect();
        (epochs, last_epoch)
    }
}

/// A worker's side.
pub struct PolicyReader {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    /// `None` while parked.
    snapshot: Option<Arc<Snapshot>>,
}

impl fmt::Debug for PolicyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyReader").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl PolicyReader {
    /// The newest snapshot, for the burst that follows. The frames judged before must be out of the worker's hands:
    /// calling this says that they are.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        let newest = self.shared.generation.0.load(Ordering::Acquire);
        let snapshot = match self.snapshot.take() {
            Some(snapshot) if snapshot.generation.0 >= newest => snapshot,
            Some(old) => {
                drop(old);
                self.adopt()
            }
            None => self.wake(),
        };
        self.snapshot.insert(snapshot)
    }

    /// Lets go of the snapshot: call it before sleeping. The worker counts as having left all generations until it
    /// loads again, which wakes it.
    pub fn park(&mut self) {
        if self.snapshot.take().is_some() {
            self.seat.0.store(PARKED, Ordering::Release);
        }
    }

    /// The generation that it works with; `None` while parked.
    pub fn generation(&self) -> Option<Generation> {
        self.snapshot.as_ref().map(|snapshot| snapshot.generation)
    }

    /// Says that it is awake before it looks at the pointer (see the ordering above).
    fn wake(&self) -> Arc<Snapshot> {
        self.seat.0.store(WAKING, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.adopt()
    }

    /// Takes the newest snapshot and acknowledges it. The older one has been let go.
    fn adopt(&self) -> Arc<Snapshot> {
        let snapshot = self.shared.current.load_full();
        #[cfg(test)]
        tests::between_load_and_acknowledgement();
        self.seat.0.store(snapshot.generation.0, Ordering::Release);
        snapshot
    }
}

impl Drop for PolicyReader {
    fn drop(&mut self) {
        self.park();
    }
}
