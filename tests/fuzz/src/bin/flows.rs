//! The fuzz target `flows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| penstock_tests::fuzz::flows(bytes));
