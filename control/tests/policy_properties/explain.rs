//! An explanation is true: it says what the rules say, taking away the rules that it names turns an allowance into a
//! denial, and adding the rule that it suggests turns a denial into an allowance.

use control::policy::cluster::{Cluster, ObjectName};
use control::policy::explain::{EndExplanation, EndReason, Explanation, denied_dns, explain};
use control::policy::judge::Judge;
use control::policy::oracle;
use control::policy::probe::{EndVerdict, Probe};
use control::policy::validation::accept;
use dataplane::packet::Direction;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use proptest::prelude::*;
use serde_json::Value;

use crate::worlds;

/// The cluster with one policy edited.
fn edit(cluster: &Cluster, policy: &ObjectName, edit: impl FnOnce(&mut NetworkPolicy)) -> Cluster {
    let mut object = (*cluster.policy(policy).unwrap().object).clone();
    edit(&mut object);
    let mut cluster = cluster.clone();
    cluster.apply_policy(accept(object).unwrap());
    cluster
}

fn add_rule(cluster: &Cluster, policy: &ObjectName, direction: Direction, rule: &Value) -> Cluster {
    edit(cluster, policy, |object| {
        let spec = object.spec.as_mut().unwrap();
        match direction {
            Direction::Ingress => {
                let rule: NetworkPolicyIngressRule = serde_json::from_value(rule.clone()).unwrap();
                spec.ingress.get_or_insert_default().push(rule);
            }
            Direction::Egress => {
                let rule: NetworkPolicyEgressRule = serde_json::from_value(rule.clone()).unwrap();
                spec.egress.get_or_insert_default().push(rule);
            }
        }
    })
}

fn remove_rule(cluster: &Cluster, policy: &ObjectName, direction: Direction, index: usize) -> Cluster {
    edit(cluster, policy, |object| {
        let spec = object.spec.as_mut().unwrap();
        match direction {
            Direction::Ingress => drop(spec.ingress.as_mut().unwrap().remove(index)),
            Direction::Egress => drop(spec.egress.as_mut().unwrap().remove(index)),
        }
    })
}

/// All suggestions followed: the connection must come about.
fn follow_suggestions(cluster: &Cluster, explanation: &Explanation) -> Cluster {
    [&explanation.egress, &explanation.ingress].into_iter().fold(cluster.clone(), |cluster, end| match &end.reason {
        EndReason::Denied { suggestion, .. } => {
            add_rule(&cluster, &suggestion.policy, suggestion.direction, &suggestion.rule)
        }
        _ => cluster,
    })
}

/// All rules taken away that allow it at one end; `None` if no rule does.
fn remove_named(cluster: &Cluster, end: &EndExplanation) -> Option<Cluster> {
    let EndReason::Allowed { rules } = &end.reason else { return None };
    // From the last to the first, so that the indexes stay true.
    Some(
        rules
            .iter()
            .rev()
            .fold(cluster.clone(), |cluster, rule| remove_rule(&cluster, &rule.policy, rule.direction, rule.rule)),
    )
}

fn allowed(cluster: &Cluster, probe: &Probe) -> bool {
    oracle::evaluate(cluster, probe).unwrap().is_allowed()
}

/// Checks all that is said of one question.
fn check(judge: &Judge<'_>, probe: &Probe) -> Result<Explanation, TestCaseError> {
    let cluster = judge.cluster();
    let answer = judge.answer(probe).unwrap();
    let explanation = explain(cluster, probe).unwrap();
    let ends = [&explanation.egress, &explanation.ingress];
    prop_assert_eq!(ends.map(|end| end.verdict), [answer.egress, answer.ingress], "{}", probe);
    prop_assert_eq!(explanation.verdict == EndVerdict::Allow, answer.is_allowed(), "{}", probe);
    let deciding: Vec<_> = ends.into_iter().filter_map(deciding_rule).collect();
    prop_assert_eq!(deciding, answer.rules, "{}", probe);
    prop_assert!(allowed(&follow_suggestions(cluster, &explanation), probe), "{}\n{}", probe, explanation);
    for end in ends {
        if let Some(changed) = remove_named(cluster, end) {
            prop_assert!(!allowed(&changed, probe), "{}\n{}", probe, explanation);
        }
    }
    Ok(explanation)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn explanations_are_true(manifest in worlds::worlds()) {
        let cluster = worlds::load(&manifest);
        let judge = Judge::new(&cluster);
        for probe in worlds::probes(&cluster).iter().step_by(3) {
            check(&judge, probe)?;
        }
    }

    #[test]
    fn denied_dns_is_denied_until_the_suggestion_is_followed(manifest in worlds::worlds()) {
        let cluster = worlds::load(&manifest);
        for pod in cluster.pods() {
            let Some(dns) = denied_dns(&cluster, pod) else { continue };
            let changed = add_rule(&cluster, &dns.suggestion.policy, Direction::Egress, &dns.suggestion.rule);
            let pod = changed.pod(&pod.name).unwrap();
            prop_assert!(denied_dns(&changed, pod).is_none(), "{}", pod.name);
        }
    }
}

/// Every pair of ends of every example, on every port that a container names and on DNS.
#[test]
fn the_examples_are_explained() {
    let mut counts = [0, 0];
    for (name, cluster) in worlds::examples() {
        let judge = Judge::new(&cluster);
        for probe in worlds::probes_between_pods(&cluster) {
            let explanation = check(&judge, &probe).unwrap_or_else(|error| panic!("{name}: {error}"));
            counts[usize::from(explanation.verdict == EndVerdict::Allow)] += 1;
        }
    }
    let [denied, allowed] = counts;
    println!("{denied} denials and {allowed} allowances explained");
    assert!(denied > 500 && allowed > 500);
}

/// The example that forbids DNS without meaning to is the one of which it is said.
#[test]
fn denied_dns_is_pointed_out_where_it_is_denied() {
    let with_denied_dns = worlds::examples().into_iter().filter(|(_, cluster)| {
        cluster.pods().any(|pod| denied_dns(cluster, pod).is_some_and(|dns| dns.protocols.contains(&"UDP")))
    });
    let names: Vec<_> = with_denied_dns.map(|(name, _)| name).collect();
    assert!(names.iter().any(|name| name.starts_with("10-")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("04-") || name.starts_with("09-")), "{names:?}");
}

/// The rule that decided at an end, as [`Judge`] names it.
fn deciding_rule(end: &EndExplanation) -> Option<String> {
    match &end.reason {
        EndReason::OwnNode => Some("own-node".to_owned()),
        EndReason::Allowed { rules } => {
            let first = &rules[0];
            Some(format!("{} {}[{}]", first.policy, first.direction.name(), first.rule))
        }
        _ => None,
    }
}
