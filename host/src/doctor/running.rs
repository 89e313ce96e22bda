//! Whether a host runs on this device.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

/// The file of the outbox, which a running host holds locked.
const OUTBOX: &str = "alphorn.redb";

/// Whether a host uses this data folder now. A second connection with its client id would
/// take its own away.
pub fn running_host(data_dir: &Path) -> bool {
    let Ok(file) = File::open(data_dir.join(OUTBOX)) else { return false };
    // A lock that is got is released with the file, at the end of this function.
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_the_lock_on_its_outbox() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!running_host(folder.path()), "no file");
        let outbox = redb::Database::create(folder.path().join(OUTBOX)).unwrap();
        assert!(running_host(folder.path()));
        assert!(running_host(folder.path()), "asking changes nothing");
        drop(outbox);
        assert!(!running_host(folder.path()), "nobody holds it");
        redb::Database::create(folder.path().join(OUTBOX)).unwrap();
    }
}
