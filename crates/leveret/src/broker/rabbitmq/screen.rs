//! What the broker sends, looked through before the client library reads it.
//!
//! AMQP 0-9-1 wants UTF-8 in its short strings (4.2.5.3), and RabbitMQ passes on whatever a foreign client sent. The client library ends the
//! connection at the first message that it cannot read: the broker would deliver that message again, and its queue would stand still. So the
//! properties of such a message are replaced by one header that says what is wrong with them. Its consumer finds the [`flaw`], and can
//! dead-letter it; the body arrives as it was sent.
//!
//! The broker's own words (why it closes a channel, say) may end in the middle of a character: they are made readable.
//!
//! All else passes as it came. Formats: AMQP 0-9-1, 2.3.5 (frames), 4.2.5 (values); the types of header values are RabbitMQ's.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::Arc,
};

use super::FRAME_BYTES_MAX;
use crate::broker::{HEADER_DEPTH_MAX, Header};

/// The header that stands for properties which could not be read.
const HEADER_FLAW: &str = "x-leveret-flaw";

/// Tables and lists inside each other: the client library goes down into them on its stack.
const DEPTH_MAX: u32 = HEADER_DEPTH_MAX;

/// A longer frame of properties is not held in memory; as no broker sends one, the client library gets it as it is.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;

/// Type, channel and size before the payload.
const HEAD_BYTES: usize = 7;
/// Class, weight and size of the body, before the properties.
const CONTENT_HEAD_BYTES: usize = 12;

/// Class and method, as a method's payload starts.
type Method = [u8; 4];
const DELIVER: Method = [0, 60, 0, 60];
/// Methods with texts of others, and how many bytes come before each of their first short strings.
const WITH_TEXTS: [(Method, &[usize]); 5] = [
    // Consumer tag; behind delivery tag and redelivered flag the exchange; routing key.
    (DELIVER, &[0, 9, 0]),
    // Behind a code the reply text, of `connection.close`, `channel.close` and `basic.return`; then exchange and routing key.
    ([0, 10, 0, 50], &[2]),
    ([0, 20, 0, 40], &[2]),
    ([0, 60, 0, 50], &[2, 0, 0]),
    // The reason of `connection.blocked`.
    ([0, 10, 0, 60], &[0]),
];
const CLASS_BASIC: &[u8] = &[0, 60];

/// Takes out what is wrong with the properties of a message, if they were replaced.
pub(super) fn flaw(headers: &mut BTreeMap<String, Header>) -> Option<Arc<str>> {
    match headers.remove(HEADER_FLAW)? {
        Header::Text(flaw) => Some(flaw.into()),
        _ => None,
    }
}

/// Where in the stream of one connection we are.
#[derive(Default)]
pub(super) struct Screen {
    /// The start of a frame that is not complete.
    held: Vec<u8>,
    /// So many bytes more pass unseen.
    passing: u64,
    /// Channels whose next properties belong to a message with an unreadable address.
    unaddressed: HashSet<u16>,
}

impl Screen {
    /// Takes the next bytes of the broker, any piece of the stream, and adds to `ready` what the client may read.
    pub(super) fn take(&mut self, bytes: &[u8], ready: &mut Vec<u8>) {
        let mut held = mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut rest = &held[..];
        while let Some(next) = self.step(rest, ready) {
            rest = next;
        }
        let taken = held.len() - rest.len();
        held.drain(..taken);
        self.held = held;
    }

    /// Takes a frame, or a part that passes unseen, and returns what follows; `None` if more must come first.
    fn step<'a>(&mut self, bytes: &'a [u8], ready: &mut Vec<u8>) -> Option<&'a [u8]> {
        if bytes.is_empty() {
            return None;
        }
        if self.passing > 0 {
            let part = usize::try_from(self.passing).unwrap_or(usize::MAX);
            let (passed, rest) = bytes.split_at(part.min(bytes.len()));
            ready.extend_from_slice(passed);
            self.passing -= passed.len() as u64;
            return Some(rest);
        }
        let head = Head::of(bytes)?;
        match head.kind {
            METHOD | CONTENT_HEADER if head.frame_bytes() <= HELD_BYTES_MAX => {
                let (frame, rest) = bytes.split_at_checked(head.frame_bytes())?;
                self.look_through(head, frame, ready);
                Some(rest)
            }
            METHOD | CONTENT_HEADER | BODY | HEARTBEAT => {
                self.passing = head.frame_bytes() as u64;
                Some(bytes)
            }
            // No AMQP, as the client will say.
            _ => {
                self.passing = u64::MAX;
                Some(bytes)
            }
        }
    }

    fn look_through(&mut self, head: Head, frame: &[u8], ready: &mut Vec<u8>) {
        let payload = &frame[HEAD_BYTES..HEAD_BYTES + head.payload_bytes];
        match head.kind {
            CONTENT_HEADER if payload.starts_with(CLASS_BASIC) => {
                let Some((content_head, properties)) = payload.split_at_checked(CONTENT_HEAD_BYTES)
                else {
                    return ready.extend_from_slice(frame);
                };
                match self.properties_flaw(head, properties) {
                    None => ready.extend_from_slice(frame),
                    Some(flaw) => head.put(ready, |payload| {
                        payload.extend_from_slice(content_head);
                        put_flaw(payload, &flaw);
                    }),
                }
            }
            METHOD => {
                let start = ready.len() + HEAD_BYTES;
                ready.extend_from_slice(frame);
                let payload = &mut ready[start..start + head.payload_bytes];
                let changed = make_texts_readable(payload);
                if changed && payload.starts_with(&DELIVER) {
                    self.unaddressed.insert(head.channel);
                }
            }
            _ => ready.extend_from_slice(frame),
        }
    }

    /// What is wrong with these properties, if something is.
    fn properties_flaw(&mut self, head: Head, properties: &[u8]) -> Option<String> {
        if self.unaddressed.remove(&head.channel) {
            return Some("its routing key is not UTF-8".to_owned());
        }
        if head.frame_bytes() > FRAME_BYTES_MAX {
            let bytes = properties.len();
            return Some(format!(
                "its properties have {bytes} bytes, a frame takes {FRAME_BYTES_MAX}"
            ));
        }
        check_properties(properties).err()
    }
}

/// What a frame starts with.
#[derive(Clone, Copy)]
struct Head {
    kind: u8,
    channel: u16,
    payload_bytes: usize,
}

impl Head {
    /// `None` if there are too few bytes.
    fn of(bytes: &[u8]) -> Option<Head> {
        let mut bytes = Bytes(bytes);
        Some(Head {
            kind: bytes.u8().ok()?,
            channel: bytes.u16().ok()?,
            payload_bytes: bytes.length().ok()?,
        })
    }

    /// With head and end mark.
    fn frame_bytes(self) -> usize {
        self.payload_bytes.saturating_add(HEAD_BYTES + 1)
    }

    /// Adds such a frame with another payload.
    fn put(self, ready: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
        ready.push(self.kind);
        ready.extend_from_slice(&self.channel.to_be_bytes());
        put_sized(ready, fill);
        ready.push(FRAME_END);
    }
}

/// The properties that stand for those with a flaw.
fn put_flaw(payload: &mut Vec<u8>, flaw: &str) {
    payload.extend_from_slice(&FLAG_HEADERS.to_be_bytes());
    put_sized(payload, |table| {
        table.push(HEADER_FLAW.len() as u8);
        table.extend_from_slice(HEADER_FLAW.as_bytes());
        table.push(b'S');
        put_sized(table, |text| text.extend_from_slice(flaw.as_bytes()));
    });
}

/// Adds what `fill` adds, after its length.
fn put_sized(bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    fill(bytes);
    let size = u32::try_from(bytes.len() - at - 4).unwrap_or(u32::MAX);
    bytes[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

/// Puts `?` for the bytes of a method's texts that are not UTF-8; whether there were any.
fn make_texts_readable(payload: &mut [u8]) -> bool {
    let Some((method, mut rest)) = payload.split_first_chunk_mut() else {
        return false;
    };
    let texts = WITH_TEXTS.iter().find(|(with, _)| with == method);
    let mut changed = false;
    for &before in texts.map_or(&[][..], |(_, texts)| texts) {
        let Some((text, next)) = rest.get_mut(before..).and_then(split_short) else {
            return changed;
        };
        changed |= make_readable(text);
        rest = next;
    }
    changed
}

fn split_short(bytes: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (length, rest) = bytes.split_first_mut()?;
    rest.split_at_mut_checked(usize::from(*length))
}

fn make_readable(text: &mut [u8]) -> bool {
    let mut changed = false;
    while let Err(error) = str::from_utf8(text) {
        text[error.valid_up_to()] = b'?';
        changed = true;
    }
    changed
}

/// Whether the client library can read these properties; if not, why.
fn check_properties(properties: &[u8]) -> Result<(), String> {
    let mut bytes = Bytes(properties);
    let flags = bytes.u16()?;
    for (place, (name, form)) in PROPERTIES.iter().enumerate() {
        if flags & (FIRST_FLAG >> place) == 0 {
            continue;
        }
        match form {
            Form::Text => {
                if str::from_utf8(bytes.short()?).is_err() {
                    return Err(format!("its {name} is not UTF-8"));
                }
            }
            Form::Table => bytes.nested()?.check_table(0)?,
            Form::Bytes(count) => bytes.take(*count).map(drop)?,
        }
    }
    match bytes.0 {
        [] => Ok(()),
        more => Err(format!("{} bytes come after its properties", more.len())),
    }
}

enum Form {
    Text,
    Table,
    Bytes(usize),
}

/// The properties of the class `basic`, in the order of their flags and values.
const PROPERTIES: [(&str, Form); 14] = [
    ("content type", Form::Text),
    ("content encoding", Form::Text),
    ("headers", Form::Table),
    ("delivery mode", Form::Bytes(1)),
    ("priority", Form::Bytes(1)),
    ("correlation id", Form::Text),
    ("reply-to", Form::Text),
    ("expiration", Form::Text),
    ("message id", Form::Text),
    ("timestamp", Form::Bytes(8)),
    ("type", Form::Text),
    ("user id", Form::Text),
    ("app id", Form::Text),
    ("cluster id", Form::Text),
];
const FIRST_FLAG: u16 = 1 << 15;
const FLAG_HEADERS: u16 = FIRST_FLAG >> 2;

/// Reads from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let split = self.0.split_at_checked(count);
        let (taken, rest) = split.ok_or("its properties end too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    fn length(&mut self) -> Result<usize, String> {
        let length = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn short(&mut self) -> Result<&'a [u8], String> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// What has its length before it.
    fn nested(&mut self) -> Result<Bytes<'a>, String> {
        let length = self.length()?;
        self.take(length).map(Bytes)
    }

    fn check_table(&mut self, depth: u32) -> Result<(), String> {
        while !self.0.is_empty() {
            if str::from_utf8(self.short()?).is_err() {
                return Err("the name of a header is not UTF-8".to_owned());
            }
            self.check_value(depth)?;
        }
        Ok(())
    }

    fn check_value(&mut self, depth: u32) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("its headers lie more than {DEPTH_MAX} deep"));
        }
        let bytes = match self.u8()? {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => self.length()?,
            b'F' => return self.nested()?.check_table(depth + 1),
            b'A' => return self.nested()?.check_list(depth + 1),
            other => {
                let shown = char::from(other).escape_default();
                return Err(format!(
                    "a header has a value of the unknown type '{shown}'"
                ));
            }
        };
        self.take(bytes).map(drop)
    }

    fn check_list(&mut self, depth: u32) -> Result<(), String> {
        while !self.0.is_empty() {
            self.check_value(depth)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lapin::{
        BasicProperties,
        protocol::basic::{gen_properties, parse_properties},
        types::{AMQPValue, FieldTable},
    };

    use super::*;

    fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind, 0, 7], &sized(payload)[..], &[FRAME_END]].concat()
    }

    fn content_header(properties: &[u8]) -> Vec<u8> {
        let head = [CLASS_BASIC, &[0, 0], &2_u64.to_be_bytes()].concat();
        frame(CONTENT_HEADER, &[&head, properties].concat())
    }

    fn deliver(routing_key: &[u8]) -> Vec<u8> {
        let address = [short(b"ex"), short(routing_key)].concat();
        let arguments = [&short(b"tag")[..], &[0, 0, 0, 0, 0, 0, 0, 9, 0], &address].concat();
        frame(METHOD, &[&DELIVER, &arguments[..]].concat())
    }

    /// With these headers alone.
    fn headers(table: &[u8]) -> Vec<u8> {
        [&FLAG_HEADERS.to_be_bytes(), &sized(table)[..]].concat()
    }

    fn screened(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut screen, mut ready) = (Screen::default(), Vec::new());
        for piece in pieces {
            screen.take(piece, &mut ready);
        }
        ready
    }

    /// What the client reads for these properties: the flaw, or that they are as they were.
    fn seen(properties: &[u8]) -> Option<String> {
        let sent = content_header(properties);
        let ready = screened(&[&sent]);
        if ready == sent {
            return None;
        }
        let (head, body) = (HEAD_BYTES + CONTENT_HEAD_BYTES, ready.len() - 1);
        assert_eq!(ready[HEAD_BYTES..head], sent[HEAD_BYTES..head]);
        let (rest, read) = parse_properties(&ready[head..body]).expect("is readable");
        assert!(rest.is_empty());
        let mut headers = super::super::wire::message(&read, Vec::new()).headers;
        let flaw = flaw(&mut headers).expect("has a flaw");
        assert!(headers.is_empty());
        Some(flaw.to_string())
    }

    #[test]
    fn flaws_are_told() {
        let id = |id: &[u8]| [&(FIRST_FLAG >> 8).to_be_bytes()[..], &short(id)].concat();
        let name = |name: &[u8]| [&short(name)[..], b"V"].concat();
        let nested = |count: usize| {
            let lists = (0..count).fold(Vec::new(), |inner, _| [b"A", &sized(&inner)[..]].concat());
            headers(&[&short(b"deep")[..], &lists].concat())
        };
        let check = |properties: &[u8], expect: Option<&str>| {
            assert_eq!(seen(properties).as_deref(), expect, "{properties:?}");
        };
        check(&[0, 0], None);
        check(&id("grün".as_bytes()), None);
        check(&id(b"\xff\xfe"), Some("its message id is not UTF-8"));
        check(&headers(&name(b"ok")), None);
        check(
            &headers(&name(b"\xc3")),
            Some("the name of a header is not UTF-8"),
        );
        check(
            &headers(b"\x01ak"),
            Some("a header has a value of the unknown type 'k'"),
        );
        check(&nested(33), None);
        check(&nested(34), Some("its headers lie more than 32 deep"));
        check(&nested(20_000), Some("its headers lie more than 32 deep"));
        check(&id(b"a")[..3], Some("its properties end too early"));
        check(&[], Some("its properties end too early"));
        check(&[0, 0, 7], Some("1 bytes come after its properties"));
    }

    #[test]
    fn an_unreadable_address_is_a_flaw_of_the_next_message_alone() {
        let plain = content_header(&[0, 0]);
        let body = frame(BODY, b"\x01\xff");
        let sent = [deliver(b"a.\xff\xfeb"), plain.clone(), body.clone()].concat();
        let second = [deliver(b"a.b"), plain.clone(), body.clone()].concat();
        let ready = screened(&[&sent, &second]);
        let properties = [&FLAG_HEADERS.to_be_bytes()[..], &{
            let flaw = sized(b"its routing key is not UTF-8");
            sized(&[&short(HEADER_FLAW.as_bytes())[..], b"S", &flaw].concat())
        }]
        .concat();
        let replaced = [deliver(b"a.??b"), content_header(&properties), body].concat();
        assert_eq!(ready, [replaced, second].concat());
    }

    /// A broker that adds to the headers of a message may make them larger than it lets clients make them.
    #[test]
    fn what_is_larger_than_a_frame_is_a_flaw() {
        let of = |bytes: usize| {
            let text = [&short(b"much")[..], b"S", &sized(&vec![b'x'; bytes])].concat();
            headers(&text)
        };
        let around = content_header(&of(0)).len();
        assert_eq!(seen(&of(FRAME_BYTES_MAX - around)), None);
        let flaw = seen(&of(FRAME_BYTES_MAX - around + 1)).expect("is a flaw");
        assert!(flaw.ends_with("a frame takes 131072"), "{flaw}");
    }

    /// RabbitMQ cuts what it says at 255 bytes, wherever that is.
    #[test]
    fn words_of_the_broker_are_made_readable() {
        let close = |text: &[u8]| {
            let arguments = [&[1, 0x94][..], &short(text), &[0, 50, 0, 10]].concat();
            frame(METHOD, &[&[0, 20, 0, 40], &arguments[..]].concat())
        };
        assert_eq!(
            screened(&[&close(b"no queue '\xd0...")]),
            close(b"no queue '?...")
        );
        let readable = close("no queue 'ö'".as_bytes());
        assert_eq!(screened(&[&readable]), readable);
        let blocked = |text: &[u8]| frame(METHOD, &[&[0, 10, 0, 60], &short(text)[..]].concat());
        assert_eq!(screened(&[&blocked(b"\xff")]), blocked(b"?"));
    }

    #[test]
    fn what_is_no_frame_passes() {
        let other_version = b"AMQP\0\0\x09\x01 and more".as_slice();
        assert_eq!(
            screened(&[other_version, b"\x02"]),
            [other_version, b"\x02"].concat()
        );
        let endless = [&[CONTENT_HEADER, 0, 1, 255, 255, 255, 255], &[0; 100][..]].concat();
        assert_eq!(screened(&[&endless]), endless);
        let short_of_a_class = frame(CONTENT_HEADER, &[0, 60, 0]);
        assert_eq!(screened(&[&short_of_a_class]), short_of_a_class);
    }

    /// Of thousands of changed properties, those pass that the client library can read, and it can read what becomes of the others. Any pieces
    /// give the same.
    #[test]
    fn the_client_library_can_read_what_passes() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut table = FieldTable::default();
        let mut inner = FieldTable::default();
        inner.insert("x".into(), AMQPValue::ShortInt(7));
        let list = vec![AMQPValue::FieldTable(inner), AMQPValue::Double(0.5)];
        for (name, value) in [
            ("list", AMQPValue::FieldArray(list.into())),
            ("text", AMQPValue::LongString("t".into())),
            ("truth", AMQPValue::Boolean(true)),
        ] {
            table.insert(name.into(), value);
        }
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_headers(table)
            .with_delivery_mode(2)
            .with_message_id("m-1".into())
            .with_timestamp(5)
            .with_cluster_id("c".into());
        let context = Vec::new().into();
        let written = gen_properties::<Vec<u8>>(&properties)(context).expect("writes");
        let written = written.into_inner().0;
        let mut passed = 0;
        for _ in 0..20_000 {
            let mut changed = written.clone();
            for _ in 0..random.usize(0..3) {
                let at = random.usize(..changed.len());
                match random.u8(..3) {
                    0 => changed[at] = random.u8(..),
                    1 => drop(changed.remove(at)),
                    _ => changed.insert(at, random.u8(..)),
                }
            }
            let readable = parse_properties(&changed[..]).is_ok_and(|(rest, _)| rest.is_empty());
            let seen = seen(&changed);
            assert_eq!(seen.is_none(), readable, "{seen:?} {changed:?}");
            passed += u32::from(readable);

            let all = [deliver(b"k"), content_header(&changed), frame(BODY, b"{}")].concat();
            let (first, rest) = all.split_at(random.usize(..all.len()));
            let (second, third) = rest.split_at(random.usize(..rest.len()));
            assert_eq!(screened(&[first, second, third]), screened(&[&all]));
        }
        assert!((2_000..18_000).contains(&passed), "{passed}");
    }
}
