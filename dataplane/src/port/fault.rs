//! A port that fails on purpose.
