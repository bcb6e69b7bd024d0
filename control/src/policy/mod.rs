//! Kubernetes objects to rules.

pub mod cluster;
pub mod labels;
pub mod manifest;
pub mod resolve;
pub mod selector;
pub mod validation;
