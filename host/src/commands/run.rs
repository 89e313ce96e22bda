//! `alphorn run`: the device's daemon.

use alphorn::{
    config::{Config, Overrides, SocketConfig},
    control::{Control, ControlError},
    host::{self, Host},
    recent::Recent,
};
use std::{convert::Infallible, io::ErrorKind, path::Path, sync::Arc};

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::files::Files;
use crate::{
    cli::RunArgs,
    exit::{self, Failure},
    signals::{self, Ending},
};

pub(crate) async fn run(args: RunArgs, recent: Recent) -> Result<(), Failure> {
    let mut ending = Ending::new()?;
    let config =
        Config::load(&args.config, &Overrides::default()).map_err(|error| Failure::new(exit::CONFIG, error))?;
    host::check_files(&config).map_err(|error| Failure::new(exit::CONFIG, error))?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %args.config.display(),
        plugins = config.plugins.keys().map(String::as_str).collect::<Vec<_>>().join(","),
        "alphorn starts"
    );
    let socket = open_socket(&config.socket).await?;
    let host = Arc::new(Host::start(config, super::compiler())?);
    let serving = socket.map(|socket| socket.serve(host.clone(), recent));
    let mut hangup = signals::hangup()?;
    // From here on, so that a file replaced while things start is not missed.
    let files = Files::watch(host.components().await);
    let told = tokio::select! {
        told = until_told(&host, &mut ending) => told,
        never = open_and_reload(&host, &args.config, &mut hangup, files) => match never {},
    };
    told?;
    drop(serving);
    end(&host, &mut ending).await;
    Ok(())
}

/// The socket. One that nobody asked for need not be had.
async fn open_socket(config: &SocketConfig) -> Result<Option<Control>, Failure> {
    match Control::bind(&config.path).await {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if !config.is_explicit => {
            warn!("{error}; `alphorn ps` and the like won't work");
            Ok(None)
        }
        Err(error) => {
            let is_denied =
                matches!(&error, ControlError::Refused { cause, .. } if cause.kind() == ErrorKind::PermissionDenied);
            Err(Failure::new(if is_denied { exit::NO_PERMISSION } else { exit::CONFIG }, error))
        }
    }
}

/// Once things have started, SIGHUP reads the configuration again, and a component's file that
/// is replaced takes over.
async fn open_and_reload(host: &Host, path: &Path, hangup: &mut Signal, mut files: Files) -> Infallible {
    host.open().await;
    tell_service_manager(NotifyState::Ready);
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                info!("SIGHUP: reading {} again", path.display());
                tell_service_manager(NotifyState::Reloading);
                match Config::load(path, &Overrides::default()) {
                    Ok(config) => {
                        host.reload(config).await;
                        files = Files::watch(host.components().await);
                        info!("reloaded");
                    }
                    Err(error) => error!("{error}; what is in force goes on"),
                }
                tell_service_manager(NotifyState::Ready);
            }
            () = files.changed() => host.refresh().await,
        }
    }
}

/// Until a signal comes, or the link breaks down.
pub(crate) async fn until_told(host: &Host, ending: &mut Ending) -> Result<(), Failure> {
    tokio::select! {
        signal = ending.next() => {
            info!("{signal}: stopping");
            Ok(())
        }
        () = host.link().ended() => {
            Err(Failure::new(exit::SOFTWARE, anyhow::anyhow!("the link's thread has ended; this is a fault of alphorn")))
        }
    }
}

/// In good order, or at once when told again.
pub(crate) async fn end(host: &Host, ending: &mut Ending) {
    tell_service_manager(NotifyState::Stopping);
    ending.unless_again(host.shutdown()).await;
}

fn tell_service_manager(state: NotifyState<'_>) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("the service manager was not told: {error}");
    }
}
