//! The command line.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Runs sandboxed WebAssembly plugins on an edge device and lends them its one MQTT connection.
#[derive(Debug, Parser)]
#[command(name = "alphorn", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Say more: once for each step, twice for every detail.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say less: once for warnings only, twice for errors only.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build plugins, run them against a broker made on the spot, and swap them in on save.
    #[cfg(feature = "tooling")]
    Dev(DevArgs),
    /// Run the plugins of a configuration: the device's daemon.
    Run(RunArgs),
    /// Say whether this device can connect and, if not, why.
    Doctor(DoctorArgs),
    /// Print the messages that match filters.
    Sub(SubArgs),
    /// Publish one message.
    Pub(PubArgs),
    /// Make a plugin to begin with.
    #[cfg(feature = "tooling")]
    New(NewArgs),
    /// Build a plugin's folder to a component.
    #[cfg(feature = "tooling")]
    Build(BuildArgs),
    /// Make a pair of keys, to sign with and to trust.
    #[cfg(feature = "compiler")]
    Keygen(KeygenArgs),
    /// Say whether a component can run here.
    Check(CheckArgs),
    /// Compile one component, for the host.
    #[cfg(feature = "compiler")]
    #[command(hide = true)]
    CompileComponent(CompileComponentArgs),
    /// List the plugins of the running host.
    Ps(PsArgs),
    /// The same, again and again.
    Top(TopArgs),
    /// Print the running host's log.
    Logs(LogsArgs),
    /// Put another component in place of a plugin's.
    Swap(SwapArgs),
    /// Bring a version of a plugin back, for good.
    Rollback(RollbackArgs),
    /// Stop a plugin; its messages wait for it.
    Stop(NameArgs),
    /// Start a plugin that was stopped or quarantined.
    Start(NameArgs),
    /// Say whether a plugin may publish or subscribe, and why.
    Explain(ExplainArgs),
    /// Messages that plugins could not handle.
    DeadLetters(DeadLettersArgs),
    /// Messages the broker closes the connection over.
    Quarantine(QuarantineArgs),
}

#[cfg(feature = "tooling")]
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Folders of plugins, or finished components (.wasm). What `alphorn.toml` beside it says of a plugin holds.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folders: Vec<PathBuf>,
    /// Use this broker instead of one made on the spot; certificates come from --config.
    #[arg(long, value_name = "URL", requires = "config")]
    pub(crate) broker: Option<String>,
    /// A configuration for the connection to --broker.
    #[arg(long, value_name = "FILE", requires = "broker")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "alphorn.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The configuration. Without the file, ALPHORN_LINK__… have to say all.
    #[arg(long, value_name = "FILE", default_value = "alphorn.toml")]
    pub(crate) config: PathBuf,
    /// Another client id; by default the configuration's, or one of its own while a host runs with that.
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// Where the test message goes [default: alphorn/CLIENT_ID/doctor].
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The connection of `pub` and `sub`.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The configuration whose [link] is used [default: that of a running `alphorn dev`, else alphorn.toml]. Without the file, ALPHORN_LINK__… or --url have to say all.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Another broker than the configuration's.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The client id; by default the configuration's with a suffix, so that a running host is not disconnected.
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// QoS 0 or 1.
    #[arg(long, default_value = "1")]
    pub(crate) qos: QosArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QosArg {
    #[value(name = "0")]
    AtMostOnce,
    #[value(name = "1")]
    AtLeastOnce,
}

#[derive(Debug, Args)]
pub(crate) struct SubArgs {
    /// Topic filters, for instance 'test/#'.
    #[arg(value_name = "FILTER", required = true)]
    pub(crate) filters: Vec<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End with an error when that takes longer, for instance 10s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<std::time::Duration>,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PubArgs {
    /// The topic.
    pub(crate) topic: String,
    /// The payload, as text.
    pub(crate) payload: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Ask the broker to keep the message for later subscribers.
    #[arg(long)]
    pub(crate) retain: bool,
}

#[cfg(feature = "tooling")]
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The folder to make; its name is the plugin's.
    #[arg(value_name = "NAME")]
    pub(crate) folder: PathBuf,
    /// The language it is written in.
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    pub(crate) lang: LanguageArg,
}

#[cfg(feature = "tooling")]
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LanguageArg {
    Rust,
    C,
    #[value(alias = "c++")]
    Cpp,
    #[value(alias = "js")]
    Javascript,
    #[value(alias = "ts")]
    Typescript,
    #[value(alias = "py")]
    Python,
    Go,
    Zig,
}

#[cfg(feature = "tooling")]
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The plugin's folder, or a finished component or core module (.wasm).
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ahead: AheadArgs,
}

/// Compiling ahead of time.
#[cfg(feature = "tooling")]
#[derive(Debug, Args)]
pub(crate) struct AheadArgs {
    /// Compile it to native code, too, for hosts without a compiler or without the time.
    #[arg(long)]
    pub(crate) aot: bool,
    /// What it is to run on, as rustc names it [default: machines like this one].
    #[arg(long, value_name = "TRIPLE", requires = "aot")]
    pub(crate) target: Option<String>,
    /// Sign it with this secret key; no host runs it without.
    #[arg(long, value_name = "FILE", requires = "aot")]
    pub(crate) key: Option<PathBuf>,
    /// A file that holds the key's password [default: asks].
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) password_file: Option<PathBuf>,
    /// Where it goes; the signature lies beside it [default: beside the component, as .cwasm].
    #[arg(short, long, value_name = "FILE", requires = "aot")]
    pub(crate) output: Option<PathBuf>,
}

#[cfg(feature = "compiler")]
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Where the keys go: NAME.key and NAME.pub.
    #[arg(default_value = "alphorn")]
    pub(crate) name: PathBuf,
    /// No password protects the secret key, for scripts.
    #[arg(long)]
    pub(crate) no_password: bool,
    /// A file that holds the password to protect it with [default: asks].
    #[arg(long, value_name = "FILE", conflicts_with = "no_password")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The component; or a compiled one, which has to be signed.
    pub(crate) file: PathBuf,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration: if a plugin of it has this component, `limits.memory` of that holds. For a compiled one, its `[host] trusted_keys` are believed [default: alphorn.toml, if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The memory it may have, like 64MiB, whatever a configuration says.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// For a compiled one: a minisign public key, or its file, to believe as well.
    #[arg(long, value_name = "KEY")]
    pub(crate) trust: Vec<String>,
}

/// Which running host.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Its socket [default: the configuration's].
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Its configuration [default: alphorn.toml if there is one, else /etc/alphorn/alphorn.toml, else the usual sockets].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// The pause between two tables.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) every: std::time::Duration,
    /// End after so many tables.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Of this plugin only.
    pub(crate) name: Option<String>,
    /// Go on with what comes.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// So many of the last lines; the host keeps 1000.
    #[arg(short = 'n', long, default_value = "1000")]
    pub(crate) lines: usize,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SwapArgs {
    /// The plugin.
    pub(crate) name: String,
    /// The component to put in place.
    pub(crate) file: PathBuf,
    /// End when its probation is over: with 0 if it has stood it, else it was rolled back.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The plugin.
    pub(crate) name: String,
    /// Go to this version, which was in force once [default: the newest before this one that was not rolled back].
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<String>,
    /// Say which version it would be, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The plugin.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ActionArg {
    Publish,
    Subscribe,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The plugin.
    pub(crate) name: String,
    /// What it wants to do.
    pub(crate) action: ActionArg,
    /// The topic, or the filter.
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Settle {
    /// Show them.
    List,
    /// Try them once more.
    Retry,
    /// Throw them away.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LettersAction {
    /// List them.
    List,
    /// Show one, and its payload.
    Show,
    /// Try them once more.
    Retry,
    /// Throw them away.
    Drop,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    /// What to do with them.
    #[arg(default_value = "list")]
    pub(crate) action: LettersAction,
    /// Of this plugin only; `show`, `retry` and `drop` need it.
    pub(crate) name: Option<String>,
    /// This one only; `show` needs it where there are several.
    pub(crate) number: Option<u64>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    /// What to do with them; `retry` sends them after all.
    #[arg(default_value = "list")]
    pub(crate) action: Settle,
    /// Of this plugin only.
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "compiler")]
#[derive(Debug, Args)]
pub(crate) struct CompileComponentArgs {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    /// Bytes.
    pub(crate) memory: u64,
    /// CPU time.
    pub(crate) seconds: u64,
}
