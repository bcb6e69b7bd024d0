//! Any bytes as a file of manifests.

use control::policy::manifest::load_text;

/// Loads the bytes as a file. What is refused is refused with sentences.
pub fn manifests(bytes: &[u8]) {
    // A file that is no text is refused when it is read; here its good part is taken.
    let text = String::from_utf8_lossy(bytes);
    match load_text("fuzz.yaml", &text) {
        Ok(loaded) => assert!(loaded.warnings.iter().all(|warning| !warning.to_string().is_empty())),
        Err(errors) => assert!(!errors.to_string().trim().is_empty(), "a refusal says why"),
    }
}
