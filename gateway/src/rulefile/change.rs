//! Changes of a set's elements.

use crate::model::{Element, Ruleset};
use crate::values;

/// What has come into a set, and what has left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Elements that are new.
    pub came: Vec<Element>,
    /// Elements that are gone.
    pub gone: Vec<Element>,
}

/// Puts elements into a set and takes others out of it. One that is there already stays as it is.
///
/// # Errors
/// No such set, an element that does not fit it, one to be taken out that is not there: in a sentence, and nothing has changed then.
pub fn change_set(ruleset: &mut Ruleset, name: &str, add: &[String], remove: &[String]) -> Result<Change, String> {
    let known = ruleset.sets.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(set) = ruleset.sets.get_mut(name) else {
        return Err(format!("there is no set {name}; there are {}", if known.is_empty() { "none" } else { &known }));
    };
    let read = |text: &String| values::element(text, &set.dimensions).map_err(|reason| format!("set {name}: {reason}"));
    let mut came: Vec<Element> = add.iter().map(read).collect::<Result<_, _>>()?;
    let gone: Vec<Element> = remove.iter().map(read).collect::<Result<_, _>>()?;
    if let Some(element) = gone.iter().find(|element| !set.elements.contains(element)) {
        return Err(format!("set {name}: {} is not in it", values::show_element(element)));
    }
    came.retain(|element| !set.elements.contains(element));
    let change = Change { came, gone };
    change.make(&mut set.elements);
    Ok(change)
}

impl Change {
    fn make(&self, elements: &mut Vec<Element>) {
        for element in &self.gone {
            if let Some(at) = elements.iter().position(|of| of == element) {
                elements.swap_remove(at);
            }
        }
        elements.extend(self.came.iter().cloned());
    }

    /// Takes it back.
    pub fn take_back(&self, ruleset: &mut Ruleset, name: &str) {
        if let Some(set) = ruleset.sets.get_mut(name) {
            Change { came: self.gone.clone(), gone: self.came.clone() }.make(&mut set.elements);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rulefile::read_str;

    #[test]
    fn elements_come_and_go() {
        let mut ruleset = read_str("test", "sets: {a: [10.0.0.1, 10.0.0.2]}").unwrap();
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        change_set(&mut ruleset, "a", &texts(&["10.0.0.3", "10.0.0.2"]), &texts(&["10.0.0.1"])).unwrap();
        let shown: Vec<String> = ruleset.sets["a"].elements.iter().map(values::show_element).collect();
        assert_eq!(shown, ["10.0.0.2", "10.0.0.3"]);
        let change = change_set(&mut ruleset, "a", &texts(&["10.0.0.4"]), &texts(&["10.0.0.2"])).unwrap();
        change.take_back(&mut ruleset, "a");
        let shown: Vec<String> = ruleset.sets["a"].elements.iter().map(values::show_element).collect();
        assert_eq!(shown, ["10.0.0.3", "10.0.0.2"]);
        let before = ruleset.clone();
        for (name, add, remove, reason) in [
            ("b", "10.0.0.9", "10.0.0.2", "there is no set b; there are a"),
            ("a", "10.0.0.9", "10.0.0.8", "set a: 10.0.0.8 is not in it"),
            ("a", "10.0.0.300", "10.0.0.2", "set a: "),
        ] {
            let error = change_set(&mut ruleset, name, &texts(&[add]), &texts(&[remove])).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
            assert_eq!(ruleset, before);
        }
    }
}
