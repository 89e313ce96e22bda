//! Sees what reaches the broker.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::{Connect, Mqtt, Result, Version, seen::Seen, support::mqtt::Message};

/// A subscriber beside the front.
pub(crate) struct Watcher {
    messages: Seen<Message>,
    _reading: AbortOnDropHandle<()>,
}

impl Watcher {
    /// Subscribed once this returns.
    pub(crate) async fn start(broker: SocketAddr, filter: &str) -> Result<Self> {
        let mut client = client(broker).await?;
        client.subscribe(filter, 1, None).await?;
        let messages = Seen::new();
        let seen = messages.clone();
        let reading = async move {
            let reason = loop {
                let message = match client.message_whenever().await {
                    Ok(message) => message,
                    Err(error) => break error,
                };
                if message.packet_id.is_some()
                    && let Err(error) = client.acknowledge(&message).await
                {
                    break error;
                }
                seen.push(message);
            };
            seen.end(format!("the watcher ended: {reason:#}"));
        };
        Ok(Self { messages, _reading: AbortOnDropHandle::new(tokio::spawn(reading)) })
    }

    /// The messages so far, as `topic payload`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.messages.look(|messages| messages.iter().map(line).collect())
    }

    /// The payloads so far.
    pub(crate) fn payloads(&self) -> Vec<String> {
        self.messages.look(|messages| messages.iter().map(payload).collect())
    }

    /// Waits for a message with this payload.
    pub(crate) async fn payload(&self, wanted: &str) -> Result<Message> {
        self.wait_for(wanted, |messages| messages.iter().find(|message| payload(message) == wanted).cloned()).await
    }

    /// Waits for a payload that begins so, and returns it.
    pub(crate) async fn payload_like(&self, beginning: &str) -> Result<String> {
        let begins = |messages: &[Message]| messages.iter().map(payload).find(|text| text.starts_with(beginning));
        self.wait_for(beginning, begins).await
    }

    /// Waits until the recorder that tells `topic` is connected: its subscriptions, which it
    /// asked for before, are in place by then.
    pub(crate) async fn ready(&self, topic: &str) -> Result<()> {
        let up = |message: &Message| message.topic == topic && payload(message).starts_with("* up");
        self.wait_for(&format!("the connection, on {topic}"), |messages| messages.iter().any(up).then_some(())).await
    }

    /// What the recorder that tells `topic` has received so far.
    pub(crate) fn records(&self, topic: &str) -> Vec<String> {
        let record = |message: &Message| message.topic == topic && !message.payload.starts_with(b"*");
        self.messages.look(|messages| messages.iter().filter(|message| record(message)).map(payload).collect())
    }

    /// Waits until that has so many lines, and returns it.
    pub(crate) async fn records_to(&self, topic: &str, count: usize) -> Result<Vec<String>> {
        let what = format!("{count} records on {topic}");
        self.wait_for(&what, |_| (self.records(topic).len() >= count).then(|| self.records(topic))).await
    }

    /// Waits until there are so many messages.
    pub(crate) async fn count(&self, count: usize) -> Result<()> {
        let what = format!("message number {count}");
        self.wait_for(&what, |messages| (messages.len() >= count).then_some(())).await
    }

    pub(crate) async fn wait_for<R>(&self, what: &str, look: impl FnMut(&[Message]) -> Option<R>) -> Result<R> {
        self.messages.wait_for(&format!("at the broker: {what}"), look).await.map_err(|error| {
            let seen = self.lines();
            error.context(format!(
                "{} messages, the last of them: {:?}",
                seen.len(),
                seen.iter().rev().take(20).rev().collect::<Vec<_>>()
            ))
        })
    }
}

/// A client without a past.
pub(crate) async fn client(broker: SocketAddr) -> Result<Mqtt<TcpStream>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let connect = Connect { version: Version::V5, client_id: &name, clean: true, expiry: None };
    Mqtt::connect(TcpStream::connect(broker).await?, &connect).await
}

fn payload(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

fn line(message: &Message) -> String {
    format!("{} {}", message.topic, payload(message))
}
