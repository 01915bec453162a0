//! Link settings of the shared library: its SONAME, and that it is never unloaded.
//!
//! Which names it exports is the compiler's work: the C functions of `src/ffi` and nothing else, which `make abi`
//! compares with `bindings/c/symbols.txt`. They have no version but the SONAME's.
//!
//! `-z nodelete`: a thread of ours must never outlive its code, so `dlclose` keeps the library mapped.

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        for arg in ["-Wl,-soname,libtelemetry.so.0", "-Wl,-z,nodelete,-z,relro,-z,now,-z,noexecstack"] {
            println!("cargo::rustc-cdylib-link-arg={arg}");
        }
    }
}
