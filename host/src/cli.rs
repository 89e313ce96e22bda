//! The command line.

use std::path::PathBuf;

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
    Dev(DevArgs),
    /// Run the plugins of a configuration: the device's daemon.
    Run(RunArgs),
    /// Say whether this device can connect and, if not, why.
    Doctor(DoctorArgs),
    /// Print the messages that match filters.
    Sub(SubArgs),
    /// Publish one message.
    Pub(PubArgs),
    /// Build a plugin's folder to a component.
    Build(BuildArgs),
    /// Say whether a component can run here.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Folders of plugins. What `alphorn.toml` in such a folder says of the plugin holds.
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
    /// The configuration whose [link] is used. Without the file, ALPHORN_LINK__… or --url have to say all.
    #[arg(long, value_name = "FILE", default_value = "alphorn.toml")]
    pub(crate) config: PathBuf,
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

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The plugin's folder.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The component.
    pub(crate) file: PathBuf,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
