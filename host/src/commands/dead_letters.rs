//! `alphorn dead-letters`: messages that plugins could not handle.

use alphorn::{
    control::protocol::{Answer, Request},
    escape::shown,
};
use anyhow::{Context, anyhow};

use super::{
    ask::{ask, unexpected},
    print,
    ps::time,
};
use crate::{
    cli::{DeadLettersArgs, LettersAction},
    exit::{self, Failure},
};

pub(crate) async fn dead_letters(args: DeadLettersArgs) -> Result<(), Failure> {
    let again = match args.action {
        LettersAction::List => return list(args).await,
        LettersAction::Show => return show(args).await,
        LettersAction::Retry => true,
        LettersAction::Drop => false,
    };
    let name = named(args.name)?;
    let request = Request::SettleLetters { name, number: args.number, again };
    let Answer::Done { count } = ask(&args.host, &request).await? else { return Err(unexpected()) };
    let what = if again { "tried again" } else { "dropped" };
    print::line(&format!("{count} {what}")).context("stdout is closed")?;
    Ok(())
}

fn named(name: Option<String>) -> Result<String, Failure> {
    name.ok_or_else(|| Failure::new(exit::USAGE, anyhow!("name the plugin whose dead letters are meant")))
}

/// One of them, and its payload below.
async fn show(args: DeadLettersArgs) -> Result<(), Failure> {
    let request = Request::DeadLetter { name: named(args.name)?, number: args.number };
    let answer = ask(&args.host, &request).await?;
    let Answer::Letter { letter, payload, payload_hex } = answer else { return Err(unexpected()) };
    if args.json {
        let mut object = serde_json::to_value(&letter).context("JSON")?;
        let payloads = [("payload", payload), ("payload_hex", payload_hex)];
        for (key, payload) in payloads.into_iter().filter_map(|(key, payload)| Some((key, payload?))) {
            if let Some(object) = object.as_object_mut() {
                object.insert(key.to_owned(), payload.into());
            }
        }
        print::json(&object).context("stdout is closed")?;
        return Ok(());
    }
    let about = [
        ("plugin", letter.plugin),
        ("number", letter.number.to_string()),
        ("topic", letter.topic),
        ("bytes", letter.bytes.to_string()),
        ("attempts", letter.attempts.to_string()),
        ("age", time(letter.age_ms)),
        ("reason", letter.reason),
    ];
    for (what, value) in about {
        print::line(&format!("{what:<9} {}", shown(&value))).context("stdout is closed")?;
    }
    let hexadecimal = payload_hex.map(|digits| format!("0x{digits}"));
    print::payload(&payload.or(hexadecimal).unwrap_or_default()).context("stdout is closed")?;
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
