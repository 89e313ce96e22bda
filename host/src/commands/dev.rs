//! `alphorn dev`: build, run, watch, swap.

#[cfg(feature = "embedded-broker")]
mod broker;
mod project;
mod sources;
mod watch;

use std::{convert::Infallible, fs, path::PathBuf, sync::Arc};

use alphorn::{
    config::{Config, Overrides},
    control::{
        Control, Serving,
        dev_host::{DevHost, Notice},
    },
    host::{self, Host},
    recent::Recent,
};
use anyhow::{Context, anyhow};
use project::Project;
use tempfile::TempDir;
use tracing::{error, info, warn};
use watch::Watch;

use super::run::{end, until_told};
use crate::{
    cli::DevArgs,
    exit::{self, Failure},
    signals::Ending,
};

#[cfg(not(feature = "embedded-broker"))]
use without_broker as broker;

pub(crate) async fn dev(args: DevArgs, recent: Recent) -> Result<(), Failure> {
    let mut ending = Ending::new()?;
    let started = tokio::select! {
        started = start(args, recent) => started?,
        _ = ending.next() => return Ok(()),
    };
    let Session { host, projects, watch, broker, asked, folder } = started;
    let told = tokio::select! {
        told = until_told(&host, &mut ending) => told,
        never = open_and_rebuild(&host, projects, watch) => match never {},
    };
    drop(asked);
    end(&host, &mut ending).await;
    if let Some(broker) = broker {
        broker.end().await;
    }
    drop(folder);
    told
}

struct Session {
    host: Arc<Host>,
    projects: Vec<Project>,
    watch: Watch,
    /// None: a real broker is used.
    broker: Option<broker::Broker>,
    /// The socket, and the note that says where it is. None: it can't be had.
    asked: Option<(Serving, Option<Notice>)>,
    /// What lasts as long as the session.
    folder: TempDir,
}

async fn start(args: DevArgs, recent: Recent) -> Result<Session, Failure> {
    let mut projects = Vec::new();
    for folder in args.folders {
        projects.push(Project::build(folder).await.map_err(|error| Failure::new(exit::DATA, error))?);
    }
    // From here on, so that a save while things start is not missed.
    let watch = Watch::start(projects.iter().map(|project| project.sources.clone()).collect())?;
    let folder = tempfile::tempdir().context("no temporary folder for what lasts as long as this session")?;
    let socket = folder.path().join("alphorn.sock");
    let folders = projects.iter().map(|project| project.sources.folder().to_owned()).collect();
    let (mut config, broker, client) = match (&args.broker, &args.config) {
        (Some(url), Some(file)) => {
            let overrides = Overrides { url: Some(url.clone()), ..Overrides::default() };
            let config = Config::load(file, &overrides).map_err(|error| Failure::new(exit::CONFIG, error))?;
            host::check_files(&config).map_err(|error| Failure::new(exit::CONFIG, error))?;
            let file = fs::canonicalize(file).with_context(|| format!("can't find {}", file.display()))?;
            (config, None, DevHost { socket: socket.clone(), config: file, url: Some(url.clone()), folders })
        }
        _ => {
            let first = projects.first().ok_or_else(|| Failure::new(exit::USAGE, anyhow!("no folder given")))?;
            let (config, broker) = broker::Broker::start(first, folder.path()).await?;
            let client = broker.client(&config, &socket, folder.path())?;
            (config, Some(broker), DevHost { socket: socket.clone(), config: client, url: None, folders })
        }
    };
    for project in &projects {
        let plugin = project.plugin(&config.link.client_id).map_err(|error| Failure::new(exit::CONFIG, error))?;
        if config.plugins.insert(project.name.clone(), plugin).is_some() {
            info!("the configuration's plugin `{}` is replaced by {}", project.name, project.sources.path().display());
        }
    }
    let host = Arc::new(Host::start(config, super::compiler())?);
    let asked = answer(host.clone(), recent, socket, &client).await;
    Ok(Session { host, projects, watch, broker, asked, folder })
}

/// Opens the socket, and leaves word where it is. A session does without, if it has to.
async fn answer(host: Arc<Host>, recent: Recent, path: PathBuf, client: &DevHost) -> Option<(Serving, Option<Notice>)> {
    let socket = Control::bind(&path).await.inspect_err(|error| warn!("{error}; `alphorn ps` and the like won't work"));
    let serving = socket.ok()?.serve(host, recent);
    let notice = client.leave_word().inspect_err(|error| {
        warn!("no word can be left for other terminals ({error}); there, give --config {}", client.config.display());
    });
    if notice.is_ok() {
        info!("from another terminal: alphorn ps, alphorn logs -f, alphorn pub TOPIC PAYLOAD");
    }
    Some((serving, notice.ok()))
}

/// Once things have started, builds what was saved, and brings it in. What does not build or
/// start leaves the running version alone.
async fn open_and_rebuild(host: &Host, mut projects: Vec<Project>, mut watch: Watch) -> Infallible {
    host.open().await;
    loop {
        let places = watch.saved().await;
        for (_, project) in projects.iter_mut().enumerate().filter(|(place, _)| places.contains(place)) {
            info!("{} was saved", project.sources.path().display());
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
    use std::path::{Path, PathBuf};

    use alphorn::config::Config;
    use anyhow::anyhow;

    use super::{Failure, Project, exit};

    pub(super) enum Broker {}

    impl Broker {
        #[expect(clippy::unused_async, reason = "the same call as with a broker")]
        pub(super) async fn start(_: &Project, _: &Path) -> Result<(Config, Self), Failure> {
            let error = anyhow!(
                "this build has no broker of its own: use --broker and --config, or build with the feature `embedded-broker`"
            );
            Err(Failure::new(exit::USAGE, error))
        }

        pub(super) fn client(&self, _: &Config, _: &Path, _: &Path) -> anyhow::Result<PathBuf> {
            match *self {}
        }

        #[expect(clippy::unused_async, reason = "the same call as with a broker")]
        pub(super) async fn end(self) {
            match self {}
        }
    }
}
