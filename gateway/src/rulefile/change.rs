//! Changes of a set's elements.

use crate::model::{Element, Ruleset};
use crate::values;

/// Puts elements into a set and takes others out of it. One that is there already stays as it is.
///
/// # Errors
/// No such set, an element that does not fit it, one to be taken out that is not there: in a sentence, and nothing has changed then.
pub fn change_set(ruleset: &mut Ruleset, name: &str, add: &[String], remove: &[String]) -> Result<(), String> {
    let known = ruleset.sets.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(set) = ruleset.sets.get_mut(name) else {
        return Err(format!("there is no set {name}; there are {}", if known.is_empty() { "none" } else { &known }));
    };
    let read = |text: &String| values::element(text, &set.dimensions).map_err(|reason| format!("set {name}: {reason}"));
    let add: Vec<Element> = add.iter().map(read).collect::<Result<_, _>>()?;
    let remove: Vec<Element> = remove.iter().map(read).collect::<Result<_, _>>()?;
    let mut elements = set.elements.clone();
    for element in &remove {
        let Some(at) = elements.iter().position(|of| of == element) else {
            return Err(format!("set {name}: {} is not in it", values::show_element(element)));
        };
        elements.swap_remove(at);
    }
    let new: Vec<Element> = add.into_iter().filter(|element| !elements.contains(element)).collect();
    elements.extend(new);
    set.elements = elements;
    Ok(())
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
