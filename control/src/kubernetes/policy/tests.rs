use super::*;

/// What is enforced of a specification, and what is said of it.
fn enforced(spec: Value) -> (Value, Vec<String>) {
    let reading = read("x", "p", &spec.to_string());
    let object = reading.policy.expect("something is enforced").into_object();
    (serde_json::to_value(object.spec.unwrap()).unwrap(), reading.problems)
}

const GOOD: &str = r#"{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}"#;

fn good() -> Value {
    serde_json::from_str(GOOD).unwrap()
}

fn only_good() -> Value {
    json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [good()]})
}

#[test]
fn a_good_policy_is_left_alone() {
    let spec = json!({"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"], "ingress": [good()]});
    assert_eq!(enforced(spec.clone()), (spec, vec![]));
}

#[test]
fn a_rule_that_is_not_understood_allows_nothing_and_the_others_hold() {
    for bad in [
        json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}),
        json!({"from": [{"clusterSelector": {"name": "b"}}]}),
        json!({"from": [{"podSelector": {}, "serviceAccountSelector": {}}]}),
        json!({"ports": [{"port": 80, "except": [{"port": 81}]}]}),
        json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}]}),
        json!({"from": [{"podSelector": {}}], "schedule": "night"}),
        json!({"ports": [{"protocol": "QUIC", "port": 443}]}),
        json!("everybody"),
    ] {
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [bad, good()]});
        let (spec, problems) = enforced(spec);
        assert_eq!(spec, only_good(), "{bad}");
        assert!(
            !problems.is_empty() && problems.iter().all(|problem| problem.starts_with("spec.ingress[0]")),
            "{problems:?}"
        );
    }
}

#[test]
fn pods_stay_isolated_whatever_is_not_understood() {
    let isolated = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let alone = |spec: Value| enforced(spec).0;
    assert_eq!(
        alone(json!({"podSelector": {"matchCel": "true"}, "policyTypes": ["Ingress"], "ingress": [good()]})),
        only_good()
    );
    assert_eq!(alone(json!({"podSelector": {}, "policyTypes": ["Forward"]})), isolated);
    assert_eq!(alone(json!({"podSelector": {}, "policyTypes": 7})), isolated);
    assert_eq!(
        alone(json!({"podSelector": {}, "policyTypes": ["Ingress", "Forward"], "ingress": [good()]})),
        only_good()
    );
    assert_eq!(
        alone(json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": {"from": []}}))["ingress"],
        Value::Null
    );
    let ordered = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [good()], "action": "Deny"});
    assert_eq!(alone(ordered), json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    assert_eq!(alone(json!(["nonsense"])), isolated);
}

#[test]
fn a_policy_without_a_possible_name_is_refused_and_said_so() {
    let reading = read("x", "", "{}");
    assert!(reading.policy.is_none() && reading.problems[0].contains("metadata.name"), "{reading:?}");
}
