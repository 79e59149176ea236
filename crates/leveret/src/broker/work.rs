//! A work queue: deliveries go to a handler, and what it says decides what becomes of them. Over any broker.
//!
//! ```text
//! queue --> handler --Done---------------------------> acked
//!   ^          |------Retry, attempts left --> queue.retry.<delay> --after the delay--> queue
//!   |          |------Retry, none left; DeadLetter --> queue.dlq
//!   '----------'------Requeue (this machine's own fault), after a pause
//! ```
//!
//! A retry or dead letter is published with confirm, then the delivery is acked: a crash in between leaves a second copy (with the
//! same `message_id`), never none. If publishing fails, the delivery returns to its queue. A handler that panics has failed like
//! one that says [`Verdict::Retry`].

mod letters;

use std::{
    any::Any,
    fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures_util::FutureExt;
use leveret_core::time::Timestamp;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

pub use self::letters::{
    HEADER_ATTEMPTS, HEADER_DEAD_AT, HEADER_EXCHANGE, HEADER_LEFT_OUT, HEADER_QUEUE, HEADER_REASON,
    HEADER_ROUTING_KEY, attempts, dead_letter, retry,
};
use super::{
    Broker, BrokerError, ConsumeOptions, Consumer, Delivery, Publication, Queue, Topology,
    Unfinished, dead_letter_queue_name,
};

/// The delays between attempts; as many retries as delays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The delay before each retry, whole milliseconds. Each has a queue of its own.
    pub delays: Vec<Duration>,
}

/// 3 retries (1 + 3 attempts), after 1 s, 5 s and 25 s.
impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            delays: [1, 5, 25].map(Duration::from_secs).to_vec(),
        }
    }
}

/// How a work queue is consumed.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkOptions {
    /// The queue.
    pub queue: Arc<str>,
    /// The most deliveries that are here at once; at least `concurrency`. 10.
    pub prefetch: u16,
    /// How many handlers run at once. 1, which keeps the order of the queue as long as nothing is retried.
    pub concurrency: u16,
    /// When to try again.
    pub retry: RetryPolicy,
    /// A larger body is dead-lettered and reaches no handler, in bytes. 16 MiB.
    pub message_bytes_max: usize,
    /// How long handlers that run at shutdown may go on; then their deliveries return to the queue. 30 s.
    pub drain_timeout: Duration,
    /// The pause before a delivery returns to its queue because publishing failed or the handler said [`Verdict::Requeue`], so
    /// that it does not spin. 1 s.
    pub requeue_pause: Duration,
    /// What time it is, for the headers of dead letters. The system's clock.
    pub clock: fn() -> Timestamp,
}

impl WorkOptions {
    /// The defaults, for this queue.
    pub fn queue(queue: impl Into<Arc<str>>) -> WorkOptions {
        WorkOptions {
            queue: queue.into(),
            prefetch: ConsumeOptions::PREFETCH_DEFAULT,
            concurrency: 1,
            retry: RetryPolicy::default(),
            message_bytes_max: 16 * 1024 * 1024,
            drain_timeout: Duration::from_secs(30),
            requeue_pause: Duration::from_secs(1),
            clock: system_clock,
        }
    }

    /// What [`serve`] declares: the queue, its delay queues, its dead letter queue.
    pub fn topology(&self) -> Topology {
        let delays = self.retry.delays.iter();
        let mut queues = vec![Queue::plain(self.queue.clone())];
        for queue in delays.map(|delay| Queue::retry_of(&self.queue, *delay)) {
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        queues.push(Queue::plain(dead_letter_queue_name(&self.queue)));
        Topology {
            queues,
            ..Topology::default()
        }
    }
}

impl fmt::Debug for WorkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkOptions")
            .field("queue", &self.queue)
            .field("prefetch", &self.prefetch)
            .field("concurrency", &self.concurrency)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

fn system_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// What a handler says of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Handled, a business failure that was recorded included.
    Done,
    /// A passing fault: again after the next delay; a dead letter when the retries are used up.
    Retry {
        /// Why, for the dead letter.
        reason: String,
    },
    /// Like `Retry`, not before this time: the shortest delay of the policy that is long enough, else its longest.
    RetryAfter {
        /// Why.
        reason: String,
        /// How long to wait at least.
        delay: Duration,
    },
    /// It will never work: malformed, or refused for good.
    DeadLetter {
        /// Why.
        reason: String,
    },
    /// This machine's own fault (its database is gone): back to the queue, and no attempt is counted.
    Requeue,
}

/// Handles deliveries.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one delivery. `attempt` counts from 1. May run more than once for one message, also after it said `Done`; when
    /// shutdown takes too long it is dropped at an `await`.
    async fn handle(&self, delivery: &Delivery, attempt: u32) -> Verdict;
}

/// Consumes a work queue until `shutdown` is ready or the broker is closed.
///
/// Declares what it needs, waiting for a broker that is away; an error if the broker refuses. A message with a [flaw](Delivery::flaw) is
/// dead-lettered and reaches no handler. On shutdown it stops taking
/// deliveries, lets the running handlers finish within `drain_timeout`, and returns the rest to the queue.
pub async fn serve(
    broker: Arc<dyn Broker>,
    options: WorkOptions,
    handler: impl Handler,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), BrokerError> {
    tokio::pin!(shutdown);
    let mut consumer = tokio::select! {
        consumer = subscribe(&*broker, &options) => consumer?,
        () = &mut shutdown => return Ok(()),
    };
    let concurrency = usize::from(options.concurrency.max(1));
    let drain_timeout = options.drain_timeout;
    let station = Arc::new(Station {
        broker,
        options,
        handler,
    });
    let mut running = JoinSet::new();
    loop {
        // Cancel-safe: the shutdown future is kept, a set's `join_next` and a consumer's `next` lose nothing.
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = running.join_next(), if !running.is_empty() => {}
            delivery = consumer.next(), if running.len() < concurrency => match delivery {
                Some(delivery) => {
                    let station = station.clone();
                    running.spawn(async move { station.process(delivery).await });
                }
                None => break,
            },
        }
    }
    consumer.cancel();
    let finish = async { while running.join_next().await.is_some() {} };
    if timeout(drain_timeout, finish).await.is_err() {
        // What they hold is dropped, and so returns to the queue.
        running.shutdown().await;
    }
    Ok(())
}

async fn subscribe(broker: &dyn Broker, options: &WorkOptions) -> Result<Consumer, BrokerError> {
    let consume = ConsumeOptions {
        prefetch: options.prefetch.max(options.concurrency),
        ..ConsumeOptions::queue(options.queue.clone())
    };
    loop {
        let declared = broker.declare(&options.topology()).await;
        let subscribed = match declared {
            Ok(()) => broker.consume(consume.clone()).await,
            Err(error) => Err(error),
        };
        match subscribed {
            Err(error) if error.is_retryable() => {
                tracing::warn!(queue = &*options.queue, %error, "not consuming yet");
                sleep(options.requeue_pause).await;
            }
            other => return other,
        }
    }
}

/// What becomes of a delivery.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Ack,
    Requeue,
    Retry { delay: Duration },
    DeadLetter { reason: String },
}

/// The decision, pure: `attempt` attempts were made, the one just finished included.
fn decide(verdict: Verdict, attempt: u32, policy: &RetryPolicy) -> Action {
    let next = |reason: String| match policy.delays.get((attempt as usize).saturating_sub(1)) {
        Some(delay) => Action::Retry { delay: *delay },
        None => Action::DeadLetter { reason },
    };
    match verdict {
        Verdict::Done => Action::Ack,
        Verdict::Requeue => Action::Requeue,
        Verdict::DeadLetter { reason } => Action::DeadLetter { reason },
        Verdict::Retry { reason } => next(reason),
        Verdict::RetryAfter {
            reason,
            delay: wanted,
        } => match next(reason) {
            Action::Retry { delay } => {
                let enough = policy.delays.iter().filter(|delay| **delay >= wanted).min();
                let longest = policy.delays.iter().max();
                let delay = *enough.or(longest).unwrap_or(&delay);
                Action::Retry { delay }
            }
            other => other,
        },
    }
}

/// What the handlers of one queue share.
struct Station<H> {
    broker: Arc<dyn Broker>,
    options: WorkOptions,
    handler: H,
}

impl<H: Handler> Station<H> {
    async fn process(&self, delivery: Delivery) {
        let queue = &*self.options.queue;
        let made = attempts(&delivery.message);
        let size = delivery.message.body.len();
        let limit = self.options.message_bytes_max;
        let refused = match &delivery.flaw {
            Some(flaw) => Some(flaw.to_string()),
            None if size > limit => {
                Some(format!("the body has {size} bytes, the limit is {limit}"))
            }
            None => None,
        };
        let (attempt, action) = if let Some(reason) = refused {
            (made, Action::DeadLetter { reason })
        } else {
            let attempt = made.saturating_add(1);
            let handling = AssertUnwindSafe(self.handler.handle(&delivery, attempt)).catch_unwind();
            let verdict = handling.await.unwrap_or_else(|panic| Verdict::Retry {
                reason: format!("the handler panicked: {}", panic_text(&*panic)),
            });
            (attempt, decide(verdict, attempt, &self.options.retry))
        };
        match action {
            Action::Ack => delivery.receipt.ack(),
            Action::Requeue => self.requeue(delivery).await,
            Action::Retry { delay } => {
                let copy = retry(&delivery, queue, delay, attempt);
                self.move_on(copy, delivery).await;
            }
            Action::DeadLetter { reason } => {
                tracing::warn!(queue, reason, attempt, "dead letter");
                let letter =
                    dead_letter(&delivery, queue, &reason, attempt, (self.options.clock)());
                self.move_on(letter, delivery).await;
            }
        }
    }

    /// Publishes, then acks; when that fails the delivery returns to the queue after a pause.
    async fn move_on(&self, publication: Publication, delivery: Delivery) {
        let Delivery { receipt, .. } = delivery;
        let moved = self
            .broker
            .publish_then_ack(vec![publication], vec![receipt]);
        if let Err(Unfinished {
            error, receipts, ..
        }) = moved.await
        {
            tracing::warn!(queue = &*self.options.queue, %error, "cannot move a delivery on, it returns to its queue");
            if !error.is_retryable() {
                // Somebody may have deleted the queue it goes to.
                let _ = self.broker.declare(&self.options.topology()).await;
            }
            sleep(self.options.requeue_pause).await;
            receipts.into_iter().for_each(super::Receipt::requeue);
        }
    }

    async fn requeue(&self, delivery: Delivery) {
        sleep(self.options.requeue_pause).await;
        delivery.receipt.requeue();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

#[cfg(test)]
mod tests;
