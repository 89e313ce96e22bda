//! A broker that talks nonsense: the host says so, waits, and tries again. It never panics,
//! hangs, or runs hot.

use std::time::{Duration, Instant};

use crate::harness::{
    Bed, Do, Packet, Program, Result, Scripted, Step, frame, in_both_versions, kind, length, seed, string,
};

in_both_versions! {
    a_thousand_random_packets_are_borne
    packets_that_break_the_rules_are_named
    a_packet_over_the_limit_is_refused_on_its_length
}

const QUICK: &str = "backoff = { min = \"10ms\", max = \"20ms\" }";

async fn a_thousand_random_packets_are_borne(protocol: &str) -> Result<()> {
    const CONNECTIONS: usize = 60;
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let bed = Bed::start().await?;
    let broker = Scripted::start(&bed, move |event| match &event.step {
        Step::Packet(Packet::Connect(_)) => {
            let mut actions = vec![Do::welcome(false)];
            // The first few are quiet, so that some are read before the connection ends.
            actions.extend((0..20).map(|_| Do::Raw(packet(&mut random))));
            actions.push(Do::Close);
            actions
        }
        _ => Vec::new(),
    })
    .await?;
    let config = broker.config(&bed, "").link(QUICK).link(&format!("protocol = {protocol:?}"));
    let mut host = Program::run(&config)?;
    broker.connect(CONNECTIONS).await?;
    broker.now(kind);
    host.log_times(CONNECTIONS, &["connect success"]).await?;
    host.stop().await
}

/// The beginning, the middle, or the end of something.
fn packet(random: &mut fastrand::Rng) -> Vec<u8> {
    let body: Vec<_> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
    let mut bytes = match random.u8(0..4) {
        // PINGRESP, and PUBACK for nothing.
        0 => vec![0xd0, 0],
        1 => vec![0x40, 2, 0, random.u8(1..)],
        2 => frame(random.u8(..), &body),
        _ => body,
    };
    if random.u8(0..10) == 0 {
        bytes.truncate(random.usize(0..=bytes.len()));
    }
    bytes
}

async fn packets_that_break_the_rules_are_named(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("CONNECT from a broker", frame(0x10, &[]), "does not keep to MQTT"),
        ("a packet type of 0", vec![0, 0], "does not keep to MQTT"),
        ("a length without end", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff], "does not keep to MQTT"),
        (
            "a second CONNACK",
            if protocol == "5" { vec![0x20, 3, 0, 0, 0] } else { vec![0x20, 2, 0, 0] },
            "a second CONNACK",
        ),
        ("PINGREQ from a broker", vec![0xc0, 0], "a broker never sends"),
        ("a message of QoS 2", frame(0x34, &[0, 1, b't', 0, 1, 0]), "never asked for"),
    ];
    for (what, bytes, word) in cases {
        let broker = Scripted::start(&bed, move |event| match &event.step {
            Step::Packet(Packet::Connect(_)) if event.connection == 0 => {
                vec![Do::welcome(false), Do::Raw(bytes.clone())]
            }
            _ => kind(event),
        })
        .await?;
        let config = broker.config(&bed, "").link(QUICK).link(&format!("protocol = {protocol:?}"));
        let mut host = Program::run(&config)?;
        let line = host.log(&["connection lost"]).await?;
        assert!(line.to_lowercase().contains(&word.to_lowercase()), "{what}: {line}");
        host.log_times(2, &["connect success"]).await?;
        host.stop().await?;
    }
    Ok(())
}

async fn a_packet_over_the_limit_is_refused_on_its_length(protocol: &str) -> Result<()> {
    let bed = Bed::start().await?;
    let announced = [vec![0x30], length(200_000_000), string("t")].concat();
    let broker = Scripted::start(&bed, move |event| match &event.step {
        // The rest never comes.
        Step::Packet(Packet::Connect(_)) if event.connection == 0 => {
            vec![Do::welcome(false), Do::Raw(announced.clone())]
        }
        _ => kind(event),
    })
    .await?;
    let config = broker.config(&bed, "").link(QUICK).link(&format!("protocol = {protocol:?}"));
    let begin = Instant::now();
    let mut host = Program::run(&config)?;
    host.log(&["connection lost", "more than `max_packet` allows"]).await?;
    assert!(begin.elapsed() < Duration::from_secs(10));
    host.stop().await
}
