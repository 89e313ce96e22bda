//! Messages as lines of a program's input, and lines of its output as messages. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    config::{CommandConfig, Lines},
    message::{Message, Qos},
    nearest::with_nearest,
};

/// What a line of output is to become.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
}

/// A message as JSON has it, on the way in.
#[derive(Serialize)]
struct In<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    qos: u8,
    retain: bool,
    attempt: u32,
    redelivered: bool,
}

/// The same on the way out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Out {
    topic: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
    qos: Option<u8>,
    retain: Option<bool>,
}

/// The longest line of output there can be a use for, its end not counted: a payload of the
/// largest size, in JSON with what base64 and the other keys add.
pub(super) fn longest(output: Lines, max_payload: u32) -> usize {
    const TOPIC_AND_KEYS: usize = 65_535 + 1024;
    let payload = max_payload as usize;
    match output {
        Lines::Raw => payload,
        Lines::Json => payload.saturating_mul(2).saturating_add(TOPIC_AND_KEYS),
    }
}

/// The line that is this message, its end included; or why there is none.
pub(super) fn incoming(
    message: &Message,
    attempt: u32,
    redelivered: bool,
    input: Lines,
) -> Result<Vec<u8>, &'static str> {
    let mut line = match input {
        Lines::Raw => {
            // Who publishes with a shell often brings the end along.
            let payload = message.payload.strip_suffix(b"\n").unwrap_or(&message.payload);
            if payload.contains(&b'\n') {
                return Err("its payload has several lines, which as raw input would be several messages: set \
                            `command.input = \"json\"`");
            }
            payload.to_vec()
        }
        Lines::Json => {
            let text = std::str::from_utf8(&message.payload).ok();
            let line = In {
                topic: message.topic.as_str(),
                payload: text,
                payload_base64: text.is_none().then(|| STANDARD.encode(&message.payload)),
                qos: message.qos as u8,
                retain: message.retain,
                attempt,
                redelivered,
            };
            // Fails for maps with keys that are no texts, and there are none.
            serde_json::to_vec(&line).map_err(|_| "it can't be written as JSON")?
        }
    };
    line.push(b'\n');
    Ok(line)
}

/// The message that is this line, without its end; or why there is none. A blank line is none either.
pub(super) fn outgoing(line: Vec<u8>, settings: &CommandConfig) -> Result<Option<Outgoing>, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let out = match settings.output {
        Lines::Raw => {
            let Some(topic) = &settings.topic else { return Ok(None) };
            let topic = topic.as_str().to_owned();
            return Ok(Some(Outgoing { topic, payload: line, qos: settings.qos, retain: settings.retain }));
        }
        Lines::Json => serde_json::from_slice::<Out>(&line).map_err(|error| with_nearest(&error.to_string()))?,
    };
    let topic = out.topic.or_else(|| settings.topic.as_ref().map(|topic| topic.as_str().to_owned()));
    let payload = match (out.payload, out.payload_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => STANDARD.decode(text).map_err(|cause| format!("`payload_base64`: {cause}"))?,
        (Some(_), Some(_)) => return Err("it has both `payload` and `payload_base64`: one is enough".to_owned()),
        (None, None) => return Err("it has no `payload`; \"\" is an empty one".to_owned()),
    };
    Ok(Some(Outgoing {
        topic: topic.ok_or("it has no `topic`, and the configuration has none (`command.topic`)")?,
        payload,
        qos: match out.qos {
            None => settings.qos,
            Some(0) => Qos::AtMostOnce,
            Some(1) => Qos::AtLeastOnce,
            Some(qos) => return Err(format!("`qos` {qos} is not to be had: 0, or 1")),
        },
        retain: out.retain.unwrap_or(settings.retain),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn settings(topic: Option<&str>, output: Lines) -> CommandConfig {
        CommandConfig {
            topic: topic.map(|topic| TopicName::parse(topic.to_owned()).unwrap()),
            qos: Qos::AtLeastOnce,
            retain: false,
            subscribe: Vec::new(),
            input: Lines::Raw,
            output,
            args: Vec::new(),
        }
    }

    fn message(payload: &'static [u8]) -> Message {
        let topic = TopicName::parse("a/b".to_owned()).unwrap();
        Message { topic, payload: payload.into(), qos: Qos::AtLeastOnce, retain: true, properties: None }
    }

    fn json(line: &str) -> Result<Option<Outgoing>, String> {
        outgoing(line.as_bytes().to_vec(), &settings(Some("t"), Lines::Json))
    }

    #[test]
    fn a_raw_line_is_a_payload_and_never_two() {
        let raw = |payload| incoming(&message(payload), 1, false, Lines::Raw);
        for (payload, line) in
            [(&b"21.5"[..], &b"21.5\n"[..]), (b"21.5\n", b"21.5\n"), (b"", b"\n"), (b"\xff", b"\xff\n")]
        {
            assert_eq!(raw(payload), Ok(line.to_vec()));
        }
        assert!(raw(b"one\ntwo").is_err() && raw(b"one\n\n").is_err());
        let out = outgoing(b"\xff 1\r".to_vec(), &settings(Some("t"), Lines::Raw)).unwrap().unwrap();
        assert_eq!((out.topic.as_str(), &out.payload[..]), ("t", &b"\xff 1\r"[..]));
        assert_eq!(outgoing(b" \r".to_vec(), &settings(Some("t"), Lines::Raw)), Ok(None), "blank");
    }

    #[test]
    fn json_carries_everything() {
        let line = |payload, attempt| {
            String::from_utf8(incoming(&message(payload), attempt, attempt > 1, Lines::Json).unwrap())
        };
        let text = r#"{"topic":"a/b","payload":"one\ntwo","qos":1,"retain":true,"attempt":1,"redelivered":false}"#;
        assert_eq!(line(b"one\ntwo", 1).unwrap(), format!("{text}\n"));
        assert!(
            line(b"\xff", 2)
                .unwrap()
                .contains(r#""payload_base64":"/w==","qos":1,"retain":true,"attempt":2,"redelivered":true"#)
        );
    }

    #[test]
    fn a_json_line_says_what_it_wants_different() {
        let out = |topic: &str, payload: &[u8], qos, retain| {
            Ok(Some(Outgoing { topic: topic.to_owned(), payload: payload.to_vec(), qos, retain }))
        };
        assert_eq!(json(r#"{"payload":"x"}"#), out("t", b"x", Qos::AtLeastOnce, false));
        assert_eq!(
            json(r#"{"topic":"u","payload_base64":"/w==","qos":0,"retain":true}"#),
            out("u", b"\xff", Qos::AtMostOnce, true)
        );
        assert_eq!(json(" "), Ok(None), "blank");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, words) in [
            ("21.5", "expected"),
            (r#"{"topik":"u","payload":"x"}"#, "did you mean `topic`?"),
            (r#"{"topic":"u"}"#, "no `payload`"),
            (r#"{"payload":"x","payload_base64":""}"#, "one is enough"),
            (r#"{"payload_base64":"?"}"#, "payload_base64"),
            (r#"{"payload":"x","qos":2}"#, "0, or 1"),
        ] {
            let error = json(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
        let error = outgoing(br#"{"payload":"x"}"#.to_vec(), &settings(None, Lines::Json)).unwrap_err();
        assert!(error.contains("command.topic"), "{error}");
    }
}
