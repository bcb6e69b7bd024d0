use std::cell::RefCell;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::address::Address;
use crate::packet::Protocol;
use crate::rules::list::{AddressRange, ListRule, RuleList};
use crate::rules::{
    Action, AddressSet, Chain, Decision, Peers, Policy, Query, Rule, RuleId, Services, Tier, WireRules,
};

thread_local! {
    static BETWEEN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Where a reader has the pointer and has not acknowledged it: a test puts there what the other side does meanwhile.
pub(super) fn between_load_and_acknowledgement() {
    let meanwhile = BETWEEN.with_borrow_mut(Option::take);
    if let Some(meanwhile) = meanwhile {
        meanwhile();
    }
}

const LONG: Duration = Duration::from_secs(60);

/// A chain of one rule, with everything in it made anew.
fn chain(host: u8, id: u32) -> Policy {
    let set = AddressSet::from_iter([Address::v4([10, 0, 0, host])]);
    let rule = Rule {
        action: Action::Allow,
        log: false,
        peers: Peers::Set(Arc::new(set)),
        services: Services::Any,
        id: RuleId(id),
    };
    Policy::Chain(Arc::new(Chain { tiers: vec![Tier { rules: vec![rule], default: Action::Deny }] }))
}

fn wire(id: u32, egress: Policy, ingress: Policy) -> WireRules {
    WireRules { wire: WireId(id), egress, ingress }
}

fn rules(wires: impl IntoIterator<Item = WireRules>) -> RuleSet {
    RuleSet { wires: wires.into_iter().collect() }
}

fn query(host: u8) -> Query {
    Query::new(Address::v4([10, 0, 0, host]), Protocol::TCP, 80)
}

fn epochs(publisher: &Publisher, id: u32) -> [Epoch; 2] {
    let snapshot = publisher.snapshot();
    let slot = snapshot.slot(WireId(id)).unwrap();
    Direction::BOTH.map(|direction| snapshot.epoch(slot, direction))
}

#[test]
fn nothing_published_means_every_wire_is_closed() {
    let publisher = Publisher::new();
    let mut reader = publisher.reader();
    assert_eq!(reader.load().generation(), Generation::NONE);
    assert_eq!(reader.load().slot(WireId(0)), None);
    assert!(publisher.acknowledged(Generation::NONE));
    assert!(!publisher.acknowledged(Generation(1)), "what is not published is not acknowledged");
}

#[test]
fn a_reader_sees_what_was_published_and_a_refused_set_changes_nothing() {
    let publisher = Publisher::new();
    let mut reader = publisher.reader();
    let first = publisher.publish(rules([wire(4, chain(1, 7), Policy::Open)])).unwrap();
    let judge = |snapshot: &Snapshot, host| {
        snapshot.classifier().judge(snapshot.slot(WireId(4)).unwrap(), Direction::Egress, query(host))
    };
    assert_eq!((first, reader.load().generation()), (Generation(1), Generation(1)));
    assert_eq!(judge(reader.load(), 1).rule, Some(RuleId(7)));
    let before = epochs(&publisher, 4);
    let twice = rules([wire(4, Policy::Open, Policy::Open), wire(4, Policy::Open, Policy::Open)]);
    assert_eq!(publisher.publish(twice), Err(CompileError::DuplicateWire(WireId(4))));
    assert_eq!(publisher.generation(), first);
    assert_eq!(judge(reader.load(), 2), Decision::CLOSED);
    assert_eq!(epochs(&publisher, 4), before);
    let second = publisher.publish(rules([wire(4, chain(2, 7), Policy::Open)])).unwrap();
    assert_eq!((second, reader.load().generation()), (Generation(2), Generation(2)));
    assert_eq!(judge(reader.load(), 2).action, Action::Allow);
}

#[test]
fn acknowledged_means_that_every_worker_awake_has_loaded() {
    let publisher = Publisher::new();
    let (mut one, mut two, asleep) = (publisher.reader(), publisher.reader(), publisher.reader());
    one.load();
    two.load();
    let generation = publisher.publish(RuleSet::default()).unwrap();
    assert!(!publisher.acknowledged(generation));
    one.load();
    assert!(!publisher.acknowledged(generation), "the other one has not loaded");
    assert!(!publisher.wait_acknowledged(generation, Duration::from_millis(1)));
    two.park();
    assert!(publisher.acknowledged(generation), "a sleeping worker has left all generations");
    let next = publisher.publish(RuleSet::default()).unwrap();
    assert!(publisher.acknowledged(generation) && !publisher.acknowledged(next));
    drop(one);
    assert!(publisher.acknowledged(next), "a worker that is gone has left all generations");
    assert_eq!(two.load().generation(), next, "one that wakes has the newest");
    assert_eq!(asleep.generation(), None);
}

#[test]
fn an_old_snapshot_is_freed_when_the_last_worker_has_left_it_and_not_by_the_worker() {
    let publisher = Publisher::new();
    let (mut one, mut two) = (publisher.reader(), publisher.reader());
    publisher.publish(rules([wire(1, chain(1, 1), Policy::Open)])).unwrap();
    one.load();
    two.load();
    let old = Arc::downgrade(&publisher.snapshot());
    let generation = publisher.publish(RuleSet::default()).unwrap();
    one.load();
    assert_eq!(publisher.reclaim(), 1, "two still judges by it");
    assert!(old.upgrade().is_some());
    two.park();
    assert!(old.upgrade().is_some(), "parking freed it: that is the publisher's work");
    assert!(publisher.wait_acknowledged(generation, LONG));
    assert!(old.upgrade().is_none());
    assert_eq!(publisher.reclaim(), 0);
}

#[test]
fn a_direction_keeps_its_epoch_while_its_policy_says_the_same() {
    let publisher = Publisher::new();
    let shared = chain(1, 1);
    let base = |egress| [wire(9, egress, chain(2, 2)), wire(3, shared.clone(), Policy::Open)];
    publisher.publish(rules(base(chain(1, 1)))).unwrap();
    let (nine, three) = (epochs(&publisher, 9), epochs(&publisher, 3));
    assert!(nine.iter().chain(&three).all(|&epoch| epoch != Epoch::NONE));

    // The same content from other allocations, in another order, beside a new wire whose slot comes first.
    let [first, second] = base(chain(1, 1));
    publisher.publish(rules([wire(1, Policy::Open, Policy::Open), second, first])).unwrap();
    assert_eq!((epochs(&publisher, 9), epochs(&publisher, 3)), (nine, three));

    // One address more in one set: that direction of that wire, and nothing else.
    publisher.publish(rules(base(chain(3, 1)))).unwrap();
    let changed = epochs(&publisher, 9);
    assert_ne!(changed[0], nine[0]);
    assert_eq!((changed[1], epochs(&publisher, 3)), (nine[1], three));
}

/// A rule for one destination.
fn list_rule(host: u8, id: u32) -> ListRule {
    let address = Address::v4([10, 0, 0, host]);
    let destination = AddressRange::new(address, address).unwrap();
    ListRule { destination, ..ListRule::of_everything(Action::Allow, RuleId(id)) }
}

#[test]
fn a_change_in_a_list_is_an_epoch_of_the_wires_that_have_it_and_of_no_other() {
    let publisher = Publisher::new();
    let list = |rules: &[ListRule]| Arc::new(RuleList::new(rules, Action::Deny).unwrap());
    let policy = |list: &Arc<RuleList>| Policy::List(Arc::clone(list));
    let (shared, other) = (list(&[list_rule(1, 1), list_rule(2, 2)]), list(&[list_rule(3, 3)]));
    let publish = |shared: &Arc<RuleList>, other: &Arc<RuleList>| {
        let wires = [wire(1, policy(shared), policy(other)), wire(2, chain(1, 1), policy(shared))];
        publisher.publish(rules(wires)).unwrap();
        (epochs(&publisher, 1), epochs(&publisher, 2))
    };
    let judge = |id, direction, host| {
        let snapshot = publisher.snapshot();
        let query = Query { local: Address::v4([10, 0, 0, host]), ..query(host) };
        snapshot.classifier().judge(snapshot.slot(WireId(id)).unwrap(), direction, query).rule
    };
    let before = publish(&shared, &other);
    assert_eq!(judge(1, Direction::Egress, 2), Some(RuleId(2)));
    assert_eq!((judge(1, Direction::Ingress, 3), judge(2, Direction::Egress, 1)), (Some(RuleId(3)), Some(RuleId(1))));

    // One rule replaced: both wires that have the list, in its direction.
    let changed = Arc::new(shared.replace(1, list_rule(4, 4)).unwrap());
    let after = publish(&changed, &other);
    assert!(after.0[0] != before.0[0] && after.1[1] != before.1[1]);
    assert_eq!((after.0[1], after.1[0]), (before.0[1], before.1[0]));
    for (id, direction) in [(1, Direction::Egress), (2, Direction::Ingress)] {
        assert_eq!((judge(id, direction, 2), judge(id, direction, 4)), (None, Some(RuleId(4))), "{id}");
    }

    // Merged, or made anew, it says the same.
    assert_eq!(publish(&Arc::new(changed.merged()), &list(&[list_rule(3, 3)])), after);
    assert_eq!(judge(2, Direction::Ingress, 4), Some(RuleId(4)));
}

#[test]
fn epochs_are_never_used_again() {
    let publisher = Publisher::new();
    let mut seen = vec![Epoch::NONE];
    let mut expect_new = |policy: Option<Policy>| {
        let wires = policy.map(|policy| wire(1, policy, Policy::Open));
        let named = wires.is_some();
        publisher.publish(rules(wires)).unwrap();
        if named {
            let epoch = epochs(&publisher, 1)[0];
            assert!(!seen.contains(&epoch), "{epoch:?} again");
            seen.push(epoch);
        }
    };
    for policy in [Some(chain(1, 1)), Some(Policy::Open), Some(chain(1, 1)), Some(chain(1, 2)), None, Some(chain(1, 2))]
    {
        expect_new(policy);
    }
    assert_eq!(Epoch(u32::MAX).next(), Epoch(1), "a wrap leaves out the epoch in which no verdict holds");
}

#[test]
fn a_waker_is_called_by_wake_and_not_by_publish() {
    let publisher = Publisher::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    publisher.subscribe(Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    publisher.publish(RuleSet::default()).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    publisher.wake();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_worker_that_wakes_while_a_policy_is_published_is_waited_for() {
    let publisher = Arc::new(Publisher::new());
    for parked_before in [false, true] {
        let mut reader = publisher.reader();
        let first = publisher.publish(RuleSet::default()).unwrap();
        if parked_before {
            reader.load();
            reader.park();
        }
        let control = Arc::clone(&publisher);
        BETWEEN.set(Some(Box::new(move || {
            let second = control.publish(RuleSet::default()).unwrap();
            assert!(!control.acknowledged(second), "a worker is about to judge by the older one");
        })));
        assert_eq!(reader.load().generation(), first);
        assert!(BETWEEN.with_borrow(Option::is_none), "the interleaving took place");
        assert!(publisher.acknowledged(first) && !publisher.acknowledged(publisher.generation()));
        assert!(reader.load().generation() > first && publisher.acknowledged(publisher.generation()));
    }
}

/// Three workers load, judge and park as fast as they can while policies follow one another. Each rule's number is its
/// generation, on both wires: a burst that mixed two would show.
#[test]
fn no_worker_judges_by_less_than_what_was_acknowledged() {
    const GENERATIONS: u64 = 3_000;
    let publisher = Publisher::new();
    let applied = AtomicU64::new(0);
    let judge_loop = |mut reader: PolicyReader, nap_every: u64| {
        let mut last = Generation::NONE;
        for burst in 1u64.. {
            let snapshot = reader.load();
            let generation = snapshot.generation();
            assert!(generation >= last, "{generation} after {last}");
            last = generation;
            for id in [2, 5] {
                if let Some(slot) = snapshot.slot(WireId(id)) {
                    let decision = snapshot.classifier().judge(slot, Direction::Ingress, query(1));
                    assert_eq!(decision.rule, Some(RuleId(generation.0 as u32)));
                }
            }
            // Still in the burst: nothing newer may count as applied.
            let applied = applied.load(Ordering::SeqCst);
            assert!(applied <= generation.0, "{applied} counts as applied, a worker judges by {generation}");
            if burst % nap_every == 0 {
                reader.park();
            }
            if generation.0 == GENERATIONS {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for nap_every in [1, 3, u64::MAX] {
            let reader = publisher.reader();
            let judge_loop = &judge_loop;
            scope.spawn(move || judge_loop(reader, nap_every));
        }
        for number in 1..=GENERATIONS as u32 {
            let policy = || chain(1, number);
            let wires = [wire(2, Policy::Open, policy()), wire(5, Policy::Open, policy())];
            let generation = publisher.publish(rules(wires)).unwrap();
            assert_eq!(generation.0, u64::from(number));
            if publisher.acknowledged(generation) {
                applied.store(generation.0, Ordering::SeqCst);
            }
        }
        assert!(publisher.wait_acknowledged(Generation(GENERATIONS), LONG));
    });
    assert_eq!(publisher.reclaim(), 0);
}
