//! One probe per criterion; each ends by itself within about 15 seconds.

use crate::Cell;
use crate::broker::{self, Broker, CLOSED, CONNECT, Conn, PUBACK, PUBLISH, Seen};
use crate::candidates::{Candidate, Link};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn errors(link: &Link) -> Vec<String> {
    link.shared.errors.lock().expect("no holder panics").clone()
}

fn outcomes_of(link: &Link) -> BTreeMap<usize, String> {
    link.shared.outcomes.lock().expect("no holder panics").clone()
}

/// Payloads of the inbound messages delivered so far.
fn inbox(link: &Link) -> Vec<String> {
    let inbox = link.shared.inbox.lock().expect("no holder panics");
    inbox.iter().map(|(payload, _)| payload.clone()).collect()
}

/// Acknowledges the first delivered message with this payload.
fn acknowledge(link: &Link, payload: &str) {
    let mut inbox = link.shared.inbox.lock().expect("no holder panics");
    if let Some(at) = inbox.iter().position(|(p, _)| p == payload) {
        let (_, ack) = inbox.remove(at);
        drop(inbox);
        ack();
    }
}

async fn delivered(link: &Link, count: usize) -> bool {
    for _ in 0..150 {
        if inbox(link).len() >= count {
            return true;
        }
        pause(20).await;
    }
    false
}

/// Packet ids of the PUBACKs that arrived on one connection.
fn pubacks(seen: &[Seen], conn: usize) -> Vec<u16> {
    let of = |s: &&Seen| s.conn == conn && s.kind == PUBACK;
    seen.iter().filter(of).map(|s| s.id).collect()
}

/// (1) Publish 1 is never acknowledged, 2 comes before 0; at MQTT 5 publish 2 is refused.
pub async fn outcomes(c: &Candidate) -> std::io::Result<Cell> {
    let mut conn = Conn::accept(c.v5, false);
    conn.answer = |v5, seen| match seen.payload.as_str() {
        "0" => Some((200, broker::puback(seen.id))),
        "2" if v5 => Some((50, vec![0x40, 4, (seen.id >> 8) as u8, seen.id as u8, 0x87, 0])),
        "2" => Some((50, broker::puback(seen.id))),
        _ => None,
    };
    let broker = Broker::start(c.v5, vec![conn]).await?;
    let link = (c.start)(broker.port);
    broker.wait(3000, |s| !s.is_empty()).await;
    pause(200).await;
    for n in 0..3 {
        link.publish(n);
    }
    pause(1500).await;
    let got = outcomes_of(&link);
    let says = |n: usize, what: &str| got.get(&n).is_some_and(|o| o.contains(what));
    let second = if c.v5 { "NotAuthorized" } else { "delivered" };
    let pass = says(0, "delivered") && !got.contains_key(&1) && says(2, second);
    let note = if got.is_empty() {
        "no outcome reaches the caller".to_owned()
    } else {
        format!("{got:?}; publish 1 unacknowledged")
    };
    Ok(Cell::of(pass, note))
}

/// (2) Acknowledge 3, 1, 2; then acknowledge across a reconnect.
pub async fn ack_order(c: &Candidate) -> std::io::Result<Cell> {
    let mut conn = Conn::accept(c.v5, false);
    for (id, payload) in [(1, "a"), (2, "b"), (3, "c")] {
        conn.push.extend(broker::publish(c.v5, false, id, payload));
    }
    let broker = Broker::start(c.v5, vec![conn]).await?;
    let link = (c.start)(broker.port);
    if !delivered(&link, 3).await {
        let note = format!(
            "no deferred acknowledgement to be had; acks sent at once: {:?}; {:?}",
            pubacks(&broker.seen(), 0),
            errors(&link)
        );
        return Ok(Cell::of(false, note));
    }
    for payload in ["c", "a", "b"] {
        acknowledge(&link, payload);
        pause(150).await;
    }
    broker.wait(1000, |s| pubacks(s, 0).len() == 3).await;
    let order = pubacks(&broker.seen(), 0);
    let mut pass = order == [1, 2, 3];
    let mut note = format!("acks given 3,1,2 left as {order:?}");
    for (resumed, name) in [(false, "session lost"), (true, "session resumed")] {
        let late = late_ack(c, resumed).await?;
        pass &= late.as_ref().is_some_and(Vec::is_empty);
        let late = late.map_or("not reached".to_owned(), |sent| format!("{sent:?}"));
        note += &format!("; old ack sent on new connection, {name}: {late}");
    }
    Ok(Cell::of(pass, note))
}

/// Message id 1 on connection 0, id 1 again on connection 1; then the first is acknowledged.
async fn late_ack(c: &Candidate, resumed: bool) -> std::io::Result<Option<Vec<u16>>> {
    let mut first = Conn::accept(c.v5, false);
    first.push = broker::publish(c.v5, false, 1, "old");
    first.close_after = Some(0);
    let mut second = Conn::accept(c.v5, resumed);
    // A resumed session repeats the same message, a new session brings another.
    second.push = broker::publish(c.v5, resumed, 1, if resumed { "old" } else { "new" });
    let broker = Broker::start(c.v5, vec![first, second]).await?;
    let link = (c.start)(broker.port);
    let again = |s: &[Seen]| s.iter().any(|s| s.conn == 1 && s.kind == CONNECT);
    if !delivered(&link, 1).await || !broker.wait(4000, again).await {
        return Ok(None);
    }
    pause(500).await;
    acknowledge(&link, "old");
    pause(500).await;
    Ok(Some(pubacks(&broker.seen(), 1)))
}

/// (3) Never acknowledge; 13 seconds is beyond every time-out named in the candidates' sources.
pub async fn repeat(c: &Candidate) -> std::io::Result<Cell> {
    let broker = Broker::start(c.v5, vec![Conn::accept(c.v5, false)]).await?;
    let link = (c.start)(broker.port);
    broker.wait(3000, |s| !s.is_empty()).await;
    pause(200).await;
    link.publish(0);
    pause(13_000).await;
    let seen = broker.seen();
    let sent: Vec<&Seen> = seen.iter().filter(|s| s.kind == PUBLISH).collect();
    let again = sent.iter().skip(1).any(|s| s.conn == sent[0].conn && s.dup && s.id == sent[0].id);
    let times = sent.len();
    Ok(if c.v5 {
        let note = format!("sent {times} time(s) in 13 s; MQTT 5 forbids the repetition");
        Cell::of(!sent.is_empty() && !again, note)
    } else {
        Cell::of(again, format!("sent {times} time(s) in 13 s"))
    })
}

/// (4) CONNACK 7 against a CONNACK with reserved flag bits set.
pub async fn code_seven(c: &Candidate) -> std::io::Result<Cell> {
    let mut text = Vec::new();
    let malformed = if c.v5 { vec![0x20, 3, 0xFE, 0, 0] } else { vec![0x20, 2, 0xFE, 0] };
    let refused = broker::connack(c.v5, false, 0x87);
    let mut answers = vec![broker::connack(c.v5, false, 7), malformed];
    answers.extend(c.v5.then_some(refused));
    for connack in answers {
        let mut conn = Conn::accept(c.v5, false);
        conn.connack = connack;
        let broker = Broker::start(c.v5, vec![conn]).await?;
        let link = (c.start)(broker.port);
        for _ in 0..150 {
            if !errors(&link).is_empty() {
                break;
            }
            pause(20).await;
        }
        let first = errors(&link).into_iter().next();
        text.push(first.unwrap_or("no error within 3 s".to_owned()));
    }
    // A typed error that carries the number; the kind "malformed" with the number in its prose fails.
    let typed = |t: &str| t.contains("ReturnCode(7)") || t.contains("NotAuthorized");
    let pass = typed(&text[0]) && text[0] != text[1];
    let mut note = format!("7: {}; malformed: {}", text[0], text[1]);
    if let Some(refused) = text.get(2) {
        note += &format!("; 0x87: {refused}");
    }
    Ok(Cell::of(pass, note))
}

/// (5) 64 publishes wait while the CONNACK is held back; TCP segments bound the writes from below.
pub async fn batch(c: &Candidate) -> std::io::Result<Cell> {
    let mut conn = Conn::accept(c.v5, false);
    conn.delay = 600;
    let broker = Broker::start(c.v5, vec![conn]).await?;
    let link = (c.start)(broker.port);
    pause(200).await;
    for n in 0..64 {
        link.publish(n);
    }
    let all = |s: &[Seen]| s.iter().filter(|s| s.kind == PUBLISH).count() >= 64;
    broker.wait(4000, all).await;
    let seen = broker.seen();
    let sent: Vec<&Seen> = seen.iter().filter(|s| s.kind == PUBLISH).collect();
    // The CONNECT came in the first read and the first segment.
    let last = sent.last().map_or((0, 0), |s| (s.reads - 1, s.segments - 1));
    let note = format!("{} publishes in {} reads, {} TCP segments", sent.len(), last.0, last.1);
    Ok(Cell::of(sent.len() >= 64 && last.1 <= 8, note))
}

/// (6) A PUBLISH of 100 MB announced by its fixed header alone, limit 4096 bytes.
pub async fn oversize(c: &Candidate) -> std::io::Result<Cell> {
    let mut conn = Conn::accept(c.v5, false);
    conn.push = vec![0x30, 0x80, 0x80, 0x80, 0x30];
    let broker = Broker::start(c.v5, vec![conn]).await?;
    let link = (c.start)(broker.port);
    let closed = |s: &[Seen]| s.iter().any(|s| s.conn == 0 && s.kind == CLOSED);
    let pass = broker.wait(3000, closed).await;
    let first = errors(&link).into_iter().next();
    let note = if pass {
        first.unwrap_or("client closed, no error shown".to_owned())
    } else {
        "still waiting for the body after 3 s".to_owned()
    };
    Ok(Cell::of(pass, note))
}

/// (7) 110 publishes, no acknowledgement on connection 0, late ones on connection 1.
pub async fn reconnect(c: &Candidate) -> std::io::Result<Cell> {
    let (mut pass, mut notes) = (true, Vec::new());
    for (resumed, name) in [(true, "resumed"), (false, "lost")] {
        let mut first = Conn::accept(c.v5, false);
        first.close_after = Some(100);
        let mut second = Conn::accept(c.v5, resumed);
        second.answer = broker::ack_late;
        let broker = Broker::start(c.v5, vec![first, second]).await?;
        let link = (c.start)(broker.port);
        broker.wait(3000, |s| !s.is_empty()).await;
        pause(200).await;
        for n in 0..110 {
            link.publish(n);
        }
        let arrived = |s: &[Seen]| -> BTreeSet<String> {
            let of = s.iter().filter(|s| s.conn > 0 && s.kind == PUBLISH);
            of.map(|s| s.payload.clone()).collect()
        };
        broker.wait(8000, |s| arrived(s).len() >= 110).await;
        let seen = broker.seen();
        let publishes = |first: bool| {
            let of = move |s: &&Seen| s.kind == PUBLISH && (s.conn == 0) == first;
            seen.iter().filter(of)
        };
        let before = publishes(true).count();
        let old: BTreeSet<&String> = publishes(true).map(|s| &s.payload).collect();
        let again = publishes(false).filter(|s| old.contains(&s.payload));
        let dup = again.clone().filter(|s| s.dup).count();
        let (again, got) = (again.count(), arrived(&seen).len());
        // In a new session a message is new as well: DUP is required on a resumed one only.
        pass &= got >= 110 && (!resumed || dup == again);
        pause(500).await;
        let told = outcomes_of(&link);
        let failed: Vec<&String> = told.values().filter(|o| o.contains("fail")).collect();
        let failed = failed.first().map_or(String::new(), |f| format!(" ({} {f})", failed.len()));
        notes.push(format!(
            "{name}: {before} before the cut, then {got} of 110, {again} repeated, DUP on {dup}; \
             outcomes told: {}{failed}",
            told.len()
        ));
    }
    Ok(Cell::of(pass, notes.join("; ")))
}
