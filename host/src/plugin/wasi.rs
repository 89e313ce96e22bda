//! What of WASI a plugin is granted besides clocks, random numbers and standard output.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use wasmtime_wasi::{FsPerms, WasiCtxBuilder, sockets::SocketAddrUse};

/// Random bytes of one call: to make more takes longer than a quick turn on the link's thread.
const RANDOM: u64 = 64 * 1024;

/// `[plugins.NAME.wasi]`, checked. Nothing unless listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wasi {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Folders.
    pub dirs: Vec<Dir>,
    /// Where it may connect to.
    pub network: Vec<Reach>,
    /// It may look up names.
    pub dns: bool,
}

/// A folder as a plugin sees it: `"HOST:GUEST"`, or `"HOST:GUEST:rw"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dir {
    /// Where it is.
    pub host: PathBuf,
    /// Where the plugin finds it.
    pub guest: String,
    /// It may write there.
    pub is_writable: bool,
}

/// Addresses and ports: `"10.0.0.5:502"`, `"192.168.0.0/16:*"`, `"[::1]:80"`, `"*:443"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// None: any.
    network: Option<(IpAddr, u8)>,
    /// None: any.
    port: Option<u16>,
}

impl FromStr for Dir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a folder to lend: write \"HOST:GUEST\" or \"HOST:GUEST:rw\"");
        let mut parts = text.split(':');
        let (host, guest, mode) = (parts.next(), parts.next(), parts.next());
        let (Some(host), Some(guest)) = (host, guest) else { return Err(wrong()) };
        let is_writable = match mode {
            None | Some("ro") => false,
            Some("rw") => true,
            Some(_) => return Err(wrong()),
        };
        if host.is_empty() || guest.is_empty() || parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { host: host.into(), guest: guest.to_owned(), is_writable })
    }
}

impl FromStr for Reach {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no address and port: write \"10.0.0.5:502\", \"192.168.0.0/16:*\", \"[::1]:80\", \"*:443\", \
                 or \"dns\" for looking up names"
            )
        };
        let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = if port == "*" { None } else { Some(port.parse().map_err(|_| wrong())?) };
        if address == "*" {
            return Ok(Self { network: None, port });
        }
        let (address, bits) = match address.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (address, None),
        };
        let address: IpAddr = address.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { network: Some((address, bits)), port })
    }
}

impl Reach {
    fn covers(self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port())
            && self.network.is_none_or(|(network, bits)| match (network, address.ip().to_canonical()) {
                (IpAddr::V4(network), IpAddr::V4(ip)) => same(network.to_bits().into(), ip.to_bits().into(), 32 - bits),
                (IpAddr::V6(network), IpAddr::V6(ip)) => same(network.to_bits(), ip.to_bits(), 128 - bits),
                _ => false,
            })
    }
}

/// Equal but for the last bits.
fn same(one: u128, other: u128, last: u8) -> bool {
    (one ^ other).checked_shr(last.into()).unwrap_or(0) == 0
}

impl Wasi {
    /// What one instance is lent, but for its standard streams.
    pub(super) fn context(&self) -> Result<WasiCtxBuilder, String> {
        let mut builder = WasiCtxBuilder::new();
        builder.max_random_size(RANDOM);
        for (name, value) in &self.env {
            builder.env(name, value);
        }
        for dir in &self.dirs {
            let perms = if dir.is_writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            builder
                .preopened_dir(&dir.host, &dir.guest, perms)
                .map_err(|cause| format!("the folder {} (`wasi.dirs`) can't be lent: {cause:#}", dir.host.display()))?;
        }
        let granted = !self.network.is_empty();
        builder.allow_tcp(granted).allow_udp(granted).allow_ip_name_lookup(self.dns);
        let network: Arc<[Reach]> = self.network.as_slice().into();
        builder.socket_addr_check(move |address, what| {
            let allowed = match what {
                SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                    network.iter().any(|reach| reach.covers(address))
                }
                // A port of its own to go out from; none that others could know.
                SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => address.port() == 0,
                SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            };
            Box::pin(std::future::ready(allowed))
        });
        Ok(builder)
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.host.display(), self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(reach: &str, address: &str) -> bool {
        reach.parse::<Reach>().unwrap().covers(address.parse().unwrap())
    }

    #[test]
    fn what_is_reached_is_what_is_listed() {
        assert!(covers("10.0.0.5:502", "10.0.0.5:502"));
        assert!(!covers("10.0.0.5:502", "10.0.0.5:503"));
        assert!(!covers("10.0.0.5:502", "10.0.0.6:502"));
        assert!(covers("192.168.0.0/16:*", "192.168.7.7:1"));
        assert!(!covers("192.168.0.0/16:*", "192.169.7.7:1"));
        assert!(covers("192.168.0.0/16:*", "[::ffff:192.168.7.7]:1"), "the same address in the other clothes");
        assert!(covers("[fe80::]/10:80", "[fe80::1]:80"));
        assert!(!covers("[fe80::]/10:80", "10.0.0.1:80"));
        assert!(covers("0.0.0.0/0:443", "1.2.3.4:443") && covers("*:443", "[::1]:443"));
        for text in ["", "10.0.0.5", "host:80", "10.0.0.0/33:1", "1.2.3.4:99999", "::1"] {
            assert!(text.parse::<Reach>().is_err(), "{text}");
        }
    }

    /// What independent testing did: 60 MB at once, which took 434 ms.
    #[test]
    fn random_bytes_come_in_pieces() {
        use wasmtime_wasi::p2::bindings::random::{insecure::Host as _, random::Host as _};
        let mut wasi = Wasi::default().context().unwrap().build();
        let random = wasi.random();
        assert_eq!(random.get_random_bytes(RANDOM).unwrap().len() as u64, RANDOM);
        for more in [RANDOM + 1, 60_000_000, u64::MAX] {
            let words = random.get_random_bytes(more).unwrap_err().to_string();
            assert!(words.contains("65536"), "{words}");
            assert!(random.get_insecure_random_bytes(more).is_err());
        }
    }

    #[test]
    fn folders_are_read_only_unless_said_otherwise() {
        let dir: Dir = "/srv/data:/data".parse().unwrap();
        assert_eq!((dir.host, dir.guest.as_str(), dir.is_writable), ("/srv/data".into(), "/data", false));
        assert!("a:b:rw".parse::<Dir>().unwrap().is_writable);
        for text in ["", "a", ":b", "a:", "a:b:x", "a:b:rw:c"] {
            assert!(text.parse::<Dir>().is_err(), "{text}");
        }
    }
}
