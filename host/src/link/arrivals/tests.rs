use super::*;
use crate::{message::Qos, topic::TopicName};

const SECOND: Duration = Duration::from_secs(1);

fn arrivals() -> Arrivals {
    Arrivals::new(0)
}

fn message(payload: &'static str) -> Message {
    Message {
        topic: TopicName::parse("t").unwrap(),
        payload: bytes::Bytes::from_static(payload.as_bytes()),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: None,
    }
}

/// A message arrives for these plugins.
fn arrive(arrivals: &mut Arrivals, packet_id: u16, duplicate: bool, plugins: &[SubscriberId]) -> Option<Token> {
    arrive_as(arrivals, packet_id, duplicate, plugins, "")
}

fn arrive_as(
    arrivals: &mut Arrivals,
    packet_id: u16,
    duplicate: bool,
    plugins: &[SubscriberId],
    payload: &'static str,
) -> Option<Token> {
    let (token, holders) = arrivals.arrived(&message(payload), packet_id, duplicate, Instant::now())?;
    plugins.iter().filter(|id| !holders.contains(id)).for_each(|id| arrivals.went_to(*id, false));
    Some(token)
}

fn acknowledgements(arrivals: &mut Arrivals) -> Vec<u16> {
    std::iter::from_fn(|| arrivals.next_acknowledgement()).collect()
}

#[test]
fn acknowledgements_leave_in_order_of_arrival() {
    let mut arrivals = arrivals();
    let tokens: Vec<_> =
        (1..=3).map(|id| arrive(&mut arrivals, id, false, if id == 2 { &[8, 9] } else { &[9] }).unwrap()).collect();
    arrivals.handled(tokens[2], 9);
    assert_eq!(acknowledgements(&mut arrivals), [0; 0]);
    arrivals.handled(tokens[0], 9);
    assert_eq!(acknowledgements(&mut arrivals), [1]);
    arrivals.handled(tokens[1], 9);
    assert_eq!(acknowledgements(&mut arrivals), [0; 0], "two plugins got it, one has handled it");
    arrivals.handled(tokens[1], 8);
    assert_eq!(acknowledgements(&mut arrivals), [2, 3]);
    arrivals.handled(tokens[1], 8);
}

#[test]
fn a_message_that_nobody_takes_is_acknowledged() {
    let mut arrivals = arrivals();
    arrive(&mut arrivals, 1, false, &[]);
    assert_eq!(acknowledgements(&mut arrivals), [1]);
}

#[test]
fn what_is_held_for_too_long_is_acknowledged_when_it_is_stored() {
    let mut arrivals = arrivals();
    let token = arrive(&mut arrivals, 1, false, &[8, 9]).unwrap();
    let later = Instant::now() + SECOND;
    assert!(arrivals.held(SECOND * 2, later).is_empty());
    assert!(arrivals.oldest_held().is_some() && arrivals.is_in_memory(token, 8));
    assert!(!arrivals.handled(token, 8), "it never was on disk");
    let held = arrivals.held(SECOND, later);
    assert_eq!((held[0].token, &held[0].receivers[..]), (token, &[9][..]));
    assert!(arrivals.oldest_held().is_none() && !arrivals.is_in_memory(token, 9));
    assert!(arrivals.held(SECOND, later).is_empty(), "once");
    assert_eq!(acknowledgements(&mut arrivals), [0; 0], "not before it is durable");
    arrivals.stored(token, 9);
    assert_eq!(acknowledgements(&mut arrivals), [1]);
    assert!(arrivals.handled(token, 9), "it is to be taken off the disk");
}

#[test]
fn acknowledgements_for_an_older_connection_are_not_sent_on_a_newer_one() {
    let mut arrivals = arrivals();
    let old = arrive(&mut arrivals, 7, false, &[9]).unwrap();
    arrivals.resume();
    arrivals.handled(old, 9);
    assert_eq!(acknowledgements(&mut arrivals), [0; 0]);
    assert_eq!(arrive(&mut arrivals, 7, true, &[9]), None, "handled since: not delivered again");
    assert_eq!(acknowledgements(&mut arrivals), [7], "but acknowledged, since it came again");
}

#[test]
fn what_a_plugin_still_has_is_not_delivered_twice() {
    let mut arrivals = arrivals();
    let token = arrive(&mut arrivals, 7, false, &[9]).unwrap();
    arrivals.resume();
    arrivals.resume();
    assert_eq!(arrive(&mut arrivals, 7, true, &[9]), None);
    assert_eq!(acknowledgements(&mut arrivals), [0; 0]);
    arrivals.handled(token, 9);
    assert_eq!(acknowledgements(&mut arrivals), [7]);
}

#[test]
fn a_packet_id_that_names_a_new_message_is_delivered() {
    let mut arrivals = arrivals();
    arrive(&mut arrivals, 7, false, &[9]).unwrap();
    arrivals.resume();
    assert!(arrive(&mut arrivals, 7, false, &[9]).is_some());
    arrivals.restart();
    assert!(arrive(&mut arrivals, 7, true, &[9]).is_some(), "a new session has new ids");
}

#[test]
fn another_message_under_the_packet_id_of_one_that_expired_at_the_broker_is_delivered() {
    for is_handled in [false, true] {
        let mut arrivals = arrivals();
        let first = arrive_as(&mut arrivals, 6, false, &[9], "first").unwrap();
        let token = arrive_as(&mut arrivals, 7, false, &[9], "on").unwrap();
        if is_handled {
            arrivals.handled(token, 9);
        }
        arrivals.resume();
        let other = arrive_as(&mut arrivals, 7, true, &[9], "off").expect("it is another message");
        arrivals.handled(first, 9);
        arrivals.handled(other, 9);
        assert_eq!(acknowledgements(&mut arrivals), [7]);
        arrivals.resume();
        assert!(arrive_as(&mut arrivals, 7, true, &[9], "on").is_some(), "the earlier one is over");
    }
}

#[test]
fn what_the_broker_did_not_repeat_before_it_went_on_is_over() {
    let mut arrivals = arrivals();
    arrive_as(&mut arrivals, 7, false, &[9], "on").unwrap();
    arrivals.resume();
    arrivals.resume();
    arrive_as(&mut arrivals, 8, false, &[9], "new").unwrap();
    arrivals.resume();
    assert!(arrive_as(&mut arrivals, 7, true, &[9], "on").is_some(), "it only looks like the earlier one");
    assert!(arrive_as(&mut arrivals, 8, true, &[9], "new").is_none());
}

#[test]
fn what_is_stored_behind_another_needs_no_memory_for_its_message_and_is_still_recognised() {
    let mut arrivals = arrivals();
    let first = arrive_as(&mut arrivals, 1, false, &[9], "first").unwrap();
    let (second, _) = arrivals.arrived(&message("second"), 2, false, Instant::now()).unwrap();
    arrivals.went_to(9, true);
    arrivals.stored(second, 9);
    assert!(arrivals.message(second).is_none() && arrivals.message(first).is_some());
    arrivals.resume();
    assert_eq!(arrive_as(&mut arrivals, 1, true, &[9], "first"), None);
    assert_eq!(arrive_as(&mut arrivals, 2, true, &[9], "second"), None);
    arrivals.handled(first, 9);
    assert_eq!(acknowledgements(&mut arrivals), [1, 2]);
}

#[test]
fn what_a_plugin_has_in_memory_only_is_spilled_once_and_in_the_order_of_arrival() {
    let mut arrivals = arrivals();
    let carried = arrive_as(&mut arrivals, 1, false, &[8, 9], "1").unwrap();
    arrivals.resume();
    let tokens: Vec<_> = (2..=4).map(|id| arrive(&mut arrivals, id, false, &[8, 9]).unwrap()).collect();
    arrivals.handled(tokens[0], 9);
    let spilled = arrivals.spill(9);
    let found: Vec<_> = spilled.iter().map(|held| (held.token, held.packet_id)).collect();
    assert_eq!(found, [(carried, 1), (tokens[1], 3), (tokens[2], 4)]);
    assert!(arrivals.spill(9).is_empty() && arrivals.is_in_memory(tokens[1], 8));
    assert!(arrivals.handled(tokens[1], 9), "it is to be taken off the disk");
    assert_eq!(arrivals.spill(8).len(), 4);
    assert!(arrivals.oldest_held().is_none());
}

#[test]
fn a_broker_that_mixes_old_and_new_is_answered_in_its_order() {
    let mut arrivals = arrivals();
    let old: Vec<_> = (1..=3).map(|id| arrive(&mut arrivals, id, false, &[9]).unwrap()).collect();
    arrivals.resume();
    let new = arrive(&mut arrivals, 4, false, &[9]).unwrap();
    for id in [3, 1, 2] {
        assert_eq!(arrive(&mut arrivals, id, true, &[9]), None);
    }
    for token in [old[0], old[2], new, old[1]] {
        assert!(!arrivals.handled(token, 9));
    }
    assert_eq!(acknowledgements(&mut arrivals), [4, 3, 1, 2]);
}

fn kept(token: Token, packet_id: u16, payload: &'static str, holder: SubscriberId) -> Kept {
    Kept { token, packet_id, digest: message(payload).digest(), holder }
}

#[test]
fn what_an_earlier_run_holds_is_not_delivered_to_its_holders_again() {
    let mut arrivals = Arrivals::new(5);
    arrivals.remember([kept(4, 1, "a", 8), kept(4, 1, "a", 9), kept(5, 2, "b", 9)]);
    arrivals.resume();
    arrive_as(&mut arrivals, 1, true, &[8, 9], "a").unwrap();
    assert_eq!(acknowledgements(&mut arrivals), [1], "both hold it");
    let token = arrive_as(&mut arrivals, 2, true, &[8, 9], "b").unwrap();
    assert!(arrivals.is_in_memory(token, 8) && !arrivals.is_in_memory(token, 9));
    let again = arrive_as(&mut arrivals, 1, true, &[8], "a").unwrap();
    assert!(arrivals.is_in_memory(again, 8), "it was acknowledged, so this is another one");
}

#[test]
fn what_only_looks_like_what_an_earlier_run_holds_is_delivered() {
    for (duplicate, payload) in [(false, "a"), (true, "b")] {
        let mut arrivals = Arrivals::new(5);
        arrivals.remember([kept(4, 1, "a", 9)]);
        arrivals.resume();
        let token = arrive_as(&mut arrivals, 1, duplicate, &[9], payload).unwrap();
        assert!(arrivals.is_in_memory(token, 9));
        assert!(arrive_as(&mut arrivals, 1, true, &[9], "a").is_some_and(|token| arrivals.is_in_memory(token, 9)));
    }
    // A lost session, and a broker that gives packet ids again soon.
    let mut lost = Arrivals::new(5);
    lost.remember([kept(4, 1, "a", 9)]);
    lost.restart();
    let mut soon = Arrivals::new(5);
    soon.remember([kept(4, 1, "a", 9), kept(5, 1, "b", 9)]);
    soon.resume();
    for mut arrivals in [lost, soon] {
        let token = arrive_as(&mut arrivals, 1, true, &[9], "a").unwrap();
        assert!(arrivals.is_in_memory(token, 9));
    }
}
