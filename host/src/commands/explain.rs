//! `alphorn explain`: whether a plugin may, and why.

use alphorn::{
    config::{Config, Overrides},
    control::{
        self,
        protocol::{Action, Answer, Request},
    },
    escape::shown,
};
use anyhow::{Context, anyhow};

use super::{
    ask::{checked, configuration, connect, unexpected},
    print,
};
use crate::{
    cli::{ActionArg, ExplainArgs},
    exit::{self, Failure},
};

pub(crate) async fn explain(args: ExplainArgs) -> Result<(), Failure> {
    let action = match args.action {
        ActionArg::Publish => Action::Publish,
        ActionArg::Subscribe => Action::Subscribe,
    };
    // What is in force counts; without a host, what would be.
    let answer = match connect(&args.host).await {
        Ok(mut host) => {
            let request = Request::Explain { name: args.name.clone(), action, topic: args.topic.clone() };
            host.ask(&request).await.map_err(|error| Failure::new(exit::UNAVAILABLE, error))?
        }
        Err(no_host) => {
            let Some(file) = configuration(&args.host) else { return Err(no_host) };
            let config = Config::load(&file, &Overrides::default());
            let config = config.map_err(|error| Failure::new(exit::CONFIG, error))?;
            let plugin = config.plugins.get(&args.name);
            let plugin =
                plugin.ok_or_else(|| Failure::new(exit::USAGE, anyhow!("no plugin is called `{}`", args.name)))?;
            control::explain(&plugin.grants, action, &args.topic)
        }
    };
    let Answer::Explained { allowed, why } = checked(answer)? else { return Err(unexpected()) };
    print::line(&format!("{}: {}", if allowed { "yes" } else { "no" }, shown(&why))).context("stdout is closed")?;
    if allowed { Ok(()) } else { Err(Failure::said(exit::NO_PERMISSION)) }
}
