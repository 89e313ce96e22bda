//! `[plugins.NAME.command]` and `[plugins.NAME.messaging]`: what a component that can't ask for anything itself is subscribed to,
//! and where what it says goes.

use super::file;
use crate::{
    grants::Grants,
    message::Qos,
    topic::{TopicFilter, TopicName},
};

/// `[plugins.NAME.command]`: how a plain WASI program is fed, and what becomes of what it prints.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandConfig {
    /// Where its lines are published. None: each names its topic, or all go to the log.
    pub topic: Option<TopicName>,
    /// With which QoS, and with which it is subscribed.
    pub qos: Qos,
    /// The broker shall keep what is published.
    pub retain: bool,
    /// The messages it gets as its input.
    pub subscribe: Vec<TopicFilter>,
    /// What a line of its input is.
    pub input: Lines,
    /// What a line of its output is.
    pub output: Lines,
    /// Its arguments, behind its own name.
    pub args: Vec<String>,
}

/// `[plugins.NAME.messaging]`: what wasi:messaging leaves to whoever runs a component.
#[derive(Debug, Clone, PartialEq)]
pub struct MessagingConfig {
    /// The messages it is called for.
    pub subscribe: Vec<TopicFilter>,
    /// With which QoS it is subscribed, and publishes.
    pub qos: Qos,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// A payload.
    Raw,
    /// A JSON object that is a message.
    Json,
}

/// Subscriptions a component may be given, as many as a plugin may ask for.
const SUBSCRIPTIONS: usize = 50;

pub(super) fn command(command: file::Command, grants: &Grants, client_id: &str) -> Result<CommandConfig, String> {
    let lines = |lines| match lines {
        file::Lines::Raw => Lines::Raw,
        file::Lines::Json => Lines::Json,
    };
    let at = |key: &'static str| move |why: String| format!("command.{key}: {why}");
    let topic = command.topic.map(|topic| publishes_to(&topic, grants, client_id)).transpose();
    Ok(CommandConfig {
        topic: topic.map_err(at("topic"))?,
        qos: qos(command.qos).map_err(at("qos"))?,
        retain: command.retain,
        subscribe: subscribes_to(command.subscribe, grants, client_id).map_err(at("subscribe"))?,
        input: lines(command.input),
        output: lines(command.output),
        args: command.args,
    })
}

pub(super) fn messaging(
    messaging: file::Messaging,
    grants: &Grants,
    client_id: &str,
) -> Result<MessagingConfig, String> {
    let subscribe = subscribes_to(messaging.subscribe, grants, client_id);
    Ok(MessagingConfig {
        subscribe: subscribe.map_err(|why| format!("messaging.subscribe: {why}"))?,
        qos: qos(messaging.qos).map_err(|why| format!("messaging.qos: {why}"))?,
    })
}

impl MessagingConfig {
    /// Where the configuration has no such table.
    pub fn all_granted(grants: &Grants) -> Self {
        Self { subscribe: grants.subscribe().to_vec(), qos: Qos::AtLeastOnce }
    }
}

fn publishes_to(topic: &str, grants: &Grants, client_id: &str) -> Result<TopicName, String> {
    let topic = Grants::fill_in(topic, client_id).map_err(|error| error.to_string())?;
    grants.explain_publish(&topic)?;
    TopicName::parse(topic).map_err(|cause| cause.to_string())
}

/// Where nothing is said: all that is granted.
fn subscribes_to(filters: Option<Vec<String>>, grants: &Grants, client_id: &str) -> Result<Vec<TopicFilter>, String> {
    let filters = match filters {
        None => grants.subscribe().to_vec(),
        Some(filters) => {
            let checked = |filter: &String| {
                let filter = Grants::fill_in(filter, client_id).map_err(|error| error.to_string())?;
                grants.explain_subscribe(&filter)?;
                TopicFilter::parse(filter).map_err(|cause| cause.to_string())
            };
            filters.iter().map(checked).collect::<Result<_, String>>()?
        }
    };
    if filters.len() > SUBSCRIPTIONS {
        return Err(format!("{} filters are too many, a component may have {SUBSCRIPTIONS}", filters.len()));
    }
    Ok(filters)
}

fn qos(number: u8) -> Result<Qos, String> {
    match number {
        0 => Ok(Qos::AtMostOnce),
        1 => Ok(Qos::AtLeastOnce),
        _ => Err(format!("{number} is not to be had: 0, or 1")),
    }
}
