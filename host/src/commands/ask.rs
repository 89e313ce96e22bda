//! Asking the running host.

use std::path::{Path, PathBuf};

use alphorn::{
    config::{Config, Overrides},
    control::{
        Connection,
        dev_host::DevHost,
        places::{self, Place, SYSTEM_CONFIG, Viewpoint},
        protocol::{self, Answer, Request},
    },
};
use anyhow::anyhow;

use crate::{
    cli::HostArgs,
    exit::{self, Failure},
};

/// Where the running host may be, the likeliest first.
fn places(args: &HostArgs) -> Vec<Place> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let dev = dev_host();
    let from = Viewpoint {
        is_root: rustix::process::geteuid().is_root(),
        runtime_dir: runtime_dir.as_deref(),
        has_own_config: Path::new(places::OWN_CONFIG).exists(),
        dev_socket: dev.as_ref().map(|dev| dev.socket.as_path()),
    };
    places::places(args.socket.as_deref(), args.config.as_deref(), from)
}

/// The `alphorn dev` that a command means which names nothing: in a folder with a configuration only
/// one that runs this folder.
pub(super) fn dev_host() -> Option<DevHost> {
    let dev = DevHost::running()?;
    let here = std::env::current_dir().and_then(|folder| folder.canonicalize());
    let is_meant = !Path::new(places::OWN_CONFIG).exists() || here.is_ok_and(|here| dev.folders.contains(&here));
    is_meant.then_some(dev)
}

/// The configuration that says what would be, where no host runs.
pub(super) fn configuration(args: &HostArgs) -> Option<PathBuf> {
    places(args).into_iter().find_map(|place| match place {
        Place::Config(path) if path.exists() => Some(path),
        _ => None,
    })
}

/// Connects to the first host that is found.
pub(super) async fn connect(args: &HostArgs) -> Result<Connection, Failure> {
    let mut tried: Option<Failure> = None;
    for place in places(args) {
        match open(&place).await {
            Ok(Some(connection)) => return Ok(connection),
            Ok(None) => {}
            // There is one, and it is not this user's: that says more than that there is none elsewhere.
            Err(failure) if failure.code() == exit::NO_PERMISSION => tried = Some(failure),
            // The likeliest place says best what is wrong.
            Err(failure) => tried = tried.or(Some(failure)),
        }
    }
    Err(tried.unwrap_or_else(|| Failure::new(exit::UNAVAILABLE, anyhow!("there is no place to look for a host at"))))
}

/// None: there is nothing at this place.
async fn open(place: &Place) -> Result<Option<Connection>, Failure> {
    let socket = match place {
        Place::Socket(path) => path.clone(),
        Place::Config(path) if path == Path::new(SYSTEM_CONFIG) && !path.exists() => return Ok(None),
        Place::Config(path) => {
            let config = Config::load(path, &Overrides::default());
            config.map_err(|error| Failure::new(exit::CONFIG, error))?.socket.path
        }
    };
    Connection::open(&socket)
        .await
        .map(Some)
        .map_err(|error| Failure::new(if error.is_denied() { exit::NO_PERMISSION } else { exit::UNAVAILABLE }, error))
}

/// Asks once.
pub(super) async fn ask(args: &HostArgs, request: &Request) -> Result<Answer, Failure> {
    let answer = connect(args).await?.ask(request).await;
    checked(answer.map_err(|error| Failure::new(exit::UNAVAILABLE, error))?)
}

/// A failure at the other end is one here.
pub(super) fn checked(answer: Answer) -> Result<Answer, Failure> {
    let Answer::Failed { kind, text } = answer else { return Ok(answer) };
    let code = match kind {
        protocol::Failure::Usage => exit::USAGE,
        protocol::Failure::Data => exit::DATA,
        protocol::Failure::Unavailable => exit::UNAVAILABLE,
    };
    Err(Failure::new(code, anyhow!(text)))
}

/// The host speaks of something else.
pub(super) fn unexpected() -> Failure {
    Failure::new(exit::SOFTWARE, anyhow!("the host gave an answer to another question; is it of the same version?"))
}
