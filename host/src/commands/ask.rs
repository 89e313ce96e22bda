//! Asking the running host.

use std::path::PathBuf;

use alphorn::{
    config::{self, Config, Overrides},
    control::{
        Connection,
        protocol::{self, Answer, Request},
    },
};
use anyhow::anyhow;

use crate::{
    cli::HostArgs,
    exit::{self, Failure},
};

/// Where the host's socket is: as told, or as configured.
pub(super) fn socket(args: &HostArgs) -> Result<PathBuf, Failure> {
    if let Some(path) = &args.socket {
        return Ok(path.clone());
    }
    if !args.config.exists() {
        return Ok(config::SOCKET.into());
    }
    let config = Config::load(&args.config, &Overrides::default());
    Ok(config.map_err(|error| Failure::new(exit::CONFIG, error))?.socket.path)
}

pub(super) async fn connect(args: &HostArgs) -> Result<Connection, Failure> {
    Connection::open(&socket(args)?).await.map_err(|error| Failure::new(exit::UNAVAILABLE, error))
}

/// Asks once.
pub(super) async fn ask(args: &HostArgs, request: &Request) -> Result<Answer, Failure> {
    let answer = connect(args).await?.ask(request).await;
    checked(answer.map_err(|error| Failure::new(exit::UNAVAILABLE, error))?)
}

/// A failure at the other end is one here.
pub(super) fn checked(answer: Answer) -> Result<Answer, Failure> {
    let Answer::Failed { kind, text } = answer else { return Ok(answer) };
    let code = match kind {
        protocol::Failure::Usage => exit::USAGE,
        protocol::Failure::Data => exit::DATA,
        protocol::Failure::Unavailable => exit::UNAVAILABLE,
    };
    Err(Failure::new(code, anyhow!(text)))
}

/// The host speaks of something else.
pub(super) fn unexpected() -> Failure {
    Failure::new(exit::SOFTWARE, anyhow!("the host gave an answer to another question; is it of the same version?"))
}
