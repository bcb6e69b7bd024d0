//! The fuzz target `manifests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| penstock_tests::fuzz::manifests(bytes));
