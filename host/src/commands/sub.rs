//! `alphorn sub`: prints what arrives.

use std::{future::pending, io::ErrorKind};

use alphorn::{
    link::{Item, Notice},
    topic::TopicFilter,
};
use anyhow::anyhow;
use tokio::time::sleep;

use super::{client, print};
use crate::{
    cli::SubArgs,
    exit::{self, Failure},
    signals::Ending,
};

pub(crate) async fn sub(args: SubArgs) -> Result<(), Failure> {
    let mut ending = Ending::new()?;
    let mut filters = Vec::new();
    for filter in &args.filters {
        let parsed =
            TopicFilter::parse(filter.clone()).map_err(|cause| anyhow!("`{filter}` is no topic filter: {cause}"));
        filters.push(parsed.map_err(|error| Failure::new(exit::USAGE, error))?);
    }
    let timeout = async {
        match args.timeout {
            Some(limit) => sleep(limit).await,
            None => pending().await,
        }
    };
    tokio::select! {
        result = receive(&args, filters) => result,
        () = timeout => Err(Failure::new(exit::UNAVAILABLE, anyhow!("the messages did not come within --timeout"))),
        _ = ending.next() => Ok(()),
    }
}

async fn receive(args: &SubArgs, filters: Vec<TopicFilter>) -> Result<(), Failure> {
    let mut connected = client::connect(&args.client, "sub").await?;
    let limit = connected.config.link.operation_timeout;
    let mut unanswered = filters.len();
    for filter in filters {
        connected.client.subscribe(filter, args.client.qos.into());
    }
    let late = sleep(limit);
    tokio::pin!(late);
    let mut left = args.count;
    while left != Some(0) {
        let item = tokio::select! {
            item = connected.mailbox.recv() => item,
            () = &mut late, if unanswered > 0 => {
                let limit = humantime::format_duration(limit);
                let error = anyhow!("the broker did not acknowledge the subscription within {limit} (`operation_timeout`)");
                return Err(Failure::new(exit::UNAVAILABLE, error));
            }
        };
        match item {
            Some(Item::Message(delivery)) => {
                match print::message(&delivery.message, args.json) {
                    Ok(()) => delivery.handled(),
                    // Whoever reads has had enough.
                    Err(cause) if cause.kind() == ErrorKind::BrokenPipe => break,
                    Err(cause) => return Err(anyhow!(cause).context("stdout can't be written to").into()),
                }
                left = left.map(|left| left - 1);
            }
            Some(Item::Notice(Notice::SubscriptionRefused { filter, refusal })) => {
                return Err(client::refused(format!("the broker refused `{filter}`: {refusal}"), refusal.code));
            }
            Some(Item::Notice(Notice::Subscribed(filter))) => {
                unanswered = unanswered.saturating_sub(1);
                tracing::info!("subscribed to {filter}");
            }
            Some(Item::Notice(Notice::Published(_) | Notice::Dropped { .. } | Notice::Quarantined { .. })) => {}
            None => return Err(Failure::new(exit::SOFTWARE, anyhow!("the link has ended"))),
        }
    }
    connected.link.close(connected.config.shutdown_grace).await;
    Ok(())
}
