//! A broker that refuses: each reason has its word in the log and its pause behind it, and
//! when the broker has become kind, the host is connected.

use std::time::Duration;

use crate::harness::{Bed, Do, Packet, Program, Result, Scripted, Step, in_both_versions, kind};

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
