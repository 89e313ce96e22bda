//! A broker that refuses: each reason has its word in the log and its pause behind it, and
//! when the broker has become kind, the host is connected.

use std::time::Duration;

use crate::harness::{Answer, Bed, Do, Packet, Program, Result, Scripted, Step, in_both_versions, kind};

in_both_versions! {
    a_broker_without_a_connack_is_asked_again
}

async fn a_broker_without_a_connack_is_asked_again(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, |_| Vec::new()).await?;
    let config = broker.config(&bed, "").link("connect_timeout = \"200ms\"").link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    host.log(&["connect failed (attempt 2)", "no connection within 200ms", "CONNACK"]).await?;
    broker.now(kind);
    host.log(&["connect success"]).await?;
    host.stop().await?;
    broker.keeps_the_rules()
}

#[tokio::test]
async fn each_way_to_go_away_is_noticed_at_each_step() -> Result<()> {
    let bed = Bed::start().await?;
    for end in [Do::Close, Do::Reset, Do::Alert] {
        for step in ["Came", "Asked", "Agreed", "Connect"] {
            let end = end.clone();
            let broker = Scripted::start(&bed, move |event| {
                let is = match &event.step {
                    Step::Came => "Came",
                    Step::Asked(_) => "Asked",
                    Step::Agreed => "Agreed",
                    Step::Packet(Packet::Connect(_)) => "Connect",
                    _ => "",
                };
                if is == step { vec![end.clone()] } else { kind(event) }
            })
            .await?;
            let mut host = Program::run(&broker.config(&bed, ""))?;
            let line = host.log(&["connect failed (attempt 2)"]).await?;
            println!("{line}");
            host.stop().await?;
        }
    }
    tokio::time::sleep(Duration::ZERO).await;
    Ok(())
}

/// Each reason has its word, and none is answered with a hot loop.
#[tokio::test]
async fn each_reason_not_to_connect_is_named() -> Result<()> {
    let v311: &[(u8, &str)] = &[
        (1, "does not speak this MQTT version"),
        (2, "does not take this client id"),
        (3, "not available"),
        (4, "bad user name or password"),
        (5, "not authorised"),
        (7, "not authorised"),
        (99, "does not define"),
    ];
    let v5: &[(u8, &str)] = &[
        (0x80, "unspecified"),
        (0x81, "malformed packet"),
        (0x82, "protocol error"),
        (0x83, "implementation specific"),
        (0x84, "unsupported protocol version"),
        (0x85, "client identifier not valid"),
        (0x86, "bad user name"),
        (0x87, "not authorized"),
        (0x88, "server unavailable"),
        (0x89, "server busy"),
        (0x8a, "banned"),
        (0x8c, "bad authentication method"),
        (0x90, "topic name invalid"),
        (0x95, "packet too large"),
        (0x97, "quota exceeded"),
        (0x99, "payload format invalid"),
        (0x9a, "retain not supported"),
        (0x9b, "not supported"),
        (0x9c, "use another server"),
        (0x9d, "server moved"),
        (0x9f, "connection rate exceeded"),
    ];
    let bed = Bed::start().await?;
    for (protocol, codes) in [("3.1.1", v311), ("5", v5)] {
        for (code, word) in codes.iter().copied() {
            let broker = Scripted::start(&bed, move |event| match &event.step {
                Step::Packet(Packet::Connect(_)) => vec![Do::refuse(code), Do::Close],
                _ => Vec::new(),
            })
            .await?;
            let mut host = Program::run(&broker.config(&bed, "").link(&format!("protocol = {protocol:?}")))?;
            let line = host.log(&["connect failed (attempt 2)"]).await?;
            assert!(line.to_lowercase().contains(&word.to_lowercase()), "{code:#04x}: {line}");
            broker.now(kind);
            host.log(&["connect success"]).await?;
            host.stop().await?;
            assert!(broker.connections() <= 5, "{code:#04x}: {} connections", broker.connections());
        }
    }
    Ok(())
}

/// A CONNACK with which there is no way to go on is named, and asked for again.
#[tokio::test]
async fn a_connack_that_contradicts_itself_is_a_protocol_error() -> Result<()> {
    let bed = Bed::start().await?;
    let connack = |session_present, properties: &[u8]| {
        Do::Say(Answer::Connack { session_present, code: 0, properties: properties.to_vec() })
    };
    for (protocol, connack, word) in [
        ("5", connack(false, &[0x27, 0, 0, 0, 0]), "at most 0 bytes"),
        ("5", connack(false, &[0x21, 0, 0]), "violates the MQTT protocol"),
        ("5", connack(true, &[]), "clean start"),
        ("3.1.1", connack(true, &[]), "clean start"),
    ] {
        let broker = Scripted::start(&bed, move |event| match &event.step {
            Step::Packet(Packet::Connect(_)) => vec![connack.clone()],
            _ => kind(event),
        })
        .await?;
        let config = broker.config(&bed, "").link(&format!("protocol = {protocol:?}")).link("session_expiry = \"0s\"");
        let mut host = Program::run(&config)?;
        host.log(&["connect failed (attempt 2)", "does not keep to MQTT", word]).await?;
        broker.now(kind);
        host.log(&["connect success"]).await?;
        host.stop().await?;
    }
    Ok(())
}

/// Taken before the first CONNACK, which then forbids it (MQTT-3.2.2-11).
#[tokio::test]
async fn what_a_connack_forbids_is_given_up_although_it_was_taken() -> Result<()> {
    // Maximum QoS 0; and no retained messages.
    for (property, retain, word) in [(0x24, false, "takes QoS 0 only"), (0x25, true, "keeps no messages")] {
        let bed = Bed::start().await?;
        let broker = Scripted::start(&bed, move |event| match &event.step {
            Step::Packet(Packet::Connect(_)) if event.connection == 0 => vec![Do::refuse(0x88)],
            Step::Packet(Packet::Connect(_)) => {
                vec![Do::Say(Answer::Connack { session_present: false, code: 0, properties: vec![property, 0] })]
            }
            _ => kind(event),
        })
        .await?;
        let plugin = format!(
            r#"
            [plugins.sequence]
            component = "sequence.wasm"
            publish = ["seq"]
            config = {{ topic = "seq", count = "2", retain = "{retain}" }}
            "#
        );
        let mut host = Program::run(&broker.config(&bed, &plugin))?;
        host.log_times(2, &["WARN", "a message was dropped", word, "seq"]).await?;
        host.stop().await?;
        assert_eq!(broker.published("seq").len(), 0);
        broker.keeps_the_rules()?;
    }
    Ok(())
}
