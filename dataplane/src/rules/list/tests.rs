//! Lists as sequences; what they decide is tested with what is compiled from them ([`crate::classify::list`]).

use super::*;

fn rule(id: u32) -> ListRule {
    ListRule { destination: AddressRange::ANY_V4, ..ListRule::of_everything(Action::Allow, RuleId(id)) }
}

fn ids(list: &RuleList) -> Vec<u32> {
    list.iter().map(|rule| rule.id.0).collect()
}

#[test]
fn positions_are_those_of_a_sequence() {
    let rules: Vec<ListRule> = (0..5).map(rule).collect();
    let list = RuleList::new(&rules, Action::Deny).unwrap();
    let list = list.insert(0, rule(10)).unwrap().insert(6, rule(11)).unwrap();
    assert_eq!(ids(&list), [10, 0, 1, 2, 3, 4, 11]);
    let list = list.remove(3).unwrap().remove(0).unwrap();
    assert_eq!(ids(&list), [0, 1, 3, 4, 11]);
    let list = list.insert(2, rule(12)).unwrap().insert(3, rule(13)).unwrap().replace(4, rule(14)).unwrap();
    assert_eq!(ids(&list), [0, 1, 12, 13, 14, 4, 11]);
    for (position, id) in ids(&list).into_iter().enumerate() {
        assert_eq!(list.get(position), Some(rule(id)), "{position}");
    }
    let beyond = NoSuchPosition { position: 7, length: 7 };
    assert_eq!(
        (list.get(7), list.remove(7).unwrap_err(), list.replace(7, rule(1)).unwrap_err()),
        (None, beyond, beyond)
    );
    assert_eq!(list.insert(8, rule(1)).unwrap_err().position, 8);
}

#[test]
fn lists_are_equal_by_what_they_say() {
    let rules: Vec<ListRule> = (0..200).map(rule).collect();
    let list = RuleList::new(&rules, Action::Deny).unwrap();
    let there_and_back = list.insert(100, rule(7)).unwrap().remove(100).unwrap();
    assert_eq!(there_and_back, list);
    assert_eq!(list.remove(3).unwrap().insert(3, rule(3)).unwrap(), list);
    let changed = list.replace(150, rule(1)).unwrap();
    assert_ne!(changed, list);
    assert_eq!(changed.merged(), changed);
    assert_ne!(RuleList::new(&rules, Action::Allow).unwrap(), list);
    assert_ne!(list.remove(199).unwrap(), list);
}

#[test]
fn much_change_wants_a_merge() {
    let mut list = RuleList::new(&[rule(0)], Action::Deny).unwrap();
    for id in 0..=RuleList::MAX_DELTA as u32 {
        assert!(!list.wants_merge());
        list = list.insert(1, rule(id)).unwrap();
    }
    assert!(list.wants_merge() && !list.merged().wants_merge());
}

#[test]
fn a_range_is_of_one_family() {
    let [v4, v6] = [Address::v4([10, 0, 0, 1]), Address::v6([0xfd; 16])];
    assert!(AddressRange::new(v4, v6).is_none() && AddressRange::new(v6, v4).is_none());
    let range = AddressRange::new(v4, Address::v4([10, 0, 0, 9])).unwrap();
    assert!(range.contains(Address::v4([10, 0, 0, 9])) && !range.contains(Address::v4([10, 0, 0, 10])));
    assert!(AddressRange::new(range.last(), range.first()).is_none());
    let net: IpNet = "10.1.0.0/16".parse().unwrap();
    assert_eq!(AddressRange::from(net).last(), Address::v4([10, 1, 255, 255]));
}
