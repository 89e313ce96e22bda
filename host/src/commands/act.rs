//! `alphorn swap`, `rollback`, `stop`, `start`.

use alphorn::control::protocol::{Answer, Request};
use anyhow::Context;

use super::{
    ask::{ask, unexpected},
    print,
};
use crate::{
    cli::{HostArgs, NameArgs, RollbackArgs, SwapArgs},
    exit::{self, Failure},
};

pub(crate) async fn swap(args: SwapArgs) -> Result<(), Failure> {
    let file = std::path::absolute(&args.file).context("the current folder is gone")?;
    let text = file.to_str().with_context(|| format!("{} is not text", file.display()));
    let file = text.map_err(|error| Failure::new(exit::USAGE, error))?.to_owned();
    let SwapArgs { name, wait, .. } = args;
    let done = match ask(&args.host, &Request::Swap { name: name.clone(), file, wait }).await? {
        Answer::Stood { version } => format!("{name}: version {version} stands, its probation is over"),
        Answer::Done { .. } => format!("{name}: the component of {} runs, on probation", args.file.display()),
        _ => return Err(unexpected()),
    };
    print::line(&done).context("stdout is closed")?;
    Ok(())
}

pub(crate) async fn rollback(args: RollbackArgs) -> Result<(), Failure> {
    let RollbackArgs { name, to, dry_run, host } = args;
    let answer = ask(&host, &Request::Rollback { name: name.clone(), to, dry_run }).await?;
    let Answer::RolledBack { version, instead_of } = answer else { return Err(unexpected()) };
    let runs = if dry_run { "would run" } else { "runs" };
    let instead_of = instead_of.map(|old| format!(" instead of {old}")).unwrap_or_default();
    print::line(&format!("{name}: version {version} {runs}{instead_of}")).context("stdout is closed")?;
    Ok(())
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
