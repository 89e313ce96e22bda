//! Tries what of WASI it may have, and tells `to` what came of it.

use std::{env, fs, net::TcpStream};

use alphorn_guest::{Plugin, Result, Start, config, plugin, publish};
use alphorn_test_guests::required;

struct Reaches;

#[plugin]
impl Plugin for Reaches {
    fn start(_: Start) -> Result<Self> {
        let to = required("to")?;
        let host = config("address").unwrap_or_default();
        for (what, outcome) in [
            ("env", env::var("WORD").unwrap_or_else(|_| "none".to_owned())),
            ("read", fs::read_to_string("/data/file").unwrap_or_else(|_| "refused".to_owned())),
            ("write", fs::write("/data/new", "written").map_or("refused", |()| "done").to_owned()),
            ("climb", fs::read_to_string("/data/../secret").unwrap_or_else(|_| "refused".to_owned())),
            ("connect", TcpStream::connect(&*host).map_or("refused", |_| "done").to_owned()),
        ] {
            publish(&to, format!("{what} {outcome}"))?;
        }
        Ok(Self)
    }
}
