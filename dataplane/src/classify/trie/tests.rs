//! The trie against a search in its cuts.

use proptest::prelude::*;

use super::*;

fn linear(cuts: &[Cut], number: u128) -> u32 {
    cuts[cuts.partition_point(|cut| cut.first <= number) - 1].class
}

/// Cuts of a space of `bits` bits above `low`, many of them close together and on byte boundaries.
fn cuts(low: u128, bits: u32) -> impl Strategy<Value = Vec<Cut>> {
    let mask = u128::MAX >> (128 - bits);
    let place = (any::<u128>(), prop::sample::select(vec![0, 8, 16, 24, 56, 64, 120]), 0..4u128)
        .prop_map(move |(number, zeros, near)| ((number >> zeros << zeros).wrapping_add(near) & mask) | low);
    prop::collection::vec((place, 0..4u32), 0..200).prop_map(move |places| {
        let mut cuts: Vec<Cut> = vec![Cut { first: low, class: 9 }];
        cuts.extend(places.into_iter().map(|(first, class)| Cut { first, class }));
        cuts.sort_by_key(|cut| cut.first);
        cuts.dedup_by_key(|cut| cut.first);
        cuts.dedup_by_key(|cut| cut.class);
        cuts
    })
}

fn check(trie: &Trie, cuts: &[Cut], low: u128, bits: u32) -> Result<(), TestCaseError> {
    let mask = u128::MAX >> (128 - bits);
    for cut in cuts {
        for number in [cut.first.wrapping_sub(1), cut.first, cut.first.wrapping_add(1), cut.first ^ (1 << (bits - 1))] {
            let number = (number & mask) | low;
            prop_assert_eq!(trie.lookup(number), linear(cuts, number), "{:x}", number);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn equals_a_search_in_the_cuts_v4(cuts in cuts(0xffff_0000_0000, 32)) {
        check(&Trie::new(&cuts, 32), &cuts, 0xffff_0000_0000, 32)?;
    }

    #[test]
    fn equals_a_search_in_the_cuts_v6(cuts in cuts(0, 128)) {
        check(&Trie::new(&cuts, 128), &cuts, 0, 128)?;
    }
}

#[test]
fn a_hundred_thousand_addresses_take_a_few_bytes_each() {
    // Pods as a cluster numbers them: a /24 (a /64) a node, 110 pods each.
    let pods = |node_bits: u32, base: u128| {
        let mut cuts = vec![Cut { first: base, class: 0 }];
        for pod in 0..100_000u128 {
            let first = base + ((pod / 110) << node_bits) + pod % 110 + 2;
            cuts.push(Cut { first, class: 1 + (pod % 1000) as u32 });
            cuts.push(Cut { first: first + 1, class: 0 });
        }
        cuts.dedup_by(|next, cut| {
            next.first == cut.first && {
                cut.class = next.class;
                true
            }
        });
        cuts
    };
    for (cuts, bits) in [(pods(8, 0xffff_0000_0000), 32), (pods(64, 0xfd00 << 112), 128)] {
        let trie = Trie::new(&cuts, bits);
        assert_eq!(trie.lookup(cuts[5].first), cuts[5].class);
        assert!(trie.memory() < 2_000_000, "{} bytes", trie.memory());
    }
    // Scattered over all of IPv4, nothing to share.
    let mut cuts = vec![Cut { first: 0xffff_0000_0000, class: 0 }];
    for place in 0..100_000u128 {
        let first = 0xffff_0000_0000 + place * 42_949;
        cuts.push(Cut { first: first + 1, class: 1 });
        cuts.push(Cut { first: first + 2, class: 0 });
    }
    let memory = Trie::new(&cuts, 32).memory();
    assert!(memory < 12_000_000, "{memory} bytes");
}

/// Changes of ranges, of single numbers and of everything, each to the class that a table gives for the old one.
fn changes(low: u128, bits: u32) -> impl Strategy<Value = Vec<(u128, u128, [u32; 12])>> {
    let mask = u128::MAX >> (128 - bits);
    let place = (any::<u128>(), prop::sample::select(vec![0, 8, 16, 24, 56, 64, 120]), 0..4u128)
        .prop_map(move |(number, zeros, near)| ((number >> zeros << zeros).wrapping_add(near) & mask) | low);
    let length = prop_oneof![
        6 => Just(0u128),
        3 => (0..bits, any::<u128>()).prop_map(|(shift, bits)| bits >> (127 - shift)),
        1 => Just(u128::MAX),
    ];
    let change = (place, length, prop::array::uniform12(0..12u32))
        .prop_map(move |(first, length, table)| (first, first.saturating_add(length).min(low | mask), table));
    prop::collection::vec(change, 1..40)
}

/// The cuts after a change: the definition.
fn changed(cuts: &[Cut], first: u128, last: u128, table: &[u32; 12]) -> Vec<Cut> {
    let mut places: Vec<u128> = cuts.iter().map(|cut| cut.first).chain([first]).chain(last.checked_add(1)).collect();
    places.sort_unstable();
    places.dedup();
    let class = |place| {
        let old = linear(cuts, place);
        if (first..=last).contains(&place) { table[old as usize] } else { old }
    };
    let mut cuts: Vec<Cut> = places.into_iter().map(|first| Cut { first, class: class(first) }).collect();
    cuts.dedup_by_key(|cut| cut.class);
    cuts
}

fn check_changes(
    mut expected: Vec<Cut>,
    changes: &[(u128, u128, [u32; 12])],
    low: u128,
    bits: u32,
) -> Result<(), TestCaseError> {
    let mask = u128::MAX >> (128 - bits);
    let mut trie = Trie::new(&expected, bits);
    for (first, last, table) in changes {
        let before = (trie.clone(), expected.clone());
        trie.update(*first, *last, &mut |class| table[class as usize]);
        expected = changed(&expected, *first, *last, table);
        expected.retain(|cut| cut.first <= (low | mask));
        check(&trie, &expected, low, bits)?;
        prop_assert_eq!(&trie.cuts(), &expected);
        check(&before.0, &before.1, low, bits)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn changes_are_those_of_the_cuts_v4(cuts in cuts(0xffff_0000_0000, 32), changes in changes(0xffff_0000_0000, 32)) {
        check_changes(cuts, &changes, 0xffff_0000_0000, 32)?;
    }

    #[test]
    fn changes_are_those_of_the_cuts_v6(cuts in cuts(0, 128), changes in changes(0, 128)) {
        check_changes(cuts, &changes, 0, 128)?;
    }
}
