//! A host, a plugin and a peer at the other end of the wire, taken apart so that each one's work
//! can be measured alone.
//!
//! The plugins' tasks run on the calling thread and only within [`Rig::run`]; the link and the
//! peer have threads of their own. So messages can gather in a mailbox, and what the calling
//! thread then does until all are handled is the plugins' work and nothing else.

#![allow(dead_code, reason = "not every measurement uses all of it")]

pub(crate) mod allocations;
pub(crate) mod peer;
pub(crate) mod processor;
pub(crate) mod program;
pub(crate) mod tls;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use allocations::apart;
use alphorn::{
    builder,
    config::{Config, Overrides},
    host::Host,
    link::{Client, ClientOptions, Item, Mailbox, WhenFull},
    message::{Message, Qos},
    plugin::{PluginHandle, compile::Compiler},
    topic::{TopicFilter, TopicName},
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use peer::Peer;
use tls::TlsFront;
use tokio::runtime::Runtime;

/// The longest anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The host and what it talks to.
pub(crate) struct Rig {
    runtime: Runtime,
    host: Host,
    pub(crate) peer: Peer,
    /// What ends TLS before the peer, if anything does.
    _front: Option<TlsFront>,
}

/// How the link reaches the peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wire {
    Plain,
    Tls,
}

impl Wire {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
        }
    }
}

/// A plugin of the meter.
#[derive(Debug, Clone)]
pub(crate) struct MeterPlugin {
    pub(crate) name: String,
    /// Of the messages it publishes.
    pub(crate) bytes: usize,
    pub(crate) qos: Qos,
    /// Messages it publishes when told `go`.
    pub(crate) count: usize,
}

/// Somebody without a sandbox on the same link.
pub(crate) struct Native {
    pub(crate) client: Client,
    pub(crate) mailbox: Mailbox,
}

/// The meter's component, built.
pub(crate) fn meter() -> Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("meter");
    Ok(runtime.block_on(builder::build(&folder))?.component)
}

impl MeterPlugin {
    pub(crate) fn new(name: &str, bytes: usize, qos: Qos, count: usize) -> Self {
        Self { name: name.to_owned(), bytes, qos, count }
    }

    /// Its part of a configuration: no limit but those that are always on.
    pub(crate) fn configuration(&self, component: &Path) -> String {
        let Self { name, bytes, qos, count } = self;
        let qos = *qos as u8;
        format!(
            "[plugins.{name}]\ncomponent = {component:?}\npublish = [\"out/+\"]\nsubscribe = [\"in/{name}/#\"]\n\
             config = {{ filter = \"in/{name}/#\", topic = \"out/{name}\", size = \"{bytes}\", qos = \"{qos}\", \
             count = \"{count}\" }}\n\
             limits = {{ publish_rate = \"unlimited\", deadline = \"60s\", outbox_bytes = \"unlimited\", \
             mailbox = {{ messages = 1000000, bytes = \"1GiB\" }}, \
             compile = {{ time = \"10m\", memory = \"unlimited\" }} }}\n"
        )
    }
}

impl Rig {
    /// Plugins of the meter, connected to the peer. Nothing is kept on disk.
    pub(crate) fn start(component: &Path, plugins: &[MeterPlugin]) -> Result<Self> {
        Self::start_with(component, plugins, "", Compiler::InProcess, Wire::Plain)
    }

    /// The same, with more of a configuration.
    pub(crate) fn start_with(
        component: &Path,
        plugins: &[MeterPlugin],
        head: &str,
        compiler: Compiler,
        wire: Wire,
    ) -> Result<Self> {
        let peer = Peer::start()?;
        let front = (wire == Wire::Tls).then(|| TlsFront::start(peer.addr())).transpose()?;
        let head = format!("{head}[outbox]\nstorage = \"memory\"\nmax_bytes = \"unlimited\"\n");
        let text: String = plugins.iter().map(|plugin| plugin.configuration(component)).collect();
        let config = match &front {
            Some(front) => front.configuration(&format!("{head}{text}"))?,
            None => configuration(&peer, &head, &text)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let host = runtime.block_on(async {
            let host = Host::start(config, compiler)?;
            host.open().await;
            anyhow::Ok(host)
        })?;
        let rig = Self { runtime, host, peer, _front: front };
        rig.run_until("the subscriptions", |rig| rig.peer.subscriptions() >= plugins.len())?;
        Ok(rig)
    }

    pub(crate) fn plugin(&self, name: &str) -> Result<Arc<PluginHandle>> {
        self.runtime.block_on(self.host.plugin(name)).with_context(|| format!("no plugin {name}"))
    }

    /// Somebody on the same link who needs no sandbox; subscribed to `in/native/#`.
    pub(crate) fn native(&self) -> Result<Native> {
        let (client, mailbox) = self.host.link().client(&unlimited());
        let before = self.peer.subscriptions();
        client.subscribe(TopicFilter::parse("in/native/#")?, Qos::AtLeastOnce);
        self.wait_until("the subscription", |rig| rig.peer.subscriptions() > before)?;
        Ok(Native { client, mailbox })
    }

    /// Runs the plugins' tasks until this is done.
    pub(crate) fn run<R>(&self, what: impl Future<Output = R>) -> R {
        self.runtime.block_on(what)
    }

    /// Runs the plugins' tasks until a condition holds.
    pub(crate) fn run_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let begin = Instant::now();
        self.run(async {
            while !holds(self) {
                ensure!(begin.elapsed() < PATIENCE, "no end of waiting for {what}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        })
    }

    /// Waits, while the plugins' tasks stand still, until a condition holds.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !apart(|| holds(self)) {
            ensure!(begin.elapsed() < PATIENCE, "no end of waiting for {what}");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets `count` messages gather in a plugin's mailbox. They end with `topic` below the plugin's own.
    pub(crate) fn gather(
        &self,
        plugin: &PluginHandle,
        name: &str,
        topic: &str,
        bytes: usize,
        qos: Qos,
        count: usize,
    ) -> Result<()> {
        apart(|| self.peer.publish(&format!("in/{name}/{topic}"), bytes, qos, count))?;
        self.wait_until("messages in a mailbox", |_| plugin.report().mailbox.0 == count)
    }

    /// The plugin handles what has gathered. Nothing else happens on this thread meanwhile.
    pub(crate) fn handle(&self, plugin: &PluginHandle, count: u64) -> Result<()> {
        let goal = apart(|| plugin.report().handled) + count;
        let begin = Instant::now();
        self.run(async {
            // Each turn of this loop comes after a turn of the plugin's task, which handles
            // many messages in one.
            while apart(|| plugin.report().handled) < goal {
                ensure!(begin.elapsed() < PATIENCE, "a plugin does not get on: {:?}", plugin.report());
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    }

    /// Waits until all that was published has left and is acknowledged.
    pub(crate) fn drained(&self, received: u64) -> Result<()> {
        self.wait_until("what was published", |rig| rig.peer.received() >= received)?;
        // The acknowledgements are on their way.
        thread::sleep(Duration::from_millis(2));
        Ok(())
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.host.shutdown());
    }
}

impl Native {
    /// Messages in the mailbox.
    pub(crate) fn waiting(&self) -> usize {
        let (messages, _) = self.mailbox.gauge(&self.client).mailbox();
        messages
    }

    /// Hands `count` messages over. They share topic and payload, which is the least a program
    /// without a sandbox can do.
    pub(crate) fn publish(&self, message: &Message, count: usize) -> Result<()> {
        for _ in 0..count {
            self.client.publish_at_once(message.clone(), Instant::now())?;
        }
        Ok(())
    }

    /// Takes `count` messages out of the mailbox and is done with them.
    pub(crate) async fn handle(&mut self, count: usize) -> Result<()> {
        let mut handled = 0;
        while handled < count {
            match self.mailbox.recv().await {
                Some(Item::Message(delivery)) => {
                    delivery.handled();
                    handled += 1;
                }
                Some(Item::Notice(_)) => {}
                None => bail!("the link has ended"),
            }
        }
        Ok(())
    }
}

/// A message to publish.
pub(crate) fn message(topic: &str, bytes: usize, qos: Qos) -> Result<Message> {
    Ok(Message {
        topic: TopicName::parse(topic.to_owned())?,
        payload: Bytes::from(vec![b'x'; bytes]),
        qos,
        retain: false,
        properties: None,
    })
}

/// A configuration for the peer: plain MQTT 3.1.1, a clean session.
pub(crate) fn configuration(peer: &Peer, head: &str, plugins: &str) -> Result<Config> {
    let text = format!(
        "{head}[link]\nurl = \"mqtt://127.0.0.1:{}\"\nclient_id = \"rig\"\nprotocol = \"3.1.1\"\n\
         session_expiry = \"0s\"\n{plugins}",
        peer.port()
    );
    let environment = BTreeMap::<String, String>::new().into_iter();
    Config::parse(&text, Path::new("/"), environment, &Overrides::default()).map_err(anyhow::Error::msg)
}

/// A client without bounds.
pub(crate) fn unlimited() -> ClientOptions {
    ClientOptions {
        name: None,
        when_full: WhenFull::DropNewest,
        inbox_bytes: 0,
        outbox_bytes: usize::MAX,
        mailbox_messages: usize::MAX,
        mailbox_bytes: usize::MAX / 2,
        tracked: false,
        words: alphorn::allowance::Allowance::unlimited(),
    }
}
