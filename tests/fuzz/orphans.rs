//! The reader of orphans, on a directory.
#![no_main]
#[allow(dead_code, reason = "shared with tests/spool")]
mod body;
#[allow(dead_code, reason = "shared with tests/spool")]
mod forge;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let dir = std::env::temp_dir().join(format!("telemetry-fuzz-{}", std::process::id()));
    body::orphans(input, &dir);
});
