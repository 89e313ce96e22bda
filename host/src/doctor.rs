//! Whether this device can connect and, if not, why.
//!
//! The checks use what the running host uses: its configuration, its files, its way to
//! connect ([`crate::link`]), and packets over the connection that is got that way. What a
//! check sees is told apart from what it means: `attempt` and `exchange` turn what the
//! link reports into checks, `report` shows them.

mod attempt;
mod certificate;
mod clock;
mod code_memory;
mod components;
mod exchange;
mod files;
mod report;
mod running;
mod socket;
mod storage;
mod versions;
mod words;

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use self::{
    attempt::{Attempt, View},
    exchange::{Granted, Trial},
};
pub use self::{
    exchange::TestTopic,
    report::{Check, Fault, Report, Status},
    running::running_host,
};
use crate::{
    config::{Config, ConfigError},
    link::{LinkSettings, probe},
};

/// What the command line asks for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What to call the configuration.
    pub config: PathBuf,
    /// Another client id than the configuration's.
    pub client_id: Option<String>,
    /// Another topic than `alphorn/CLIENT_ID/doctor`.
    pub topic: Option<TestTopic>,
}

/// The name of the check of `alphorn.toml`.
const CONFIGURATION: &str = "configuration";

/// Makes all checks. It ends in bounded time: the attempt has `connect_timeout`, each
/// answer `operation_timeout`.
pub async fn examine(config: Result<Config, ConfigError>, options: &Options) -> Report {
    let mut report = Report::default();
    report.push(versions::check());
    let clock = clock::check().await;
    let mut config = match config {
        Ok(config) => config,
        Err(error) => {
            let found = options.config.display().to_string();
            let remedy = "mend it; docs/alphorn.toml shows every key";
            report.push(Check::fail(CONFIGURATION, Fault::Configuration, found, error.to_string(), remedy));
            report.push(clock);
            report.push(code_memory::check(None));
            report.extend(all().map(|name| Check::skip(name, "not tried, since there is no configuration")));
            return report;
        }
    };
    let configured_id = config.link.client_id.clone();
    let note = choose_client_id(&mut config, options);
    report.push(configuration(&config, options, note));
    report.push(clock);
    let data_dir = config.disk.as_ref().map(|disk| disk.folder.as_path());
    report.push(code_memory::check(data_dir));
    report.push(storage::check(config.disk.as_ref()));
    report.push(socket::check(&config.socket));
    report.push(components::check(&config).await);

    let settings = &config.link;
    // As certificates are judged in the handshake.
    let now = settings.tls.not_before.unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::now());
    let mut from_files = Vec::new();
    if settings.url.is_tls() {
        from_files = vec![files::ca(&settings.tls, now), files::client_certificate(&settings.tls, now)];
    }
    let (attempt, accepted) = attempt(settings).await;
    let view = View { settings, configured_id: &configured_id, now };
    report.extend(from_files.into_iter().map(|check| attempt.judge_file(check)));
    report.extend(attempt.checks(&view));

    let topic = options.topic.clone().map_or_else(|| TestTopic::of(&configured_id), Ok);
    match (accepted, topic) {
        (None, _) => report.extend(exchange::ALL.map(|name| Check::skip(name, attempt.waits()))),
        (Some(_), Err(cause)) => {
            let found = format!("no test topic can be made of the client id `{configured_id}`");
            let remedy = "choose one with --topic";
            report.push(Check::fail(exchange::ALL[0], Fault::Configuration, found, cause.to_string(), remedy));
        }
        (Some(accepted), Ok(topic)) => {
            let trial = Trial {
                settings,
                patience: settings.operation_timeout,
                topic: &topic,
                is_asked_for: options.topic.is_some(),
                may_be_a_plugins: config.plugins.values().any(|plugin| topic.is_granted_by(&plugin.grants)),
                granted: granted(&config),
            };
            report.extend(trial.run(accepted).await);
        }
    }
    report
}

/// Every check that takes a configuration.
fn all() -> impl Iterator<Item = &'static str> {
    let here = [storage::NAME, socket::NAME, components::NAME, files::CA, files::CLIENT_CERTIFICATE];
    here.into_iter().chain(attempt::ALL).chain(exchange::ALL)
}

/// Takes the id that is asked for, or one that a running host does not notice; says so.
fn choose_client_id(config: &mut Config, options: &Options) -> Option<String> {
    let configured = config.link.client_id.clone();
    config.link.label = "doctor";
    match &options.client_id {
        Some(id) => config.link.client_id.clone_from(id),
        None if config.disk.as_ref().is_some_and(|disk| running_host(&disk.folder)) => {
            config.link.client_id = format!("{configured}-doctor-{:04x}", fastrand::u16(..));
        }
        None => {}
    }
    if config.link.client_id == configured {
        return None;
    }
    // Only the device's own session is kept: another one would wait for nobody.
    config.link.session_expiry = Duration::ZERO;
    options.client_id.is_none().then(|| format!("a host runs as `{configured}`, so this is tried as another client"))
}

fn configuration(config: &Config, options: &Options, note: Option<String>) -> Check {
    let link = &config.link;
    let mut found = format!(
        "{}: {}, client id {}, MQTT {}, {} plugin{}",
        options.config.display(),
        link.url,
        link.client_id,
        link.protocol,
        config.plugins.len(),
        if config.plugins.len() == 1 { "" } else { "s" },
    );
    if let Some(note) = note {
        found = format!("{found} ({note})");
    }
    if config.warnings.is_empty() {
        return Check::ok(CONFIGURATION, found);
    }
    Check::warn(CONFIGURATION, found, config.warnings.join("; "), "see docs/alphorn.toml")
}

/// Something that a plugin may subscribe to.
fn granted(config: &Config) -> Option<Granted<'_>> {
    let filters = config.plugins.iter().flat_map(|(plugin, settings)| {
        settings.grants.subscribe().iter().map(move |filter| Granted { plugin, filter })
    });
    // Not the broker's own topics, nor a part of what is meant for others of the group as well.
    filters.into_iter().find(|granted| !granted.filter.as_str().starts_with('$'))
}

/// One attempt as `alphorn run` makes it, and what it showed.
async fn attempt(settings: &LinkSettings) -> (Attempt, Option<probe::Accepted>) {
    let start = Instant::now();
    let mut steps = Vec::new();
    match probe::connect(settings, &mut |step| steps.push((step, start.elapsed()))).await {
        Ok(accepted) => (Attempt { steps, error: None }, Some(accepted)),
        Err(error) => (Attempt { steps, error: Some(error) }, None),
    }
}
