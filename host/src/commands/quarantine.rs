//! `alphorn quarantine`: messages the broker closes the connection over.

use alphorn::control::protocol::{Answer, Request};
use anyhow::Context;

use super::{
    ask::{ask, unexpected},
    print,
};
use crate::{
    cli::{QuarantineArgs, Settle},
    exit::Failure,
};

pub(crate) async fn quarantine(args: QuarantineArgs) -> Result<(), Failure> {
    let again = match args.action {
        Settle::List => return list(args).await,
        Settle::Retry => true,
        Settle::Drop => false,
    };
    let request = Request::SettleQuarantine { name: args.name, again };
    let Answer::Done { count } = ask(&args.host, &request).await? else { return Err(unexpected()) };
    let what = if again { "sent after all" } else { "dropped" };
    print::line(&format!("{count} {what}")).context("stdout is closed")?;
    Ok(())
}

async fn list(args: QuarantineArgs) -> Result<(), Failure> {
    let answer = ask(&args.host, &Request::Quarantine).await?;
    let Answer::Quarantined { mut messages } = answer else { return Err(unexpected()) };
    messages.retain(|message| args.name.as_ref().is_none_or(|name| message.plugin == *name));
    if args.json {
        print::json(&messages).context("stdout is closed")?;
        return Ok(());
    }
    let text = print::table(
        &["PLUGIN", "NUMBER", "TOPIC", "REASON"],
        messages
            .into_iter()
            .map(|message| vec![message.plugin, message.number.to_string(), message.topic, message.reason]),
    );
    print::line(&text).context("stdout is closed")?;
    Ok(())
}
