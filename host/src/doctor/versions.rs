//! What this program is made of. The build script reads it from `Cargo.lock`.

use std::time::{Duration, SystemTime};

use super::report::Check;

/// Alphorn, and the parts whose faults look like the network's.
pub(super) fn check() -> Check {
    let found = format!(
        "alphorn {}, rustls {} with ring {}, wasmtime {}",
        env!("CARGO_PKG_VERSION"),
        env!("RUSTLS_VERSION"),
        env!("RING_VERSION"),
        env!("WASMTIME_VERSION"),
    );
    Check::ok("versions", found)
}

/// When it was built: no right clock is before that.
pub(super) fn built() -> Option<SystemTime> {
    let seconds = env!("BUILT_AT").parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_date_and_the_versions_are_known() {
        assert!(built().is_some_and(|built| built < SystemTime::now()));
        let found = check().found;
        assert!(!found.contains("unknown"), "{found}");
    }
}
