//! Reading a policy that the API server has accepted: it never fails open.
//!
//! A server may be newer than Penstock, or have accepted something that Penstock would refuse. A policy that cannot be read as a
//! whole is read in parts: what is not understood allows nothing, and the pods are isolated nevertheless.
//!
//! | what is not understood | what is enforced |
//! |---|---|
//! | something in a rule, an unknown field included | the rule allows nothing; the policy's other rules hold |
//! | the list of rules | no rule |
//! | `podSelector` | all pods of the namespace are isolated |
//! | `policyTypes` | the types that are understood; both directions if that is none |
//! | another field of `spec` | the policy's pods are isolated, no rule allows anything |

use k8s_openapi::api::networking::v1 as networking;
use serde_json::{Map, Value, json};

use crate::policy::manifest::decode::decode;
use crate::policy::validation::{AcceptedPolicy, accept};

/// A policy, read as far as it can be.
#[derive(Debug)]
pub(super) struct Reading {
    /// What is enforced. `None` if not even the name can be one of a policy.
    pub(super) policy: Option<AcceptedPolicy>,
    /// What was not understood, each with its field; empty if all was.
    pub(super) problems: Vec<String>,
}

/// The fields that a specification can have.
const FIELDS: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

/// Reads a policy.
pub(super) fn read(namespace: &str, name: &str, spec: &str) -> Reading {
    let reader = Reader { namespace, name };
    let spec: Value = serde_json::from_str(spec).unwrap_or(Value::Null);
    match reader.whole(&spec) {
        Ok(policy) => Reading { policy: Some(policy), problems: Vec::new() },
        Err(problems) => Reading { policy: reader.whole(&reader.parts(&spec)).ok(), problems },
    }
}

struct Reader<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Reader<'_> {
    /// The policy, if every field of it is understood.
    fn whole(&self, spec: &Value) -> Result<AcceptedPolicy, Vec<String>> {
        let object = json!({"metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec});
        let decoded = decode::<networking::NetworkPolicy>(object).map_err(|error| vec![error.to_string()])?;
        let unknown = decoded.unknown.iter().map(|field| format!("{field}: the field is not known"));
        let mut problems: Vec<String> = unknown.collect();
        let accepted = accept(decoded.object);
        problems.extend(accepted.as_ref().err().into_iter().flatten().map(ToString::to_string));
        match accepted {
            Ok(policy) if problems.is_empty() => Ok(policy),
            _ => Err(problems),
        }
    }

    fn understands(&self, spec: Value) -> bool {
        self.whole(&spec).is_ok()
    }

    /// What is understood of a specification.
    fn parts(&self, spec: &Value) -> Value {
        let selector = spec.get("podSelector").filter(|pods| self.understands(json!({"podSelector": pods})));
        let mut types: Vec<&Value> = spec.get("policyTypes").and_then(Value::as_array).into_iter().flatten().collect();
        types.retain(|name| *name == "Ingress" || *name == "Egress");
        types.dedup();
        let types = if types.is_empty() { json!(["Ingress", "Egress"]) } else { json!(types) };
        let mut parts = Map::new();
        parts.insert("podSelector".to_owned(), selector.cloned().unwrap_or_else(|| json!({})));
        parts.insert("policyTypes".to_owned(), types);
        let known = spec.as_object().is_some_and(|fields| fields.keys().all(|field| FIELDS.contains(&field.as_str())));
        if known {
            parts.insert("ingress".to_owned(), self.rules(spec, "ingress", "Ingress"));
            parts.insert("egress".to_owned(), self.rules(spec, "egress", "Egress"));
        }
        Value::Object(parts)
    }

    /// The rules of a direction that are understood, each by itself.
    fn rules(&self, spec: &Value, field: &str, direction: &str) -> Value {
        let all = spec.get(field).and_then(Value::as_array).into_iter().flatten();
        let alone = |rule: &Value| json!({"podSelector": {}, "policyTypes": [direction], field: [rule]});
        all.filter(|rule| self.understands(alone(rule))).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
