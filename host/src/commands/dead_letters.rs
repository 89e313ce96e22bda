//! `alphorn dead-letters`: messages that plugins could not handle.

use alphorn::control::protocol::{Answer, Request};
use anyhow::{Context, anyhow};

use super::{
    ask::{ask, unexpected},
    print,
    ps::time,
};
use crate::{
    cli::{DeadLettersArgs, Settle},
    exit::{self, Failure},
};

pub(crate) async fn dead_letters(args: DeadLettersArgs) -> Result<(), Failure> {
    let again = match args.action {
        Settle::List => return list(args).await,
        Settle::Retry => true,
        Settle::Drop => false,
    };
    let name =
        args.name.ok_or_else(|| Failure::new(exit::USAGE, anyhow!("name the plugin whose dead letters are meant")))?;
    let request = Request::SettleLetters { name, number: args.number, again };
    let Answer::Done { count } = ask(&args.host, &request).await? else { return Err(unexpected()) };
    let what = if again { "tried again" } else { "dropped" };
    print::line(&format!("{count} {what}")).context("stdout is closed")?;
    Ok(())
}

async fn list(args: DeadLettersArgs) -> Result<(), Failure> {
    let answer = ask(&args.host, &Request::DeadLetters { name: args.name }).await?;
    let Answer::Letters { mut letters } = answer else { return Err(unexpected()) };
    letters.retain(|letter| args.number.is_none_or(|number| letter.number == number));
    if args.json {
        print::json(&letters).context("stdout is closed")?;
        return Ok(());
    }
    let text = print::table(
        &["PLUGIN", "NUMBER", "TOPIC", "BYTES", "ATTEMPTS", "AGE", "REASON"],
        letters.into_iter().map(|letter| {
            vec![
                letter.plugin,
                letter.number.to_string(),
                letter.topic,
                letter.bytes.to_string(),
                letter.attempts.to_string(),
                time(letter.age_ms),
                letter.reason,
            ]
        }),
    );
    print::line(&text).context("stdout is closed")?;
    Ok(())
}
