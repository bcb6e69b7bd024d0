//! Label selectors (`metav1.LabelSelector`): requirements that must all hold.
//!
//! An absent selector is not an empty one: what absence means is the business of the field that holds the selector.
//! An empty selector matches everything. `NotIn` and `DoesNotExist` match an object that lacks the key; `In`, and a
//! `matchLabels` entry, need the key even where the value asked for is empty.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::labels::{Interner, Labels, Symbol};

/// What is required of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Test {
    /// The key is there, with one of these values.
    In(Box<[Symbol]>),
    /// The key is missing, or has another value.
    NotIn(Box<[Symbol]>),
    /// The key is there.
    Exists,
    /// It is not.
    DoesNotExist,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Requirement {
    key: Symbol,
    test: Test,
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(&value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(&value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector over interned labels. Two selectors with the same requirements are equal, whatever their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    requirements: Box<[Requirement]>,
}

impl Selector {
    /// The selector that matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads a validated selector ([`super::validation`]).
    ///
    /// # Panics
    /// On an operator that validation refuses.
    pub fn intern(selector: &LabelSelector, symbols: &mut Interner) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            let test = Test::In([symbols.intern(value)].into());
            requirements.push(Requirement { key: symbols.intern(key), test });
        }
        for expression in selector.match_expressions.iter().flatten() {
            let mut values: Vec<_> = expression.values.iter().flatten().map(|value| symbols.intern(value)).collect();
            values.sort_unstable();
            values.dedup();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values.into()),
                "NotIn" => Test::NotIn(values.into()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::DoesNotExist,
                operator => panic!("a selector with operator {operator:?} passed validation"),
            };
            requirements.push(Requirement { key: symbols.intern(&expression.key), test });
        }
        requirements.sort_unstable();
        requirements.dedup();
        Selector { requirements: requirements.into() }
    }

    /// Whether the labels meet all requirements.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// A label that whatever it matches must have, if there is one.
    pub(super) fn wanted_label(&self) -> Option<(Symbol, Symbol)> {
        self.requirements.iter().find_map(|requirement| match &requirement.test {
            Test::In(values) if values.len() == 1 => Some((requirement.key, values[0])),
            _ => None,
        })
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The selector in the syntax of `kubectl get -l`, sorted by key; empty for [`Selector::everything`].
    pub fn to_text(&self, symbols: &Interner) -> String {
        let mut parts: Vec<_> =
            self.requirements.iter().map(|requirement| requirement_text(requirement, symbols)).collect();
        parts.sort_unstable();
        parts.join(",")
    }
}

/// One requirement as `kubectl get -l` writes it.
fn requirement_text(requirement: &Requirement, symbols: &Interner) -> String {
    let key = symbols.text(requirement.key);
    let list = |values: &[Symbol]| {
        let mut texts: Vec<_> = values.iter().map(|&value| symbols.text(value)).collect();
        texts.sort_unstable();
        texts.join(",")
    };
    match &requirement.test {
        Test::In(values) if values.len() == 1 => format!("{key}={}", symbols.text(values[0])),
        Test::In(values) => format!("{key} in ({})", list(values)),
        Test::NotIn(values) => format!("{key} notin ({})", list(values)),
        Test::Exists => key.to_owned(),
        Test::DoesNotExist => format!("!{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn check(selector: serde_json::Value, expected: [bool; 3]) {
        let mut symbols = Interner::default();
        let object: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
        let selector_ = Selector::intern(&object, &mut symbols);
        let cases: [&[(&str, &str)]; 3] = [&[], &[("tier", "")], &[("tier", "web"), ("app", "x")]];
        for (labels, expected) in cases.into_iter().zip(expected) {
            let labels: BTreeMap<_, _> = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            let interned = Labels::intern(&labels, &mut symbols);
            assert_eq!(selector_.matches(&interned), expected, "{selector} on {labels:?}");
        }
    }

    fn expression(operator: &str, values: &[&str]) -> serde_json::Value {
        serde_json::json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]})
    }

    #[test]
    fn operators_on_missing_empty_and_present_labels() {
        check(serde_json::json!({}), [true, true, true]);
        check(serde_json::json!({"matchLabels": {"tier": ""}}), [false, true, false]);
        check(serde_json::json!({"matchLabels": {"tier": "web", "app": "x"}}), [false, false, true]);
        check(serde_json::json!({"matchLabels": {"tier": "web", "app": "y"}}), [false, false, false]);
        check(expression("In", &["", "web"]), [false, true, true]);
        check(expression("NotIn", &["web"]), [true, true, false]);
        check(expression("NotIn", &[""]), [true, false, true]);
        check(expression("Exists", &[]), [false, true, true]);
        check(expression("DoesNotExist", &[]), [true, false, false]);
    }

    #[test]
    fn the_order_of_requirements_does_not_matter() {
        let mut symbols = Interner::default();
        let mut selector = |value| Selector::intern(&serde_json::from_value(value).unwrap(), &mut symbols);
        let a = selector(serde_json::json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["y", "x"]}]}));
        let b = selector(serde_json::json!({"matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y", "x"]}, {"key": "a", "operator": "In", "values": ["1"]}]}));
        assert_eq!(a, b);
        assert_eq!(a.to_text(&symbols), "a=1,b in (x,y)");
    }
}
