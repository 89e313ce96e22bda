//! Whether memory may be made executable, as compiled plugins need it: a hardened system forbids that,
//! and then no plugin starts. Tried as wasmtime does it, and nothing is run there.

use std::{fs::File, io, path::Path, ptr};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};

use super::report::{Check, Fault};

/// The name of the check.
pub(super) const NAME: &str = "code-memory";

/// Tries it with memory and, where compiled plugins are kept, with a file there.
pub(super) fn check(data_dir: Option<&Path>) -> Check {
    judge(try_with(None), data_dir.filter(|folder| folder.is_dir()).map(|folder| (folder, try_in(folder))))
}

fn judge(memory: io::Result<()>, file: Option<(&Path, io::Result<()>)>) -> Check {
    if let Err(cause) = memory {
        return Check::fail(
            NAME,
            Fault::Configuration,
            "it must not become executable",
            format!(
                "the system forbids to execute what was written to memory ({cause}), which is how compiled plugins run"
            ),
            "systemd: MemoryDenyWriteExecute=no in the host's unit; SELinux: allow execmem to its domain",
        );
    }
    match file {
        Some((folder, Err(cause))) => Check::fail(
            NAME,
            Fault::Configuration,
            format!("{}: files there must not be executed", folder.display()),
            format!("compiled plugins are kept in that file system, and it is mounted so that nothing runs ({cause})"),
            "mount it without noexec, or set `host.data_dir` to another file system; SELinux: allow execmod",
        ),
        _ => Check::ok(NAME, "may become executable"),
    }
}

fn try_in(folder: &Path) -> io::Result<()> {
    // Whoever can't write there hears that of another check.
    let Ok(file) = tempfile::tempfile_in(folder) else { return Ok(()) };
    file.set_len(rustix::param::page_size() as u64)?;
    try_with(Some(&file))
}

/// A private page, of memory or of a file, is made executable and given back.
#[allow(unsafe_code, reason = "mapping memory is unsafe, whoever does it; see below")]
fn try_with(file: Option<&File>) -> io::Result<()> {
    let length = rustix::param::page_size();
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: the system chooses a place where nothing else is, nobody else learns of it, nothing is
    // read, written or run there, and it is given back before this returns.
    unsafe {
        let page = match file {
            None => mmap_anonymous(ptr::null_mut(), length, access, flags)?,
            Some(file) => mmap(ptr::null_mut(), length, access, flags, file, 0)?,
        };
        let allowed = mprotect(page, length, MprotectFlags::READ | MprotectFlags::EXEC);
        munmap(page, length)?;
        Ok(allowed?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn here_it_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check(Some(folder.path())).status, Status::Ok);
        assert_eq!(check(None).status, Status::Ok);
        assert_eq!(check(Some(Path::new("/no/where"))).status, Status::Ok);
    }

    #[test]
    fn where_it_is_not_the_usual_reasons_are_named() {
        let denied = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let memory = judge(denied(), None);
        assert_eq!(memory.status, Status::Fail(Fault::Configuration));
        assert!(memory.remedy.unwrap().contains("MemoryDenyWriteExecute"));
        let file = judge(Ok(()), Some((Path::new("/data"), denied())));
        assert!(file.remedy.unwrap().contains("noexec"));
    }
}
