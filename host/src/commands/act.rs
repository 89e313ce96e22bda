//! `alphorn swap`, `rollback`, `stop`, `start`.

use alphorn::control::protocol::Request;
use anyhow::Context;

use super::{ask::ask, print};
use crate::{
    cli::{HostArgs, NameArgs, SwapArgs},
    exit::{self, Failure},
};

pub(crate) async fn swap(args: SwapArgs) -> Result<(), Failure> {
    let file = std::path::absolute(&args.file).context("the current folder is gone")?;
    let text = file.to_str().with_context(|| format!("{} is not text", file.display()));
    let file = text.map_err(|error| Failure::new(exit::USAGE, error))?.to_owned();
    let done = format!("{}: the component of {} runs, on probation", args.name, args.file.display());
    act(&args.host, &Request::Swap { name: args.name, file }, &done).await
}

pub(crate) async fn rollback(args: NameArgs) -> Result<(), Failure> {
    let done = format!("{}: the version before runs", args.name);
    act(&args.host, &Request::Rollback { name: args.name }, &done).await
}

pub(crate) async fn stop(args: NameArgs) -> Result<(), Failure> {
    let done = format!("{}: stopped", args.name);
    act(&args.host, &Request::Stop { name: args.name }, &done).await
}

pub(crate) async fn start(args: NameArgs) -> Result<(), Failure> {
    let done = format!("{}: running", args.name);
    act(&args.host, &Request::Start { name: args.name }, &done).await
}

async fn act(host: &HostArgs, request: &Request, done: &str) -> Result<(), Failure> {
    ask(host, request).await?;
    print::line(done).context("stdout is closed")?;
    Ok(())
}
