//! How workers get a new policy.
