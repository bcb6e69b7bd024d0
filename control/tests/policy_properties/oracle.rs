//! What `resolve` makes is held equal to the oracle: over random worlds and policies, every connection gets the same
//! answer from both, and both name the same rules.

use std::collections::HashMap;

use control::policy::judge::Judge;
use control::policy::oracle;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::worlds;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn rules_answer_as_the_oracle_does(manifest in worlds::worlds()) {
        let cluster = worlds::load(&manifest);
        let judge = Judge::new(&cluster);
        for probe in worlds::probes(&cluster) {
            let connection = probe.locate(&cluster).unwrap();
            let (oracle, rules) = (oracle::judge(&cluster, &connection), judge.judge(&connection));
            prop_assert_eq!(oracle, rules, "{} via {:?}", probe, probe.via);
        }
    }
}

/// The worlds must be ones in which something can go wrong: every answer occurs often, for every kind of reason.
#[test]
fn the_worlds_are_varied() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let mut counts: HashMap<String, usize> = HashMap::new();
    for _ in 0..40 {
        let manifest = worlds::worlds().new_tree(&mut runner).unwrap().current();
        let cluster = worlds::load(&manifest);
        for probe in worlds::probes(&cluster) {
            let answer = oracle::evaluate(&cluster, &probe).unwrap();
            *counts.entry(format!("{:?} {:?}", answer.egress, answer.ingress)).or_default() += 1;
            for rule in &answer.rules {
                let kind = rule.split_once(' ').map_or(rule.as_str(), |(_, place)| &place[..place.find('[').unwrap()]);
                *counts.entry(kind.to_owned()).or_default() += 1;
            }
        }
    }
    println!("{counts:?}");
    for kind in ["Allow Allow", "Allow Deny", "Deny Allow", "Deny Deny", "own-node", "ingress", "egress"] {
        assert!(counts.get(kind).is_some_and(|&count| count >= 300), "{kind}: {counts:?}");
    }
}
