//! Says something in every way there is.

use std::io::{self, Write as _};

use alphorn_guest::{Plugin, Result, Start, debug, error, info, plugin, trace, warn};

struct Talker;

#[plugin]
impl Plugin for Talker {
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "that these reach the host's log is the point")]
    fn start(_: Start) -> Result<Self> {
        println!("said by println");
        eprintln!("said by eprintln");
        println!("first of two lines\nsecond of two lines");
        trace!("said by trace");
        debug!("said by debug");
        info!("said by info");
        warn!("said by warn");
        error!("said by error");
        print!("said without an end of line");
        // Else it would wait for that end in the guest itself.
        io::stdout().flush()?;
        Ok(Self)
    }
}
