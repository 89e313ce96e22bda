//! `alphorn dev`: build, run, watch, swap.

#[cfg(feature = "embedded-broker")]
mod broker;
mod project;
mod watch;

use std::convert::Infallible;

use alphorn::{
    config::{Config, Overrides},
    host::{self, Host},
};
use anyhow::anyhow;
use project::Project;
use tracing::{error, info};
use watch::Watch;

use super::run::{end, until_told};
use crate::{
    cli::DevArgs,
    exit::{self, Failure},
    signals::Ending,
};

#[cfg(not(feature = "embedded-broker"))]
use without_broker as broker;

pub(crate) async fn dev(args: DevArgs) -> Result<(), Failure> {
    let mut ending = Ending::new()?;
    let started = tokio::select! {
        started = start(args) => started?,
        _ = ending.next() => return Ok(()),
    };
    let Session { host, projects, watch, broker } = started;
    let told = tokio::select! {
        told = until_told(&host, &mut ending) => told,
        never = open_and_rebuild(&host, projects, watch) => match never {},
    };
    end(&host, &mut ending).await;
    if let Some(broker) = broker {
        broker.end().await;
    }
    told
}

struct Session {
    host: Host,
    projects: Vec<Project>,
    watch: Watch,
    /// None: a real broker is used.
    broker: Option<broker::Broker>,
}

async fn start(args: DevArgs) -> Result<Session, Failure> {
    let mut projects = Vec::new();
    for folder in args.folders {
        projects.push(Project::build(folder).await.map_err(|error| Failure::new(exit::DATA, error))?);
    }
    // From here on, so that a save while things start is not missed.
    let watch = Watch::start(projects.iter().map(|project| project.folder.clone()).collect())?;
    let (mut config, broker) = match (&args.broker, &args.config) {
        (Some(url), Some(file)) => {
            let overrides = Overrides { url: Some(url.clone()), ..Overrides::default() };
            let config = Config::load(file, &overrides).map_err(|error| Failure::new(exit::CONFIG, error))?;
            host::check_files(&config).map_err(|error| Failure::new(exit::CONFIG, error))?;
            (config, None)
        }
        _ => {
            let first = projects.first().ok_or_else(|| Failure::new(exit::USAGE, anyhow!("no folder given")))?;
            let (config, broker) = broker::Broker::start(first).await?;
            (config, Some(broker))
        }
    };
    for project in &projects {
        let plugin = project.plugin(&config.link.client_id).map_err(|error| Failure::new(exit::CONFIG, error))?;
        if config.plugins.insert(project.name.clone(), plugin).is_some() {
            info!("the configuration's plugin `{}` is replaced by {}", project.name, project.folder.display());
        }
    }
    let host = Host::start(config, super::compiler())?;
    Ok(Session { host, projects, watch, broker })
}

/// Once things have started, builds what was saved, and brings it in. What does not build or
/// start leaves the running version alone.
async fn open_and_rebuild(host: &Host, mut projects: Vec<Project>, watch: Watch) -> Infallible {
    host.open().await;
    loop {
        let folders = watch.saved().await;
        for project in projects.iter_mut().filter(|project| folders.contains(&project.folder)) {
            info!("{} was saved: building", project.folder.display());
            match project.rebuild().await {
                Err(error) => error!("{error:#}; the running version goes on"),
                Ok(false) => info!("nothing changed in the component"),
                Ok(true) => {
                    let Some(plugin) = host.plugin(&project.name).await else { continue };
                    match project.plugin(host.client_id()) {
                        // Where it fails, the plugin says why.
                        Ok(config) => drop(plugin.swap_with(config.component.clone(), config).await),
                        Err(error) => error!("{error:#}; the running version goes on"),
                    }
                }
            }
        }
    }
}

/// In place of the broker in a build that has none.
#[cfg(not(feature = "embedded-broker"))]
mod without_broker {
    use alphorn::config::Config;
    use anyhow::anyhow;

    use super::{Failure, Project, exit};

    pub(super) enum Broker {}

    impl Broker {
        #[expect(clippy::unused_async, reason = "the same call as with a broker")]
        pub(super) async fn start(_: &Project) -> Result<(Config, Self), Failure> {
            let error = anyhow!(
                "this build has no broker of its own: use --broker and --config, or build with the feature `embedded-broker`"
            );
            Err(Failure::new(exit::USAGE, error))
        }

        #[expect(clippy::unused_async, reason = "the same call as with a broker")]
        pub(super) async fn end(self) {
            match self {}
        }
    }
}
