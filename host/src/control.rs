//! The running host's local socket: a Unix socket that its own user alone may open.
//!
//! A client sends one request a line and gets answers; see [`protocol`]. Each connection is
//! a task of its own, and one that hangs or talks nonsense is cut off without hurting others:
//! each read and each write has an end, and so has the number of clients (`clients`).

mod answers;
mod bind;
mod client;
mod clients;
pub mod dev_host;
pub mod places;
pub mod protocol;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    select,
    sync::{Notify, Semaphore, broadcast::error::RecvError},
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

pub use self::{
    answers::explain,
    bind::{ControlError, LONGEST_PATH},
    client::{Connection, NoHost},
};
use self::{
    bind::Claim,
    clients::Work,
    protocol::{Answer, Failure, Request},
};
use crate::{host::Host, recent::Recent};

/// The longest request.
const LONGEST: u64 = 64 * 1024;

/// How long a client may take to send a request, and to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one that was answered may take to begin with another request.
const PAUSE: Duration = Duration::from_secs(300);

/// Requests to say how things are that are answered at a time; the others wait. An answer may be
/// large while it is made.
const ANSWERED: usize = 8;

/// The socket, not yet served.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    claim: Claim,
}

impl Control {
    /// Makes the socket. One that nobody listens at is replaced; anything else there is left alone.
    pub async fn bind(path: &Path) -> Result<Self, ControlError> {
        let (listener, claim) = bind::bind(path).await?;
        Ok(Self { listener, claim })
    }

    /// Answers until what this returns is dropped.
    pub fn serve(self, host: Arc<Host>, recent: Recent) -> Serving {
        let Self { listener, claim } = self;
        let server = Arc::new(Server {
            host,
            recent,
            clients: Mutex::new(clients::Clients::new()),
            answered: Semaphore::new(ANSWERED),
        });
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let server = server.clone();
                        // From here on it has its place, so that they are never more than there are.
                        let idle = Idle::new(&server);
                        tokio::spawn(async move {
                            if let Err(error) = converse(stream, &server, idle).await {
                                debug!("a client of the socket: {error}");
                            }
                        });
                    }
                    Err(error) => {
                        warn!("the socket does not take clients: {error}");
                        // Where files have run out, that gives one back.
                        if let Some(oldest) = server.clients().oldest() {
                            oldest.notify_one();
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Serving { task, _claim: claim }
    }
}

/// The socket is served while this lives, and goes with it.
#[derive(Debug)]
pub struct Serving {
    task: JoinHandle<()>,
    _claim: Claim,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What all connections share.
struct Server {
    host: Arc<Host>,
    recent: Recent,
    clients: Mutex<clients::Clients<Arc<Notify>>>,
    answered: Semaphore,
}

impl Server {
    fn clients(&self) -> MutexGuard<'_, clients::Clients<Arc<Notify>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client without a request, which may have to go.
struct Idle {
    server: Arc<Server>,
    number: u64,
    end: Arc<Notify>,
}

impl Idle {
    fn new(server: &Arc<Server>) -> Self {
        let end = Arc::new(Notify::new());
        let (number, oldest) = server.clients().rests(end.clone());
        if let Some(oldest) = oldest {
            oldest.notify_one();
        }
        Self { server: server.clone(), number, end }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.server.clients().stirs(self.number);
    }
}

/// A place for a request.
struct Served<'a> {
    server: &'a Server,
    work: Work,
}

impl<'a> Served<'a> {
    fn new(server: &'a Server, work: Work) -> Option<Self> {
        server.clients().begins(work).then(|| Self { server, work })
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.server.clients().ends(self.work);
    }
}

/// How a client's request came.
enum Heard {
    Line(Vec<u8>),
    /// It has gone.
    Gone,
    /// It said nothing for so long.
    Silent(Duration),
}

async fn converse(stream: UnixStream, server: &Arc<Server>, idle: Idle) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut idle = Some(idle);
    let mut pause = PATIENCE;
    loop {
        let resting = idle.take().unwrap_or_else(|| Idle::new(server));
        let heard = select! {
            // One whose request has come meanwhile is served.
            biased;
            heard = hear(&mut reader, pause, PATIENCE) => heard?,
            () = resting.end.notified() => {
                refuse_at_once(&writer, "others want to ask, and this one had asked nothing for longest");
                return Ok(());
            }
        };
        drop(resting);
        let line = match heard {
            Heard::Line(line) => line,
            Heard::Gone => return Ok(()),
            Heard::Silent(time) => {
                refuse_at_once(&writer, &format!("no whole request within {}", humantime::format_duration(time)));
                return Ok(());
            }
        };
        let request = match serde_json::from_slice(&line) {
            Ok(request) if line.ends_with(b"\n") => request,
            parsed => {
                let cause = parsed
                    .err()
                    .map_or_else(|| "it is too long".to_owned(), |error: serde_json::Error| error.to_string());
                let text = format!("not a request: {cause}");
                return send(&mut writer, &Answer::Failed { kind: Failure::Usage, text }).await;
            }
        };
        let work = work(&request);
        let Some(_served) = Served::new(server, work) else {
            let text = format!("the host is busy with {} requests of this kind: try again later", work.places());
            return send(&mut writer, &Answer::Failed { kind: Failure::Unavailable, text }).await;
        };
        if let Request::Logs { name, lines, follow } = request {
            let gone = async { reader.read_u8().await.err() };
            select! {
                sent = send_log(&mut writer, &server.recent, name.as_deref(), lines, follow) => sent?,
                _ = gone => return Ok(()),
            }
        } else {
            let _turn = match work {
                Work::Look => server.answered.acquire().await.ok(),
                Work::Act | Work::Follow => None,
            };
            let answer = answers::answer(&server.host, request).await;
            send(&mut writer, &answer).await?;
        }
        pause = PAUSE;
    }
}

/// The next request: it has to begin within `pause`, and to be whole within `patience` from then.
async fn hear(reader: &mut (impl AsyncBufRead + Unpin), pause: Duration, patience: Duration) -> io::Result<Heard> {
    match timeout(pause, reader.fill_buf()).await {
        Err(_) => return Ok(Heard::Silent(pause)),
        Ok(Err(error)) => return Err(error),
        Ok(Ok([])) => return Ok(Heard::Gone),
        Ok(Ok(_)) => {}
    }
    let mut line = Vec::new();
    let mut request = reader.take(LONGEST);
    match timeout(patience, request.read_until(b'\n', &mut line)).await {
        Err(_) => Ok(Heard::Silent(patience)),
        Ok(read) => read.map(|_| Heard::Line(line)),
    }
}

/// What a request keeps the host busy with.
fn work(request: &Request) -> Work {
    match request {
        Request::Logs { follow: true, .. } => Work::Follow,
        Request::Ps
        | Request::Explain { .. }
        | Request::DeadLetters { .. }
        | Request::DeadLetter { .. }
        | Request::Quarantine
        | Request::Logs { follow: false, .. } => Work::Look,
        Request::Swap { .. }
        | Request::Rollback { .. }
        | Request::Stop { .. }
        | Request::Start { .. }
        | Request::SettleLetters { .. }
        | Request::SettleQuarantine { .. } => Work::Act,
    }
}

/// Says why it is cut off, if it can be said without waiting.
fn refuse_at_once(writer: &OwnedWriteHalf, text: &str) {
    let answer = Answer::Failed { kind: Failure::Unavailable, text: format!("cut off: {text}") };
    if let Ok(line) = line(&answer) {
        // Who does not listen either has nothing to lose.
        let _ = writer.try_write(&line);
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
    let past: Vec<_> = past.into_iter().filter(|line| line.is_of(name)).collect();
    for line in past.iter().skip(past.len().saturating_sub(lines)) {
        send(writer, &Answer::Line { text: line.text().to_owned() }).await?;
    }
    if !follow {
        return send(writer, &Answer::Done { count: 0 }).await;
    }
    loop {
        let text = match to_come.recv().await {
            Ok(line) if line.is_of(name) => line.text().to_owned(),
            Ok(_) => continue,
            Err(RecvError::Lagged(missed)) => format!("({missed} lines were left out: they came too fast)"),
            Err(RecvError::Closed) => return send(writer, &Answer::Done { count: 0 }).await,
        };
        send(writer, &Answer::Line { text }).await?;
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let line = line(answer)?;
    timeout(PATIENCE, writer.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// An answer as it is sent.
fn line(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_sends_no_whole_request_is_heard_for_a_while_only() {
        let (pause, patience) = (Duration::from_millis(30), Duration::from_millis(60));
        let (mut client, host) = tokio::io::duplex(1024);
        let mut host = BufReader::new(host);
        assert!(matches!(hear(&mut host, pause, patience).await.unwrap(), Heard::Silent(time) if time == pause));
        // What it sends byte by byte has to be whole in the same time.
        let drip = async {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let heard = select! {
            heard = hear(&mut host, pause, patience) => heard.unwrap(),
            () = drip => panic!("nobody listens"),
        };
        assert!(matches!(heard, Heard::Silent(time) if time == patience));
        let (mut client, host) = tokio::io::duplex(1024);
        client.write_all(b"a\nb\n").await.unwrap();
        drop(client);
        let mut host = BufReader::new(host);
        for line in [b"a\n", b"b\n"] {
            assert!(matches!(hear(&mut host, pause, patience).await.unwrap(), Heard::Line(heard) if heard == line));
        }
        assert!(matches!(hear(&mut host, pause, patience).await.unwrap(), Heard::Gone));
    }
}
