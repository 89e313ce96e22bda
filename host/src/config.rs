//! `alphorn.toml` into checked values.
//!
//! Three steps: `file` is the shape of the file, `values` reads times, sizes and
//! rates, and this module checks and joins them. Every error names the file and the
//! key, says why, and what to write instead. Bad configuration ends the program with 78.

mod file;
mod mistake;
mod tables;
mod values;
mod ways;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::tables::{CommandConfig, Lines, MessagingConfig};

use self::file::{File, Limit};
use crate::{
    control::{LONGEST_PATH, places},
    exposure,
    grants::Grants,
    journal::Commit,
    link::{BackoffSettings, LinkSettings, Profile, Secret, TlsSettings, Version, WhenFull},
    plugin::{Dir, MOST_COPIED, Wasi, compile::CompileLimits},
    rate::Rate,
    regular_file::{self, SECRET, SETTINGS},
    signature::TrustedKeys,
    text,
};

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a shutdown may take.
    pub shutdown_grace: Duration,
    /// Where the running host can be asked.
    pub socket: SocketConfig,
    /// Who may bring native code.
    pub trusted_keys: TrustedKeys,
    /// The connection and its outbox.
    pub link: LinkSettings,
    /// What becomes of a message that finds no room in the outbox.
    pub when_full: WhenFull,
    /// Where to keep what has to last; without it everything is kept in memory.
    pub disk: Option<DiskConfig>,
    /// The plugins by name.
    pub plugins: BTreeMap<String, PluginConfig>,
    /// What the file asks for and this version does not do, to be said at the start.
    pub warnings: Vec<String>,
}

/// `[host] socket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where.
    pub path: PathBuf,
    /// Somebody wrote it down, so there must be one.
    pub is_explicit: bool,
}

/// What is kept on disk, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// `[host] data_dir`.
    pub folder: PathBuf,
    /// Bytes of the file system to leave alone.
    pub min_free: u64,
    /// When what was published is safe.
    pub commit: Commit,
    /// The outbox is kept there, not only inboxes and subscriptions.
    pub keeps_outbox: bool,
}

/// One `[plugins.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// The component's file.
    pub component: PathBuf,
    /// What it may publish and subscribe to.
    pub grants: Grants,
    /// Handed to the plugin.
    pub config: Arc<BTreeMap<String, String>>,
    /// What it may use.
    pub limits: Limits,
    /// What of WASI it is lent.
    pub wasi: Wasi,
    /// How it is fed, if it is a plain WASI program.
    pub command: Option<CommandConfig>,
    /// How it is subscribed and publishes, if it is a component of wasi:messaging.
    pub messaging: Option<MessagingConfig>,
}

/// `[plugins.NAME.limits]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// All memories and tables together, in bytes.
    pub memory: usize,
    /// The longest a call may take, host calls included.
    pub deadline: Duration,
    /// The same for `start`.
    pub start_deadline: Duration,
    /// What one call may copy out of it, in bytes, beyond the largest payload.
    pub hostcall_bytes: usize,
    /// Publishes; a burst is one second's worth.
    pub publish_rate: Rate,
    /// Lines in the log; a burst is one second's worth.
    pub log_rate: Rate,
    /// Its share of the outbox, in bytes.
    pub outbox_bytes: usize,
    /// Messages that may wait for it in memory.
    pub mailbox_messages: usize,
    /// Their bytes.
    pub mailbox_bytes: usize,
    /// What its inbox on disk holds, in bytes.
    pub inbox_bytes: usize,
    /// What its durable state may hold, in bytes; 0: there is none.
    pub state_bytes: usize,
    /// What compiling it may take.
    pub compile: CompileLimits,
    /// How long a new version is on probation.
    pub probation_time: Duration,
    /// After how many messages it has stood it.
    pub probation_messages: u32,
    /// Attempts at one message.
    pub retry_max: u32,
    /// The pause before the second attempt; it doubles.
    pub retry_min: Duration,
    /// Faults within `restart_within`, beyond which the plugin is quarantined.
    pub restart_max: u32,
    /// See `restart_max`.
    pub restart_within: Duration,
}

/// What is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, unless it was given in another way.
    file: Option<PathBuf>,
    message: String,
}

/// What a command line or a test changes about a file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// In place of `[link] url`.
    pub url: Option<String>,
    /// In place of `[link] client_id`.
    pub client_id: Option<String>,
    /// Where `[link] client_id` is missing.
    pub default_client_id: Option<String>,
}

/// The name AWS IoT Core wants for MQTT with client certificates on port 443.
pub const AWS_ALPN: &str = "x-amzn-mqtt-ca";

impl Config {
    /// Reads a file, with the overrides of the environment (`ALPHORN_LINK__URL=…`) and
    /// of the command line.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = regular_file::read_to_string(path, SETTINGS).map_err(|cause| ConfigError {
            file: None,
            message: format!("can't read the configuration {}: {cause}; --config names another", path.display()),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let parsed = Self::parse(&text, folder, environment(), overrides);
        let mut config = parsed.map_err(|message| ConfigError { file: Some(path.into()), message })?;
        if ways::hold_secrets(&text) {
            config.warnings.extend(exposure::readable(path));
        }
        Ok(config)
    }

    /// Without a file: what the environment and the command line say.
    pub fn without_file(overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::parse("", Path::new(""), environment(), overrides).map_err(|message| ConfigError { file: None, message })
    }

    /// Reads a text; relative paths in it begin at `folder`.
    pub fn parse(
        text: &str,
        folder: &Path,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, String> {
        let checked = Self::checked(text, folder, environment.collect(), overrides);
        checked.map_err(|message| mistake::presentable(&message))
    }

    fn checked(
        text: &str,
        folder: &Path,
        environment: BTreeMap<String, String>,
        overrides: &Overrides,
    ) -> Result<Self, String> {
        let mut file = File::parse(text, environment.clone().into_iter())?;
        if let Some(url) = &overrides.url {
            file.link.url = Some(url.clone());
        }
        if let Some(client_id) = &overrides.client_id {
            file.link.client_id = Some(client_id.clone());
        }
        if file.link.client_id.is_none() {
            file.link.client_id.clone_from(&overrides.default_client_id);
        }
        Self::check(file, folder, &environment).map_err(|message| mistake::with_line(&message, text))
    }

    fn check(file: File, folder: &Path, environment: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut warnings = file.not_yet();
        warnings.extend(environment.keys().filter(|name| file::is_no_key(name)).map(|name| {
            format!(
                "{} of the environment is no key and is not used: those have two underscores between their parts, \
                 like ALPHORN_LINK__URL",
                crate::escape::cut(name, 80)
            )
        }));
        let disk = disk(&file, folder)?;
        let link = link(&file, folder, environment, &mut warnings)?;
        let socket = socket(file.host.socket.as_deref(), folder, environment)?;
        let trusted_keys = trusted_keys(&file.host.trusted_keys, folder)?;
        let mut plugins = BTreeMap::new();
        for (name, plugin) in file.plugins {
            check_name(&name)?;
            let at = |error: &dyn fmt::Display| format!("plugins.{name}: {error}");
            let grants = Grants::new(&plugin.publish, &plugin.subscribe, plugin.reserved, &link.client_id)
                .map_err(|error| at(&error))?;
            let component =
                plugin.component.ok_or_else(|| at(&"`component` is missing: the path of the plugin's .wasm file"))?;
            let mut limits = limits(&plugin.limits).map_err(|error| at(&error))?;
            if file.outbox.max_bytes == Limit::Unlimited {
                limits.outbox_bytes = usize::MAX;
            }
            if limits.hostcall_bytes > MOST_COPIED {
                limits.hostcall_bytes = MOST_COPIED;
                warnings.push(format!(
                    "plugins.{name}: limits.hostcall_bytes is more than {} and counts as that: what crosses in one \
                     piece keeps others waiting; hand larger things over as state or files",
                    bytesize::ByteSize(MOST_COPIED as u64)
                ));
            }
            let component = folder.join(component);
            let wasi = wasi(plugin.wasi, folder).map_err(|error| at(&error))?;
            let command = plugin.command.map(|command| tables::command(command, &grants, &link.client_id));
            let command = command.transpose().map_err(|error| at(&error))?;
            let messaging = plugin.messaging.map(|messaging| tables::messaging(messaging, &grants, &link.client_id));
            let messaging = messaging.transpose().map_err(|error| at(&error))?;
            let config = plugin.config;
            let plugin = PluginConfig { component, grants, config: config.into(), limits, wasi, command, messaging };
            plugins.insert(name, plugin);
        }
        let when_full = match file.outbox.when_full {
            file::WhenFull::DropNewest => WhenFull::DropNewest,
            file::WhenFull::DropOldest => WhenFull::DropOldest,
            file::WhenFull::Block => WhenFull::Block,
        };
        let shutdown_grace = file.host.shutdown_grace.get();
        Ok(Self { shutdown_grace, socket, trusted_keys, link, when_full, disk, plugins, warnings })
    }
}

/// The environment, as far as it is text; what is not can't be meant for us.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn socket(
    configured: Option<&Path>,
    folder: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<SocketConfig, String> {
    let own = || {
        let runtime_dir = environment.get("XDG_RUNTIME_DIR").map(Path::new);
        places::default_socket(rustix::process::geteuid().is_root(), runtime_dir)
    };
    let path = configured.map_or_else(own, |path| folder.join(path));
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(format!(
            "host.socket: {} is longer than {LONGEST_PATH} bytes, the longest a socket's path can be",
            path.display()
        ));
    }
    Ok(SocketConfig { path, is_explicit: configured.is_some() })
}

/// Keys as they are, or files that hold one.
fn trusted_keys(configured: &[String], folder: &Path) -> Result<TrustedKeys, String> {
    let mut keys = TrustedKeys::default();
    for text in configured {
        if keys.add(text).is_ok() {
            continue;
        }
        let path = folder.join(text);
        let text = regular_file::read_to_string(&path, SECRET).map_err(|cause| {
            format!(
                "host.trusted_keys: `{text}` is no minisign public key (RW…), and no file with one: {}: {cause}",
                path.display()
            )
        })?;
        keys.add(&text).map_err(|error| format!("host.trusted_keys: {}: {error}", path.display()))?;
    }
    Ok(keys)
}

/// The default of `[host] data_dir`.
const DATA_DIR: &str = "/var/lib/alphorn";

/// An outbox in memory asks for no disk; inboxes and subscriptions have one all the same
/// where `data_dir` says so.
fn disk(file: &File, folder: &Path) -> Result<Option<DiskConfig>, String> {
    let keeps_outbox = file.outbox.storage == file::Storage::Disk;
    let data_dir = file.host.data_dir.as_ref().map(|data_dir| folder.join(data_dir));
    let Some(folder) = data_dir.or_else(|| keeps_outbox.then(|| DATA_DIR.into())) else { return Ok(None) };
    let commit = match file.outbox.commit.as_str() {
        "call" => Commit::Call,
        time => humantime::parse_duration(time)
            .ok()
            .filter(|time| (Duration::from_millis(1)..=Duration::from_secs(60)).contains(time))
            .map(Commit::Every)
            .ok_or_else(|| {
                format!("outbox.commit: `{time}` is neither \"call\" nor a time of 1ms to 1m, like \"50ms\"")
            })?,
    };
    Ok(Some(DiskConfig { folder, min_free: file.outbox.min_free.get() as u64, commit, keeps_outbox }))
}

fn link(
    file: &File,
    folder: &Path,
    environment: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<LinkSettings, String> {
    let link = &file.link;
    let url: crate::link::BrokerUrl = link
        .url
        .as_deref()
        .ok_or("link.url is missing: for instance url = \"mqtts://ENDPOINT:443\"")?
        .parse()
        .map_err(|error| format!("link.url: {error}"))?;
    let client_id = link.client_id.clone().ok_or("link.client_id is missing: the device's name at the broker")?;
    if client_id.is_empty() {
        return Err("link.client_id is empty: the device's name at the broker (AWS IoT Core: at most 128 bytes)".into());
    }
    text::check(&client_id).map_err(|cause| format!("link.client_id: {cause}"))?;
    text::check(link.username.as_deref().unwrap_or_default()).map_err(|cause| format!("link.username: {cause}"))?;
    let identity = match (&link.cert, &link.key) {
        (Some(cert), Some(key)) => Some((folder.join(cert), folder.join(key))),
        (None, None) => None,
        (Some(_), None) => {
            return Err("link.cert is set and link.key is not: a client certificate needs its key".into());
        }
        (None, Some(_)) => {
            return Err("link.key is set and link.cert is not: a key needs its client certificate".into());
        }
    };
    let alpn = link.alpn.clone().unwrap_or_else(|| ways::usual_alpn(&url));
    if alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err("link.alpn: each name has 1 to 255 bytes; [] offers none".into());
    }
    if !url.is_tls() && (identity.is_some() || link.ca.is_some()) {
        warnings.push(format!("link.url is {url}, without TLS: ca, cert and key are not used"));
    }
    if link.password_file.is_some() && link.username.is_none() && link.protocol == file::Protocol::V311 {
        return Err("link.password_file is set and link.username is not: MQTT 3.1.1 has no password without a user \
                    name; set `username`, or protocol = \"5\""
            .into());
    }
    let password = match &link.password_file {
        None => None,
        Some(path) => {
            let path = folder.join(path);
            warnings.extend(exposure::readable(&path).map(|why| format!("link.password_file: {why}")));
            let text = regular_file::read_to_string(&path, SECRET)
                .map_err(|cause| format!("link.password_file: can't read {}: {cause}", path.display()))?;
            Some(Secret(text.trim_end_matches(['\r', '\n']).into()))
        }
    };
    let profile = match link.profile {
        Some(file::Profile::AwsIot) => Profile::AwsIot,
        Some(file::Profile::Generic) => Profile::Generic,
        None => Profile::of(url.host()),
    };
    profile.check_client_id(&client_id).map_err(|why| format!("link.client_id: {why}"))?;
    let mut keep_alive = link.keep_alive.get();
    if let Some(kept) = profile.keep_alive(keep_alive) {
        let (wanted, kept_for_people) = (humantime::format_duration(keep_alive), humantime::format_duration(kept));
        warnings.push(format!("link.keep_alive: AWS IoT Core keeps to {kept_for_people} instead of {wanted}"));
        keep_alive = kept;
    }
    if keep_alive.as_secs() > 65_535 || keep_alive.subsec_nanos() != 0 {
        return Err("link.keep_alive: 1s to 65535s in whole seconds, or 0s for none".into());
    }
    let max_payload = u32::try_from(link.max_packet.get())
        .ok()
        .filter(|bytes| (1..=256 * 1024 * 1024).contains(bytes))
        .ok_or("link.max_packet: 1B to 256MiB, MQTT can carry no more")?;
    let backoff = BackoffSettings {
        min: link.backoff.min.get(),
        max: link.backoff.max.get(),
        stable_after: link.backoff.stable_after.get(),
    };
    if backoff.min < Duration::from_millis(10) || backoff.min > backoff.max {
        return Err("link.backoff: min has to be at least 10ms and not above max".into());
    }
    let connect_timeout = link.connect_timeout.get();
    if connect_timeout.is_zero() || link.operation_timeout.get().is_zero() {
        return Err("link.connect_timeout and link.operation_timeout have to be above 0s".into());
    }
    let proxy = ways::proxy(link, &url, environment)?;
    let headers = ways::headers(link, &url, warnings)?;
    Ok(LinkSettings {
        label: "device",
        url,
        client_id,
        tls: TlsSettings { ca: link.ca.as_ref().map(|ca| folder.join(ca)), identity, alpn, not_before: None },
        proxy,
        headers,
        protocol: match link.protocol {
            file::Protocol::V311 => Version::V311,
            file::Protocol::V5 => Version::V5,
        },
        profile,
        keep_alive,
        connect_timeout,
        operation_timeout: link.operation_timeout.get(),
        session_expiry: link.session_expiry.get(),
        max_payload,
        backoff,
        username: link.username.clone(),
        password,
        outbox_bytes: match file.outbox.max_bytes {
            Limit::Bytes(bytes) => bytes.get(),
            Limit::Unlimited if file.outbox.storage == file::Storage::Disk => usize::MAX,
            Limit::Unlimited => IN_MEMORY,
        },
        max_age: match file.outbox.max_age {
            file::MaxAge::Unlimited => None,
            file::MaxAge::After(age) => Some(age.get()),
        },
        store_qos0: file.outbox.qos0_offline == file::Qos0Offline::Store,
        drain_rate: file.outbox.drain_rate.0,
    })
}

/// What "unlimited" comes to while the outbox is kept in memory, in bytes: a device must
/// not run out of memory because its broker is away.
const IN_MEMORY: usize = 256 * 1024 * 1024;

fn wasi(wasi: file::Wasi, folder: &Path) -> Result<Wasi, String> {
    let mut checked = Wasi { env: wasi.env, ..Wasi::default() };
    for text in &wasi.dirs {
        let mut dir: Dir = text.parse().map_err(|error| format!("wasi.dirs: {error}"))?;
        dir.host = folder.join(dir.host);
        checked.dirs.push(dir);
    }
    for text in &wasi.network {
        match text.as_str() {
            "dns" => checked.dns = true,
            text => checked.network.push(text.parse().map_err(|error| format!("wasi.network: {error}"))?),
        }
    }
    if checked.env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
        return Err("wasi.env: names have no `=`, and neither names nor values a NUL".to_owned());
    }
    Ok(checked)
}

fn limits(limits: &file::Limits) -> Result<Limits, String> {
    let bytes = |limit: Limit| match limit {
        Limit::Bytes(bytes) => bytes.get(),
        Limit::Unlimited => usize::MAX,
    };
    let checked = Limits {
        memory: bytes(limits.memory),
        deadline: limits.deadline.get(),
        start_deadline: limits.start_deadline.get(),
        hostcall_bytes: bytes(limits.hostcall_bytes),
        publish_rate: limits.publish_rate.0,
        log_rate: limits.log_rate.0,
        outbox_bytes: bytes(limits.outbox_bytes),
        mailbox_messages: limits.mailbox.messages,
        mailbox_bytes: bytes(limits.mailbox.bytes),
        inbox_bytes: bytes(limits.inbox_bytes),
        state_bytes: bytes(limits.state_bytes),
        compile: CompileLimits {
            time: limits.compile.time.get(),
            memory: match limits.compile.memory {
                Limit::Bytes(bytes) => bytes.get() as u64,
                Limit::Unlimited => u64::MAX,
            },
        },
        probation_time: limits.probation.time.get(),
        probation_messages: limits.probation.messages,
        retry_max: limits.retry.max,
        retry_min: limits.retry.min.get(),
        restart_max: limits.restart.max,
        restart_within: limits.restart.within.get(),
    };
    if checked.deadline.is_zero() || checked.start_deadline.is_zero() {
        return Err("limits.deadline and limits.start_deadline have to be above 0s".into());
    }
    if checked.retry_max == 0 {
        return Err("limits.retry.max counts all attempts at a message and has to be at least 1".into());
    }
    Ok(checked)
}

/// Names appear in logs, file names and topics.
fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(format!("plugins.{name}: a plugin's name has 1 to 64 letters, digits, - and _"));
    }
    Ok(())
}

impl Default for Limits {
    fn default() -> Self {
        limits(&file::Limits::default()).unwrap_or_else(|_| unreachable!("the defaults are within bounds; tested"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "[link]\nurl = \"mqtts://broker.example:443\"\nclient_id = \"gateway-7\"\n";

    fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, Path::new("/etc/alphorn"), environment, &Overrides::default())
    }

    fn parse(rest: &str) -> Result<Config, String> {
        parse_with(&format!("{LINK}{rest}"), &[])
    }

    #[test]
    fn the_defaults_are_those_the_documentation_states() {
        let config = parse("").unwrap();
        let link = &config.link;
        assert_eq!(link.tls.alpn, ["x-amzn-mqtt-ca"]);
        assert_eq!(link.protocol, Version::V5);
        assert_eq!(link.keep_alive, Duration::from_secs(60));
        assert_eq!(link.connect_timeout, Duration::from_secs(10));
        assert_eq!(config.link.operation_timeout, Duration::from_secs(5));
        assert_eq!(link.session_expiry, Duration::from_secs(3600));
        assert_eq!(link.max_payload, 128 * 1024);
        assert_eq!(link.backoff, BackoffSettings::default());
        assert_eq!(link.outbox_bytes, 64 * 1024 * 1024);
        assert_eq!(Limits::default().memory, 16 * 1024 * 1024);
        assert_eq!(Limits::default().publish_rate, Rate::per_second(100));
    }

    #[test]
    fn alpn_is_offered_by_default_on_port_443_only() {
        let other_port = "[link]\nurl = \"mqtts://broker.example\"\nclient_id = \"a\"";
        assert!(parse_with(other_port, &[]).unwrap().link.tls.alpn.is_empty());
        assert!(parse("alpn = []").unwrap().link.tls.alpn.is_empty());
        assert_eq!(parse("alpn = [\"mqtt\"]").unwrap().link.tls.alpn, ["mqtt"]);
    }

    #[test]
    fn the_whole_example_of_the_documentation_is_understood() {
        let config = parse_with(include_str!("../../docs/alphorn.toml"), &[]).unwrap();
        assert_eq!(config.plugins["timestamp"].component, Path::new("/etc/alphorn/plugins/timestamp.wasm"));
        assert_eq!(config.plugins["timestamp"].config["topic"], "test/date");
        assert_eq!(config.plugins["timestamp"].limits, Limits::default());
        assert_eq!(
            config.disk,
            Some(DiskConfig {
                folder: "/var/lib/alphorn".into(),
                min_free: 32 * 1024 * 1024,
                commit: Commit::Call,
                keeps_outbox: true,
            })
        );
        assert_eq!(config.warnings, [""; 0]);
    }

    #[test]
    fn what_is_kept_on_disk_follows_from_storage_and_data_dir() {
        let disk = |more: &str| parse(more).unwrap().disk;
        assert_eq!(disk("[outbox]\nstorage = \"memory\""), None);
        let inboxes = disk("[outbox]\nstorage = \"memory\"\n[host]\ndata_dir = \"data\"").unwrap();
        assert!(!inboxes.keeps_outbox && inboxes.folder.ends_with("data"));
        let disk = disk("[outbox]\ncommit = \"50ms\"").unwrap();
        assert_eq!((disk.commit, disk.folder), (Commit::Every(Duration::from_millis(50)), DATA_DIR.into()));
        assert!(parse("[outbox]\ncommit = \"now\"").unwrap_err().contains("outbox.commit"));
    }

    #[test]
    fn unlimited_needs_a_disk_and_lifts_the_plugins_shares() {
        let plugin = "[plugins.a]\ncomponent = \"a.wasm\"\n[outbox]\nmax_bytes = \"unlimited\"";
        let config = parse(plugin).unwrap();
        assert_eq!((config.link.outbox_bytes, config.plugins["a"].limits.outbox_bytes), (usize::MAX, usize::MAX));
        let config = parse(&format!("{plugin}\nstorage = \"memory\"")).unwrap();
        assert_eq!(config.link.outbox_bytes, IN_MEMORY);
    }

    #[test]
    fn mistakes_are_named_with_their_place_and_remedy() {
        for (rest, expected) in [
            ("keepalive = \"1s\"", vec!["line 4", "keepalive", "did you mean `keep_alive`?"]),
            ("keep_alive = 60", vec!["line 4", "\"10s\""]),
            ("keep_alive = \"2 parsecs\"", vec!["2 parsecs", "\"10s\""]),
            ("max_packet = \"lots\"", vec!["lots", "\"16MiB\""]),
            ("max_packet = \"1GiB\"", vec!["link.max_packet", "256MiB"]),
            ("protocol = \"4\"", vec!["4", "3.1.1"]),
            ("keep_alive = \"1500ms\"", vec!["link.keep_alive", "whole seconds"]),
            ("cert = \"a.pem\"", vec!["link.key is not"]),
            ("key = \"a.pem\"", vec!["link.cert is not"]),
            ("password_file = \"no.where\"", vec!["password_file", "/etc/alphorn/no.where"]),
            (
                "protocol = \"3.1.1\"\npassword_file = \"/dev/null\"",
                vec!["link.password_file", "link.username", "3.1.1"],
            ),
            ("username = \"a\\u0007\"", vec!["link.username", "U+0007"]),
            ("backoff = { min = \"0s\" }", vec!["link.backoff"]),
            ("[plugin.a]", vec!["did you mean `plugins`?"]),
            ("[plugins.a]", vec!["plugins.a", "`component` is missing"]),
            ("[plugins.\"a b\"]\ncomponent = \"x\"", vec!["plugins.a b", "letters"]),
            ("[plugins.a]\ncomponent = \"x\"\npublish = [\"a/#/b\"]", vec!["plugins.a", "a/#/b", "last level"]),
            ("[plugins.a]\ncomponent = \"x\"\npublish = [\"$aws/x\"]", vec!["reserved = true"]),
            ("[plugins.a.limits]\npublish_rate = \"fast\"", vec!["fast", "\"100/s\""]),
            ("[plugins.a]\ncomponent = \"x\"\nwasi = { dirs = [\"a\"] }", vec!["plugins.a", "wasi.dirs", "HOST:GUEST"]),
            ("[plugins.a]\ncomponent = \"x\"\nwasi = { network = [\"a:80\"] }", vec!["wasi.network", "10.0.0.5:502"]),
            ("[plugins.a.limits]\nmemori = \"1MiB\"", vec!["did you mean `memory`?"]),
            ("[outbox]\nwhen_full = \"drop-all\"", vec!["drop-all", "drop-newest"]),
            ("[host]\ntrusted_keys = [\"my.pub\"]", vec!["host.trusted_keys", "my.pub", "RW", "/etc/alphorn/my.pub"]),
        ] {
            let error = parse(rest).unwrap_err();
            for part in expected {
                assert!(error.contains(part), "{rest}\n{error}");
            }
        }
        for (text, expected) in
            [("", "link.url is missing"), ("[link]\nurl = \"mqtts://a\"", "link.client_id is missing")]
        {
            assert!(parse_with(text, &[]).unwrap_err().contains(expected));
        }
    }

    #[test]
    fn the_environment_overrides_every_value() {
        let environment = [
            ("ALPHORN_LINK__URL", "mqtt://localhost"),
            ("ALPHORN_LINK__ALPN", "[\"mqtt\"]"),
            ("ALPHORN_LINK__CLIENT_ID", "42"),
            ("ALPHORN_LINK__BACKOFF__MAX", "5m"),
            ("ALPHORN_PLUGINS__CLOCK__COMPONENT", "clock.wasm"),
            ("ALPHORN_PLUGINS__CLOCK__CONFIG__TOPIC", "a/b"),
            ("ALPHORN_PLUGINS__CLOCK__CONFIG__MAX", "5"),
            ("ALPHORN_PLUGINS__CLOCK__LIMITS__RETRY__MAX", "5"),
            ("OTHER", "x"),
        ];
        let config = parse_with(LINK, &environment).unwrap();
        assert_eq!(config.link.url.to_string(), "mqtt://localhost:1883");
        assert_eq!(config.link.client_id, "42");
        assert_eq!(config.link.backoff.max, Duration::from_secs(300));
        assert_eq!(config.plugins["clock"].config["topic"], "a/b");
        assert_eq!(config.plugins["clock"].config["max"], "5");
        assert_eq!(config.plugins["clock"].limits.retry_max, 5);
        let error = parse_with(LINK, &[("ALPHORN_LINK__URLL", "x")]).unwrap_err();
        assert!(error.contains("did you mean `url`?") && error.contains("ALPHORN_"), "{error}");
    }

    #[test]
    fn the_old_sdks_settings_are_taken() {
        let text = "connect_timeout = \"10s\"\noperation_timeout = \"5s\"\n[outbox]\nstorage = \"memory\"\n\
                    max_bytes = -1\nqos0_offline = \"store\"\ndrain_rate = \"2/s\"\n[host]\nshutdown_grace = \"10s\"";
        let config = parse(text).unwrap();
        assert!(config.link.store_qos0);
        assert_eq!(config.link.drain_rate.interval(), Duration::from_millis(500));
        assert!(config.warnings.iter().any(|warning| warning.contains("256 MiB")), "{:?}", config.warnings);
    }

    #[test]
    fn what_crosses_in_one_piece_is_bounded() {
        let text = "[plugins.a]\ncomponent = \"a.wasm\"\nlimits = { hostcall_bytes = \"200MiB\" }";
        let config = parse(text).unwrap();
        assert_eq!(config.plugins.get("a").unwrap().limits.hostcall_bytes, MOST_COPIED);
        let says = |warning: &String| warning.contains("plugins.a: limits.hostcall_bytes") && warning.contains("16");
        assert!(config.warnings.iter().any(says), "{:?}", config.warnings);
    }

    #[test]
    fn the_profile_follows_from_the_name_and_can_be_chosen() {
        let aws = |more: &str| {
            let link = "url = \"mqtts://abc-ats.iot.eu-west-1.amazonaws.com:443\"\n";
            parse_with(&format!("[link]\nclient_id = \"d\"\n{link}{more}"), &[])
        };
        assert_eq!(aws("").unwrap().link.profile, Profile::AwsIot);
        assert_eq!(aws("profile = \"generic\"").unwrap().link.profile, Profile::Generic);
        assert_eq!(parse("").unwrap().link.profile, Profile::Generic);
        let clamped = aws("keep_alive = \"5s\"").unwrap();
        assert_eq!(clamped.link.keep_alive, Duration::from_secs(30));
        assert!(clamped.warnings.iter().any(|warning| warning.contains("keep_alive")));
    }

    /// The example with one value after another replaced by one of another kind, and with each line cut
    /// or written twice: whatever is wrong with it, the message names a key, and no type of ours.
    #[test]
    fn each_mistake_names_its_key() {
        let example = include_str!("../../docs/alphorn.toml");
        let folder = std::env::temp_dir();
        let values =
            ["3", "-1.5", "true", "[]", "[3]", "{}", "{ x = 1 }", "\"nonsense\"", "1979-05-27", "\"unended", ""];
        let mut refused = 0;
        for (at, line) in example.lines().enumerate() {
            let Some((key, _)) = line.split_once('=') else { continue };
            let key = key.trim().trim_start_matches('#').trim();
            if key.is_empty() || key.contains(' ') || line.starts_with("# ") {
                continue;
            }
            let changed = values.iter().map(|value| format!("{key} = {value}")).chain([
                format!("{key}x = 1"),
                format!("{line}\n{line}"),
                format!("{key} = \"mqtts://user:hunter2@host:99999/{}\"", "y".repeat(100_000)),
                format!("{key} = \"a\\u001b[31m\\nERROR\\u202e\""),
            ]);
            for new in changed {
                let text: Vec<_> =
                    example.lines().enumerate().map(|(number, old)| if number == at { &new } else { old }).collect();
                let Err(error) = Config::parse(&text.join("\n"), &folder, std::iter::empty(), &Overrides::default())
                else {
                    continue;
                };
                refused += 1;
                let name = key.rsplit('.').next().unwrap_or_default().trim_matches('"');
                // What is left without a value may show at the next key only.
                let is_named = error.contains(name) || error.contains("link.") || error.contains("line ");
                assert!(is_named && error.contains(['.', '`']), "{new:.80}\n{error}");
                for word in ["struct ", "enum ", "sequence", "hunter2", "\u{1b}", "\u{202e}", "\n"] {
                    assert!(!error.contains(word), "{word:?} in: {new:.80}\n{error}");
                }
                assert!(error.len() < 2100, "{} bytes: {error:.300}", error.len());
            }
        }
        assert!(refused > 300, "{refused} mistakes");
    }

    #[test]
    fn only_variables_with_two_underscores_are_keys() {
        let foreign = [("ALPHORN_HOME", "x"), ("ALPHORN_LINK_URL", "y"), ("ALPHORN_LANGUAGES", "all"), ("OTHER", "z")];
        let config = parse_with(LINK, &foreign).unwrap();
        let warned = |name: &str| config.warnings.iter().filter(|warning| warning.contains(name)).count();
        assert_eq!((warned("ALPHORN_HOME"), warned("ALPHORN_LINK_URL"), warned("ALPHORN_LANGUAGES")), (1, 1, 0));
        let error = parse_with(LINK, &[("ALPHORN_LINK__KEEP_ALIVE", "soon"), ("ALPHORN_LINK__CLIENT_ID", "a")]);
        let error = error.unwrap_err();
        assert!(error.contains("ALPHORN_LINK__KEEP_ALIVE") && !error.contains("CLIENT_ID"), "{error}");
    }

    #[test]
    fn secrets_do_not_show() {
        let file = std::env::temp_dir().join(format!("alphorn-config-{}", std::process::id()));
        std::fs::write(&file, "hunter2\n").unwrap();
        let config = parse(&format!("password_file = {file:?}")).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config.link.password, Some(Secret(b"hunter2".to_vec())));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
