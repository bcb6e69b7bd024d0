//! Interfaces and states, one of each class.

use crate::flat::View;
use crate::model::{Family, Hook, Ruleset, States, interface_matches};

/// Names of interfaces, such that every name there can be is told by the rule sets' groups as one of these is.
pub(super) fn interfaces(rulesets: [&Ruleset; 2]) -> Vec<String> {
    let groups = rulesets.into_iter().flat_map(|ruleset| ruleset.groups.values());
    let mut patterns: Vec<&str> = groups.flat_map(|group| group.interfaces.iter().map(String::as_str)).collect();
    patterns.sort_unstable();
    patterns.dedup();
    let told = |name: &str| -> Vec<bool> { patterns.iter().map(|pattern| interface_matches(pattern, name)).collect() };
    let mut names: Vec<String> = Vec::new();
    let mut classes: Vec<Vec<bool>> = Vec::new();
    let mut keep = |name: String| {
        let class = told(&name);
        if !classes.contains(&class) {
            classes.push(class);
            names.push(name);
        }
    };
    for pattern in &patterns {
        match pattern.strip_suffix('+') {
            None => keep((*pattern).to_owned()),
            // The names that only this pattern and shorter ones mean: one of the first numbers is in none of the others.
            Some(beginning) => {
                (0..=patterns.len()).for_each(|number| keep(format!("{beginning}{number}")));
                keep(beginning.to_owned());
                keep(format!("{beginning}~"));
            }
        }
    }
    (0..=patterns.len()).for_each(|number| keep(format!("other{number}")));
    names.retain(|name| !name.is_empty());
    names
}

/// All views of a hook, the plain states first.
pub(super) fn of(family: Family, hook: Hook, interfaces: &[String]) -> Vec<View<'_>> {
    let some = || interfaces.iter().map(|name| Some(name.as_str())).collect::<Vec<_>>();
    let inputs = if hook == Hook::Output { vec![None] } else { some() };
    let outputs = if hook == Hook::Input { vec![None] } else { some() };
    let rewritten = [States(0), States::SNAT, States::DNAT, States::SNAT.and(States::DNAT)];
    let mut views = Vec::new();
    for beside in rewritten {
        for state in States::EXCLUSIVE {
            for &input in &inputs {
                let view = |&output| View { family, hook, input, output, state: state.and(beside), within: None };
                views.extend(outputs.iter().map(view));
            }
        }
    }
    views
}

/// A view in words.
pub(super) fn name(view: &View<'_>) -> String {
    let input = view.input.map_or(String::new(), |name| format!(" in {name}"));
    let output = view.output.map_or(String::new(), |name| format!(" out {name}"));
    format!("{} {}{input}{output}, state {}", view.family, view.hook.name(), super::report::states(view.state))
}
