//! Making a [`Message`].

use std::time::Duration;

use crate::offered::mqtt;
use crate::{Message, Properties, PublishError, Qos, UserProperty};

/// ```no_run
/// # use std::time::Duration;
/// # use alphorn_guest::{Message, PublishError, Qos};
/// Message::new("plant/7/temperature", "21.5")
///     .qos(Qos::AtMostOnce)
///     .retain()
///     .content_type("text/plain")
///     .expires_after(Duration::from_secs(60))
///     .publish()?;
/// # Ok::<(), PublishError>(())
/// ```
impl Message {
    /// A message that reaches the broker at least once. Strings and vectors
    /// that are owned move in without a copy.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos: Qos::AtLeastOnce, retain: false, properties: None }
    }

    /// Asks for another quality of service.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// Has the broker keep the message for later subscribers.
    #[must_use]
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Says what the payload is, usually as a MIME type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.properties_mut().content_type = Some(content_type.into());
        self
    }

    /// Says where an answer is expected.
    #[must_use]
    pub fn response_topic(mut self, topic: impl Into<String>) -> Self {
        self.properties_mut().response_topic = Some(topic.into());
        self
    }

    /// Says what the answer has to carry so that the asker knows it.
    #[must_use]
    pub fn correlation_data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.properties_mut().correlation_data = Some(data.into());
        self
    }

    /// Says when the message is worthless, in whole seconds (rounded up). The
    /// host and the broker drop it then.
    #[must_use]
    pub fn expires_after(mut self, time: Duration) -> Self {
        let started = u64::from(time.subsec_nanos() > 0);
        let seconds = time.as_secs().saturating_add(started);
        self.properties_mut().message_expiry = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }

    /// Declares that the payload is UTF-8 text.
    #[must_use]
    pub fn utf8(mut self) -> Self {
        self.properties_mut().utf8 = true;
        self
    }

    /// Adds a name-value pair. Names may repeat.
    #[must_use]
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties_mut().user_properties.push(UserProperty { name: name.into(), value: value.into() });
        self
    }

    /// Hands the message to the host. Ok means that the host has taken it: QoS 0
    /// is sent if the link is up, QoS 1 reaches the broker at least once. The
    /// number names the message in later [events](crate::Event).
    ///
    /// The payload is read in place, and the message can be tried again.
    pub fn publish(&self) -> Result<u32, PublishError> {
        mqtt::publish(self)
    }

    fn properties_mut(&mut self) -> &mut Properties {
        self.properties.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_message_is_at_least_once_without_properties() {
        let message = Message::new("a/b", "x");
        assert_eq!(message.qos, Qos::AtLeastOnce);
        assert!(!message.retain);
        assert_eq!(message.properties, None);
    }

    #[test]
    fn properties_add_up() {
        let properties = Message::new("a", "")
            .content_type("text/plain")
            .user_property("k", "1")
            .user_property("k", "2")
            .expires_after(Duration::from_millis(1_500))
            .properties;
        let pair = |value: &str| UserProperty { name: "k".to_owned(), value: value.to_owned() };
        let wanted = Properties {
            content_type: Some("text/plain".to_owned()),
            message_expiry: Some(2),
            user_properties: vec![pair("1"), pair("2")],
            ..Properties::default()
        };
        assert_eq!(properties, Some(wanted));
    }

    #[test]
    fn an_expiry_beyond_the_field_is_the_longest_there_is() {
        let properties = Message::new("a", "").expires_after(Duration::MAX).properties;
        assert_eq!(properties.and_then(|p| p.message_expiry), Some(u32::MAX));
    }
}
