//! A name to its addresses, and to the first of them that takes a TCP connection.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

/// Why there is no TCP connection.
pub(super) enum DialError {
    /// The name has no address.
    Dns(io::Error),
    /// No address answers.
    Tcp(io::Error),
}

/// All addresses of a name.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(DialError::Dns)?.collect();
    if addresses.is_empty() {
        return Err(DialError::Dns(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// A connection to the first that answers; all of them together may take as long as `limit`.
pub(super) async fn dial(addresses: &[SocketAddr], limit: Duration) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut failure = io::ErrorKind::NotFound.into();
    for (tried, address) in addresses.iter().enumerate() {
        // An address that never answers must leave time for the next one.
        let patience = limit / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX) * 9 / 10;
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Nagle's algorithm and delayed acknowledgements cost 8 ms at QoS 1.
                stream.set_nodelay(true).map_err(DialError::Tcp)?;
                return Ok((stream, *address));
            }
            Ok(Err(cause)) => failure = cause,
            Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(DialError::Tcp(failure))
}
