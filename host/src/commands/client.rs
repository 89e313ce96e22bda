//! The connection of `pub` and `sub`: the same link settings, without plugins.

use alphorn::{
    allowance::Allowance,
    config::{Config, Overrides},
    control::places::OWN_CONFIG,
    host,
    link::{Client, ClientOptions, Link, LinkState, Mailbox, NOT_AUTHORIZED, WhenFull},
    message::Qos,
};
use anyhow::anyhow;

use crate::{
    cli::{ClientArgs, QosArg},
    exit::{self, Failure},
};

/// A link for one command.
pub(super) struct CommandLink {
    pub(super) link: Link,
    pub(super) client: Client,
    pub(super) mailbox: Mailbox,
    pub(super) config: Config,
}

/// Connects, or says why that fails: a command does not try for ever.
pub(super) async fn connect(args: &ClientArgs, command: &str) -> Result<CommandLink, Failure> {
    let bad = |error| Failure::new(exit::CONFIG, error);
    let says_all = args.url.is_some() || std::env::var_os("ALPHORN_LINK__URL").is_some();
    let dev = if args.config.is_some() || says_all { None } else { super::ask::dev_host() };
    let (file, dev_url) = match (&args.config, dev) {
        (Some(file), _) => (file.clone(), None),
        (None, Some(dev)) => (dev.config, dev.url),
        (None, None) => (OWN_CONFIG.into(), None),
    };
    let overrides = Overrides {
        url: args.url.clone().or(dev_url),
        client_id: args.client_id.clone(),
        default_client_id: Some("alphorn".to_owned()),
    };
    // Whoever gives --url or ALPHORN_LINK__URL needs no file.
    let mut config = if file.exists() || !says_all {
        Config::load(&file, &overrides).map_err(bad)?
    } else {
        Config::without_file(&overrides).map_err(bad)?
    };
    host::check_files(&config).map_err(|error| Failure::new(exit::CONFIG, error))?;
    config.link.label = "client";
    config.link.session_expiry = std::time::Duration::ZERO;
    config.link.store_qos0 = true;
    if args.client_id.is_none() {
        config.link.client_id = format!("{}-{command}-{:04x}", config.link.client_id, fastrand::u16(..));
    }
    let link = Link::start(config.link.clone(), None).map_err(|error| Failure::new(exit::OS, error))?;
    let (client, mailbox) = link.client(&ClientOptions {
        name: None,
        when_full: WhenFull::DropNewest,
        inbox_bytes: 0,
        outbox_bytes: usize::MAX,
        mailbox_messages: 100_000,
        mailbox_bytes: usize::MAX,
        tracked: true,
        words: Allowance::unlimited(),
    });
    link.open();
    let mut status = link.status();
    loop {
        match &status.borrow_and_update().state {
            LinkState::Starting => {}
            LinkState::Up { .. } => break,
            LinkState::Down { reason } => return Err(Failure::new(exit::UNAVAILABLE, anyhow!("{reason}"))),
        }
        if status.changed().await.is_err() {
            return Err(Failure::new(exit::SOFTWARE, anyhow!("the link has ended")));
        }
    }
    Ok(CommandLink { link, client, mailbox, config })
}

/// The broker's no, with the exit code for it.
pub(super) fn refused(what: String, code: u8) -> Failure {
    let exit = if code == NOT_AUTHORIZED { exit::NO_PERMISSION } else { exit::UNAVAILABLE };
    Failure::new(exit, anyhow!(what))
}

impl From<QosArg> for Qos {
    fn from(qos: QosArg) -> Self {
        match qos {
            QosArg::AtMostOnce => Self::AtMostOnce,
            QosArg::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}
