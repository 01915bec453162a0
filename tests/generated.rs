//! What is generated is fresh: `include/telemetry.h` is what `src/ffi` says, and README.md's table of keys is
//! what `src/client/config/keys.rs` says. With `UPDATE=1` (`make generate`) both are written anew.
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

#[test]
fn the_table_of_keys() {
    let path = format!("{ROOT}/README.md");
    let committed = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- keys: generated -->\n", "<!-- end of keys -->");
    let (before, rest) = committed.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let table = telemetry::client::config::keys_markdown();
    check(&path, &committed, &format!("{before}{begin}\n{}\n\n{end}{after}", table.trim()));
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
