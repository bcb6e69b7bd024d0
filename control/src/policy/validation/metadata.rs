//! Object metadata (`ValidateObjectMeta`): the name, the namespace and the labels.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field::FieldError;
use super::name;
use super::selector::validate_labels;

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They do; their names are DNS subdomains.
    Namespaced,
    /// They do not; their names are DNS subdomains.
    Cluster,
    /// They are the namespaces themselves; their names are DNS labels.
    Namespace,
}

/// Checks metadata, in which a namespaced object's namespace has been filled in.
pub fn validate_metadata(metadata: &ObjectMeta, scope: Scope) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match metadata.name.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required("metadata.name", "name is required")),
        text => {
            let reasons = if scope == Scope::Namespace { name::dns_label(text) } else { name::dns_subdomain(text) };
            errors.extend(reasons.into_iter().map(|reason| FieldError::invalid("metadata.name", text, reason)));
        }
    }
    match (metadata.namespace.as_deref().unwrap_or_default(), scope) {
        ("", Scope::Namespaced) => errors.push(FieldError::required("metadata.namespace", "")),
        ("", _) => {}
        (text, Scope::Namespaced) => errors.extend(
            name::dns_label(text).into_iter().map(|reason| FieldError::invalid("metadata.namespace", text, reason)),
        ),
        (_, _) => errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type")),
    }
    if let Some(labels) = &metadata.labels {
        validate_labels(labels, "metadata.labels", &mut errors);
    }
    errors
}
