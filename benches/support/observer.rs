//! Sees when a publisher begins and when it is done, where it is a broker that is published
//! to. Since a broker works on a connection's packets in order, `bench/done` comes after all
//! others were taken, at QoS 0 too.

use std::time::{Duration, Instant};

use alphorn::{
    link::{Client, ClientOptions, Item, Link, Mailbox, Notice, WhenFull},
    message::Qos,
    topic::TopicFilter,
};
use anyhow::{Context, Result, bail};

use super::{Place, config_for};

/// A client that has subscribed to `bench/start` and `bench/done`.
pub(crate) struct Observer {
    mailbox: Mailbox,
    _client: Client,
    _link: Link,
}

impl Observer {
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        let link = Link::start(config_for(place, "observer", "")?.link, None)?;
        let (client, mut mailbox) = link.client(&unlimited());
        for filter in ["bench/start", "bench/done"] {
            client.subscribe(TopicFilter::parse(filter)?, Qos::AtLeastOnce);
        }
        link.open();
        for _ in 0..2 {
            while !matches!(
                mailbox.recv().await.context("the observer's link ended")?,
                Item::Notice(Notice::Subscribed(_))
            ) {}
        }
        Ok(Self { mailbox, _client: client, _link: link })
    }

    /// The time between the two.
    pub(crate) async fn time(&mut self) -> Result<Duration> {
        self.until("bench/start").await?;
        let start = Instant::now();
        self.until("bench/done").await?;
        Ok(start.elapsed())
    }

    async fn until(&mut self, topic: &str) -> Result<()> {
        loop {
            match self.mailbox.recv().await {
                Some(Item::Message(delivery)) => {
                    let this = delivery.message.topic.as_str() == topic;
                    delivery.handled();
                    if this {
                        return Ok(());
                    }
                }
                Some(Item::Notice(_)) => {}
                None => bail!("the observer's link ended"),
            }
        }
    }
}

/// A client without bounds that is told what became of its messages.
pub(crate) fn unlimited() -> ClientOptions {
    ClientOptions {
        name: None,
        when_full: WhenFull::DropNewest,
        inbox_bytes: 0,
        outbox_bytes: usize::MAX,
        mailbox_messages: usize::MAX,
        mailbox_bytes: usize::MAX / 2,
        tracked: true,
        words: alphorn::allowance::Allowance::unlimited(),
    }
}
