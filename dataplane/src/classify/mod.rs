//! The compiled form of the rules.
