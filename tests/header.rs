//! `include/telemetry.h` is what `src/ffi` says. `UPDATE_HEADER=1 cargo test --test header` writes it.

#[test]
fn the_committed_header_is_fresh() {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_file(format!("{root}/bindings/c/cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config).with_src(format!("{root}/src/ffi/mod.rs"));
    let mut fresh = Vec::new();
    builder.generate().unwrap().write(&mut fresh);
    let fresh = String::from_utf8(fresh).unwrap();
    let path = format!("{root}/include/telemetry.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == fresh, "include/telemetry.h is stale: run `make header`");
}
