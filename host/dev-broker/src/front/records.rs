//! What the front saw of each connection, for tests to assert on.

use std::collections::VecDeque;

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

/// How many records are kept; a development session that reconnects all night forgets the
/// oldest.
const KEPT: usize = 1024;

/// One accepted TCP connection. Fields fill up as the handshake goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionRecord {
    /// Counts connections from 0, refused ones included.
    pub id: u64,
    /// Server name that the client asked for. An address is never sent.
    pub server_name: Option<String>,
    /// Protocols that the client offered: `None` without the extension.
    pub alpn_offered: Option<Vec<Vec<u8>>>,
    /// Protocol both agreed on.
    pub alpn_agreed: Option<Vec<u8>>,
    /// Version both agreed on; `Some` means that the handshake is complete.
    pub tls_version: Option<ProtocolVersion>,
    /// The client's own certificate, once it was accepted.
    pub client_certificate: Option<CertificateDer<'static>>,
    /// Why the connection was refused or broke. Stays `None` if a fault ended it.
    pub error: Option<String>,
    /// Whether the connection is over.
    pub closed: bool,
}

/// The records of one front.
#[derive(Debug)]
pub(crate) struct Records {
    kept: watch::Sender<VecDeque<ConnectionRecord>>,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self { kept: watch::Sender::new(VecDeque::new()) }
    }

    /// Begins the record of a new connection.
    pub(crate) fn open(&self, id: u64) {
        self.kept.send_modify(|kept| {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(ConnectionRecord { id, ..ConnectionRecord::default() });
        });
    }

    /// Changes a record, unless it was forgotten meanwhile.
    pub(super) fn update(&self, id: u64, change: impl FnOnce(&mut ConnectionRecord)) {
        self.kept.send_if_modified(|kept| {
            // The newest are the likely ones.
            let found = kept.iter_mut().rev().find(|record| record.id == id);
            found.map(change).is_some()
        });
    }

    pub(super) fn snapshot(&self) -> Vec<ConnectionRecord> {
        self.kept.borrow().iter().cloned().collect()
    }

    pub(super) async fn wait_for(
        &self,
        mut condition: impl FnMut(&[ConnectionRecord]) -> bool,
    ) -> Vec<ConnectionRecord> {
        let mut receiver = self.kept.subscribe();
        loop {
            let seen: Vec<_> = receiver.borrow_and_update().iter().cloned().collect();
            if condition(&seen) {
                return seen;
            }
            if receiver.changed().await.is_err() {
                // Only possible without the sender, which `self` holds.
                return seen;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_records_are_forgotten() {
        let records = Records::new();
        let one_too_many = KEPT as u64;
        for id in 0..=one_too_many {
            records.open(id);
        }
        records.update(0, |record| record.closed = true);
        records.update(one_too_many, |record| record.closed = true);

        let kept = records.snapshot();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept.first().map(|record| record.id), Some(1));
        let closed: Vec<_> = kept.iter().filter(|record| record.closed).collect();
        assert_eq!(closed.len(), 1);
    }
}
