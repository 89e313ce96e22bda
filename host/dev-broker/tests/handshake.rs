//! Which handshakes the front completes, which it refuses and how, and what it records.

mod support;

use std::net::SocketAddr;

use alphorn_dev_broker::{ALPN, Authority, ConnectionRecord, Front, FrontConfig, Identity, Profile, TlsVersions};
use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{AlertDescription, CertificateError, ProtocolVersion};
use support::{Client, Tls, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn demanding_front_accepts_the_right_client_and_records_it() -> anyhow::Result<()> {
    for (versions, expected) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let bed = Bed::start(|_| {}).await?;
        let device = bed.authority.issue_client("device")?;
        let mut stream =
            Client { identity: Some(&device), alpn: &[ALPN], versions: &[versions], ..Client::new(&bed.authority) }
                .connect(bed.front.addr())
                .await?;
        echo(&mut stream, b"hello").await?;

        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
        let record = bed.record(|record| record.tls_version.is_some()).await?;
        assert_eq!(record.server_name.as_deref(), Some("localhost"));
        assert_eq!(record.alpn_offered, Some(vec![ALPN.to_vec()]));
        assert_eq!(record.alpn_agreed.as_deref(), Some(ALPN));
        assert_eq!(record.tls_version, Some(expected));
        assert_eq!(record.client_certificate, Some(leaf(&device)?));
        assert_eq!(record.error, None);
        assert!(!record.closed);

        drop(stream);
        bed.record(|record| record.closed).await?;
        soon("shutdown", bed.front.shutdown()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn client_without_alpn_is_refused() -> anyhow::Result<()> {
    for versions in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let bed = Bed::start(|_| {}).await?;
        let device = bed.authority.issue_client("device")?;
        let refused = Client { identity: Some(&device), versions: &[versions], ..Client::new(&bed.authority) }
            .connect(bed.front.addr())
            .await;

        let alert = rustls_error(refused.err().context("not refused")?)?;
        assert_eq!(alert, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
        let record = bed.record(|record| record.closed).await?;
        assert_eq!(record.alpn_offered, None);
        assert_eq!(record.tls_version, None);
        let error = record.error.context("no error recorded")?;
        assert!(error.contains("no ALPN"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn client_without_alpn_is_accepted_where_none_is_required() -> anyhow::Result<()> {
    let bed = Bed::start(|config| config.require_alpn = false).await?;
    let device = bed.authority.issue_client("device")?;
    let mut stream =
        Client { identity: Some(&device), ..Client::new(&bed.authority) }.connect(bed.front.addr()).await?;
    echo(&mut stream, b"hello").await
}

#[tokio::test]
async fn client_with_another_protocol_is_refused() -> anyhow::Result<()> {
    let bed = Bed::start(|_| {}).await?;
    let device = bed.authority.issue_client("device")?;
    let refused = Client { identity: Some(&device), alpn: &[b"mqtt"], ..Client::new(&bed.authority) }
        .connect(bed.front.addr())
        .await;

    let alert = rustls_error(refused.err().context("not refused")?)?;
    assert_eq!(alert, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
    let record = bed.record(|record| record.closed).await?;
    assert_eq!(record.alpn_offered, Some(vec![b"mqtt".to_vec()]));
    assert!(record.error.is_some());
    Ok(())
}

#[tokio::test]
async fn front_without_protocols_agrees_on_none() -> anyhow::Result<()> {
    let bed = Bed::start(|config| config.alpn.clear()).await?;
    let device = bed.authority.issue_client("device")?;
    let mut stream = Client { identity: Some(&device), alpn: &[ALPN], ..Client::new(&bed.authority) }
        .connect(bed.front.addr())
        .await?;
    echo(&mut stream, b"hello").await?;

    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    let record = bed.record(|record| record.tls_version.is_some()).await?;
    assert_eq!(record.alpn_offered, Some(vec![ALPN.to_vec()]));
    assert_eq!(record.alpn_agreed, None);
    Ok(())
}

#[tokio::test]
async fn client_without_a_certificate_is_refused() -> anyhow::Result<()> {
    for versions in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let bed = Bed::start(|_| {}).await?;
        let client = Client { alpn: &[ALPN], versions: &[versions], ..Client::new(&bed.authority) };
        let error = refusal(&client, bed.front.addr()).await?;
        assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::CertificateRequired));

        let record = bed.record(|record| record.closed).await?;
        assert_eq!(record.client_certificate, None);
        assert_eq!(record.tls_version, None);
        assert!(record.error.is_some());
    }
    Ok(())
}

#[tokio::test]
async fn spoilt_client_certificates_are_refused() -> anyhow::Result<()> {
    let bed = Bed::start(|_| {}).await?;
    let authority = &bed.authority;
    let stranger = Authority::new("stranger")?;
    let client = || Profile::client("device");
    for (identity, alert) in [
        (stranger.issue_client("device")?, AlertDescription::UnknownCA),
        (authority.issue(&client().expired())?, AlertDescription::CertificateExpired),
        (
            authority.issue(&client().not_yet_valid())?,
            // The protocol has no alert of its own for this.
            AlertDescription::CertificateExpired,
        ),
        (authority.issue_server(&["device"])?, AlertDescription::UnsupportedCertificate),
    ] {
        let client = Client { identity: Some(&identity), alpn: &[ALPN], ..Client::new(authority) };
        let error = refusal(&client, bed.front.addr()).await?;
        assert_eq!(error, rustls::Error::AlertReceived(alert));
    }
    Ok(())
}

#[tokio::test]
async fn client_certificate_of_an_intermediate_is_accepted_with_its_chain() -> anyhow::Result<()> {
    let bed = Bed::start(|_| {}).await?;
    let device = bed.authority.intermediate("fleet")?.intermediate("site")?.issue_client("device")?;
    let mut stream = Client { identity: Some(&device), alpn: &[ALPN], ..Client::new(&bed.authority) }
        .connect(bed.front.addr())
        .await?;
    echo(&mut stream, b"hello").await?;
    drop(stream);

    let bare = Identity { cert_pem: pem_of(&leaf(&device)?), ..device };
    let client = Client { identity: Some(&bare), alpn: &[ALPN], ..Client::new(&bed.authority) };
    let error = refusal(&client, bed.front.addr()).await?;
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::UnknownCA));
    Ok(())
}

#[tokio::test]
async fn client_notices_a_spoilt_server_certificate() -> anyhow::Result<()> {
    let authority = Authority::new("root")?;
    let server = || Profile::server(&["localhost"]);
    for (identity, expected) in [
        (authority.issue_server(&["elsewhere.invalid"])?, "not valid for name"),
        (authority.issue(&server().expired())?, "expired"),
        (authority.issue(&server().not_yet_valid())?, "not valid yet"),
        (Authority::new("stranger")?.issue_server(&["localhost"])?, "UnknownIssuer"),
    ] {
        let front = Front::start(echo_server().await?, FrontConfig::new(identity)).await?;
        let refused = Client::new(&authority).connect(front.addr()).await;
        let error = rustls_error(refused.err().context("not refused")?)?;
        assert!(
            matches!(&error, rustls::Error::InvalidCertificate(cause)
                if !matches!(cause, CertificateError::Other(_))),
            "{error:?}"
        );
        assert!(error.to_string().contains(expected), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn versions_are_limited_to_the_configured_ones() -> anyhow::Result<()> {
    for (versions, other, expected) in [
        (TlsVersions::Only12, &rustls::version::TLS13, ProtocolVersion::TLSv1_2),
        (TlsVersions::Only13, &rustls::version::TLS12, ProtocolVersion::TLSv1_3),
    ] {
        let authority = Authority::new("root")?;
        let config = FrontConfig { versions, ..FrontConfig::new(authority.issue_server(&["localhost"])?) };
        let front = Front::start(echo_server().await?, config).await?;
        let refused = Client { versions: &[other], ..Client::new(&authority) }.connect(front.addr()).await;
        assert!(refused.is_err());

        let stream = Client::new(&authority).connect(front.addr()).await?;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
    }
    Ok(())
}

#[tokio::test]
async fn stranger_who_does_not_speak_tls_is_recorded() -> anyhow::Result<()> {
    let bed = Bed::start(|_| {}).await?;
    let mut tcp = TcpStream::connect(bed.front.addr()).await?;
    tcp.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0").await?;
    let record = bed.record(|record| record.closed).await?;
    assert!(record.error.is_some());
    assert_eq!(record.alpn_offered, None);
    Ok(())
}

#[tokio::test]
async fn missing_broker_is_recorded() -> anyhow::Result<()> {
    let bed = Bed::start(|_| {}).await?;
    // A front that is down gives us a port which nobody else gets.
    let nobody = Bed::start(|_| {}).await?;
    nobody.front.faults().refuse(true).await?;
    bed.front.redirect(nobody.front.addr());

    let device = bed.authority.issue_client("device")?;
    let client = Client { identity: Some(&device), alpn: &[ALPN], ..Client::new(&bed.authority) };
    let mut stream = client.connect(bed.front.addr()).await?;
    assert!(soon("read", stream.read_u8()).await?.is_err());
    let record = bed.record(|record| record.closed).await?;
    let error = record.error.context("no error recorded")?;
    assert!(error.contains("connect to the broker"), "{error}");
    Ok(())
}

/// A front that demands everything, before a server that echoes.
struct Bed {
    authority: Authority,
    front: Front,
}

impl Bed {
    async fn start(adapt: impl FnOnce(&mut FrontConfig)) -> anyhow::Result<Self> {
        let authority = Authority::new("root")?;
        let mut config = FrontConfig {
            client_ca: Some(authority.ca_pem()),
            alpn: vec![ALPN.to_vec()],
            require_alpn: true,
            ..FrontConfig::new(authority.issue_server(&["localhost"])?)
        };
        adapt(&mut config);
        let front = Front::start(echo_server().await?, config).await?;
        Ok(Self { authority, front })
    }

    /// The newest record, once it is as wanted.
    async fn record(&self, wanted: impl Fn(&ConnectionRecord) -> bool) -> anyhow::Result<ConnectionRecord> {
        let arrived = |records: &[ConnectionRecord]| records.last().is_some_and(&wanted);
        let records = soon("record", self.front.wait_for(arrived)).await?;
        records.last().cloned().context("no record")
    }
}

async fn echo_server() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    // Ends with the runtime of the test.
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tcp.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    Ok(addr)
}

async fn echo(stream: &mut Tls, words: &[u8]) -> anyhow::Result<()> {
    let mut answer = vec![0; words.len()];
    soon("echo", async {
        stream.write_all(words).await?;
        stream.flush().await?;
        stream.read_exact(&mut answer).await
    })
    .await??;
    assert_eq!(answer, words);
    Ok(())
}

/// The error a refused client gets, at the handshake or (TLS 1.3) after its first words. It
/// goes on talking for a while: if the front reset the connection because of that, the alert
/// would be lost.
async fn refusal(client: &Client<'_>, addr: SocketAddr) -> anyhow::Result<rustls::Error> {
    let error = match client.connect(addr).await {
        Err(error) => return rustls_error(error),
        Ok(mut stream) => {
            let talk = async {
                for _ in 0..64 {
                    stream.write_all(&[b'x'; 1024]).await?;
                    stream.flush().await?;
                    // The front runs in the same thread.
                    tokio::task::yield_now().await;
                }
                stream.read_u8().await
            };
            soon("refusal", talk).await?.err()
        }
    };
    rustls_error(error.context("not refused")?.into())
}

fn rustls_error(error: anyhow::Error) -> anyhow::Result<rustls::Error> {
    let io = error.downcast::<std::io::Error>()?;
    let inner = io
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .with_context(|| format!("no TLS error: {io:?}"))?;
    Ok(inner.clone())
}

fn leaf(identity: &Identity) -> anyhow::Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_slice(identity.cert_pem.as_bytes())?)
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))
}
