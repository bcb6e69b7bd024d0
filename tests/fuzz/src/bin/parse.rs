//! The fuzz target `parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| penstock_tests::fuzz::parse(bytes));
