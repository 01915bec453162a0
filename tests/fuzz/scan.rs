//! The scanner, on one file.
#![no_main]
#[allow(dead_code, reason = "shared with tests/spool")]
mod body;
#[allow(dead_code, reason = "shared with tests/spool")]
mod forge;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::scan(input));
