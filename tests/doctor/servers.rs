//! What listens where a broker should.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Answer, Do, Event, Message, Packet, Result, Step, kind};

/// A server that ends when it is dropped.
pub(super) struct Server {
    pub(super) port: u16,
    _accepting: AbortOnDropHandle<()>,
}

/// Answers every connection in the same way.
pub(super) async fn answering<F>(answer: fn(TcpStream) -> F) -> Result<Server>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let accepting = async move {
        // Dropped with this task, and with them the connections.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            connections.spawn(answer(tcp));
        }
    };
    Ok(Server { port, _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)) })
}

/// Takes what comes and never says a word.
pub(super) async fn silent(mut tcp: TcpStream) -> std::io::Result<()> {
    let mut ignored = [0; 1024];
    while tcp.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// As web servers answer what they do not understand.
pub(super) async fn http_error(tcp: TcpStream) -> std::io::Result<()> {
    say(tcp, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await
}

async fn say(mut tcp: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut ignored = [0; 1024];
    if tcp.read(&mut ignored).await? == 0 {
        return Ok(());
    }
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await?;
    // To close with unread bytes would destroy the answer.
    while tcp.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// A broker without faults that knows one subscriber: whoever publishes.
pub(super) fn echo(event: &Event) -> Vec<Do> {
    let mut actions = kind(event);
    if let Step::Packet(Packet::Publish(message)) = &event.step {
        let echo = Message { qos: 0, dup: false, packet_id: None, ..message.clone() };
        actions.push(Do::Say(Answer::Publish(echo)));
    }
    actions
}
