//! A port of our own that outlives its listener.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A loopback port that can be listened on, left, and listened on again.
#[derive(Debug)]
pub(super) struct Port {
    addr: SocketAddr,
    /// Bound but never listening: while the port has no listener, connects are refused, and
    /// the system gives the port to nobody else. Only Linux lets a listener share an address
    /// with it; elsewhere somebody may take the port in between.
    _reservation: Option<TcpSocket>,
}

impl Port {
    /// Lets the system choose a port and listens on it.
    pub(super) fn listen_anywhere() -> io::Result<(Self, TcpListener)> {
        let chosen = bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = chosen.local_addr()?;
        let (listener, reservation) = if cfg!(target_os = "linux") {
            (bind(addr)?.listen(BACKLOG)?, Some(chosen))
        } else {
            (chosen.listen(BACKLOG)?, None)
        };
        let port = Self { addr, _reservation: reservation };
        Ok((port, listener))
    }

    /// Listens again after the former listener was dropped.
    pub(super) fn listen_again(&self) -> io::Result<TcpListener> {
        bind(self.addr)?.listen(BACKLOG)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Shares the port with the reservation, and with connections of earlier listeners.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
