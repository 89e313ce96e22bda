//! MQTT over WebSocket: the upgrade, and a byte stream made of binary frames.
//!
//! The request is our own, for the library would write its headers, which may be secret,
//! into the log. Frames are the library's. Packets and frames know nothing of each other
//! (MQTT-6.0.0-2): a packet may span frames, a frame may hold several.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::ProtocolError,
        handshake::{client::generate_key, derive_accept_key},
        http::{HeaderMap, uri::PathAndQuery},
        protocol::{Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::http::{self, Head, NoHead};
use crate::link::wire::Stream;

/// Why the web server did not become a broker.
#[derive(Debug)]
pub enum UpgradeRefusal {
    /// Another status than 101.
    Status {
        /// For instance 403.
        status: u16,
        /// What the server calls it.
        reason: String,
    },
    /// It speaks WebSocket, but not MQTT over it.
    NoMqtt,
    /// It closed the connection in place of an answer.
    Closed,
    /// What it says is no HTTP, or no WebSocket.
    Wrong(String),
}

/// The server closed the WebSocket and said why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server closed the WebSocket with code {code}{}", if .reason.is_empty() { String::new() } else { format!(" ({})", .reason) })]
pub(super) struct Goodbye {
    code: u16,
    reason: String,
}

/// What a frame of ours carries at most.
const FRAME: usize = 64 * 1024;

/// The bytes in binary frames, both ways.
pub(super) struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// Of the last frame, not yet read.
    received: Bytes,
}

/// Why there is no WebSocket: the server's answer, or the stream.
pub(super) enum NoUpgrade {
    Refused(UpgradeRefusal),
    Broken(io::Error),
}

/// Asks for a WebSocket. A frame of the server may be as long as `longest`.
pub(super) async fn upgrade<S: Stream>(
    mut stream: S,
    host: &str,
    path: &PathAndQuery,
    headers: &HeaderMap,
    longest: usize,
) -> Result<WebSocket<S>, NoUpgrade> {
    let key = generate_key();
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: mqtt\r\n"
    )
    .into_bytes();
    for (name, value) in headers {
        request.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    let head = http::ask(&mut stream, &request).await.map_err(|none| match none {
        NoHead::Closed => NoUpgrade::Refused(UpgradeRefusal::Closed),
        NoHead::Broken(cause) => NoUpgrade::Broken(cause),
        NoHead::NotHttp(what) => NoUpgrade::Refused(UpgradeRefusal::Wrong(what)),
    })?;
    agreed(&head, &key).map_err(NoUpgrade::Refused)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(FRAME)
        .write_buffer_size(FRAME)
        .max_write_buffer_size(4 * FRAME)
        .max_frame_size(Some(longest))
        .max_message_size(Some(longest));
    let frames = WebSocketStream::from_partially_read(stream, head.rest, Role::Client, Some(config)).await;
    Ok(WebSocket { frames, received: Bytes::new() })
}

/// What RFC 6455 (section 4.1) wants of the answer.
fn agreed(head: &Head, key: &str) -> Result<(), UpgradeRefusal> {
    if head.status != 101 {
        return Err(UpgradeRefusal::Status { status: head.status, reason: head.reason.clone() });
    }
    if !head.lists("upgrade", "websocket") || !head.lists("connection", "upgrade") {
        return Err(UpgradeRefusal::Wrong("a switch to something else than WebSocket".to_owned()));
    }
    if head.values("sec-websocket-accept").next() != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(UpgradeRefusal::Wrong("an answer to somebody else's request (Sec-WebSocket-Accept)".to_owned()));
    }
    if head.values("sec-websocket-extensions").next().is_some() {
        return Err(UpgradeRefusal::Wrong("an extension of WebSocket nobody asked for".to_owned()));
    }
    if !head.lists("sec-websocket-protocol", "mqtt") {
        return Err(UpgradeRefusal::NoMqtt);
    }
    Ok(())
}

impl<S: Stream> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.received.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.received = bytes,
                // The library has the answer to a ping ready, and sends it with the next read.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    // So is our half of the goodbye. The server's wait for it is the server's affair.
                    let _ = Pin::new(&mut self.frames).poll_flush(cx);
                    let said = frame.map(|frame| Goodbye { code: frame.code.into(), reason: frame.reason.to_string() });
                    let orderly = [CloseCode::Normal, CloseCode::Away].map(u16::from);
                    return Poll::Ready(match said {
                        Some(said) if !orderly.contains(&said.code) => Err(io::Error::other(said)),
                        _ => Ok(()),
                    });
                }
                Some(Ok(Message::Text(_))) => {
                    let cause = "WebSocket: a text frame, where MQTT has to come in binary ones";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, cause)));
                }
                // As at the end of TCP, it is for the broker to say goodbye, not for the stream.
                Some(Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = self.received.len().min(room.remaining());
        room.put_slice(self.received.get(..count).unwrap_or_default());
        self.received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(broken)?;
        let frame = bytes.get(..FRAME).unwrap_or(bytes);
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        Pin::new(&mut self.frames).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.frames).poll_close(cx)).map_err(broken)?;
        Pin::new(self.frames.get_mut()).poll_shutdown(cx)
    }
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(cause) => cause,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {error}")),
    }
}

impl UpgradeRefusal {
    /// What happened.
    pub fn cause(&self) -> String {
        match self {
            Self::Status { status, reason } => {
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                // The one that looks like success.
                let instead = if (200..=299).contains(status) { " instead of 101" } else { "" };
                format!("the server answered the request for a WebSocket with status {status}{reason}{instead}")
            }
            Self::NoMqtt => "the server speaks WebSocket at this path, but not MQTT over it (it did not pick the \
                             subprotocol `mqtt`)"
                .to_owned(),
            Self::Closed => {
                "the server closed the connection in place of an answer to the request for a WebSocket".to_owned()
            }
            Self::Wrong(what) => format!("the server does not speak WebSocket on this port, but sent {what}"),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Status { status, .. } => match status {
                401 | 403 => {
                    "it does not let this device in; check what `link.headers`, user name or certificate say to its authorizer, and the policy"
                }
                404 | 405 => "there is no WebSocket at this path; check the path in `url`",
                300..=399 => "it points elsewhere, which is not followed; set `url` to where it points",
                400 | 426 => {
                    "it does not take this for a request for MQTT over WebSocket; check scheme, port and path in `url`"
                }
                429 => "it is asked too often",
                500..=599 => "the web server works, what is behind it does not",
                _ => "check host, port and path in `url`",
            },
            Self::NoMqtt => "check the path in `url`",
            Self::Closed | Self::Wrong(_) => "check scheme and port in `url`",
        }
    }
}

impl fmt::Display for UpgradeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause(), self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
        time::timeout,
    };
    use tokio_tungstenite::tungstenite::{
        handshake::server::{Request, Response},
        http::HeaderValue,
        protocol::{
            CloseFrame,
            frame::Frame,
            frame::coding::{Data, OpCode},
        },
    };

    use super::*;

    type Server = WebSocketStream<DuplexStream>;

    /// Both ends of a WebSocket; the server saw the headers.
    async fn pair(longest: usize) -> (WebSocket<DuplexStream>, Server) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
        let path = PathAndQuery::from_static("/mqtt?a=b");
        #[expect(clippy::result_large_err, reason = "the library's type")]
        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().to_string(), "/mqtt?a=b");
            assert_eq!(request.headers()["host"], "a.example");
            assert_eq!(request.headers()["authorization"], "Bearer secret");
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
            Ok(response)
        };
        let server = tokio_tungstenite::accept_hdr_async(theirs, check);
        let (client, server) = tokio::join!(upgrade(ours, "a.example", &path, &headers, longest), server);
        (client.map_err(|_| ()).unwrap(), server.unwrap())
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), future).await.unwrap()
    }

    #[tokio::test]
    async fn bytes_travel_whatever_the_frames_are() {
        let (mut client, mut server) = pair(1024).await;
        let fragment =
            |bytes: &'static [u8], code, last| Message::Frame(Frame::message(bytes, OpCode::Data(code), last));
        for message in [
            Message::binary(&b"ab"[..]),
            Message::binary(&b""[..]),
            Message::Ping(Bytes::from_static(b"there?")),
            fragment(b"c", Data::Binary, false),
            fragment(b"de", Data::Continue, true),
            Message::binary(&b"f"[..]),
        ] {
            server.send(message).await.unwrap();
        }
        let mut read = [0; 6];
        soon(client.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, b"abcdef");
        let sent: Vec<u8> = (0..=255).cycle().take(3 * FRAME).collect();
        let receive = async {
            let (mut received, mut ponged) = (Vec::new(), false);
            while received.len() < 3 * FRAME {
                match server.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => received.extend_from_slice(&bytes),
                    Message::Pong(bytes) => ponged = bytes == "there?",
                    other => panic!("{other:?}"),
                }
            }
            (received, ponged)
        };
        let send = async {
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
        };
        let ((received, ponged), ()) = soon(async { tokio::join!(receive, send) }).await;
        assert!(received == sent && ponged);
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_on_its_length() {
        let (mut client, mut server) = pair(1024).await;
        let (read, _) = tokio::join!(client.read_u8(), server.send(Message::binary(vec![0; 1025])));
        assert!(read.unwrap_err().to_string().contains("WebSocket: "));
    }

    #[tokio::test]
    async fn a_text_frame_is_refused() {
        let (mut client, mut server) = pair(1024).await;
        server.send(Message::text("hello")).await.unwrap();
        assert!(soon(client.read_u8()).await.unwrap_err().to_string().contains("text frame"));
    }

    #[tokio::test]
    async fn a_goodbye_is_answered_and_its_reason_kept() {
        for (code, reason) in [(1000_u16, "bye"), (1008, "policy")] {
            let (mut client, mut server) = pair(1024).await;
            let frame = CloseFrame { code: code.into(), reason: reason.into() };
            server.send(Message::Close(Some(frame))).await.unwrap();
            let mut end = Vec::new();
            let read = soon(client.read_to_end(&mut end)).await;
            match read {
                Ok(count) => assert_eq!((count, code), (0, 1000)),
                Err(error) => assert_eq!((error.to_string().contains("1008 (policy)"), code), (true, 1008)),
            }
            assert!(matches!(soon(server.next()).await, Some(Ok(Message::Close(_)))));
        }
    }

    #[tokio::test]
    async fn our_end_is_a_goodbye() {
        let (mut client, mut server) = pair(1024).await;
        client.write_all(b"last").await.unwrap();
        soon(client.shutdown()).await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), Message::binary(&b"last"[..]));
        assert!(matches!(server.next().await, Some(Ok(Message::Close(_)))));
    }

    #[tokio::test]
    async fn each_answer_that_is_no_websocket_has_its_words() {
        for (answer, expected) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "status 403 (Forbidden): it does not let this device in"),
            ("HTTP/1.1 401\r\n\r\n", "status 401: it does not let this device in"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "status 404 (Not Found): there is no WebSocket at this path"),
            ("HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n", "points elsewhere"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "what is behind it does not"),
            ("HTTP/1.1 200 OK\r\n\r\n", "status 200 (OK) instead of 101"),
            ("HTTP/1.1 101 Switching\r\n\r\n", "something else than WebSocket"),
            ("HTTP/1.1 101 S\r\nUpgrade: WebSocket\r\nConnection: a, Upgrade\r\n\r\n", "somebody else's request"),
            ("\x20\x02\x00\x00", "does not speak WebSocket on this port"),
            ("", "closed the connection in place of an answer"),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let server = async {
                let mut request = [0; 4096];
                let _ = theirs.read(&mut request).await;
                theirs.write_all(answer.as_bytes()).await.unwrap();
                theirs.shutdown().await.unwrap();
                theirs
            };
            let path = PathAndQuery::from_static("/");
            let headers = HeaderMap::new();
            let (result, _theirs) = tokio::join!(upgrade(ours, "a", &path, &headers, 1), server);
            let Err(NoUpgrade::Refused(refusal)) = result else { panic!("{answer}") };
            assert!(refusal.to_string().contains(expected), "{refusal}");
        }
    }

    #[test]
    fn without_the_subprotocol_there_is_no_mqtt() {
        let key = generate_key();
        let accept = derive_accept_key(key.as_bytes());
        let answer = |protocol: &str| {
            format!(
                "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
            )
        };
        let agreed = |protocol| agreed(&http::parse(answer(protocol).as_bytes()).unwrap().unwrap(), &key);
        assert!(agreed("Sec-WebSocket-Protocol: mqtt\r\n").is_ok());
        assert!(matches!(agreed(""), Err(UpgradeRefusal::NoMqtt)));
        assert!(matches!(agreed("Sec-WebSocket-Protocol: mqttv3.1\r\n"), Err(UpgradeRefusal::NoMqtt)));
    }
}
