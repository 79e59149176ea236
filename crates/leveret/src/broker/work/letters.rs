//! Copies of a delivery for a delay queue or the dead letter queue: pure.
//!
//! A copy keeps the body and all properties, `message_id` among them, and says in headers what happened to it. The header
//! names are stored in queues: they do not change. Of headers that leave no room for that, the largest are left out.
//!
//! Headers by which RabbitMQ itself acts would act on the copy: `CC` and `BCC` route it to further queues, and with some other queue's
//! `x-death` it may take a copy that comes back for one that goes in circles, and drop it. A copy keeps these under another name, and a handler
//! sees them as they were.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use leveret_core::time::Timestamp;

use crate::broker::{
    Delivery, Header, Message, Publication, dead_letter_queue_name, header::header_bytes,
    retry_queue_name,
};

/// How many attempts were made; a whole number.
pub const HEADER_ATTEMPTS: &str = "x-leveret-attempts";
/// Why it is a dead letter; text.
pub const HEADER_REASON: &str = "x-leveret-reason";
/// The queue that it was consumed from; text.
pub const HEADER_QUEUE: &str = "x-leveret-queue";
/// The exchange that it was first published to; text, empty for the default exchange.
pub const HEADER_EXCHANGE: &str = "x-leveret-exchange";
/// The routing key that it was first published with; text.
pub const HEADER_ROUTING_KEY: &str = "x-leveret-routing-key";
/// When it became a dead letter; text, RFC 3339.
pub const HEADER_DEAD_AT: &str = "x-leveret-dead-at";

/// How often the message may have ended its process; a whole number.
pub const HEADER_DEATHS: &str = "x-leveret-deaths";
/// What stands before the name of a header by which the broker would act.
pub const HEADER_KEPT: &str = "x-leveret-kept-";

/// How many headers were left out, if any; a whole number.
pub const HEADER_LEFT_OUT: &str = "x-leveret-headers-left-out";

/// Headers by which RabbitMQ acts.
const ACTIVE: [&str; 3] = ["CC", "BCC", DEATHS_OF_BROKER];
const DEATHS_OF_BROKER: &str = "x-death";

/// The most that the headers of others keep of a frame, which has 128 KiB, in bytes.
const FOREIGN_HEADERS_BYTES_MAX: usize = 64 * 1024;
/// A reason is cut to so many bytes, to keep a header frame small.
const REASON_BYTES_MAX: usize = 4096;

/// How many attempts were made at a message before this delivery. Zero if it does not say, or nonsense.
pub fn attempts(message: &Message) -> u32 {
    count(message, HEADER_ATTEMPTS)
}

/// How often a message may have ended its process before this delivery. Zero if it does not say, or nonsense.
pub fn deaths(message: &Message) -> u32 {
    count(message, HEADER_DEATHS)
}

fn count(message: &Message, header: &str) -> u32 {
    match message.headers.get(header) {
        Some(Header::Int(count)) => u32::try_from(*count).unwrap_or(0),
        _ => 0,
    }
}

/// Gives a delivery from `queue` what it had before it was copied: its origin, and the headers that were kept under another name. What the
/// broker noted about our delay queues is taken out.
pub(super) fn restore(delivery: &mut Delivery, queue: &str) {
    let headers = &mut delivery.message.headers;
    for (place, name) in [
        (&mut delivery.exchange, HEADER_EXCHANGE),
        (&mut delivery.routing_key, HEADER_ROUTING_KEY),
    ] {
        if let Some(Header::Text(origin)) = headers.get(name) {
            *place = Arc::from(origin.as_str());
        }
    }
    if let Some(Header::List(deaths)) = headers.get_mut(DEATHS_OF_BROKER) {
        let delays = format!("{queue}.retry.");
        deaths.retain(|death| !is_of(death, &delays));
        if deaths.is_empty() {
            headers.remove(DEATHS_OF_BROKER);
        }
    }
    for name in ACTIVE {
        if let Some(kept) = headers.remove(&format!("{HEADER_KEPT}{name}")) {
            headers.insert(name.to_owned(), kept);
        }
    }
}

/// Whether this note of the broker is about a queue whose name begins like that.
fn is_of(death: &Header, begin: &str) -> bool {
    let Header::Table(death) = death else {
        return false;
    };
    matches!(death.get("queue"), Some(Header::Text(queue)) if queue.starts_with(begin))
}

/// The copy of a delivery that goes to `queue` at once, and says how often the message may have ended its process.
pub(super) fn suspected(delivery: &Delivery, queue: &str, deaths: u32) -> Publication {
    let mut message = copy(delivery, attempts(&delivery.message));
    let deaths = Header::Int(deaths.into());
    message.headers.insert(HEADER_DEATHS.to_owned(), deaths);
    Publication {
        copied: true,
        ..Publication::to_queue(queue, message)
    }
}

/// The copy of a delivery that comes back to `queue` after `delay`. `attempts` were made, the last one included. Whoever says this of a
/// message lives, so that no deaths are counted any more.
pub fn retry(delivery: &Delivery, queue: &str, delay: Duration, attempts: u32) -> Publication {
    let mut message = copy(delivery, attempts);
    message.headers.remove(HEADER_DEATHS);
    Publication {
        copied: true,
        ..Publication::to_queue(retry_queue_name(queue, delay), message)
    }
}

/// The dead letter of a delivery that was consumed from `queue`, for `<queue>.dlq`. `attempts` were made, the last one included.
/// A dead letter that was put back and fails again says the new reason and time.
pub fn dead_letter(
    delivery: &Delivery,
    queue: &str,
    reason: &str,
    attempts: u32,
    at: Timestamp,
) -> Publication {
    let mut message = copy(delivery, attempts);
    for (name, text) in [
        (HEADER_REASON, cut(reason).to_owned()),
        (HEADER_QUEUE, queue.to_owned()),
        (HEADER_DEAD_AT, at.to_string()),
    ] {
        message.headers.insert(name.to_owned(), Header::Text(text));
    }
    Publication {
        copied: true,
        ..Publication::to_queue(dead_letter_queue_name(queue), message)
    }
}

fn copy(delivery: &Delivery, attempts: u32) -> Message {
    let mut message = delivery.message.clone();
    let headers = &mut message.headers;
    for name in ACTIVE {
        if let Some(active) = headers.remove(name) {
            headers.insert(format!("{HEADER_KEPT}{name}"), active);
        }
    }
    leave_room(headers);
    headers.insert(HEADER_ATTEMPTS.to_owned(), Header::Int(attempts.into()));
    // A copy that comes through a delay queue arrives through the default exchange: the first origin counts.
    let mut origin = |name: &str, value: &Arc<str>| {
        let text = || Header::Text(value.as_ref().to_owned());
        headers.entry(name.to_owned()).or_insert_with(text);
    };
    origin(HEADER_EXCHANGE, &delivery.exchange);
    origin(HEADER_ROUTING_KEY, &delivery.routing_key);
    message
}

/// Leaves out the largest foreign headers until there is room for ours.
fn leave_room(headers: &mut BTreeMap<String, Header>) {
    let mut foreign: Vec<(usize, String)> = headers
        .iter()
        .filter(|(name, header)| !is_ours(name, header))
        .map(|(name, header)| (header_bytes(name, header), name.clone()))
        .collect();
    foreign.sort_unstable();
    let mut bytes: usize = foreign.iter().map(|(bytes, _)| bytes).sum();
    let mut left_out = 0;
    while bytes > FOREIGN_HEADERS_BYTES_MAX
        && let Some((largest, name)) = foreign.pop()
    {
        headers.remove(&name);
        bytes -= largest;
        left_out += 1;
    }
    if left_out > 0 {
        headers.insert(HEADER_LEFT_OUT.to_owned(), Header::Int(left_out));
    }
}

/// Whether it may be a header of an earlier copy. Anybody can send one of that name.
fn is_ours(name: &str, header: &Header) -> bool {
    let names = [
        HEADER_ATTEMPTS,
        HEADER_REASON,
        HEADER_QUEUE,
        HEADER_EXCHANGE,
        HEADER_ROUTING_KEY,
        HEADER_DEAD_AT,
        HEADER_LEFT_OUT,
        HEADER_DEATHS,
    ];
    names.contains(&name) && header_bytes(name, header) <= 2 * REASON_BYTES_MAX
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Receipt, Settle, Settlement};

    struct Nowhere;

    impl Settle for Nowhere {
        fn settle(&self, _: u64, _: Settlement) {}

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    fn delivery(message: Message, exchange: &str, routing_key: &str) -> Delivery {
        Delivery {
            message,
            flaw: None,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            redelivered: false,
            receipt: Receipt::new(Arc::new(Nowhere), 1),
        }
    }

    fn shown(publication: &Publication) -> String {
        let headers = publication.message.headers.iter().map(|(name, header)| {
            let value = match header {
                Header::Text(text) => text.clone(),
                Header::Int(number) => number.to_string(),
                other => format!("{other:?}"),
            };
            format!("{}={value}", name.trim_start_matches("x-leveret-"))
        });
        let headers = headers.collect::<Vec<_>>().join(" ");
        format!("{}: {headers}", publication.routing_key)
    }

    #[test]
    fn the_first_origin_is_kept() {
        let mut message = Message::json("{}");
        message.message_id = Some("m".into());
        let first = delivery(message, "orders", "order.created");
        let copy = retry(&first, "payment", Duration::from_secs(5), 1);
        assert_eq!(
            shown(&copy),
            "payment.retry.5s: attempts=1 exchange=orders routing-key=order.created"
        );
        assert_eq!(attempts(&copy.message), 1);
        assert_eq!(copy.message.message_id.as_deref(), Some("m"));

        let second = delivery(copy.message, "", "payment");
        let letter = dead_letter(&second, "payment", "no money", 2, Timestamp(0));
        assert_eq!(
            shown(&letter),
            "payment.dlq: attempts=2 dead-at=1970-01-01T00:00:00.000Z exchange=orders queue=payment \
             reason=no money routing-key=order.created"
        );
        assert_eq!(letter.message.body, second.message.body);
        assert_eq!(letter.message.message_id.as_deref(), Some("m"));
    }

    /// What RabbitMQ acts by is kept from it, and handed over as it was; its notes about our own delay queues are not.
    #[test]
    fn headers_by_which_the_broker_acts_are_put_aside() {
        let death = |queue: &str| {
            let queue = ("queue".to_owned(), Header::Text(queue.to_owned()));
            Header::Table([queue].into())
        };
        let theirs = Header::List(vec![death("theirs")]);
        let copies = Header::List(vec![Header::Text("other".to_owned())]);
        let mut message = Message::json("{}");
        message.headers = [
            ("CC".to_owned(), copies.clone()),
            ("x-death".to_owned(), theirs.clone()),
            ("list".to_owned(), copies.clone()),
        ]
        .into();
        let mut first = delivery(message, "orders", "created");
        restore(&mut first, "q");
        let copy = retry(&first, "q", Duration::from_secs(1), 1).message;
        assert!(
            ["CC", "x-death"]
                .iter()
                .all(|name| !copy.headers.contains_key(*name))
        );
        assert_eq!(copy.headers["list"], copies);

        let mut again = delivery(copy, "", "q");
        let ours = Header::List(vec![death("q.retry.1s")]);
        again.message.headers.insert("x-death".to_owned(), ours);
        restore(&mut again, "q");
        assert_eq!(again.message.headers["CC"], copies);
        assert_eq!(again.message.headers["x-death"], theirs);
        assert_eq!(
            (&*again.exchange, &*again.routing_key),
            ("orders", "created")
        );

        let mut third = delivery(Message::json("{}"), "", "q");
        let ours = Header::List(vec![death("q.retry.1s")]);
        third.message.headers.insert("x-death".to_owned(), ours);
        restore(&mut third, "q");
        assert!(third.message.headers.is_empty());
    }

    #[test]
    fn deaths_are_counted_until_the_handler_says_something() {
        let first = delivery(Message::json("{}"), "orders", "created");
        let copy = suspected(&first, "q.suspects", 2);
        assert_eq!(
            shown(&copy),
            "q.suspects: attempts=0 deaths=2 exchange=orders routing-key=created"
        );
        assert_eq!(deaths(&copy.message), 2);
        let copy = retry(
            &delivery(copy.message, "", "q"),
            "q",
            Duration::from_secs(1),
            1,
        );
        assert_eq!(deaths(&copy.message), 0);
    }

    #[test]
    fn the_largest_headers_make_room() {
        let mut message = Message::json("{}");
        for (name, bytes) in [
            ("a", 40_000),
            ("b", 50_000),
            ("c", 10),
            ("x-leveret-reason", 10),
            ("x-leveret-large", 30_000),
            ("x-leveret-exchange", 60_000),
        ] {
            let text = Header::Text("x".repeat(bytes));
            message.headers.insert(name.to_owned(), text);
        }
        let letter = dead_letter(&delivery(message, "", "q"), "q", "new", 1, Timestamp(0));
        let headers = letter.message.headers;
        let names: Vec<_> = headers
            .keys()
            .filter(|name| !name.starts_with("x-leveret-") || *name == "x-leveret-large")
            .collect();
        assert_eq!(names, ["c", "x-leveret-large"]);
        assert_eq!(headers[HEADER_LEFT_OUT], Header::Int(3));
        assert_eq!(headers[HEADER_EXCHANGE], Header::Text(String::new()));
        assert_eq!(headers[HEADER_REASON], Header::Text("new".to_owned()));
    }

    #[test]
    fn nonsense_is_no_attempt() {
        let mut message = Message::json("1");
        for header in [
            Header::Int(-1),
            Header::Text("3".to_owned()),
            Header::Int(i64::MAX),
        ] {
            message.headers.insert(HEADER_ATTEMPTS.to_owned(), header);
            assert_eq!(attempts(&message), 0);
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ä".repeat(REASON_BYTES_MAX);
        assert_eq!(cut(&format!("x{reason}")).len(), REASON_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }
}
