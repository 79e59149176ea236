//! What is declared: exchanges, queues and their bounds, bindings.

use std::{sync::Arc, time::Duration};

use super::BrokerError;

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Binding key equals routing key.
    Direct,
    /// Binding keys are dotted patterns: `*` is one word, `#` any number of words.
    Topic,
    /// Every bound queue.
    Fanout,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its name, not empty.
    pub name: Arc<str>,
    /// How it routes.
    pub kind: ExchangeKind,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name, not empty.
    pub name: Arc<str>,
    /// A *delay queue*: nobody consumes it; each message moves to another queue after a time.
    pub delay: Option<Delay>,
    /// Whether one consumer at a time gets messages, the one that subscribed first. When it ends, the next one does; what it holds it may
    /// still settle.
    pub single_active: bool,
    /// The queue is deleted, with its messages and bindings, when for so long nobody consumed or declared it; whole milliseconds, at most
    /// [`EXPIRES_AFTER_MAX`]. On RabbitMQ, asking for its counts is a use, too, and an outage is none. What expired is declared again after a
    /// reconnect, empty.
    pub expires_after: Option<Duration>,
    /// The most messages that wait for a consumer; those delivered and unsettled do not count. A message that finds the queue full is
    /// [`BrokerError::NotAccepted`] to its publisher, and nothing is dropped. A quorum queue takes a few more before it says so.
    pub length_max: Option<u64>,
}

/// The longest that a queue may stay unused before it expires: what RabbitMQ counts in 32 bits of milliseconds.
pub const EXPIRES_AFTER_MAX: Duration = Duration::from_millis(u32::MAX as u64);

impl Queue {
    /// A plain durable queue without arguments.
    pub fn plain(name: impl Into<Arc<str>>) -> Queue {
        Queue {
            name: name.into(),
            delay: None,
            single_active: false,
            expires_after: None,
            length_max: None,
        }
    }

    /// The delay queue `<queue>.retry.<delay>` of a queue.
    pub fn retry_of(queue: &str, after: Duration) -> Queue {
        Queue {
            name: Arc::from(retry_queue_name(queue, after)),
            delay: Some(Delay {
                after,
                to: Arc::from(queue),
            }),
            ..Queue::plain("")
        }
    }

    /// With [`single_active`](Self::single_active).
    #[must_use]
    pub fn single_active(self) -> Queue {
        Queue {
            single_active: true,
            ..self
        }
    }

    /// With [`expires_after`](Self::expires_after).
    #[must_use]
    pub fn expires_after(self, unused: Duration) -> Queue {
        Queue {
            expires_after: Some(unused),
            ..self
        }
    }

    /// With [`length_max`](Self::length_max).
    #[must_use]
    pub fn length_max(self, messages: u64) -> Queue {
        Queue {
            length_max: Some(messages),
            ..self
        }
    }

    /// What can be said of the queue alone.
    fn fault(&self) -> Option<&'static str> {
        let expires = self.expires_after.map(|after| after.as_millis());
        if expires == Some(0) || self.expires_after > Some(EXPIRES_AFTER_MAX) {
            return Some("it expires after at least 1 ms and at most 49 days");
        }
        if expires.is_some() && self.delay.is_some() {
            return Some("nobody consumes a delay queue: it would expire with its messages");
        }
        if self.length_max == Some(0) {
            return Some("it must take at least one message");
        }
        None
    }
}

/// What a delay queue does with its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long a message stays; whole milliseconds.
    pub after: Duration,
    /// The queue it then goes to.
    pub to: Arc<str>,
}

/// `<queue>.retry.<delay>`, as in `payment_queue.retry.5s`.
pub fn retry_queue_name(queue: &str, after: Duration) -> String {
    let ms = after.as_millis();
    if ms.is_multiple_of(1000) {
        format!("{queue}.retry.{}s", ms / 1000)
    } else {
        format!("{queue}.retry.{ms}ms")
    }
}

/// `<queue>.dlq`, where dead letters of a queue go.
pub fn dead_letter_queue_name(queue: &str) -> String {
    format!("{queue}.dlq")
}

/// A queue bound to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The queue.
    pub queue: Arc<str>,
    /// The exchange.
    pub exchange: Arc<str>,
    /// The key or pattern.
    pub routing_key: Arc<str>,
}

/// What must exist before anything is published or consumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Bindings between them.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// Whether it can be declared beside the queues that are known. A delay queue passes its messages on without anybody to tell that they
    /// were not accepted, so that its target must take them all.
    pub(super) fn check<'a>(
        &'a self,
        known: impl IntoIterator<Item = &'a Queue>,
    ) -> Result<(), BrokerError> {
        let undeclarable = |queue: &Queue, detail: String| BrokerError::Undeclarable {
            what: format!("queue '{}'", queue.name),
            detail,
        };
        for queue in &self.queues {
            if let Some(fault) = queue.fault() {
                return Err(undeclarable(queue, fault.to_owned()));
            }
        }
        let all: Vec<&Queue> = self.queues.iter().chain(known).collect();
        for queue in &all {
            let Some(delay) = &queue.delay else { continue };
            let bounded = |target: &&&Queue| target.name == delay.to && target.length_max.is_some();
            if let Some(target) = all.iter().find(bounded) {
                let detail = format!(
                    "delay queue '{}' passes its messages on to it, and those that find it full would be lost",
                    queue.name
                );
                return Err(undeclarable(target, detail));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(queues: &[Queue], known: &[Queue], expect: &str) {
        let topology = Topology {
            queues: queues.to_vec(),
            ..Topology::default()
        };
        let said = topology.check(known).map_err(|error| error.to_string());
        assert_eq!(said.err().unwrap_or_default(), expect);
    }

    #[test]
    fn what_cannot_be_declared_is_told() {
        let queue = || Queue::plain("q");
        let retry = Queue::retry_of("q", Duration::from_secs(1));
        check(&[queue(), retry.clone()], &[], "");
        check(&[queue().length_max(1).single_active()], &[], "");
        check(
            &[queue().length_max(0)],
            &[],
            "queue 'q' cannot be declared: it must take at least one message",
        );
        for after in [Duration::ZERO, Duration::from_secs(50 * 24 * 3600)] {
            let expect =
                "queue 'q' cannot be declared: it expires after at least 1 ms and at most 49 days";
            check(&[queue().expires_after(after)], &[], expect);
        }
        check(
            &[retry.clone().expires_after(Duration::from_secs(9))],
            &[],
            "queue 'q.retry.1s' cannot be declared: nobody consumes a delay queue: it would expire with its messages",
        );
        let lost = "queue 'q' cannot be declared: delay queue 'q.retry.1s' passes its messages on to it, and those \
                    that find it full would be lost";
        check(&[queue().length_max(9)], std::slice::from_ref(&retry), lost);
        check(&[retry], &[queue().length_max(9)], lost);
    }
}
