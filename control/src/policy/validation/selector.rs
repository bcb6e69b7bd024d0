//! Labels and label selectors (`apimachinery/pkg/apis/meta/v1/validation`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::field::{FieldError, case_hint};
use super::name;

/// Checks a map of labels. The errors carry the map's path, as the API server's do, and name key or value.
pub(super) fn validate_labels(labels: &BTreeMap<String, String>, field: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels {
        validate_key(key, field, errors);
        let reasons = name::label_value(value);
        if !reasons.is_empty() {
            let reason = format!("invalid label value {value:?}: {}", reasons.join("; "));
            errors.push(FieldError::invalid(field, value, reason));
        }
    }
}

fn validate_key(key: &str, field: &str, errors: &mut Vec<FieldError>) {
    let reasons = name::label_key(key);
    if !reasons.is_empty() {
        errors.push(FieldError::invalid(field, key, format!("invalid label key {key:?}: {}", reasons.join("; "))));
    }
}

/// Checks a selector.
pub(super) fn validate_selector(selector: &LabelSelector, field: &str, errors: &mut Vec<FieldError>) {
    if let Some(labels) = &selector.match_labels {
        validate_labels(labels, &format!("{field}.matchLabels"), errors);
    }
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        validate_requirement(requirement, &format!("{field}.matchExpressions[{index}]"), errors);
    }
}

fn validate_requirement(requirement: &LabelSelectorRequirement, field: &str, errors: &mut Vec<FieldError>) {
    const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            format!("{field}.values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            format!("{field}.values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        operator => errors.push(
            FieldError::invalid(format!("{field}.operator"), operator, "not a valid selector operator")
                .with_hint(case_hint(operator, &OPERATORS)),
        ),
    }
    validate_key(&requirement.key, &format!("{field}.key"), errors);
    for (index, value) in values.iter().enumerate() {
        for reason in name::label_value(value) {
            errors.push(FieldError::invalid(format!("{field}.values[{index}]"), value, reason));
        }
    }
}
