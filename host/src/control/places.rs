//! Where a host makes its socket unless told, and where a command looks for a running host.

use std::path::{Path, PathBuf};

/// The configuration of a device, where packages and service managers put it.
pub const SYSTEM_CONFIG: &str = "/etc/alphorn/alphorn.toml";

/// The configuration a command takes from the current folder.
pub const OWN_CONFIG: &str = "alphorn.toml";

/// Root's socket.
const SYSTEM_SOCKET: &str = "/run/alphorn.sock";

/// A place where a running host may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A socket.
    Socket(PathBuf),
    /// The socket this configuration names, or its default.
    Config(PathBuf),
}

/// Who looks for a socket, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Viewpoint<'a> {
    /// Root's sockets lie elsewhere.
    pub is_root: bool,
    /// `XDG_RUNTIME_DIR`: a folder that only this user can use.
    pub runtime_dir: Option<&'a Path>,
    /// The current folder has an `alphorn.toml`.
    pub has_own_config: bool,
    /// The socket of an `alphorn dev` that runs and may be meant.
    pub dev_socket: Option<&'a Path>,
}

/// The socket of a host whose configuration names none.
pub fn default_socket(is_root: bool, runtime_dir: Option<&Path>) -> PathBuf {
    let own = runtime_dir.filter(|folder| !is_root && folder.is_absolute());
    own.map_or_else(|| SYSTEM_SOCKET.into(), |folder| folder.join("alphorn.sock"))
}

/// Where to look, in this order, until somebody answers. Who names a place means that one, and a
/// folder with a configuration is about the host of that one, which is `alphorn dev`'s where that
/// runs the folder: a command that acts must not end up at another.
pub fn places(socket: Option<&Path>, config: Option<&Path>, from: Viewpoint<'_>) -> Vec<Place> {
    if let Some(socket) = socket {
        return vec![Place::Socket(socket.to_owned())];
    }
    if let Some(config) = config {
        return vec![Place::Config(config.to_owned())];
    }
    let dev = from.dev_socket.map(|socket| Place::Socket(socket.to_owned()));
    if from.has_own_config {
        return vec![dev.unwrap_or_else(|| Place::Config(OWN_CONFIG.into()))];
    }
    let own = default_socket(from.is_root, from.runtime_dir);
    let mut places = Vec::from_iter(dev);
    places.extend([Place::Config(SYSTEM_CONFIG.into()), Place::Socket(own)]);
    let system = Place::Socket(SYSTEM_SOCKET.into());
    if !places.contains(&system) {
        places.push(system);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Viewpoint<'_> =
        Viewpoint { is_root: false, runtime_dir: None, has_own_config: false, dev_socket: None };

    #[test]
    fn a_user_has_a_socket_where_it_may_make_one() {
        let folder = Some(Path::new("/run/user/1000"));
        assert_eq!(default_socket(false, folder), Path::new("/run/user/1000/alphorn.sock"));
        assert_eq!(default_socket(true, folder), Path::new("/run/alphorn.sock"), "root's is where it was");
        assert_eq!(default_socket(false, None), Path::new("/run/alphorn.sock"));
        assert_eq!(default_socket(false, Some(Path::new("here"))), Path::new("/run/alphorn.sock"), "not absolute");
    }

    #[test]
    fn what_is_named_comes_first_and_alone() {
        let named = |socket: Option<&str>, config: Option<&str>, has_own_config| {
            let from = Viewpoint { has_own_config, ..USER };
            places(socket.map(Path::new), config.map(Path::new), from)
        };
        assert_eq!(named(Some("a.sock"), Some("b.toml"), true), [Place::Socket("a.sock".into())]);
        assert_eq!(named(None, Some("b.toml"), true), [Place::Config("b.toml".into())]);
        assert_eq!(named(None, None, true), [Place::Config("alphorn.toml".into())]);
    }

    #[test]
    fn else_the_device_s_configuration_then_the_user_s_socket_then_root_s() {
        let runtime_dir = Some(Path::new("/run/user/1000"));
        let system = [Place::Config("/etc/alphorn/alphorn.toml".into()), Place::Socket("/run/alphorn.sock".into())];
        let mut with_own = system.to_vec();
        with_own.insert(1, Place::Socket("/run/user/1000/alphorn.sock".into()));
        assert_eq!(places(None, None, Viewpoint { runtime_dir, ..USER }), with_own);
        assert_eq!(places(None, None, Viewpoint { is_root: true, runtime_dir, ..USER }), system);
        assert_eq!(places(None, None, USER), system);
    }

    #[test]
    fn a_running_dev_session_comes_before_all_but_what_is_named() {
        let dev = Viewpoint { dev_socket: Some(Path::new("dev.sock")), ..USER };
        let own = Place::Socket("dev.sock".into());
        assert_eq!(places(None, None, dev), [vec![own.clone()], places(None, None, USER)].concat());
        assert_eq!(places(None, None, Viewpoint { has_own_config: true, ..dev }), [own]);
        assert_eq!(places(Some(Path::new("a.sock")), None, dev), [Place::Socket("a.sock".into())]);
        assert_eq!(places(None, Some(Path::new("b.toml")), dev), [Place::Config("b.toml".into())]);
    }
}
