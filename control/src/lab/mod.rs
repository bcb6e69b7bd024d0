//! Pods as network namespaces on this machine.
