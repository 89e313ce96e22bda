//! The ways out: ALPN, the proxy, the headers of a WebSocket.

use std::collections::BTreeMap;

use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue};

use super::{AWS_ALPN, file};
use crate::link::{BrokerUrl, Proxy};

/// What is offered unless the file says otherwise. AWS IoT Core wants its name on port 443;
/// for MQTT over WebSocket it wants none, and web servers take that for HTTP/1.1.
pub(super) fn usual_alpn(url: &BrokerUrl) -> Vec<String> {
    if url.is_tls() && url.port() == 443 && url.websocket().is_none() { vec![AWS_ALPN.to_owned()] } else { Vec::new() }
}

/// The file goes before the environment, and an empty text there means: none.
pub(super) fn proxy(
    link: &file::Link,
    url: &BrokerUrl,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Proxy>, String> {
    match link.proxy.as_ref().map(|text| text.0.as_str()) {
        Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|error| format!("link.proxy: {error}")),
        None => Proxy::from_environment(url, |name| environment.get(name).cloned()).map_err(|(name, error)| {
            format!("{name} of the environment: {error}. proxy = \"\" in [link] goes without")
        }),
    }
}

/// Whether a file's text itself has a login for the proxy, or headers, whose values are secret.
pub(super) fn hold_secrets(text: &str) -> bool {
    let Ok(file) = toml::from_str::<toml::Table>(text) else { return false };
    let link = |key| file.get("link").and_then(|link| link.get(key));
    let has_login = link("proxy").and_then(toml::Value::as_str).is_some_and(|proxy| proxy.contains('@'));
    has_login || link("headers").and_then(toml::Value::as_table).is_some_and(|headers| !headers.is_empty())
}

/// Names and values that HTTP can carry, and that the upgrade does not need for itself.
pub(super) fn headers(link: &file::Link, url: &BrokerUrl, warnings: &mut Vec<String>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &link.headers {
        let parsed = HeaderName::try_from(name)
            .map_err(|_| format!("link.headers: `{}` is no name of an HTTP header", name.escape_debug()))?;
        let own = ["host", "connection", "upgrade", "content-length", "transfer-encoding"];
        if own.contains(&parsed.as_str()) || parsed.as_str().starts_with("sec-websocket-") {
            return Err(format!("link.headers.{name}: this one belongs to the request itself and can't be set"));
        }
        let mut value = HeaderValue::try_from(&value.0)
            .map_err(|_| format!("link.headers.{name}: its value contains what HTTP can't carry, like a line break"))?;
        value.set_sensitive(true);
        if headers.insert(parsed, value).is_some() {
            return Err(format!("link.headers.{name} is there twice, in upper and lower case"));
        }
    }
    if !headers.is_empty() && url.websocket().is_none() {
        warnings.push(format!("link.url is {url}, without WebSocket: headers are not used"));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, Overrides};

    fn parse(url: &str, rest: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let text = format!("[link]\nurl = {url:?}\nclient_id = \"gateway-7\"\n{rest}");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(&text, Path::new("/etc/alphorn"), environment, &Overrides::default())
    }

    fn proxy(url: &str, rest: &str, environment: &[(&str, &str)]) -> Option<String> {
        parse(url, rest, environment).unwrap().link.proxy.map(|proxy| proxy.to_string())
    }

    #[test]
    fn no_alpn_is_offered_by_default_to_web_servers() {
        assert!(parse("wss://a.example", "", &[]).unwrap().link.tls.alpn.is_empty());
        assert!(parse("wss://a.example:443", "", &[]).unwrap().link.tls.alpn.is_empty());
        let set = parse("wss://a.example", "alpn = [\"http/1.1\"]", &[]).unwrap();
        assert_eq!(set.link.tls.alpn, ["http/1.1"]);
    }

    #[test]
    fn the_file_goes_before_the_environment() {
        let environment = [("HTTPS_PROXY", "http://of-environment:1"), ("NO_PROXY", "b.example")];
        let of_file = "proxy = \"http://user:secret@of-file:2\"";
        assert_eq!(proxy("mqtts://a.example", of_file, &environment).unwrap(), "of-file:2");
        assert_eq!(proxy("mqtts://b.example", of_file, &environment).unwrap(), "of-file:2");
        assert_eq!(proxy("mqtt://a.example", of_file, &environment).unwrap(), "of-file:2");
        assert_eq!(proxy("mqtts://a.example", "", &environment).unwrap(), "of-environment:1");
        assert_eq!(proxy("mqtts://b.example", "", &environment), None);
        assert_eq!(proxy("mqtt://a.example", "", &environment), None);
        assert_eq!(proxy("mqtts://a.example", "proxy = \"\"", &environment), None);
        let overridden = [("ALPHORN_LINK__PROXY", "http://of-override:3")];
        assert_eq!(proxy("mqtts://a.example", of_file, &overridden).unwrap(), "of-override:3");
    }

    #[test]
    fn headers_are_kept_and_do_not_show() {
        let rest = "[link.headers]\nAuthorization = \"Bearer secret\"";
        let environment = [("ALPHORN_LINK__HEADERS__X_TOKEN", "[secret]")];
        let config = parse("wss://a.example", rest, &environment).unwrap();
        assert_eq!(config.link.headers["authorization"], "Bearer secret");
        assert_eq!(config.link.headers["x-token"], "[secret]");
        assert!(config.warnings.iter().all(|warning| !warning.contains("headers")), "{:?}", config.warnings);
        let proxied = parse("wss://a.example", "proxy = \"http://user:secret@proxy\"", &[]).unwrap();
        assert!(!format!("{config:?} {proxied:?}").contains("secret"));
    }

    #[test]
    fn headers_that_nobody_would_be_sent_are_said() {
        let config = parse("mqtts://a.example", "[link.headers]\nx = \"y\"", &[]).unwrap();
        assert!(config.warnings.iter().any(|warning| warning.contains("headers are not used")));
    }

    #[test]
    fn mistakes_are_named_without_the_secrets_in_them() {
        for (rest, environment, expected) in [
            ("proxy = \"https://u:secret@proxy\"", None, &["link.proxy", "https://", "not supported"][..]),
            ("proxy = \"socks5://u:secret@proxy\"", None, &["link.proxy", "socks5://", "http://proxy:3128"]),
            ("proxy = \"http://u:secret@proxy/path\"", None, &["link.proxy", "more than login, host and port"]),
            ("proxy = \"http://u:secret@:x\"", None, &["link.proxy", "not a URL"]),
            ("proxy = [\"secret\"]", None, &["line 4", "a text in quotes"]),
            ("", Some("socks5://u:secret@proxy"), &["HTTPS_PROXY", "socks5://", "proxy = \"\""]),
            ("[link.headers]\n\"a b\" = \"secret\"", None, &["link.headers", "`a b`"]),
            ("[link.headers]\na = \"secret\\n\"", None, &["link.headers.a", "line break"]),
            ("[link.headers]\na = [\"secret\"]", None, &["line 5", "a text in quotes"]),
            ("[link.headers]\nHost = \"secret\"", None, &["link.headers.Host", "can't be set"]),
            ("[link.headers]\nSec-WebSocket-Key = \"secret\"", None, &["Sec-WebSocket-Key", "can't be set"]),
            ("[link.headers]\na = \"secret\"\nA = \"secret\"", None, &["twice"]),
        ] {
            let environment: Vec<_> = environment.map(|value| ("HTTPS_PROXY", value)).into_iter().collect();
            let error = parse("wss://a.example", rest, &environment).unwrap_err();
            assert!(expected.iter().all(|part| error.contains(part)) && !error.contains("secret"), "{rest}: {error}");
        }
    }
}
