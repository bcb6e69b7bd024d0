//! Tests of fragments.
