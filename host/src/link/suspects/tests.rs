use super::*;

fn topic(text: &str) -> TopicName {
    TopicName::parse(text.to_owned()).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.to_owned()).unwrap()
}

/// What was convicted for closing the connection, if anything was.
fn convicted(suspects: &mut Suspects) -> Option<Item> {
    suspects.convicted().map(|conviction| conviction.item)
}

fn item(text: &str) -> Item {
    Item::Publish { owner: 1, topic: topic(text) }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Sends if that is allowed.
fn publish(suspects: &mut Suspects, text: &str, now: Instant) -> bool {
    let may = suspects.may_publish(1, &topic(text), now);
    if may {
        suspects.published(1, &topic(text), true, now);
    }
    may
}

/// PINGREQ and PINGRESP, if one is wanted, and all acknowledgements.
fn ping(suspects: &mut Suspects, now: Instant) {
    if suspects.wants_ping() {
        suspects.pinged();
        suspects.ponged(now);
    }
    while let Some(Sent { item: Item::Publish { owner, topic }, until: None }) = suspects.unanswered.front() {
        let (owner, topic) = (*owner, topic.clone());
        suspects.acknowledged(owner, &topic);
    }
}

/// One connection of a device with innocent topics whose broker bears everything but `poison`,
/// over which it closes the connection after 50 ms. The time when it dies.
fn connection(suspects: &mut Suspects, innocent: &[&str], poison: &str, start: Instant) -> Option<Instant> {
    suspects.connected(start);
    let mut now = start;
    for _ in 0..1000 {
        now += ms(10);
        if publish(suspects, poison, now) {
            suspects.died(now + ms(50), Death::Closed);
            return Some(now + ms(50));
        }
        for text in innocent {
            if publish(suspects, text, now) {
                suspects.acknowledged(1, &topic(text));
            }
        }
        ping(suspects, now);
    }
    None
}

#[test]
fn one_forbidden_topic_is_convicted_at_the_fourth_death_and_others_flow_meanwhile() {
    let mut suspects = Suspects::new();
    let mut now = Instant::now();
    for death in 1..=4 {
        assert_eq!(convicted(&mut suspects), None, "before death {death}");
        now = connection(&mut suspects, &["good"], "bad", now).unwrap() + ms(1000);
    }
    assert_eq!(convicted(&mut suspects), Some(item("bad")));
    assert_eq!(convicted(&mut suspects), None);
    suspects.connected(now);
    assert!(publish(&mut suspects, "good", now) && publish(&mut suspects, "fine", now), "calm again");
}

#[test]
fn one_among_others_goes_alone_and_is_convicted_at_the_fifth_death() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    for death in 0..2 {
        suspects.connected(start);
        for text in ["one", "bad", "two"] {
            assert!(publish(&mut suspects, text, start), "death {death}");
        }
        suspects.died(start + ms(50), Death::Closed);
    }
    suspects.connected(start);
    assert!(publish(&mut suspects, "one", start));
    assert!(!publish(&mut suspects, "bad", start) && !publish(&mut suspects, "new", start), "one at a time");
    ping(&mut suspects, start);
    assert!(publish(&mut suspects, "new", start), "what is not suspected may go between trials");
    assert!(!publish(&mut suspects, "bad", start), "not before the other is answered");
    ping(&mut suspects, start);
    let mut now = start;
    for _ in 0..3 {
        assert_eq!(convicted(&mut suspects), None);
        now = connection(&mut suspects, &["two"], "bad", now).unwrap() + ms(1000);
    }
    assert_eq!(convicted(&mut suspects), Some(item("bad")));
}

#[test]
fn a_suspect_with_a_strike_waits_until_the_connection_has_proved_itself() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    for _ in 0..2 {
        connection(&mut suspects, &[], "bad", start);
    }
    suspects.connected(start);
    assert!(!publish(&mut suspects, "bad", start + CONTROL), "no PINGREQ was answered yet");
    assert!(suspects.wants_ping());
    ping(&mut suspects, start);
    assert_eq!(suspects.next_deadline(start), Some(start + CONTROL));
    assert!(!publish(&mut suspects, "bad", start + CONTROL - ms(1)));
    assert!(publish(&mut suspects, "good", start + ms(1)));
    assert!(!publish(&mut suspects, "bad", start + CONTROL), "another message is unanswered");
    assert!(!publish(&mut suspects, "good", start + CONTROL), "and none may follow");
    ping(&mut suspects, start);
    assert!(publish(&mut suspects, "bad", start + CONTROL));
}

#[test]
fn a_connection_that_dies_without_the_suspect_clears_it() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    for _ in 0..2 {
        connection(&mut suspects, &[], "slow", start);
    }
    suspects.connected(start);
    suspects.died(start + ms(500), Death::Closed);
    suspects.connected(start);
    assert!(publish(&mut suspects, "slow", start) && publish(&mut suspects, "other", start));
}

#[test]
fn whatever_is_answered_is_innocent() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    for _ in 0..2 {
        suspects.connected(start);
        publish(&mut suspects, "late", start);
        suspects.died(start + ms(50), Death::Closed);
        // An answer that comes on the next connection.
        suspects.connected(start);
        publish(&mut suspects, "late", start);
        suspects.acknowledged(1, &topic("late"));
        suspects.died(start + ms(50), Death::Closed);
    }
    suspects.connected(start);
    assert!(publish(&mut suspects, "late", start) && publish(&mut suspects, "other", start));
}

#[test]
fn a_death_that_comes_at_another_time_is_no_strike() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    for _ in 0..3 {
        connection(&mut suspects, &[], "slow", start);
    }
    suspects.connected(start);
    ping(&mut suspects, start);
    assert!(publish(&mut suspects, "slow", start + CONTROL));
    suspects.died(start + CONTROL + ms(900), Death::Closed);
    assert_eq!(convicted(&mut suspects), None);
    suspects.connected(start);
    assert!(publish(&mut suspects, "slow", start) && publish(&mut suspects, "other", start));
}

#[test]
fn where_the_broker_blames_a_packet_being_alone_is_enough() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    suspects.connected(start);
    publish(&mut suspects, "bad", start);
    suspects.died(start + ms(50), Death::Blamed);
    assert_eq!(convicted(&mut suspects), Some(item("bad")));
}

#[test]
fn a_subscription_is_tried_like_a_message() {
    let mut suspects = Suspects::new();
    let mut now = Instant::now();
    for _ in 0..4 {
        assert_eq!(convicted(&mut suspects), None);
        suspects.connected(now);
        while !suspects.may_subscribe(&filter("bad/#"), now) {
            ping(&mut suspects, now);
            now += ms(100);
        }
        suspects.subscribed(&filter("bad/#"), now);
        suspects.died(now + ms(20), Death::Closed);
        now += ms(1000);
    }
    assert_eq!(convicted(&mut suspects), Some(Item::Subscribe(filter("bad/#"))));
}

#[test]
fn silence_and_our_own_end_say_nothing() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    for _ in 0..10 {
        suspects.connected(start);
        assert!(publish(&mut suspects, "a", start) && publish(&mut suspects, "b", start));
        suspects.died(start + ms(50), Death::Other);
    }
    assert_eq!(convicted(&mut suspects), None);
}

#[test]
fn what_has_no_acknowledgement_is_innocent_when_the_broker_had_time_to_close() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    let publish = |suspects: &mut Suspects, text: &str, now| {
        let may = suspects.may_publish(1, &topic(text), now);
        if may {
            suspects.published(1, &topic(text), false, now);
        }
        may
    };
    for _ in 0..2 {
        suspects.connected(start);
        assert!(publish(&mut suspects, "a", start) && publish(&mut suspects, "b", start));
        suspects.died(start + ms(50), Death::Closed);
    }
    suspects.connected(start);
    assert!(publish(&mut suspects, "a", start) && suspects.wants_ping());
    suspects.pinged();
    suspects.ponged(start);
    assert!(!publish(&mut suspects, "b", start), "the broker may still think about it");
    assert_eq!(suspects.next_deadline(start), Some(start + SETTLE));
    assert!(publish(&mut suspects, "b", start + SETTLE));
    suspects.pinged();
    suspects.ponged(start + SETTLE);
    suspects.died(start + SETTLE + ms(50), Death::Closed);
    assert_eq!(suspects.suspects.len(), 1, "closed after the PINGRESP: a strike all the same");
}

#[test]
fn memory_is_bounded() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    suspects.connected(start);
    for number in 0..10_000 {
        publish(&mut suspects, &format!("t/{number}"), start);
        publish(&mut suspects, "same", start);
        publish(&mut suspects, "same", start);
        suspects.pinged();
        suspects.pinged();
    }
    assert!(suspects.unanswered.len() <= REMEMBERED, "{}", suspects.unanswered.len());
}

#[test]
fn a_rival_with_our_client_id_is_named() {
    let mut suspects = Suspects::new();
    let start = Instant::now();
    let mut die = |how, lived| {
        suspects.connected(start);
        suspects.died(start + lived, how);
        suspects.hint("device")
    };
    assert_eq!(die(Death::Closed, ms(900)), None, "a broker that is started again");
    assert_eq!(die(Death::Closed, ms(900)), None);
    assert!(die(Death::Closed, ms(900)).unwrap().contains("`device` may be in use"));
    assert!(die(Death::Closed, ms(900)).is_some());
    assert_eq!(die(Death::Closed, ms(900)), None, "not each time");
    assert_eq!(die(Death::Closed, YOUNG), None);
    for _ in 0..8 {
        assert_eq!(die(Death::Broken, ms(900)), None, "who takes over a session closes it in good order");
    }
    assert_eq!(die(Death::Closed, ms(900)), None, "counted anew");
    assert!(die(Death::TakenOver, ms(900)).unwrap().contains("`device` is in use"));
}
