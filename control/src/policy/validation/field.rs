//! What is wrong with a field, in the words and the form of the API server (`field.Error`).

use std::fmt;

use super::super::shown;

/// The kind of a field's error: what the API server calls its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The value does not decode into the field's type.
    Type,
    /// A value is needed and absent.
    Required,
    /// The value breaks a rule. It is kept as the API server would print it: text in quotes.
    Invalid(String),
    /// The value is none of a fixed set.
    NotSupported {
        /// What was found.
        value: String,
        /// What there is.
        supported: &'static [&'static str],
    },
    /// The field may not be set here.
    Forbidden,
}

/// One error in one field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path: `spec.ingress[0].from[1].ipBlock.cidr`.
    pub field: String,
    /// What kind of error.
    pub kind: FieldErrorKind,
    /// The reason; empty where the kind says it all.
    pub reason: String,
    /// What to do about it, as a sentence without its full stop, where that is more than the reason reversed.
    pub hint: Option<String>,
}

impl FieldError {
    /// The value does not decode: `cannot unmarshal …`.
    pub fn wrong_type(field: impl Into<String>, reason: impl Into<String>) -> Self {
        FieldError { field: field.into(), kind: FieldErrorKind::Type, reason: reason.into(), hint: None }
    }

    /// A value is missing.
    pub fn required(field: impl Into<String>, reason: impl Into<String>) -> Self {
        FieldError { field: field.into(), kind: FieldErrorKind::Required, reason: reason.into(), hint: None }
    }

    /// A text breaks a rule.
    pub fn invalid(field: impl Into<String>, value: &str, reason: impl Into<String>) -> Self {
        let kind = FieldErrorKind::Invalid(shown::quoted(value));
        FieldError { field: field.into(), kind, reason: reason.into(), hint: None }
    }

    /// A value that is no text breaks a rule.
    pub fn invalid_value(field: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) -> Self {
        let kind = FieldErrorKind::Invalid(value.to_string());
        FieldError { field: field.into(), kind, reason: reason.into(), hint: None }
    }

    /// A value is none of a fixed set. One that differs in case alone gets the hint.
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &'static [&'static str]) -> Self {
        let kind = FieldErrorKind::NotSupported { value: value.to_owned(), supported };
        FieldError { field: field.into(), kind, reason: String::new(), hint: case_hint(value, supported) }
    }

    /// A field may not be set.
    pub fn forbidden(field: impl Into<String>, reason: impl Into<String>) -> Self {
        FieldError { field: field.into(), kind: FieldErrorKind::Forbidden, reason: reason.into(), hint: None }
    }

    /// Adds what to do about it.
    pub fn with_hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// `did you mean "Egress"?` for a value that differs from a good one in case alone.
pub(super) fn case_hint(value: &str, supported: &[&str]) -> Option<String> {
    let good = supported.iter().find(|good| good.eq_ignore_ascii_case(value))?;
    Some(format!("did you mean {good:?}?"))
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", shown::shorten(&self.field, shown::MAX_TEXT))?;
        let kind = match &self.kind {
            FieldErrorKind::Type => String::new(),
            FieldErrorKind::Required => "Required value".to_owned(),
            FieldErrorKind::Invalid(value) => format!("Invalid value: {value}"),
            FieldErrorKind::NotSupported { value, supported } => {
                let supported: Vec<_> = supported.iter().map(|good| format!("{good:?}")).collect();
                format!("Unsupported value: {}: supported values: {}", shown::quoted(value), supported.join(", "))
            }
            FieldErrorKind::Forbidden => "Forbidden".to_owned(),
        };
        f.write_str(&kind)?;
        if !self.reason.is_empty() {
            write!(f, "{}{}", if kind.is_empty() { "" } else { ": " }, shown::shorten(&self.reason, shown::MAX_TEXT))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}
