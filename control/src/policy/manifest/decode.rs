//! JSON to typed objects, as the API server decodes them: absent, null and empty are told apart where it does, unknown
//! fields are warned of, and a value of the wrong type is an error in its field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::super::validation::FieldError;

/// A decoded object and the paths of the fields that its type does not have.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) object: T,
    pub(crate) unknown: Vec<String>,
}

/// Decodes an object.
pub(crate) fn decode<T: DeserializeOwned>(mut value: Value) -> Result<Decoded<T>, FieldError> {
    settle_nulls(&mut value, None);
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&value, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| unknown.push(ignored_path(&path)));
    match result {
        Ok(object) => Ok(Decoded { object, unknown }),
        Err(error) => Err(type_error(&track.path(), &value, &error)),
    }
}

/// Maps whose keys are data, and whose values are text.
const TEXT_MAPS: [&str; 4] = ["matchLabels", "labels", "annotations", "nodeSelector"];
/// Lists of text; all other lists hold objects.
const TEXT_LISTS: [&str; 5] = ["except", "values", "policyTypes", "args", "command"];

/// Go decodes a null element of a list, or a null value of a map, into its type's zero value: `ingress: [null]` is one
/// empty rule. (A null field is an absent one; the types know that.)
fn settle_nulls(value: &mut Value, name: Option<&str>) {
    match value {
        Value::Array(elements) => {
            let text = name.is_some_and(|name| TEXT_LISTS.contains(&name));
            for element in elements {
                if element.is_null() {
                    *element = if text { Value::String(String::new()) } else { Value::Object(Map::new()) };
                }
                settle_nulls(element, None);
            }
        }
        Value::Object(fields) => {
            let text = name.is_some_and(|name| TEXT_MAPS.contains(&name));
            for (key, field) in fields {
                if text && field.is_null() {
                    *field = Value::String(String::new());
                }
                settle_nulls(field, Some(key));
            }
        }
        _ => {}
    }
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    match path {
        serde_ignored::Path::Root => String::new(),
        serde_ignored::Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        serde_ignored::Path::Map { parent, key } => append(ignored_path(parent), key),
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}

/// Appends a key: in brackets where it is data.
fn append(path: String, key: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or_default();
    match path.is_empty() {
        true => key.to_owned(),
        false if TEXT_MAPS.contains(&last) => format!("{path}[{key}]"),
        false => format!("{path}.{key}"),
    }
}

fn error_path(path: &Path) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut steps = Vec::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                text.push_str(&format!("[{index}]"));
                steps.push(index.to_string());
            }
            Segment::Map { key } => {
                text = append(text, key);
                steps.push(key.clone());
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    (text, steps)
}

/// The API server's words for a value of the wrong type.
fn type_error(path: &Path, object: &Value, error: &serde_json::Error) -> FieldError {
    let (field, steps) = error_path(path);
    let value = steps.iter().try_fold(object, |value, step| match value {
        Value::Array(elements) => elements.get(step.parse::<usize>().ok()?),
        value => value.get(step),
    });
    let error = error.to_string();
    let expected = error.rsplit_once("expected ").map_or("", |(_, expected)| expected);
    let reason = match expected {
        "IntOrString" | "a 32-bit integer" => "cannot unmarshal into IntOrString".to_owned(),
        "i32" | "i64" | "u16" => format!("cannot unmarshal into {}", expected.replace('i', "int")),
        "a string" => format!("cannot unmarshal {} into string", value.map_or("value", type_name)),
        "a boolean" => format!("cannot unmarshal {} into bool", value.map_or("value", type_name)),
        _ => format!("cannot unmarshal: {error}"),
    };
    let hint = match (expected, value) {
        ("a string", Some(value @ (Value::Number(_) | Value::Bool(_)))) => {
            Some(format!("write it in quotes, as \"{value}\" (unquoted, YAML reads it as no text)"))
        }
        ("i32", Some(Value::String(text))) if text.parse::<i32>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        _ => None,
    };
    FieldError::wrong_type(field, reason).with_hint(hint)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::json;

    fn spec(spec: Value) -> Result<Decoded<NetworkPolicy>, String> {
        decode(json!({"spec": spec})).map_err(|error| error.to_string())
    }

    #[test]
    fn null_elements_are_empty_ones() {
        let decoded = spec(json!({"ingress": [null, {"from": [null]}], "policyTypes": [null],
            "podSelector": {"matchLabels": {"a": null}}, "egress": null}));
        let expected = spec(json!({"ingress": [{}, {"from": [{}]}], "policyTypes": [""],
            "podSelector": {"matchLabels": {"a": ""}}}));
        assert_eq!(decoded.unwrap().object, expected.unwrap().object);
    }

    #[test]
    fn wrong_types_name_their_field() {
        let port = |port| spec(json!({"egress": [{"ports": [port]}]})).unwrap_err();
        let field = "spec.egress[0].ports[0]";
        assert_eq!(port(json!({"port": 80.5})), format!("{field}.port: cannot unmarshal into IntOrString"));
        assert_eq!(port(json!({"port": true})), format!("{field}.port: cannot unmarshal into IntOrString"));
        assert_eq!(port(json!({"port": 1u64 << 40})), format!("{field}.port: cannot unmarshal into IntOrString"));
        assert_eq!(
            port(json!({"port": 80, "endPort": "90"})),
            format!("{field}.endPort: cannot unmarshal into int32; write 90 without quotes")
        );
        assert_eq!(
            spec(json!({"podSelector": {"matchLabels": {"a.b/c": true}}})).unwrap_err(),
            "spec.podSelector.matchLabels[a.b/c]: cannot unmarshal bool into string; write it in quotes, as \"true\" \
             (unquoted, YAML reads it as no text)"
        );
        assert!(spec(json!({"ingress": {}})).unwrap_err().starts_with("spec.ingress: cannot unmarshal"));
    }

    #[test]
    fn unknown_fields_are_reported_with_their_path() {
        let decoded = spec(json!({"ingres": [], "ingress": [{"from": [{"podselector": {"a": 1}}]}]})).unwrap();
        assert_eq!(decoded.unknown, ["spec.ingres", "spec.ingress[0].from[0].podselector"]);
    }
}
