//! What is generated is fresh: `include/telemetry.h` is what `src/ffi` says, README.md's table of keys what
//! `src/client/config/keys.rs` says, and that of docs/fleet.md what `src/fleet/settings.rs` says. With `UPDATE=1` (`make
//! generate`) all are written anew.
#![allow(clippy::unwrap_used)]

use std::fs;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn check(path: &str, committed: &str, fresh: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, fresh).unwrap();
    } else {
        assert!(committed == fresh, "{path} is stale: run `make generate`");
    }
}

#[test]
fn the_header() {
    let config = cbindgen::Config::from_file(format!("{ROOT}/bindings/c/cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config).with_src(format!("{ROOT}/src/ffi/mod.rs"));
    let mut fresh = Vec::new();
    builder.generate().unwrap().write(&mut fresh);
    let path = format!("{ROOT}/include/telemetry.h");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    check(&path, &committed, &String::from_utf8(fresh).unwrap());
}

/// The part of a page between its two marks.
fn check_part(page: &str, begin: &str, end: &str, table: &str) {
    let path = format!("{ROOT}/{page}");
    let committed = fs::read_to_string(&path).unwrap();
    let (before, rest) = committed.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    check(&path, &committed, &format!("{before}{begin}\n{}\n\n{end}{after}", table.trim()));
}

#[test]
fn the_table_of_keys() {
    let table = telemetry::client::config::keys_markdown();
    check_part("README.md", "<!-- keys: generated -->\n", "<!-- end of keys -->", &table);
}

#[test]
fn the_table_of_a_fleets_settings() {
    let table = telemetry::fleet::settings::markdown();
    check_part("docs/fleet.md", "<!-- settings -->\n", "<!-- end of settings -->", &table);
}

/// Cargo.toml states the version; what is not generated from it says the same.
#[test]
fn one_version_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let package = fs::read_to_string(format!("{ROOT}/python/libtelemetry/__init__.py")).unwrap();
    assert!(
        package.contains(&format!("__version__ = \"{version}\"")),
        "the Python package does not say {version}"
    );
}
