//! One HTTP request and the head of its answer: all that a proxy and the start of a
//! WebSocket need.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::link::wire::Stream;

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    /// What the server calls it.
    pub reason: String,
    headers: Vec<(String, String)>,
    /// What came behind it.
    pub rest: Vec<u8>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The stream ended before it was complete.
    Closed,
    /// It broke.
    Broken(io::Error),
    /// Something else came; in words.
    NotHttp(String),
}

/// The longest head that is taken.
const LONGEST: usize = 16 * 1024;

/// The most headers.
const HEADERS: usize = 128;

/// Sends a request and reads the head of the answer.
pub(super) async fn ask(stream: &mut impl Stream, request: &[u8]) -> Result<Head, NoHead> {
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    sent.await.map_err(NoHead::from)?;
    let mut received = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut received).await.map_err(NoHead::from)? == 0 {
            return Err(NoHead::Closed);
        }
        if let Some(head) = parse(&received)? {
            return Ok(head);
        }
        if received.len() >= LONGEST {
            return Err(NoHead::NotHttp(format!("headers of more than {LONGEST} bytes")));
        }
    }
}

/// The head, if it is complete.
pub(super) fn parse(received: &[u8]) -> Result<Option<Head>, NoHead> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(cause) => {
            let shown = String::from_utf8_lossy(received.get(..40).unwrap_or(received)).escape_debug().to_string();
            return Err(NoHead::NotHttp(format!("\"{shown}\" ({cause})")));
        }
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
        reason: response.reason.unwrap_or_default().chars().take(100).collect(),
        headers: response.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
        rest: received.get(length..).unwrap_or_default().to_vec(),
    }))
}

impl Head {
    /// The values of a header, in order.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let same = move |header: &&(String, String)| header.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str())
    }

    /// A header that is a list has this word, in whatever case.
    pub(super) fn lists(&self, name: &str, word: &str) -> bool {
        self.values(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }
}

impl From<io::Error> for NoHead {
    fn from(cause: io::Error) -> Self {
        // A peer that closes TCP without closing TLS first.
        if cause.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Broken(cause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &[u8], at_once: usize) -> Result<Head, NoHead> {
        let (mut ours, mut theirs) = tokio::io::duplex(at_once);
        let answer = answer.to_vec();
        let server = tokio::spawn(async move {
            let mut request = [0; 4];
            theirs.read_exact(&mut request).await.unwrap();
            // Fails when nobody wants the rest.
            let _ = theirs.write_all(&answer).await;
        });
        let head = ask(&mut ours, b"ASK\n").await;
        drop(ours);
        server.await.unwrap();
        head
    }

    #[tokio::test]
    async fn an_answer_is_read_however_it_is_cut() {
        for at_once in [4, 5, 7, 1000] {
            let answer = b"HTTP/1.1 407 Who are you\r\nA: 1\r\na: 2, Three\r\n\r\nrest";
            let head = answered(answer, at_once).await.unwrap();
            assert_eq!((head.status, head.reason.as_str()), (407, "Who are you"));
            assert_eq!(head.values("A").collect::<Vec<_>>(), ["1", "2, Three"]);
            assert!(head.lists("A", "three") && !head.lists("A", "thre"));
            assert!(b"rest".starts_with(&head.rest));
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_apart() {
        let said = |error| match error {
            NoHead::Closed => "closed".to_owned(),
            NoHead::Broken(cause) => cause.to_string(),
            NoHead::NotHttp(what) => what,
        };
        for (answer, expected) in [
            (&b""[..], "closed"),
            (b"HTTP/1.1 200 OK\r\nA: ", "closed"),
            (b"SSH-2.0-OpenSSH\r\n", "SSH-2.0"),
            (b"\x20\x02\x00\x00", "\\u{2}"),
            (&[b'H'; 20_000], "HHHH"),
            (&[&b"HTTP/1.1 200 OK\r\nA: "[..], &[b'a'; 20_000]].concat(), "more than 16384 bytes"),
        ] {
            let error = said(answered(answer, 1000).await.unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
