//! A web server before a broker: it takes WebSockets and cuts frames at odd places.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Message,
        handshake::server::{Request, Response},
        http::HeaderValue,
        protocol::CloseFrame,
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::{Context as _, Result, seen::Seen};

/// What the server does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Service {
    /// It passes on to the broker.
    Broker,
    /// It takes the WebSocket, and closes it with this code and reason when something comes.
    Closes(u16, &'static str),
    /// It answers with this.
    Says(&'static str),
}

/// A running server; it ends when it is dropped.
pub(crate) struct Web {
    addr: SocketAddr,
    requests: Seen<String>,
    pongs: Seen<()>,
    _running: AbortOnDropHandle<()>,
}

impl Web {
    pub(crate) async fn start(service: Service, broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (requests, pongs) = (Seen::new(), Seen::new());
        let seen = (requests.clone(), pongs.clone());
        let running = async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, service, broker, seen.clone()));
            }
        };
        Ok(Self { addr, requests, pongs, _running: AbortOnDropHandle::new(tokio::spawn(running)) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was asked for: the path, and the headers a line each.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.look(<[String]>::to_vec)
    }

    /// Waits until a ping was answered.
    pub(crate) async fn pong(&self) -> Result<()> {
        self.pongs.wait_for("an answer to a ping", |pongs| pongs.first().copied()).await
    }
}

async fn serve(
    mut client: TcpStream,
    service: Service,
    broker: SocketAddr,
    (requests, pongs): (Seen<String>, Seen<()>),
) -> Result<()> {
    client.set_nodelay(true)?;
    if let Service::Says(answer) = service {
        let mut request = [0; 4096];
        let count = client.read(&mut request).await?;
        requests.push(String::from_utf8_lossy(request.get(..count).context("count")?).into_owned());
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await?;
        // To close with something unread would be a reset.
        while client.read(&mut request).await? > 0 {}
        return Ok(());
    }
    #[expect(clippy::result_large_err, reason = "the library's type")]
    let note = |request: &Request, mut response: Response| {
        let headers = request.headers().iter().map(|(name, value)| format!("{name}: {value:?}"));
        requests.push([request.uri().to_string()].into_iter().chain(headers).collect::<Vec<_>>().join("\n"));
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(client, note).await?;
    if let Service::Closes(code, reason) = service {
        socket.next().await.context("nothing came")??;
        socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await?;
        while socket.next().await.is_some() {}
        return Ok(());
    }
    let broker = TcpStream::connect(broker).await?;
    broker.set_nodelay(true)?;
    let (from_broker, to_broker) = broker.into_split();
    let (to_client, from_client) = socket.split();
    tokio::select! {
        passed = outbound(from_broker, to_client) => passed,
        passed = inbound(from_client, to_broker, pongs) => passed,
    }
}

/// In frames of 1, 2, 3, 5, 8… bytes, which end wherever, with a ping before each sort.
async fn outbound(mut broker: OwnedReadHalf, mut client: SplitSink<WebSocketStream<TcpStream>, Message>) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = broker.read(&mut buffer).await?;
        let mut rest = Bytes::copy_from_slice(buffer.get(..count).context("count")?);
        if count == 0 {
            client.close().await?;
            return Ok(());
        }
        client.feed(Message::Ping(Bytes::from_static(b"there?"))).await?;
        let (mut this, mut next) = (1, 2);
        while !rest.is_empty() {
            let frame = rest.split_to(this.min(rest.len()));
            client.feed(Message::Binary(frame)).await?;
            (this, next) = (next, this + next);
        }
        client.flush().await?;
    }
}

async fn inbound(
    mut client: SplitStream<WebSocketStream<TcpStream>>,
    mut broker: OwnedWriteHalf,
    pongs: Seen<()>,
) -> Result<()> {
    while let Some(message) = client.next().await {
        match message? {
            Message::Binary(bytes) => broker.write_all(&bytes).await?,
            Message::Pong(_) => pongs.push(()),
            Message::Close(_) => break,
            other => anyhow::bail!("{other:?} from the client"),
        }
    }
    Ok(())
}
