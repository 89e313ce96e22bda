//! The other end of the socket, for commands.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::protocol::{Answer, Request};

/// A connection to the running host.
#[derive(Debug)]
pub struct Connection {
    answers: Lines<BufReader<OwnedReadHalf>>,
    requests: OwnedWriteHalf,
    path: PathBuf,
}

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no host answers at {} ({cause}): start one with `alphorn run`, or name its socket with --socket or its configuration with --config", path.display())]
pub struct NoHost {
    path: PathBuf,
    cause: io::Error,
}

impl NoHost {
    /// There is one, which is another user's.
    pub fn is_denied(&self) -> bool {
        self.cause.kind() == io::ErrorKind::PermissionDenied
    }
}

impl Connection {
    /// Connects to the host behind the socket.
    pub async fn open(path: &Path) -> Result<Self, NoHost> {
        let stream = UnixStream::connect(path).await.map_err(|cause| NoHost { path: path.to_owned(), cause })?;
        let (reader, requests) = stream.into_split();
        Ok(Self { answers: BufReader::new(reader).lines(), requests, path: path.to_owned() })
    }

    /// Asks, and waits for the first answer.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer, NoHost> {
        let ended = |path: &Path, cause| NoHost { path: path.to_owned(), cause };
        let mut line = serde_json::to_vec(request).map_err(|cause| ended(&self.path, cause.into()))?;
        line.push(b'\n');
        self.requests.write_all(&line).await.map_err(|cause| ended(&self.path, cause))?;
        self.next().await
    }

    /// The next answer.
    pub async fn next(&mut self) -> Result<Answer, NoHost> {
        let line =
            self.answers.next_line().await.and_then(|line| line.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        line.and_then(|line| Ok(serde_json::from_str(&line)?))
            .map_err(|cause| NoHost { path: self.path.clone(), cause })
    }
}
