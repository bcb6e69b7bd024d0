//! Kubernetes objects to rules.
