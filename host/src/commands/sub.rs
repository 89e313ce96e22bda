//! `alphorn sub`: prints what arrives.

use std::future::pending;

use alphorn::{
    link::{Item, Notice},
    topic::TopicFilter,
};
use anyhow::{Context, anyhow};

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
            Some(limit) => tokio::time::sleep(limit).await,
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
    for filter in filters {
        connected.client.subscribe(filter, args.client.qos.into());
    }
    let mut left = args.count;
    while left != Some(0) {
        match connected.mailbox.recv().await {
            Some(Item::Message(delivery)) => {
                print::message(&delivery.message, args.json).context("stdout is closed")?;
                delivery.handled();
                left = left.map(|left| left - 1);
            }
            Some(Item::Notice(Notice::SubscriptionRefused { filter, refusal })) => {
                return Err(client::refused(format!("the broker refused `{filter}`: {refusal}"), refusal.code));
            }
            Some(Item::Notice(Notice::Subscribed(filter))) => tracing::info!("subscribed to {filter}"),
            Some(Item::Notice(Notice::Published(_) | Notice::Dropped { .. })) => {}
            None => return Err(Failure::new(exit::SOFTWARE, anyhow!("the link has ended"))),
        }
    }
    connected.link.close(connected.config.shutdown_grace).await;
    Ok(())
}
