//! Objects checked as the API server checks them, so that what Penstock accepts from a file is what a cluster would
//! accept, and what it refuses is refused with the same field, type of error and reason.

pub mod cidr;
mod field;
mod metadata;
pub mod name;
mod network_policy;
mod selector;

pub use field::{FieldError, FieldErrorKind};
pub use metadata::{Scope, validate_metadata};
pub use network_policy::{AcceptedPolicy, accept};

#[cfg(test)]
mod tests;
