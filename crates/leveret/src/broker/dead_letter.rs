//! Dead letters: messages that cannot be handled, kept with the reason.

use leveret_core::time::Timestamp;

use super::{Header, Message, Publication, dead_letter_queue_name};

/// Header: why the message is here.
pub const REASON: &str = "x-leveret-reason";
/// Header: how often it was handled.
pub const ATTEMPTS: &str = "x-leveret-attempts";
/// Header: the queue it comes from.
pub const QUEUE: &str = "x-leveret-queue";
/// Header: the exchange it was published to.
pub const EXCHANGE: &str = "x-leveret-exchange";
/// Header: the routing key it was published with.
pub const ROUTING_KEY: &str = "x-leveret-routing-key";
/// Header: when it was given up, RFC 3339.
pub const DEAD_AT: &str = "x-leveret-dead-at";

/// The longest reason kept, in characters.
const REASON_CHARS_MAX: usize = 1000;

/// Where a message came from and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// The queue it was consumed from.
    pub queue: &'a str,
    /// The exchange it was published to.
    pub exchange: &'a str,
    /// The routing key it was published with.
    pub routing_key: &'a str,
    /// Why it cannot be handled.
    pub reason: &'a str,
    /// How often it was handled.
    pub attempts: u32,
    /// When it was given up.
    pub dead_at: Timestamp,
}

/// A copy of the message for the queue's dead-letter queue `<queue>.dlq`, with headers that say why. Publish it, then ack the original: a crash in
/// between leaves two copies with the same message id.
pub fn dead_letter(message: &Message, letter: &DeadLetter<'_>) -> Publication {
    let mut message = message.clone();
    let text = |text: &str| Header::Text(text.to_owned());
    let reason: String = letter.reason.chars().take(REASON_CHARS_MAX).collect();
    message.headers.extend([
        (REASON.to_owned(), Header::Text(reason)),
        (ATTEMPTS.to_owned(), Header::Int(i64::from(letter.attempts))),
        (QUEUE.to_owned(), text(letter.queue)),
        (EXCHANGE.to_owned(), text(letter.exchange)),
        (ROUTING_KEY.to_owned(), text(letter.routing_key)),
        (DEAD_AT.to_owned(), Header::Text(letter.dead_at.to_string())),
    ]);
    Publication::to_queue(dead_letter_queue_name(letter.queue), message)
}
