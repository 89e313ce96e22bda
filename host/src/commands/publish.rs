//! `alphorn pub`: one message, and what became of it.

use std::time::Instant;

use alphorn::{
    link::{Item, NotTaken, Notice},
    message::Message,
    topic::TopicName,
};
use anyhow::anyhow;
use tokio::time::timeout;

use super::client::{self, CommandLink};
use crate::{
    cli::PubArgs,
    exit::{self, Failure},
};

pub(crate) async fn publish(args: PubArgs) -> Result<(), Failure> {
    let topic = TopicName::parse(args.topic.clone())
        .map_err(|cause| Failure::new(exit::USAGE, anyhow!("`{}` is no topic: {cause}", args.topic)))?;
    let message = Message {
        topic,
        payload: args.payload.into(),
        qos: args.client.qos.into(),
        retain: args.retain,
        properties: None,
    };
    let CommandLink { link, client, mut mailbox, config } = client::connect(&args.client, "pub").await?;
    let number = client.publish_at_once(message, Instant::now()).map_err(|error| match error {
        NotTaken::Breach(_) => Failure::new(exit::DATA, error),
        NotTaken::Full | NotTaken::Held(_) | NotTaken::AllHeld | NotTaken::Ended => Failure::new(exit::SOFTWARE, error),
    })?;
    let outcome = async {
        loop {
            match mailbox.recv().await {
                Some(Item::Notice(Notice::Published(published))) if published == number => return Ok(()),
                Some(Item::Notice(Notice::Dropped { reason, code, .. })) => {
                    let what = format!("the message was not taken: {reason}");
                    return Err(match code {
                        Some(code) => client::refused(what, code),
                        None => Failure::new(exit::DATA, anyhow!(what)),
                    });
                }
                Some(_) => {}
                None => return Err(Failure::new(exit::SOFTWARE, anyhow!("the link has ended"))),
            }
        }
    };
    let limit = config.link.operation_timeout;
    timeout(limit, outcome).await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(Failure::new(
            exit::UNAVAILABLE,
            anyhow!("the broker did not acknowledge the message within {limit} (`operation_timeout`)"),
        ))
    })?;
    link.close(config.shutdown_grace).await;
    Ok(())
}
