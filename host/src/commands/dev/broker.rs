//! The broker that `dev` brings along, and a second connection to it that prints what
//! really arrived there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use alphorn::{
    allowance::Allowance,
    config::{AWS_ALPN, Config, DiskConfig, Overrides},
    link::{Client, ClientOptions, Item, Link, Notice, TlsSettings, WhenFull},
    message::Qos,
    topic::TopicFilter,
};
use alphorn_dev_broker::DevBroker;
use anyhow::Context;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{super::print, Failure, Project, exit};

pub(super) struct Broker {
    broker: DevBroker,
    monitor: Link,
    printing: JoinHandle<()>,
}

impl Broker {
    /// Starts it; the configuration is that of the first folder, with the connection to here.
    /// Certificates and what the host keeps are in the session's folder.
    pub(super) async fn start(project: &Project, session: &Path) -> Result<(Config, Self), Failure> {
        let broker = DevBroker::start(session).await?;
        let overrides = Overrides {
            url: Some(format!("mqtts://{}:{}", broker.host(), broker.port())),
            default_client_id: Some("alphorn-dev".to_owned()),
            ..Overrides::default()
        };
        let mut config = project.configuration(&overrides).map_err(|error| Failure::new(exit::CONFIG, error))?;
        let files = broker.files();
        config.link.tls = TlsSettings {
            ca: Some(files.ca.clone()),
            identity: Some((files.device_cert.clone(), files.device_key.clone())),
            alpn: vec![AWS_ALPN.to_owned()],
            not_before: None,
        };
        // What a device keeps for years, this keeps as long as the broker does.
        config.disk = config.disk.map(|disk| DiskConfig { folder: session.join("data"), ..disk });
        // It is on this machine, where no proxy leads.
        config.link.proxy = None;
        config.link.headers.clear();
        // Of other folders than the first, and of what a device keeps: not of a session like this.
        config.plugins.clear();
        config.warnings.clear();
        let (monitor, printing) = monitor(&config, &broker).await?;
        Ok((config, Self { broker, monitor, printing }))
    }

    /// Writes a configuration for commands from another terminal, and says so.
    pub(super) fn client(&self, config: &Config, socket: &Path, session: &Path) -> anyhow::Result<PathBuf> {
        let file = write_client_config(config, &self.broker, socket, session)?;
        info!(
            "broker on port {}; publish to it with: alphorn pub --config {} TOPIC PAYLOAD",
            self.broker.port(),
            file.display()
        );
        Ok(file)
    }

    pub(super) async fn end(self) {
        self.monitor.close(std::time::Duration::from_secs(1)).await;
        // It ends with the link it reads from.
        let _ = self.printing.await;
        if let Err(error) = self.broker.shutdown().await {
            warn!("the broker did not end well: {error:#}");
        }
    }
}

/// A configuration for `pub`, `ps` and the like from another terminal.
fn write_client_config(config: &Config, broker: &DevBroker, socket: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let files = broker.files();
    let mut link = toml::Table::new();
    link.insert("url".to_owned(), config.link.url.to_string().into());
    link.insert("client_id".to_owned(), "alphorn".into());
    link.insert("alpn".to_owned(), vec![AWS_ALPN.to_owned()].into());
    link.insert("proxy".to_owned(), "".into());
    for (key, path) in [("ca", &files.ca), ("cert", &files.monitor_cert), ("key", &files.monitor_key)] {
        link.insert(key.to_owned(), path.display().to_string().into());
    }
    let file = folder.join("alphorn.toml");
    let host = toml::Table::from_iter([("socket".to_owned(), socket.display().to_string().into())]);
    let text = toml::Table::from_iter([("link".to_owned(), link.into()), ("host".to_owned(), host.into())]).to_string();
    fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
    Ok(file)
}

/// Subscribes to everything and prints it; returns when the subscription stands.
async fn monitor(config: &Config, broker: &DevBroker) -> anyhow::Result<(Link, JoinHandle<()>)> {
    let files = broker.files();
    let mut settings = config.link.clone();
    settings.label = "monitor";
    settings.client_id = format!("{}-monitor", settings.client_id);
    settings.session_expiry = std::time::Duration::ZERO;
    settings.tls.identity = Some((files.monitor_cert.clone(), files.monitor_key.clone()));
    let link = Link::start(settings, None)?;
    let (client, mut mailbox) = link.client(&ClientOptions {
        name: None,
        when_full: WhenFull::DropNewest,
        inbox_bytes: 0,
        outbox_bytes: 0,
        mailbox_messages: 100_000,
        mailbox_bytes: 64 * 1024 * 1024,
        tracked: true,
        words: Allowance::unlimited(),
    });
    client.subscribe(TopicFilter::parse("#")?, Qos::AtMostOnce);
    link.open();
    loop {
        match mailbox.recv().await {
            Some(Item::Notice(Notice::Subscribed(_))) => break,
            Some(_) => {}
            None => anyhow::bail!("the monitor's link has ended"),
        }
    }
    let printing = tokio::spawn(async move {
        // The subscription lives as long as its client.
        let _client: Client = client;
        while let Some(item) = mailbox.recv().await {
            if let Item::Message(delivery) = item {
                if print::message(&delivery.message, false).is_err() {
                    return;
                }
                delivery.handled();
            }
        }
    });
    Ok((link, printing))
}
