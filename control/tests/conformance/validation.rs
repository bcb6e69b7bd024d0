//! Objects accepted, warned of and refused as the API server does it.

use control::policy::manifest::{Loaded, ManifestError, ManifestErrors, load_text};
use control::policy::validation::{FieldError, FieldErrorKind};
use serde_json::{Value, json};

use crate::corpus::{list, manifest, read, text};
use crate::eval;

fn load(policies: &[Value]) -> Result<Loaded, ManifestErrors> {
    load_text("corpus", &manifest(&json!({}), policies))
}

/// `penstock eval` accepts and refuses the same, with the contract's exit codes, and names object and field.
fn assert_eval(id: &str, policies: &[Value], errors: Option<&ManifestErrors>) {
    let (code, _, told) = eval::start(&manifest(&json!({}), policies), "");
    assert_eq!(code, if errors.is_some() { 2 } else { 0 }, "{id}: {told}");
    for error in errors.map_or(&[][..], |errors| &errors.0) {
        let ManifestError::Field { object, error, .. } = error else { panic!("{id}: {error}") };
        let named = told.contains(&object.to_string()) && told.contains(&error.to_string());
        assert!(named, "{id}: {object} {error}, and eval tells: {told}");
    }
}

/// An error without its value, indexes and hint. The corpus leaves the kind out where it goes without saying.
fn normalise(error: &FieldError) -> [String; 2] {
    let reason = &error.reason;
    let (kind, rest) = match &error.kind {
        FieldErrorKind::Type => ("", reason.clone()),
        FieldErrorKind::Required => ("Required value", reason.clone()),
        FieldErrorKind::Invalid(_) => ("Invalid value", reason.clone()),
        FieldErrorKind::NotSupported { value, supported } if error.field.contains("policyTypes") => {
            assert_eq!(*supported, ["Egress", "Ingress"]);
            ("Unsupported value", format!("{value:?}"))
        }
        FieldErrorKind::NotSupported { value, supported } => {
            ("Unsupported value", format!("{value:?}: supported values: {}", supported.join(", ")))
        }
        FieldErrorKind::Forbidden => ("Forbidden", reason.clone()),
    };
    let join = |parts: &[&str]| {
        let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).copied().collect();
        plain(&parts.join(": "))
    };
    [join(&[&error.field, kind, &rest]), join(&[&error.field, &rest])]
}

/// One kind of quotes, no indexes.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let (before, from) = rest.split_at(at);
        plain += before;
        match from[1..].split_once(']') {
            Some((index, after)) if index.parse::<usize>().is_ok() => rest = after,
            _ => {
                plain.push('[');
                rest = &from[1..];
            }
        }
    }
    (plain + rest).replace(['"', '`'], "'")
}

fn assert_errors(id: &str, errors: &ManifestErrors, expected: &[Value]) {
    let errors = errors.0.iter().map(|error| match error {
        ManifestError::Field { error, .. } => normalise(error),
        other => panic!("{id}: {other}"),
    });
    let errors: Vec<_> = errors.collect();
    let expected: Vec<_> = expected.iter().map(|error| plain(error.as_str().unwrap())).collect();
    assert_eq!(errors.len(), expected.len(), "{id}: {errors:?}, expected {expected:?}");
    for (error, expected) in errors.iter().zip(&expected) {
        let matches = error.iter().any(|error| match expected.contains("invalid label") {
            // The corpus names the key, the API server says what is wrong with it as well.
            true => error.strip_prefix(expected.as_str()).is_some_and(|rest| rest.starts_with(": ")),
            false => error == expected,
        });
        assert!(matches, "{id}: {:?}, expected {expected:?}", error[0]);
    }
}

#[test]
fn upstreams_own_objects() {
    let Some(file) = read("api-validation-np.json") else { return };
    let cases = list(&file, "cases");
    for case in cases {
        let id = text(case, "id");
        let policies = std::slice::from_ref(&case["policy"]);
        let loaded = load(policies);
        assert_eval(id, policies, loaded.as_ref().err());
        match (loaded, text(case, "expect")) {
            (Ok(_), "accept") => {}
            (Err(errors), "reject") => assert_errors(id, &errors, list(case, "errors")),
            (result, expected) => panic!("{id}: expected {expected}: {:?}", result.map(|loaded| loaded.warnings)),
        }
    }
    assert_eq!(cases.len(), 47);
    println!("{} objects of upstream's own tests", cases.len());
}

#[test]
fn edge_cases() {
    let Some(file) = read("edge-cases-np.json") else { return };
    let cases = list(&file, "cases");
    let mut refused = 0;
    for case in cases {
        let id = text(case, "id");
        let loaded = load(list(case, "policies"));
        assert_eval(id, list(case, "policies"), loaded.as_ref().err());
        match (loaded, text(case, "api_server")) {
            (Ok(loaded), "accept") => {
                assert_eq!(loaded.warnings, [], "{id}");
                assert_stored(id, &loaded, list(case, "stored"));
            }
            (Ok(loaded), "accept-with-warning") => {
                assert_warnings(id, &loaded, list(case, "server_warnings"));
                assert_stored(id, &loaded, list(case, "stored"));
            }
            (Err(errors), "reject") => {
                refused += 1;
                assert_errors(id, &errors, list(case, "errors"));
            }
            (result, expected) => panic!("{id}: expected {expected}: {:?}", result.map(|loaded| loaded.warnings)),
        }
    }
    assert_eq!((cases.len(), refused), (125, 50));
    println!("{} edge cases, {refused} of them refused", cases.len());
}

fn assert_warnings(id: &str, loaded: &Loaded, expected: &[Value]) {
    assert_eq!(loaded.warnings.len(), expected.len(), "{id}: {:?}", loaded.warnings);
    for (warning, expected) in loaded.warnings.iter().zip(expected) {
        let expected = plain(expected.as_str().unwrap());
        assert!(plain(&warning.message).contains(&expected), "{id}: {:?}, expected {expected:?}", warning.message);
    }
}

fn assert_stored(id: &str, loaded: &Loaded, expected: &[Value]) {
    let stored: Vec<_> =
        loaded.cluster.policies().map(|policy| serde_json::to_value(&*policy.object).unwrap()).collect();
    let mut expected: Vec<_> = expected.iter().map(leave_out_empty).collect();
    expected.sort_by_key(|policy| policy["metadata"]["name"].to_string());
    assert_eq!(stored.len(), expected.len(), "{id}");
    for (stored, expected) in stored.iter().zip(&expected) {
        // `Value` compares objects without regard to order.
        assert_eq!(stored, expected, "{id}");
    }
}

/// The corpus keeps some empty lists and nulls that the API server's encoder leaves out (`omitempty`).
fn leave_out_empty(value: &Value) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(leave_out_empty).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null() && *value != &json!([]));
            Value::Object(kept.map(|(key, value)| (key.clone(), leave_out_empty(value))).collect())
        }
        other => other.clone(),
    }
}
