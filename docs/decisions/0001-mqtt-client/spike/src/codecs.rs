//! The packet codecs of the -next pair alone, and what is odd about them.

use crate::Cell;
use bytes::{Bytes, BytesMut};
use v4next::mqttbytes::v4 as p4;
use v5next::mqttbytes::v5 as p5;

/// Debug text of reading `bytes` with a limit, and how many bytes stay in the buffer.
type Read = (String, usize);

fn read4(bytes: &[u8], max: usize) -> Read {
    let mut buffer = BytesMut::from(bytes);
    (format!("{:?}", p4::Packet::read(&mut buffer, max)), buffer.len())
}

fn read5(bytes: &[u8], max: usize) -> Read {
    let mut buffer = BytesMut::from(bytes);
    (format!("{:?}", p5::Packet::read(&mut buffer, Some(max as u32))), buffer.len())
}

/// Appends PUBLISH `pkid`, payload "x", to the buffer; Debug text of the result.
fn write4(buffer: &mut BytesMut, pkid: u16, dup: bool) -> String {
    let publish = p4::Publish::from_bytes("t", v4next::QoS::AtLeastOnce, Bytes::from("x"));
    format!("{:?}", p4::Packet::Publish(p4::Publish { pkid, dup, ..publish }).write(buffer, 4096))
}

fn write5(buffer: &mut BytesMut, pkid: u16, dup: bool) -> String {
    let publish = p5::Publish::new("t", v5next::mqttbytes::QoS::AtLeastOnce, "x", None);
    let packet = p5::Packet::Publish(p5::Publish { pkid, dup, ..publish });
    format!("{:?}", packet.write(buffer, Some(4096)))
}

/// Cells for the seven criteria.
pub fn cells(v5: bool) -> Vec<Cell> {
    let read = if v5 { read5 } else { read4 };
    let write = if v5 { write5 } else { write4 };
    let ours = || Cell::new("-", "session logic, ours to write");
    let refused = read(&[0x40, 4, 0, 9, 0x87, 0], 100).0;
    let outcome = if v5 { Cell::of(refused.contains("NotAuthorized"), refused) } else { ours() };
    let mut one = BytesMut::new();
    write(&mut one, 9, true);
    let dup = one.len() > 6 && one[0] == 0x3A && one[5..7] == [0, 9];
    let connack = |flags: u8, code: u8| {
        let bytes = [0x20, 2 + u8::from(v5), flags, code, 0];
        read(&bytes[..4 + usize::from(v5)], 100).0
    };
    let (seven, bad) = (connack(0, 7), connack(0xFE, 0));
    let mut many = BytesMut::new();
    let all = (1..=64).all(|n| write(&mut many, n, false).starts_with("Ok"));
    let headers = [&[0x30, 0x7F][..], &[0x30, 0x80, 0x80, 0x80, 0x30]];
    let [two, five] = headers.map(|header| read(header, 100).0);
    let size = |text: &str| text.contains("PayloadSizeLimitExceeded");
    vec![
        outcome,
        ours(),
        Cell::of(dup, format!("dup = true, pkid = 9 encodes as {one:02X?}")),
        Cell::of(
            seven.contains("InvalidConnectReturnCode(7)") && seven != bad,
            format!("7: {seven}; malformed: {bad}"),
        ),
        Cell::of(all, format!("64 packets in one buffer of {} bytes", many.len())),
        Cell::of(size(&two) && size(&five), format!("2 bytes: {two}; 5 bytes: {five}")),
        ours(),
    ]
}

/// What surprised us, each line as observed now.
pub fn oddities() -> Vec<String> {
    let mut out = Vec::new();
    let mut say = |what: &str, (seen, left): Read| {
        out.push(format!("{what}: {seen}, {left} byte(s) left in the buffer"));
    };
    say("3.1.1, limit 10, frame of 12 bytes", read4(b"\x30\x0A\x00\x01t1234567", 10));
    say("5, limit 10, frame of 12 bytes", read5(b"\x30\x0A\x00\x01t\x00123456", 10));
    say("3.1.1 PUBACK of length zero", read4(&[0x40, 0], 100));
    say("5 AUTH of length zero (legal)", read5(&[0xF0, 0], 100));
    say("5 DISCONNECT of length zero", read5(&[0xE0, 0], 100));
    say("3.1.1 PINGRESP with a body", read4(&[0xD0, 1, 0], 100));
    say("5 complete CONNACK in 3.1.1 form, code 1", read5(&[0x20, 2, 0, 1], 100));
    say("5 complete PUBLISH without property length", read5(b"\x32\x05\x00\x01t\x00\x01", 100));
    say("5 PUBACK with trailing bytes", read5(&[0x40, 6, 0, 9, 0, 0, 1, 2], 100));
    say("5 CONNACK refused with session present", read5(&[0x20, 3, 1, 0x87, 0], 100));
    let zero = [0x20, 8, 0, 0, 5, 39, 0, 0, 0, 0];
    say("5 CONNACK with Maximum Packet Size 0", read5(&zero, 100));
    let overrun = b"\x30\x08\x00\x01t\x01\x01\x00AB";
    say("5 PUBLISH, property length 1, property of 2 bytes", read5(overrun, 100));
    let ids = b"\x30\x0C\x00\x01t\x06\x0B\x01\x0B\x02\x0B\x03AB";
    say("5 PUBLISH, subscription identifiers 1 2 3, payload AB", read5(ids, 100));
    let two = b"\x30\x0C\x00\x01t\x06\x0B\x01\x0B\x02\x01\x01AB";
    say("5 PUBLISH, identifiers 1 2, payload format 1, payload AB", read5(two, 100));
    say("5 PUBLISH with empty topic and no alias", read5(b"\x30\x04\x00\x00\x00A", 100));
    let (mut b4, mut b5) = (BytesMut::new(), BytesMut::new());
    say("3.1.1 failed write, empty buffer before", (write4(&mut b4, 0, false), b4.len()));
    say("5 failed write, empty buffer before", (write5(&mut b5, 0, false), b5.len()));
    let mut frame = BytesMut::from(&b"\x30\x06\x00\x01tabc"[..]);
    let range = frame.as_ptr_range();
    if let Ok(p4::Packet::Publish(publish)) = p4::Packet::read(&mut frame, 100) {
        let shared = range.contains(&publish.payload.as_ptr());
        out.push(format!("payload points into the read buffer: {shared}"));
    }
    out.push(fuzz());
    out
}

/// Valid packets with random damage: counts panics and complete frames reported as incomplete.
fn fuzz() -> String {
    let seeds: [&[u8]; 8] = [
        &[0x32, 9, 0, 1, b't', 0, 1, 2, 1, 1, b'A'],
        &[0x32, 12, 0, 1, b't', 0, 1, 5, 2, 0, 0, 0, 9, b'A'],
        &[0x20, 10, 0, 0, 7, 39, 0, 0, 0, 0, 36, 1],
        &[0x40, 9, 0, 9, 0x87, 5, 31, 0, 2, b'n', b'o'],
        &[0x90, 4, 0, 1, 0, 1],
        &[0xB0, 4, 0, 1, 0, 17],
        &[0xE0, 7, 0x8E, 5, 31, 0, 2, b'n', b'o'],
        &[0xF0, 8, 0x18, 6, 21, 0, 3, b'a', b'b', b'c'],
    ];
    let (mut random, mut panics, mut lost4, mut lost5) = (1_u64, 0, 0, 0);
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let rounds = 1_000_000;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..rounds {
        let mut bytes = seeds[next() % seeds.len()].to_vec();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        let whole = bytes.len();
        let lost = |(text, left): Read| text.contains("InsufficientBytes") && left < whole;
        match std::panic::catch_unwind(|| (read4(&bytes, 4096), read5(&bytes, 4096))) {
            Ok((four, five)) => {
                lost4 += usize::from(lost(four));
                lost5 += usize::from(lost(five));
            }
            Err(_) => panics += 1,
        }
    }
    std::panic::set_hook(hook);
    format!(
        "{rounds} damaged packets: {panics} panics; complete frame consumed and yet \
         'InsufficientBytes': 3.1.1 {lost4}, 5 {lost5}"
    )
}
