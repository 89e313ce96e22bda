//! Tells the program when and for what it was built, and with which versions of the parts that `alphorn
//! doctor` names.

use std::{
    env, fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

fn main() {
    // Asked at run time: this script may have been built when the checkout was in another folder.
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let lock = here.join("../Cargo.lock");
    let text = fs::read_to_string(&lock).unwrap_or_default();
    // Not `ALPHORN_…`: cargo hands these on to what it runs, which would take them for configuration.
    for name in ["ring", "rustls", "wasmtime"] {
        say(&format!("rustc-env={}_VERSION={}", name.to_uppercase(), version(&text, name)));
    }
    say(&format!("rustc-env=BUILT_AT={}", built()));
    say(&format!("rustc-env=BUILT_FOR={}", env::var("TARGET").unwrap_or_default()));
    // The profile `device`, which is the one to be as small as can be; others unwind their stack.
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    if is_linux && env::var("OPT_LEVEL").is_ok_and(|level| level == "z") {
        let script = here.join("device.ld");
        say(&format!("rustc-link-arg-bins=-Wl,-T,{}", script.display()));
        say(&format!("rerun-if-changed={}", script.display()));
    }
    say(&format!("rerun-if-changed={}", lock.display()));
    say("rerun-if-changed=build.rs");
    // The date of a reproducible build.
    say("rerun-if-env-changed=SOURCE_DATE_EPOCH");
}

/// In seconds since 1970.
fn built() -> u64 {
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

fn version<'lock>(lock: &'lock str, name: &str) -> &'lock str {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let found = lock.split_once(&entry).and_then(|(_, rest)| rest.split('"').next());
    found.unwrap_or("unknown")
}

fn say(instruction: &str) {
    println!("cargo::{instruction}");
}
