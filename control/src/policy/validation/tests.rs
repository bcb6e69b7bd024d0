//! What is refused, with which words; the corpus of upstream's own objects is in `tests/conformance_validation.rs`.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{AcceptedPolicy, FieldError, accept};

fn policy(spec: Value) -> Result<AcceptedPolicy, Vec<FieldError>> {
    let object = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec});
    accept(serde_json::from_value::<NetworkPolicy>(object).unwrap())
}

fn errors(spec: Value) -> Vec<String> {
    policy(spec).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn policy_types_default_by_the_egress_rules() {
    let types = |spec| policy(spec).unwrap().object().spec.clone().unwrap().policy_types.unwrap();
    assert_eq!(types(json!({})), ["Ingress"]);
    assert_eq!(types(json!({"egress": []})), ["Ingress"]);
    assert_eq!(types(json!({"egress": [{}]})), ["Ingress", "Egress"]);
    assert_eq!(types(json!({"egress": [{}], "policyTypes": []})), ["Ingress", "Egress"]);
    assert_eq!(types(json!({"egress": [{}], "policyTypes": ["Egress"]})), ["Egress"]);
}

#[test]
fn an_error_says_field_kind_reason_and_remedy() {
    assert_eq!(
        errors(json!({"policyTypes": ["Ingress", "egress"]})),
        [
            r#"spec.policyTypes[1]: Unsupported value: "egress": supported values: "Egress", "Ingress"; did you mean "Egress"?"#
        ]
    );
    assert_eq!(
        errors(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1"}}], "ports": [{"port": "80"}]}]})),
        [
            r#"spec.ingress[0].ports[0].port: Invalid value: "80": must contain at least one letter (a-z); write 80 without quotes"#,
            r#"spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.1": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64); for this address alone write "10.0.0.1/32""#,
        ]
    );
}

#[test]
fn metadata_is_checked_too() {
    let metadata = |metadata: Value| {
        let object: NetworkPolicy = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        accept(object).unwrap_err().iter().map(|error| error.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(metadata(json!({})), ["metadata.name", "metadata.namespace"]);
    assert_eq!(metadata(json!({"name": "A_b", "namespace": "a.b"})), ["metadata.name", "metadata.namespace"]);
    assert_eq!(metadata(json!({"name": "a", "namespace": "b", "labels": {"/": "x"}})), ["metadata.labels"]);
}

#[test]
fn lists_that_are_empty_are_stored_as_absent_ones_and_selectors_are_kept() {
    let spec = json!({"podSelector": {"matchLabels": {}}, "ingress": [{"from": [{"podSelector": {}}], "ports": []}],
        "egress": [], "policyTypes": ["Ingress"]});
    let stored = serde_json::to_value(policy(spec).unwrap().object()).unwrap();
    assert_eq!(
        stored["spec"],
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}], "policyTypes": ["Ingress"]})
    );
}
