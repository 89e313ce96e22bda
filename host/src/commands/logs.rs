//! `alphorn logs`: the running host's log.

use std::io::ErrorKind;

use alphorn::control::protocol::{Answer, Request};
use anyhow::anyhow;

use super::{
    ask::{checked, connect, unexpected},
    print,
};
use crate::{
    cli::LogsArgs,
    exit::{self, Failure},
    signals::Ending,
};

pub(crate) async fn logs(args: LogsArgs) -> Result<(), Failure> {
    let mut ending = Ending::new()?;
    tokio::select! {
        printed = print_log(args) => printed,
        _ = ending.next() => Ok(()),
    }
}

async fn print_log(args: LogsArgs) -> Result<(), Failure> {
    let mut connection = connect(&args.host).await?;
    let request = Request::Logs { name: args.name, lines: args.lines, follow: args.follow };
    let gone = |error| Failure::new(exit::UNAVAILABLE, error);
    let mut answer = connection.ask(&request).await.map_err(gone)?;
    loop {
        match checked(answer)? {
            Answer::Line { text } => match print::line(&text) {
                Ok(()) => {}
                Err(cause) if cause.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(cause) => return Err(anyhow!(cause).context("stdout can't be written to").into()),
            },
            Answer::Done { .. } => return Ok(()),
            _ => return Err(unexpected()),
        }
        answer = connection.next().await.map_err(gone)?;
    }
}
