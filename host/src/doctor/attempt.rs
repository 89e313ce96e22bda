//! What an attempt to connect shows: each step that was done, and the one that failed.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;

use super::{
    certificate::{Certificate, Validity},
    files,
    report::{Check, Fault, Status},
    words,
};
use crate::link::{ConnAck, LinkError, LinkSettings, Proxy, ProxyRefusal, Stage, Step, TlsFailure, TlsInfo, TlsPart};

const DNS: &str = "dns";
const TCP: &str = "tcp";
const PROXY: &str = "proxy";
const TLS: &str = "tls";
const SERVER_CERTIFICATE: &str = "server-certificate";
const ALPN: &str = "alpn";
const WEBSOCKET: &str = "websocket";
const CONNACK: &str = "connack";

/// All that there can be, in order.
pub(super) const ALL: [&str; 8] = [DNS, TCP, PROXY, TLS, SERVER_CERTIFICATE, ALPN, WEBSOCKET, CONNACK];

/// An attempt as it was seen.
#[derive(Debug)]
pub(super) struct Attempt {
    /// What was done, and when after the start.
    pub(super) steps: Vec<(Step, Duration)>,
    /// Why it went no further.
    pub(super) error: Option<LinkError>,
}

/// What is needed to judge it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) settings: &'a LinkSettings,
    /// The client id in the configuration; the one in the settings may be another.
    pub(super) configured_id: &'a str,
    pub(super) now: SystemTime,
}

impl Attempt {
    /// A check for each step.
    pub(super) fn checks(&self, view: &View<'_>) -> Vec<Check> {
        let url = &view.settings.url;
        let mut checks = vec![self.dns(view), self.tcp(view), self.proxy(view)];
        if url.is_tls() {
            checks.extend(self.tls(view));
        } else {
            checks.push(without_tls(url.host()));
        }
        checks.extend(self.websocket(view));
        checks.push(self.connack(view));
        checks
    }

    /// The files have been looked at; the attempt has the last word.
    pub(super) fn judge_file(&self, check: Check) -> Check {
        if self.blocker() != Some(check.name) || matches!(check.status, Status::Fail(_)) {
            return check;
        }
        match &self.error {
            Some(LinkError::Tls(failure)) => check.spoilt(Status::Fail(Fault::Broker), &failure.cause, &failure.remedy),
            Some(LinkError::Files(error)) => {
                check.spoilt(Status::Fail(Fault::Configuration), error.to_string(), files::remedy(error))
            }
            _ => check,
        }
    }

    /// The check that failed.
    pub(super) fn blocker(&self) -> Option<&'static str> {
        let error = self.error.as_ref()?;
        Some(match error {
            LinkError::Tls(failure) => match failure.part {
                TlsPart::Handshake => TLS,
                TlsPart::ServerCertificate => SERVER_CERTIFICATE,
                TlsPart::Alpn => ALPN,
                TlsPart::ClientCertificate => files::CLIENT_CERTIFICATE,
            },
            LinkError::Files(error) => files::blamed(error),
            LinkError::Proxy { refusal: ProxyRefusal::Dns(_), .. } => DNS,
            LinkError::Proxy { refusal: ProxyRefusal::Tcp(_), .. } => TCP,
            error => match error.stage() {
                Some(Stage::Name) => DNS,
                Some(Stage::Tcp) => TCP,
                Some(Stage::Proxy) => PROXY,
                Some(Stage::Tls) => TLS,
                Some(Stage::WebSocket) => WEBSOCKET,
                Some(Stage::ConnAck) | None => CONNACK,
            },
        })
    }

    /// Why a check could not be made.
    pub(super) fn waits(&self) -> String {
        format!("not tried, since {} fails", self.blocker().unwrap_or("something"))
    }

    /// A step's check: done, failed, or never come to.
    fn check<T>(
        &self,
        name: &'static str,
        look: impl Fn(&Step) -> Option<T>,
        done: impl FnOnce(T, String) -> Check,
        failed: impl FnOnce(&LinkError) -> (String, &'static str),
    ) -> Check {
        let mut before = Duration::ZERO;
        for (step, at) in &self.steps {
            if let Some(found) = look(step) {
                return done(found, words::short(at.saturating_sub(before)));
            }
            before = *at;
        }
        match &self.error {
            Some(error) if self.blocker() == Some(name) => {
                let (found, otherwise) = failed(error);
                let remedy = error.remedy();
                let remedy = remedy.as_deref().unwrap_or(otherwise);
                Check::fail(name, Fault::Broker, found, error.cause(), remedy)
            }
            _ => Check::skip(name, self.waits()),
        }
    }

    fn dns(&self, view: &View<'_>) -> Check {
        let addresses = |step: &Step| match step {
            Step::Resolved(addresses) => Some(addresses.clone()),
            _ => None,
        };
        let whose = if view.settings.proxy.is_some() { "the proxy is " } else { "" };
        let done = |addresses: Vec<SocketAddr>, took| {
            let mut shown: Vec<_> = addresses.iter().take(4).map(|address| address.ip().to_string()).collect();
            if addresses.len() > shown.len() {
                shown.push("…".into());
            }
            Check::ok(DNS, format!("{whose}{} ({took})", shown.join(", ")))
        };
        let proxy = view.settings.proxy.as_ref();
        let host = proxy.map_or_else(|| view.settings.url.host(), Proxy::host).to_owned();
        self.check(DNS, addresses, done, |_| (host, "check `url` and the device's DNS (/etc/resolv.conf)"))
    }

    fn tcp(&self, view: &View<'_>) -> Check {
        let address = |step: &Step| match step {
            Step::Tcp(address) => Some(*address),
            _ => None,
        };
        let whose = if view.settings.proxy.is_some() { "the proxy at " } else { "" };
        let done = |address, took| Check::ok(TCP, format!("{whose}{address} answers ({took})"));
        self.check(TCP, address, done, |_| {
            ("no connection".into(), "check host and port in `url`, and the firewall; it may want a `proxy`")
        })
    }

    fn proxy(&self, view: &View<'_>) -> Check {
        if view.settings.proxy.is_none() {
            return Check::ok(PROXY, "none");
        }
        let proxy = |step: &Step| match step {
            Step::Proxied(proxy) => Some(proxy.clone()),
            _ => None,
        };
        let done = |proxy, took| Check::ok(PROXY, format!("{proxy} has opened a way to the broker ({took})"));
        let failed = |_: &LinkError| ("no way through".into(), "check `proxy`; the proxy's log says more");
        self.check(PROXY, proxy, done, failed)
    }

    fn websocket(&self, view: &View<'_>) -> Option<Check> {
        view.settings.url.websocket()?;
        let upgraded = |step: &Step| matches!(step, Step::Upgraded).then_some(());
        let done = |(), took| Check::ok(WEBSOCKET, format!("the server speaks it ({took})"));
        let failed = |_: &LinkError| ("no upgrade".into(), "check the path in `url`");
        Some(self.check(WEBSOCKET, upgraded, done, failed))
    }

    fn tls(&self, view: &View<'_>) -> [Check; 3] {
        let info = |step: &Step| match step {
            Step::Tls(info) => Some(info.clone()),
            _ => None,
        };
        let done = |info: TlsInfo, took| {
            let found = format!("{}, {} ({took})", info.version.replace('_', "."), info.cipher);
            match info.checked_at {
                None => Check::ok(TLS, found),
                Some(time) => Check::warn(
                    TLS,
                    found,
                    format!(
                        "the clock is behind; certificates were checked as of {}",
                        humantime::format_rfc3339_seconds(time)
                    ),
                    "set the clock; give the device NTP",
                ),
            }
        };
        let no_handshake = |_: &LinkError| {
            ("no handshake".into(), "see what listens on this port: it takes connections and does not answer TLS")
        };
        let mut tls = self.check(TLS, info, done, no_handshake);
        let server = |info: TlsInfo, _| server_certificate(&info.chain, view.now);
        let unseen = |_: &LinkError| (String::new(), "");
        let mut server = self.check(SERVER_CERTIFICATE, |step| info(step), server, unseen);
        let mut alpn = self.check(ALPN, info, |info, _| agreed(&info), unseen);
        if tls.status == Status::Skip
            && let Some(LinkError::Tls(TlsFailure { part, server_chain, .. })) = &self.error
        {
            tls = Check::ok(TLS, "the server speaks TLS; the handshake did not come to its end");
            if !server_chain.is_empty() {
                let seen = server_certificate(server_chain, view.now);
                server = if *part == TlsPart::ServerCertificate { Check { found: seen.found, ..server } } else { seen };
            }
            if *part == TlsPart::Alpn {
                alpn.found = format!("offered {}", offered(&view.settings.tls.alpn));
            }
        }
        [tls, server, alpn]
    }

    fn connack(&self, view: &View<'_>) -> Check {
        let accepted = |step: &Step| match step {
            Step::Accepted(connack) => Some(connack.clone()),
            _ => None,
        };
        let done = |connack: ConnAck, took: String| Check::ok(CONNACK, announced(&connack, view.settings, &took));
        let failed = |error: &LinkError| {
            let found = match error {
                LinkError::Refused(..) => "refused".into(),
                _ => "none".into(),
            };
            (found, "see what listens on this port; the broker's log says more")
        };
        let mut check = self.check(CONNACK, accepted, done, failed);
        let id = &view.settings.client_id;
        if id != view.configured_id
            && let Some(remedy) = &mut check.remedy
        {
            let known = view.configured_id;
            let note = format!("; this was tried as `{id}`, the broker may know only `{known}`: stop the host first");
            remedy.push_str(&note);
        }
        check
    }
}

fn without_tls(host: &str) -> Check {
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let found = "none: the URL asks for a connection without it";
    match local {
        true => Check::ok(TLS, found),
        false => {
            Check::warn(TLS, found, "everybody on the way can read and change what is sent", "use mqtts:// or wss://")
        }
    }
}

fn server_certificate(chain: &[CertificateDer<'static>], now: SystemTime) -> Check {
    let name = SERVER_CERTIFICATE;
    let Some(own) = chain.first() else { return Check::ok(name, "not seen") };
    let own = match Certificate::read(own) {
        Ok(own) => own,
        Err(cause) => return Check::ok(name, format!("it can't be shown: {cause}")),
    };
    let names = match own.names.as_slice() {
        [] => "no names".to_owned(),
        names => format!("for {}", names.join(", ")),
    };
    let check = Check::ok(name, format!("{}, {names}, {}", own.who(), own.times(now)));
    match own.validity(now) {
        Validity::EndsSoon => {
            let remedy = "see that whoever runs the broker renews it in time";
            check.spoilt(Status::Warn, "it expires soon; then no device can connect", remedy)
        }
        _ => check,
    }
}

fn agreed(info: &TlsInfo) -> Check {
    let offered = &info.offered;
    match &info.alpn {
        Some(name) => Check::ok(ALPN, format!("offered {offered}, agreed on {name}")),
        None if offered == "none" => Check::ok(ALPN, "none offered, none agreed"),
        None => Check::warn(
            ALPN,
            format!("offered {offered}, agreed on none"),
            "the server does not care for ALPN; that is fine unless the port is shared with other services",
            "nothing, if all else is well; `alpn = []` offers none",
        ),
    }
}

fn offered(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn announced(connack: &ConnAck, settings: &LinkSettings, took: &str) -> String {
    let mut found = format!(
        "accepted, MQTT {}, session {} ({})",
        settings.protocol,
        if connack.session_present { "present" } else { "new" },
        took
    );
    let mut say = |what: Option<String>| {
        if let Some(what) = what {
            found.push_str("; ");
            found.push_str(&what);
        }
    };
    say((connack.receive_maximum != u16::MAX).then(|| format!("receive maximum {}", connack.receive_maximum)));
    say(connack.max_packet.map(|bytes| format!("packets up to {bytes} bytes")));
    say(connack.keep_alive.map(|time| format!("keep-alive {}", humantime::format_duration(time))));
    say(connack.client_id.as_ref().map(|id| format!("client id {id}")));
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use alphorn_dev_broker::Authority;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::{
        config::{Config, Overrides},
        link::{Tried, Version},
    };

    fn checks(url: &str, steps: Vec<Step>, error: LinkError) -> Vec<Check> {
        let text = format!("[link]\nurl = {url:?}\nclient_id = \"device\"");
        let config = Config::parse(&text, Path::new(""), std::iter::empty(), &Overrides::default()).unwrap();
        let steps = steps.into_iter().map(|step| (step, Duration::from_millis(1))).collect();
        let view = View { settings: &config.link, configured_id: "gateway", now: SystemTime::now() };
        Attempt { steps, error: Some(error) }.checks(&view)
    }

    fn failed(checks: &[Check]) -> Vec<&str> {
        checks.iter().filter(|check| matches!(check.status, Status::Fail(_))).map(|check| check.name).collect()
    }

    const TRIED: Tried = Tried { tls: true, certificate: true, login: false, version: Version::V311 };

    #[test]
    fn a_time_out_fails_the_check_of_its_stage_and_no_other() {
        let address: SocketAddr = ([127, 0, 0, 1], 443).into();
        let steps = [Step::Resolved(vec![address]), Step::Tcp(address)];
        for (during, done, name) in
            [(Stage::Name, 0, DNS), (Stage::Tcp, 1, TCP), (Stage::Tls, 2, TLS), (Stage::WebSocket, 2, WEBSOCKET)]
        {
            let error = LinkError::TimedOut { during, limit: Duration::from_secs(1), tried: TRIED };
            let checks = checks("wss://a.example", steps[..done].to_vec(), error);
            assert_eq!(failed(&checks), [name]);
            let later = checks.iter().skip_while(|check| check.name != name).skip(1);
            let waits = later.filter(|check| check.name != PROXY).all(|check| check.status == Status::Skip);
            assert!(waits, "{checks:?}");
        }
    }

    #[test]
    fn an_id_that_the_policy_may_not_know_is_part_of_the_remedy() {
        let address: SocketAddr = ([127, 0, 0, 1], 1883).into();
        let steps = vec![Step::Resolved(vec![address]), Step::Tcp(address)];
        let checks = checks("mqtt://127.0.0.1", steps, LinkError::ClosedUnanswered(TRIED));
        assert_eq!(failed(&checks), [CONNACK]);
        let remedy = checks.last().and_then(|check| check.remedy.clone()).unwrap();
        assert!(remedy.contains("tried as `device`, the broker may know only `gateway`"), "{remedy}");
    }

    #[test]
    fn a_connection_without_tls_is_fine_on_this_device_alone() {
        for (host, status) in [
            ("localhost", Status::Ok),
            ("127.0.0.9", Status::Ok),
            ("::1", Status::Ok),
            ("a.example", Status::Warn),
            ("192.0.2.1", Status::Warn),
        ] {
            assert_eq!(without_tls(host).status, status, "{host}");
        }
    }

    #[test]
    fn a_server_certificate_that_ends_soon_is_worth_a_look() {
        let identity = Authority::new("root").unwrap().issue_server(&["a.example"]).unwrap();
        let chain = [CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).unwrap()];
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(server_certificate(&chain, SystemTime::now()).status, Status::Ok);
        let soon = server_certificate(&chain, SystemTime::now() + 340 * day);
        assert_eq!(soon.status, Status::Warn);
        assert!(soon.found.contains("CN=a.example, issued by CN=root, for a.example"), "{}", soon.found);
    }
}
