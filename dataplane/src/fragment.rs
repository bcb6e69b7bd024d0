//! Fragments follow their first one's verdict.
