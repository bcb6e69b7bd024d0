//! The published schema says what the reader does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::errors::{FILES, RULES, around};
use super::{arbitrary, example, read_str, write};
use crate::model::{Hook, States};
use crate::rulefile::node::{Content, Kind, Node, parse};
use crate::rulefile::{load, rule};
use crate::values::{FLAGS, LEVELS, REJECTS};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/rules.schema.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

/// As a reader of YAML 1.2 with the core schema gives it to a validator.
fn json(node: &Node<'_>) -> Value {
    match &node.content {
        Content::Scalar(_, Kind::Null) => Value::Null,
        Content::Scalar(text, Kind::Bool) => json!(text.eq_ignore_ascii_case("true")),
        Content::Scalar(text, Kind::Number) => {
            text.parse::<i64>().map_or_else(|_| json!(text.parse::<f64>().ok()), |n| json!(n))
        }
        Content::Scalar(text, Kind::Text) => json!(text),
        Content::List(nodes) => nodes.iter().map(json).collect(),
        Content::Map(entries) => {
            Value::Object(entries.iter().map(|(key, node)| (key.text.to_string(), json(node))).collect::<Map<_, _>>())
        }
    }
}

fn documents(text: &str) -> Vec<Value> {
    parse(text).unwrap().iter().map(json).collect()
}

#[test]
fn the_example_is_valid() {
    let text = std::fs::read_to_string(example()).unwrap();
    for document in documents(&text) {
        assert_eq!(
            validator().iter_errors(&document).map(|error| error.to_string()).collect::<Vec<_>>(),
            Vec::<String>::new()
        );
    }
}

#[test]
fn what_the_reader_refuses_the_schema_does() {
    let validator = validator();
    let rules = RULES.iter().map(|(rule, _, refused)| (around(rule), *refused));
    let files = FILES.iter().map(|(text, _, refused)| ((*text).to_owned(), *refused));
    for (text, refused) in rules.chain(files) {
        let Ok(nodes) = parse(&text) else { continue };
        let valid = nodes.iter().all(|node| node.is_null() || validator.is_valid(&json(node)));
        assert_eq!(valid, !refused, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_written_is_valid(ruleset in arbitrary::ruleset()) {
        let mut ruleset = ruleset;
        // Names that no kernel has are refused by both, and empty ones.
        ruleset.groups.values_mut().for_each(|group| group.interfaces = vec!["eth0".to_owned()]);
        let text = write(&ruleset, "");
        let empty = text.contains("\"\"");
        let documents = documents(&text);
        // What a reader with other ideas of booleans and numbers takes it for: the same.
        let others: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        prop_assert_eq!(&documents, &others);
        for document in documents {
            let errors: Vec<String> = validator().iter_errors(&document).map(|error| error.to_string()).collect();
            prop_assert!(errors.is_empty() || empty, "{errors:?}\n{text}");
        }
    }
}

proptest! {
    #[test]
    fn what_the_reader_takes_the_schema_does(at in any::<prop::sample::Index>(), cut in 0..9usize, put in "[-a-z0-9:{}\\[\\], \n\"'+/]{0,6}") {
        let mut text = std::fs::read_to_string(example()).unwrap();
        let at = at.index(text.len());
        text.replace_range(at..(at + cut).min(text.len()), &put);
        if read_str(&example().to_string_lossy(), &text).is_ok() {
            for document in documents(&text).into_iter().filter(|document| !document.is_null()) {
                let errors: Vec<String> = validator().iter_errors(&document).map(|error| error.to_string()).collect();
                prop_assert!(errors.is_empty(), "{errors:?}\n{text}");
            }
        }
    }
}

/// By JSON pointer: the keys of each object that the schema describes.
fn objects(value: &Value, pointer: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    match value {
        Value::Object(map) => {
            // `properties` is a key of a schema, not of a mapping of the file, as none of a rule file is called so.
            if let Some(Value::Object(properties)) = map.get("properties") {
                assert_eq!(map.get("additionalProperties"), Some(&json!(false)), "{pointer}");
                found.insert(pointer.to_owned(), properties.keys().cloned().collect());
            }
            map.iter().for_each(|(key, value)| objects(value, &format!("{pointer}/{key}"), found));
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, value)| objects(value, &format!("{pointer}/{index}"), found));
        }
        _ => {}
    }
}

#[test]
fn the_reader_and_the_schema_know_the_same_keys() {
    let mut found = BTreeMap::new();
    objects(&schema(), "", &mut found);
    let rule = |key: &str, at: &str| format!("/$defs/rule/properties/{key}{at}");
    let mut known: BTreeMap<String, Vec<&str>> = BTreeMap::from([
        (String::new(), load::FILE_KEYS.to_vec()),
        ("/$defs/group/anyOf/1".to_owned(), load::GROUP_KEYS.to_vec()),
        ("/$defs/set/anyOf/1".to_owned(), load::SET_KEYS.to_vec()),
        ("/$defs/hook".to_owned(), load::HOOK_KEYS.to_vec()),
        ("/$defs/chain".to_owned(), load::CHAIN_KEYS.to_vec()),
        ("/$defs/rule".to_owned(), rule::RULE_KEYS.to_vec()),
        ("/$defs/matches".to_owned(), rule::MATCH_KEYS.to_vec()),
        (rule("limit", "/anyOf/1"), rule::LIMIT_KEYS.to_vec()),
        (rule("log", "/anyOf/1"), rule::LOG_KEYS.to_vec()),
        (rule("action", "/anyOf/1"), rule::ACTION_KEYS.to_vec()),
    ]);
    // Every match stands there as it is and within `not`.
    for key in rule::MATCH_KEYS {
        known.insert(rule(key, "/anyOf/1"), vec!["not"]);
        let (within, keys): (_, &[&str]) = match key {
            "set" => ("", &rule::SET_KEYS),
            "tcpFlags" => ("/anyOf/1", &rule::FLAG_KEYS),
            "from" | "to" => ("/anyOf/1", &["set"]),
            _ => continue,
        };
        known.insert(rule(key, &format!("/anyOf/0{within}")), keys.to_vec());
        known.insert(rule(key, &format!("/anyOf/1/properties/not{within}")), keys.to_vec());
    }
    let known: BTreeMap<String, BTreeSet<String>> =
        known.into_iter().map(|(pointer, keys)| (pointer, keys.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(found, known);
}

#[test]
fn the_reader_and_the_schema_know_the_same_words() {
    let schema = schema();
    let words = |pointer: &str| -> BTreeSet<String> {
        let list = schema.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<String>>();
    let properties = "/$defs/rule/properties";
    assert_eq!(words(&format!("{properties}/state/anyOf/0/anyOf/0/enum")), set(&States::NAMES.map(|(name, _)| name)));
    assert_eq!(words(&format!("{properties}/log/anyOf/1/properties/level/anyOf/0/enum")), set(&LEVELS));
    assert_eq!(
        words(&format!("{properties}/action/anyOf/1/properties/reject/enum")),
        set(&REJECTS.map(|(name, _)| name))
    );
    assert_eq!(words(&format!("{properties}/tcpFlags/anyOf/0/anyOf/1/properties/mask/anyOf/0/enum")), set(&FLAGS));
    assert_eq!(
        words(&format!("{properties}/set/anyOf/0/properties/ends/anyOf/0/enum")),
        set(&rule::ENDS.map(|(name, _)| name))
    );
    for hook in Hook::ALL {
        assert_eq!(schema["properties"][hook.name()]["$ref"], "#/$defs/hook");
    }
}
