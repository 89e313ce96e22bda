//! The running host's local socket: a Unix socket that its own user alone may open.
//!
//! A client sends one request a line and gets answers; see [`protocol`]. Each connection is
//! a task of its own, and one that hangs or talks nonsense is cut off without hurting others.

mod answers;
mod client;
pub mod dev_host;
pub mod places;
pub mod protocol;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast::error::RecvError},
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

use self::protocol::{Answer, Failure, Request};
pub use self::{
    answers::explain,
    client::{Connection, NoHost},
};
use crate::{host::Host, recent::Recent};

/// The longest request.
const LONGEST: u64 = 64 * 1024;

/// Clients at a time; more wait.
const CLIENTS: usize = 16;

/// How long a client may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long another host may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(2);

/// The longest path a Unix socket can have (`sun_path` in unix(7), without the NUL).
pub const LONGEST_PATH: usize = 107;

/// The socket, not yet served.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is, so that another host's is not removed.
    inode: u64,
}

/// The socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody answers there.
    #[error("{} is another host's socket, which answers: give each its own `host.socket`", .0.display())]
    InUse(PathBuf),
    /// The system refuses it.
    #[error("can't make the socket {}: {cause}; set `host.socket` to a path this user may write to", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Somebody is there who says something. A host that was killed may leave its socket open for a
/// moment in a child that is just being made: that one says nothing.
fn answers(path: &Path) -> bool {
    let ask = || {
        let mut stream = StdStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        // No request, which any host says of it.
        stream.write_all(b"\n")?;
        stream.read(&mut [0; 1])
    };
    ask().is_ok_and(|read| read > 0)
}

impl Control {
    /// Makes the socket. One that nobody answers at is replaced.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        if answers(path) {
            return Err(ControlError::InUse(path.to_owned()));
        }
        let refused = |cause| ControlError::Refused { path: path.to_owned(), cause };
        // Under another name first: it must not be there with wider rights for one moment.
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(refused)?;
        let renamed = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| fs::symlink_metadata(path));
        match renamed {
            Ok(metadata) => Ok(Self { listener, path: path.to_owned(), inode: metadata.ino() }),
            Err(cause) => {
                let _ = fs::remove_file(&temporary);
                Err(refused(cause))
            }
        }
    }

    /// Answers until what this returns is dropped.
    pub fn serve(self, host: Arc<Host>, recent: Recent) -> Serving {
        let Self { listener, path, inode } = self;
        let clients = Arc::new(Semaphore::new(CLIENTS));
        let task = tokio::spawn(async move {
            loop {
                let Ok(permit) = clients.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (host, recent) = (host.clone(), recent.clone());
                        tokio::spawn(async move {
                            if let Err(error) = converse(stream, &host, &recent).await {
                                debug!("a client of the socket: {error}");
                            }
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        warn!("the socket does not take clients: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Serving { task, path, inode }
    }
}

/// The socket is served while this lives, and goes with it.
#[derive(Debug)]
pub struct Serving {
    task: JoinHandle<()>,
    path: PathBuf,
    inode: u64,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn converse(stream: UnixStream, host: &Host, recent: &Recent) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        if (&mut reader).take(LONGEST).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n");
        match serde_json::from_slice(&line) {
            Ok(Request::Logs { name, lines, follow }) if is_whole => {
                let gone = async { reader.read_u8().await.err() };
                tokio::select! {
                    sent = send_log(&mut writer, recent, name.as_deref(), lines, follow) => sent?,
                    _ = gone => return Ok(()),
                }
            }
            Ok(request) if is_whole => {
                let answer = answers::answer(host, request).await;
                send(&mut writer, &answer).await?;
            }
            parsed => {
                let cause = parsed.err().map_or_else(|| "it is too long".to_owned(), |error| error.to_string());
                let text = format!("not a request: {cause}");
                return send(&mut writer, &Answer::Failed { kind: Failure::Usage, text }).await;
            }
        }
    }
}

async fn send_log(
    writer: &mut (impl AsyncWriteExt + Unpin),
    recent: &Recent,
    name: Option<&str>,
    lines: usize,
    follow: bool,
) -> io::Result<()> {
    let (past, mut to_come) = recent.look();
    let past: Vec<_> = past.into_iter().filter(|line| is_of(line, name)).collect();
    for line in past.iter().skip(past.len().saturating_sub(lines)) {
        send(writer, &Answer::Line { text: line.to_string() }).await?;
    }
    if !follow {
        return send(writer, &Answer::Done { count: 0 }).await;
    }
    loop {
        let text = match to_come.recv().await {
            Ok(line) if is_of(&line, name) => line.to_string(),
            Ok(_) => continue,
            Err(RecvError::Lagged(missed)) => format!("({missed} lines were left out: they came too fast)"),
            Err(RecvError::Closed) => return send(writer, &Answer::Done { count: 0 }).await,
        };
        send(writer, &Answer::Line { text }).await?;
    }
}

/// A line is a plugin's if it was logged within the plugin's span.
fn is_of(line: &str, name: Option<&str>) -> bool {
    name.is_none_or(|name| line.contains(&format!("plugin{{name={name}}}")))
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_users_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = Control::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let answer = async {
            let (mut stream, _) = first.listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"yes?\n").await.unwrap();
        };
        let again = tokio::task::spawn_blocking({
            let path = path.clone();
            move || Control::bind(&path)
        });
        assert!(matches!(tokio::join!(answer, again).1.unwrap(), Err(ControlError::InUse(_))));
        drop(first);
        Control::bind(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let nowhere = Control::bind(&folder.path().join("no/where")).unwrap_err().to_string();
        assert!(nowhere.contains("host.socket"), "{nowhere}");
    }

    #[test]
    fn a_line_belongs_to_the_plugin_whose_span_it_is_in() {
        assert!(is_of("INFO plugin{name=a}: started", Some("a")));
        assert!(!is_of("INFO plugin{name=ab}: started", Some("a")));
        assert!(is_of("INFO link{name=device}: up", None));
    }
}
