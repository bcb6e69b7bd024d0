//! Texts to documents: what form they have, and where in them an object stands.

use std::fmt;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::yaml;
use super::{ManifestError, Place};

/// A document and where it stands.
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Where a document, or an item of a list in it, stands.
#[derive(Clone)]
pub(super) struct Origin {
    file: Rc<str>,
    /// The document's number from 1, if the file holds several.
    document: Option<usize>,
    /// The document itself, for the lines of its fields; JSON has none.
    node: Option<Rc<yaml::Node>>,
    /// What leads from the document to the object: empty, or `items[3]`.
    prefix: String,
}

impl Origin {
    /// The place of the object.
    pub(super) fn place(&self) -> Place {
        self.place_of("")
    }

    /// The place of a field of the object.
    pub(super) fn place_of(&self, field: &str) -> Place {
        let path = if self.prefix.is_empty() { field.to_owned() } else { format!("{}.{field}", self.prefix) };
        let line = self.node.as_ref().map(|node| if path.is_empty() { node.line() } else { node.line_of(&path) });
        Place { file: self.file.to_string(), document: self.document, line }
    }

    /// The origin of an item of a list.
    pub(super) fn item(&self, index: usize) -> Origin {
        let prefix = format!("{}{}items[{index}]", self.prefix, if self.prefix.is_empty() { "" } else { "." });
        Origin { prefix, ..self.clone() }
    }
}

/// Reads a text, which `file` names in errors. What begins with a brace and is JSON is read as JSON, the rest as YAML.
pub(super) fn read_text(file: &str, text: &str) -> Result<Vec<Document>, Box<ManifestError>> {
    let file: Rc<str> = file.into();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_json = file.to_ascii_lowercase().ends_with(".json");
    if is_json || text.trim_start().starts_with('{') {
        match read_json(text) {
            Ok(values) => {
                let several = values.len() > 1;
                let documents = values.into_iter().enumerate().map(|(index, value)| {
                    let document = several.then_some(index + 1);
                    let origin = Origin { file: Rc::clone(&file), document, node: None, prefix: String::new() };
                    Document { value, origin }
                });
                return Ok(documents.collect());
            }
            Err(error) if is_json => {
                let place = Place { file: file.to_string(), document: None, line: Some(error.line()) };
                return Err(Box::new(ManifestError::Syntax { place, reason: strip_position(&error) }));
            }
            Err(_) => {}
        }
    }
    let nodes = yaml::read(text).map_err(|error| ManifestError::Syntax {
        place: Place { file: file.to_string(), document: None, line: Some(error.line) },
        reason: error.reason,
    })?;
    let several = nodes.iter().filter(|node| !node.is_null()).count() > 1;
    let documents = nodes.into_iter().enumerate().filter(|(_, node)| !node.is_null()).map(|(index, node)| {
        let document = several.then_some(index + 1);
        let value = node.to_value();
        let origin = Origin { file: Rc::clone(&file), document, node: Some(node), prefix: String::new() };
        Document { value, origin }
    });
    Ok(documents.collect())
}

/// serde_json's message without the position, which the place says already.
fn strip_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

fn read_json(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<UniqueKeys>()
        .map(|value| value.map(|UniqueKeys(value)| value))
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect()
}

/// JSON in which no object has a key twice.
struct UniqueKeys(Value);

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UniqueKeysVisitor.deserialize(deserializer).map(UniqueKeys)
    }
}

#[derive(Clone, Copy)]
struct UniqueKeysVisitor;

impl<'de> DeserializeSeed<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} comes twice in one object")));
            }
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}
