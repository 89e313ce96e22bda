//! The candidates behind one small face: start, publish a number, see outcomes, acknowledge.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Acknowledges one inbound message.
pub type AckFn = Box<dyn FnOnce() + Send>;

/// What the application can see of a client.
#[derive(Default)]
pub struct Shared {
    /// Outcome of publish number n, where the client tells it.
    pub outcomes: Mutex<BTreeMap<usize, String>>,
    /// Errors of the connection, as text.
    pub errors: Mutex<Vec<String>>,
    /// Inbound messages and the means to acknowledge each.
    pub inbox: Mutex<Vec<(String, AckFn)>>,
}

impl Shared {
    fn settle(&self, n: usize, outcome: String) {
        let mut outcomes = self.outcomes.lock().expect("no holder panics");
        outcomes.insert(n, outcome);
    }

    fn error(&self, error: String) {
        self.errors.lock().expect("no holder panics").push(error);
    }

    fn deliver(&self, payload: &[u8], ack: AckFn) {
        let payload = String::from_utf8_lossy(payload).into_owned();
        let mut inbox = self.inbox.lock().expect("no holder panics");
        inbox.push((payload, ack));
    }
}

pub struct Link {
    pub shared: Arc<Shared>,
    publish: Box<dyn Fn(usize) + Send + Sync>,
    task: AbortHandle,
}

impl Link {
    pub fn publish(&self, n: usize) {
        (self.publish)(n);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Candidate {
    pub name: &'static str,
    pub v5: bool,
    /// Persistent session, manual acknowledgements, in-flight limit 100, packets up to 4096
    /// bytes, TCP_NODELAY, the largest batch the client offers, reconnect after 50 ms.
    pub start: fn(port: u16) -> Link,
}

pub const ALL: [Candidate; 6] = [
    Candidate { name: "rumqttc 0.25 v4", v5: false, start: old_v4::start },
    Candidate { name: "rumqttc 0.25 v5", v5: true, start: old_v5::start },
    Candidate { name: "v4-next 0.34", v5: false, start: next_v4::start },
    Candidate { name: "v5-next 0.34", v5: true, start: next_v5::start },
    Candidate { name: "mqtt5 0.49 v4", v5: false, start: |port| mqtt5_both::start(port, false) },
    Candidate { name: "mqtt5 0.49 v5", v5: true, start: |port| mqtt5_both::start(port, true) },
];

/// The event loop both rumqttc families share: poll, note errors, keep inbound messages.
/// `Event` and `Packet` are those of the module that uses the macro.
macro_rules! link {
    ($connect:expr, |$client:ident, $shared:ident| $publish:expr) => {{
        let ($client, mut events) = $connect;
        let $shared = Arc::new(Shared::default());
        let (shared, client) = (Arc::clone(&$shared), $client.clone());
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let (client, payload) = (client.clone(), message.payload.clone());
                        shared.deliver(&payload, Box::new(move || drop(client.try_ack(&message))));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        shared.error(format!("{error:?}"));
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        let shared = Arc::clone(&$shared);
        Link { shared, publish: Box::new($publish), task: task.abort_handle() }
    }};
}

/// rumqttc 0.25.1: a publish returns on enqueue, there is no handle to wait on.
macro_rules! old {
    ($connect:expr) => {
        link!($connect, |client, shared| move |n: usize| {
            if let Err(error) = client.try_publish("t", QoS::AtLeastOnce, false, n.to_string()) {
                shared.settle(n, format!("not queued: {error}"));
            }
        })
    };
}

/// The -next pair: a tracked publish gives a notice that resolves with its PUBACK.
macro_rules! next {
    ($connect:expr) => {
        link!($connect, |client, shared| move |n: usize| {
            let (options, payload) = (PublishOptions::at_least_once(), n.to_string().into_bytes());
            let shared = Arc::clone(&shared);
            match client.try_publish_tracked("t", payload, options) {
                Ok(notice) => drop(tokio::spawn(async move {
                    shared.settle(
                        n,
                        match notice.wait_completion_async().await {
                            Ok(()) => "delivered".to_owned(),
                            Err(error) => format!("failed: {error:?}"),
                        },
                    );
                })),
                Err(error) => shared.settle(n, format!("not queued: {error}")),
            }
        })
    };
}

mod old_v4 {
    use super::*;
    use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};

    pub fn start(port: u16) -> Link {
        let mut options = MqttOptions::new("spike", "127.0.0.1", port);
        options.set_clean_session(false).set_manual_acks(true);
        options.set_inflight(100).set_max_packet_size(4096, 4096);
        let (client, mut events) = AsyncClient::new(options, 1000);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        old!((client, events))
    }
}

mod old_v5 {
    use super::*;
    use rumqttc::NetworkOptions;
    use rumqttc::v5::mqttbytes::{QoS, v5::ConnectProperties, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};

    pub fn start(port: u16) -> Link {
        let mut options = MqttOptions::new("spike", "127.0.0.1", port);
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(3600);
        properties.max_packet_size = Some(4096);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_connect_properties(properties).set_clean_start(false).set_manual_acks(true);
        options.set_outgoing_inflight_upper_limit(100).set_network_options(network);
        old!(AsyncClient::new(options, 1000))
    }
}

mod next_v4 {
    use super::*;
    use v4next::{
        AckMode, AsyncClient, Event, MqttOptions, NetworkOptions, Packet, PublishOptions,
    };

    pub fn start(port: u16) -> Link {
        let mut options = MqttOptions::new("spike", ("127.0.0.1", port));
        options.set_clean_session(false).set_ack_mode(AckMode::Manual).set_inflight(100);
        options.set_max_request_batch(64).set_max_packet_size(4096, 4096);
        let (client, mut events) = AsyncClient::builder(options).capacity(1000).build();
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        next!((client, events))
    }
}

mod next_v5 {
    use super::*;
    use v5next::{AckMode, AsyncClient, Event, MqttOptions, NetworkOptions, Packet};
    use v5next::{PublishOptions, SessionMode};

    pub fn start(port: u16) -> Link {
        let mut options = MqttOptions::new("spike", ("127.0.0.1", port));
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_session_mode(SessionMode::Persistent).set_session_expiry_interval(Some(3600));
        options.set_ack_mode(AckMode::Manual).set_max_request_batch(64);
        options.set_max_packet_size(Some(4096)).set_network_options(network);
        options.set_outgoing_inflight_upper_limit(100);
        next!(AsyncClient::builder(options).capacity(1000).build())
    }
}

mod mqtt5_both {
    use super::*;
    use mqtt5::{ConnectOptions, MqttClient, ProtocolVersion, PublishOutcome, PublishResult, QoS};

    pub fn start(port: u16, v5: bool) -> Link {
        let version = if v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let mut options = ConnectOptions::new("spike")
            .with_protocol_version(version)
            .with_clean_start(false)
            .with_session_expiry_interval(3600)
            .with_receive_maximum(100)
            // Refused at 3.1.1: types.rs:154.
            .with_deferred_ack(v5)
            .with_automatic_reconnect(true)
            .with_reconnect_delay(Duration::from_millis(50), Duration::from_millis(50));
        options.protocol_options.properties.maximum_packet_size = Some(4096);
        let client = MqttClient::with_options(options);
        let shared = Arc::new(Shared::default());
        let (link, starter) = (Arc::clone(&shared), client.clone());
        let task = tokio::spawn(async move {
            starter.set_queue_on_disconnect(true).await;
            if v5 {
                let inbox = Arc::clone(&link);
                let registered = starter
                    .register_ack_callback("#", move |message, token| {
                        inbox.deliver(&message.payload, Box::new(move || token.ack()));
                    })
                    .await;
                if let Err(error) = registered {
                    link.error(format!("{error:?}"));
                }
            }
            let address = format!("mqtt://127.0.0.1:{port}");
            if let Err(error) = starter.connect(&address).await {
                link.error(format!("{error:?}"));
            }
        })
        .abort_handle();
        let outcomes = Arc::clone(&shared);
        let publish = Box::new(move |n: usize| {
            let (client, outcomes) = (client.clone(), Arc::clone(&outcomes));
            tokio::spawn(async move {
                let sent = client.publish_qos("t", n.to_string(), QoS::AtLeastOnce);
                let outcome = match sent.await {
                    Ok(PublishResult::Sent(_)) => "delivered".to_owned(),
                    Ok(PublishResult::Queued(handle)) => match handle.outcome().await {
                        PublishOutcome::Delivered(_) => "delivered".to_owned(),
                        other => format!("failed: {other:?}"),
                    },
                    Err(error) => format!("failed: {error:?}"),
                };
                outcomes.settle(n, outcome);
            });
        });
        Link { shared, publish, task }
    }
}
