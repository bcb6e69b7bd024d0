//! A list that is changed without end stays small, and answers as its rules read one after the other.

use dataplane::address::Address;
use dataplane::packet::{Direction, Protocol};
use dataplane::rules::list::{AddressRange, ListRule, Ports};
use dataplane::rules::{Action, Decision, Query, RuleId};

use super::*;
use crate::enforcer::EnforcerConfig;

const WIRES: [WireId; 2] = [WireId(3), WireId(8)];

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ bits >> 31) % limit
    }

    /// A rule between small prefixes of few addresses, so that many of them mean the same packets.
    fn rule(&mut self, id: u32) -> ListRule {
        let mut range = || {
            let first = self.below(64) as u8;
            let last = first | [0, 0, 1, 7, 63][self.below(5) as usize];
            let address = |low| Address::v4([10, 0, 0, low]);
            AddressRange::new(address(first), address(last)).unwrap()
        };
        let (source, destination) = (range(), range());
        let first = self.below(4) as u16;
        let destination_ports = Ports { first, last: first + self.below(3) as u16 };
        let protocol = (self.below(2) == 0).then_some(Protocol::TCP);
        let action = if self.below(2) == 0 { Action::Allow } else { Action::Deny };
        ListRule { source, destination, destination_ports, protocol, ..ListRule::of_everything(action, RuleId(id)) }
    }

    fn query(&mut self) -> Query {
        let mut address = || Address::v4([10, 0, 0, self.below(64) as u8]);
        let (peer, local) = (address(), address());
        let protocol = if self.below(2) == 0 { Protocol::TCP } else { Protocol::UDP };
        Query { local, ..Query::new(peer, protocol, self.below(6) as u16) }
    }

    /// A change of a list, made to a vector as well.
    fn edit(&mut self, model: &mut Vec<ListRule>, id: u32) -> Edit {
        let rule = self.rule(id);
        let place = self.below(model.len() as u64 + 1) as usize;
        match self.below(3) {
            0 if place < model.len() => {
                model.remove(place);
                Edit::Remove(place)
            }
            1 if place < model.len() => {
                model[place] = rule;
                Edit::Replace(place, rule)
            }
            _ => {
                model.insert(place, rule);
                Edit::Insert(place, rule)
            }
        }
    }
}

fn start(rules: &[ListRule]) -> LiveList {
    let enforcer = Arc::new(Enforcer::start(&EnforcerConfig { flows: 1_024, ..EnforcerConfig::default() }).unwrap());
    LiveList::start(enforcer, WIRES.to_vec(), RuleList::new(rules, Action::Deny).unwrap()).unwrap()
}

/// What is in force answers as the rules do, read one after the other.
fn check(list: &LiveList, model: &[ListRule], random: &mut Random) {
    let snapshot = list.shared.enforcer.publisher.snapshot();
    for wire in WIRES {
        for direction in Direction::BOTH {
            let query = random.query();
            let matching = model.iter().find(|rule| rule.matches(direction, &query));
            let expected = matching.map_or(Decision::CLOSED, ListRule::decision);
            let decision = snapshot.classifier().judge(snapshot.slot(wire).unwrap(), direction, query);
            assert_eq!(decision, expected, "{wire:?} {direction:?} {query:?}");
        }
    }
}

#[test]
fn changes_without_end_leave_a_list_small_and_right() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut model: Vec<ListRule> = (0..3_000).map(|id| random.rule(id)).collect();
    let list = start(&model);
    for round in 0..4_000 {
        let edits: Vec<Edit> = (0..=random.below(3)).map(|_| random.edit(&mut model, 10_000 + round)).collect();
        list.change(&edits).unwrap();
        check(&list, &model, &mut random);
        // Beside what was there when a merge began, what has been changed since, and a last change.
        let most = 2 * RuleList::MAX_DELTA + RuleList::MAX_DELTA.max(model.len() / 4) + 2 * MANY + 8;
        let beside = list.list().beside_base();
        assert!(beside <= most, "{beside} rules beside the base after {round} changes");
    }
    assert!(list.merges() > 2, "{} merges", list.merges());
    list.settle();
    assert!(list.list().iter().eq(model.iter().copied()));
    check(&list, &model, &mut random);
}

#[test]
fn a_merge_judges_no_flow_again() {
    let mut random = Random(7);
    let rules: Vec<ListRule> = (0..20_000).map(|id| random.rule(id)).collect();
    let list = start(&rules);
    let epochs = || {
        let snapshot = list.shared.enforcer.publisher.snapshot();
        WIRES.map(|wire| snapshot.epoch(snapshot.slot(wire).unwrap(), Direction::Egress))
    };
    let mut seen = 0;
    for id in 0..4 * RuleList::MAX_DELTA as u32 {
        let before = epochs();
        list.change(&[Edit::Insert(0, random.rule(20_000 + id))]).unwrap();
        assert_ne!(epochs(), before, "a change is judged by");
        if list.list().wants_merge() {
            let (unmerged, before) = (list.merges(), epochs());
            list.settle();
            assert_eq!(epochs(), before, "the same rules in another form");
            seen += list.merges() - unmerged;
        }
    }
    assert!(seen > 0, "no merge was seen to be published");
}

#[test]
fn a_position_that_is_not_there_changes_nothing() {
    let mut random = Random(1);
    let rules: Vec<ListRule> = (0..10).map(|id| random.rule(id)).collect();
    let list = start(&rules);
    let generation = list.shared.enforcer.generation();
    let refused = list.change(&[Edit::Remove(0), Edit::Remove(9)]);
    assert!(matches!(refused, Err(ListError::Position(NoSuchPosition { position: 9, length: 9 }))), "{refused:?}");
    assert_eq!(list.shared.enforcer.generation(), generation);
    assert!(list.list().iter().eq(rules));
}
