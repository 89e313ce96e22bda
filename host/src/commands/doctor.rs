//! `alphorn doctor`: the checks of the library on stdout, and an exit code for scripts.

use alphorn::{
    config::{Config, Overrides},
    doctor::{self, Fault, Options, TestTopic},
};
use anyhow::{Context, anyhow};

use super::print;
use crate::{
    cli::DoctorArgs,
    exit::{self, Failure},
};

pub(crate) async fn doctor(args: DoctorArgs) -> Result<(), Failure> {
    let topic = args.topic.map(|text| {
        TestTopic::parse(&text).map_err(|cause| Failure::new(exit::USAGE, anyhow!("`{text}` is no topic: {cause}")))
    });
    let options = Options { config: args.config, client_id: args.client_id, topic: topic.transpose()? };
    // Whoever says all in the environment needs no file.
    let config = if options.config.exists() || std::env::var_os("ALPHORN_LINK__URL").is_none() {
        Config::load(&options.config, &Overrides::default())
    } else {
        Config::without_file(&Overrides::default())
    };
    let report = doctor::examine(config, &options).await;
    let printed = match args.json {
        true => print::json(&report.json()),
        // It has escaped what is a stranger's, and holds colours.
        false => print::composed(report.table(super::colour(&std::io::stdout())).trim_end()),
    };
    printed.context("stdout is closed")?;
    match report.fault() {
        None => Ok(()),
        Some(Fault::Configuration) => Err(Failure::said(exit::CONFIG)),
        Some(Fault::Broker) => Err(Failure::said(exit::UNAVAILABLE)),
        Some(Fault::NotPermitted) => Err(Failure::said(exit::NO_PERMISSION)),
    }
}
