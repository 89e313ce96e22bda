//! An HTTP proxy that really speaks CONNECT, in all its moods.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Context as _, Result, ensure, seen::Seen};

/// What the proxy does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Mood {
    /// It opens the way.
    Open,
    /// It opens the way, and says so byte by byte.
    Slow,
    /// It opens the way to whoever sends this in `Proxy-Authorization`.
    Wants(&'static str),
    /// It answers with this and opens nothing.
    Says(&'static str),
    /// It answers nothing.
    Silent,
    /// It closes the connection.
    Closes,
}

/// A running proxy; it ends when it is dropped.
pub(crate) struct Proxy {
    addr: SocketAddr,
    requests: Seen<String>,
    _running: AbortOnDropHandle<()>,
}

/// Names that only the proxy knows.
type Names = HashMap<String, SocketAddr>;

impl Proxy {
    /// It knows the name `broker.invalid`, which nobody else does, as this address; other
    /// targets have to be addresses.
    pub(crate) async fn start(mood: Mood, broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let requests = Seen::new();
        let names: Arc<Names> = Arc::new([("broker.invalid".to_owned(), broker)].into());
        let seen = requests.clone();
        let running = async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, mood.clone(), names.clone(), seen.clone()));
            }
        };
        Ok(Self { addr, requests, _running: AbortOnDropHandle::new(tokio::spawn(running)) })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        self.url_with("")
    }

    /// Its URL with `user:password@`.
    pub(crate) fn url_with(&self, login: &str) -> String {
        format!("http://{login}{}", self.addr)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The first lines of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.look(<[String]>::to_vec)
    }
}

async fn serve(client: TcpStream, mood: Mood, names: Arc<Names>, seen: Seen<String>) -> Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(client.read_line(&mut line).await? > 0, "the client left");
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let request = lines.first().context("no request")?.clone();
    seen.push(request.clone());
    let granted = "HTTP/1.1 200 Connection established\r\nVia: the tests\r\n\r\n";
    match mood {
        Mood::Open => client.write_all(granted.as_bytes()).await?,
        Mood::Slow => {
            for byte in granted.as_bytes() {
                client.write_all(&[*byte]).await?;
                tokio::task::yield_now().await;
            }
        }
        Mood::Wants(login) => {
            if !lines.contains(&format!("Proxy-Authorization: {login}")) {
                let answer = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                              Proxy-Authenticate: Basic realm=\"the tests\"\r\nContent-Length: 0\r\n\r\n";
                client.write_all(answer.as_bytes()).await?;
                return Ok(());
            }
            client.write_all(granted.as_bytes()).await?;
        }
        Mood::Says(answer) => {
            client.write_all(answer.as_bytes()).await?;
            client.shutdown().await?;
            return Ok(());
        }
        Mood::Silent => std::future::pending().await,
        Mood::Closes => return Ok(()),
    }
    let target = request.split(' ').nth(1).context("no target")?;
    let (name, _) = target.rsplit_once(':').context("no port")?;
    let addr = match names.get(name) {
        Some(addr) => *addr,
        None => target.parse().with_context(|| format!("the proxy does not know {target}"))?,
    };
    let mut broker = TcpStream::connect(addr).await?;
    broker.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut broker).await?;
    Ok(())
}
