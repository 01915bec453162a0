//! Link settings of the shared library: its SONAME, its exported names, and that it is never unloaded.
//!
//! `-z nodelete`: a thread of ours must never outlive its code, so `dlclose` keeps the library mapped.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=bindings/c/telemetry.map");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        for arg in [
            "-Wl,-soname,libtelemetry.so.0".to_string(),
            "-Wl,-z,nodelete,-z,relro,-z,now,-z,noexecstack".to_string(),
            format!("-Wl,--version-script={root}/bindings/c/telemetry.map"),
        ] {
            println!("cargo::rustc-cdylib-link-arg={arg}");
        }
    }
}
