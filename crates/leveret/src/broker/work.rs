//! A work queue: deliveries go to a handler, and what it says decides what becomes of them. Over any broker.
//!
//! ```text
//! queue --> handler --Done, Repeated--> what follows is published, then acked
//!   ^          |------Retry, attempts left --> queue.retry.<delay> --after the delay--> queue
//!   |          |------Retry, none left; DeadLetter --> queue.dlq
//!   |          '------Requeue (this machine's own fault): kept here; the consumer pauses, then tries again
//!   '--- redelivered: counted, before its handler sees it --> queue, or queue.suspects; at the bound queue.dlq
//! ```
//!
//! Whatever follows from a delivery is published with confirm, then the delivery is acked: a crash in between leaves a second copy (with
//! the same `message_id`), never none. A handler that panics has failed like one that says [`Verdict::Retry`].
//!
//! # What ends its process
//!
//! A message that ends its process (memory runs out, a library aborts) comes again, marked redelivered, and so do those that the process had
//! beside it, most of them unread. A redelivery is therefore not handled: a copy that says how often this happened takes its place, and is
//! handled when it comes. So the count survives the process, with any broker and any kind of queue, and it is there before the handler.
//!
//! The first time the copy goes to the end of the queue itself, so that a broker's restart, or a process that was stopped, costs a message
//! no more than its place. From the second time on it goes to `queue.suspects`, from which each process takes one at a time: only the one
//! that is in its handler can be counted again. The innocent beside a message that kills are counted twice at most, and then once more only
//! if their own process dies while they are in their handlers; the one that kills reaches [`WorkOptions::deaths_max`] alone. A process that
//! merely lost its connection recognises by its `message_id` what it was handling, and counts nothing. Any verdict of its handler ends the
//! suspicion.
//!
//! # Faults of this machine
//!
//! A delivery of which the handler says [`Verdict::Requeue`] is kept here, so that the broker counts no redelivery, and nothing is handled
//! for a while: pauses grow from one failure to the next. Then those that are kept are handled first. Meanwhile [`QueueMetrics::is_ready`]
//! is false. Other processes go on with what is in the queue; when this one ends, theirs is also what it kept.
//!
//! Where a queue that takes what follows is full, the delivery waits without holding a place, and others are handled; at most `prefetch` wait.

mod letters;
mod station;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::time::Timestamp;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

pub use self::letters::{
    HEADER_ATTEMPTS, HEADER_DEAD_AT, HEADER_DEATHS, HEADER_EXCHANGE, HEADER_KEPT, HEADER_LEFT_OUT,
    HEADER_QUEUE, HEADER_REASON, HEADER_ROUTING_KEY, attempts, dead_letter, deaths, retry,
};
use self::station::{Left, Source, Station};
use super::{
    Broker, BrokerError, ConsumeOptions, ConsumerState, Delivery, Publication, Queue, Topology,
    dead_letter_queue_name,
    publish::Pauses,
    pump::{Event, Pump},
};
use crate::{
    clock::{Clock as _, SystemClock},
    metrics::queues::QueueMetrics,
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

/// How long the dead letters of a queue that expires stay after it.
pub const DEAD_LETTERS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

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
    /// Whether the queue goes when nobody has used it for so long. Its dead letters stay [`DEAD_LETTERS_KEPT`] longer. Never.
    pub expires_after: Option<Duration>,
    /// A larger body is dead-lettered and reaches no handler, in bytes. 16 MiB.
    pub message_bytes_max: usize,
    /// How long handlers that run at shutdown may go on; then their deliveries return to the queue. 30 s.
    pub drain_timeout: Duration,
    /// How long nothing is handled after a handler said [`Verdict::Requeue`]. 1 s, doubled from one failure to the next up to 30 s.
    pub requeue_pauses: Pauses,
    /// Between tries to publish what follows from a delivery. 100 ms to 5 s.
    pub publish_pauses: Pauses,
    /// A message that was delivered and not settled so often is dead-lettered, and its handler not asked again. At least 3; 5.
    pub deaths_max: u32,
    /// Declared with the queues, and again when a part of it is gone: where that goes which handlers publish. Nothing.
    pub publishes_to: Topology,
    /// Where is counted. Counters of its own; keep a clone to read them.
    pub metrics: Arc<QueueMetrics>,
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
            expires_after: None,
            message_bytes_max: 16 * 1024 * 1024,
            drain_timeout: Duration::from_secs(30),
            requeue_pauses: Pauses {
                first: Duration::from_secs(1),
                longest: Duration::from_secs(30),
            },
            publish_pauses: Pauses::default(),
            deaths_max: 5,
            publishes_to: Topology::default(),
            metrics: Arc::default(),
            clock: system_clock,
        }
    }

    /// The queue of those that may have ended their process more than once.
    pub fn suspects(&self) -> String {
        format!("{}.suspects", self.queue)
    }

    /// What [`serve`] declares: the queue, its delay queues, that of suspects, its dead letter queue, and what handlers publish to.
    pub fn topology(&self) -> Topology {
        let delays = self.retry.delays.iter();
        let queue = |name: Arc<str>, expires_after| Queue {
            expires_after,
            ..Queue::plain(name)
        };
        let mut queues = vec![queue(self.queue.clone(), self.expires_after)];
        for queue in delays.map(|delay| Queue::retry_of(&self.queue, *delay)) {
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        queues.push(queue(self.suspects().into(), self.expires_after));
        let kept = self.expires_after.map(|after| after + DEAD_LETTERS_KEPT);
        queues.push(queue(dead_letter_queue_name(&self.queue).into(), kept));
        let Topology {
            exchanges,
            queues: further,
            bindings,
        } = self.publishes_to.clone();
        queues.extend(further);
        Topology {
            exchanges,
            queues,
            bindings,
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
    SystemClock.now()
}

/// What a handler says of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Handled, a business failure that was recorded included. What follows from it is published and confirmed before the delivery is acked;
    /// what can never be published (too large, to a queue that does not exist) makes the delivery a dead letter that says so.
    Done {
        /// What follows.
        publish: Vec<Publication>,
    },
    /// Handled before: a copy, or a delivery that came again. Like `Done`, and counted as a duplicate.
    Repeated {
        /// What follows, once more.
        publish: Vec<Publication>,
    },
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
    /// This machine's own fault (its database is gone): the consumer pauses, and the delivery is handled again. No attempt is counted.
    Requeue,
}

impl Verdict {
    /// Handled, and nothing follows.
    pub const fn done() -> Verdict {
        Verdict::Done {
            publish: Vec::new(),
        }
    }
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
    let (mut queue, mut suspects) = tokio::select! {
        pumps = subscribe(&broker, &options) => pumps?,
        () = &mut shutdown => return Ok(()),
    };
    let metrics = options.metrics.clone();
    let drain_timeout = options.drain_timeout;
    let station = Arc::new(Station::new(broker, options, handler));
    let mut outage = Outage::default();
    loop {
        // Cancel-safe: the shutdown future is kept, and pumps lose nothing.
        let (source, event) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            event = suspects.next() => (Source::Suspects, event),
            event = queue.next() => (Source::Queue, event),
        };
        let pump = match source {
            Source::Queue => &mut queue,
            Source::Suspects => &mut suspects,
        };
        match event {
            Event::Arrived(delivery, place) => {
                let station = station.clone();
                pump.spawn(async move { station.process(delivery, source, place).await });
            }
            Event::State(state) if source == Source::Queue => metrics.consumer.set(state),
            Event::State(_) | Event::Resumed | Event::Ended(Ok(Left::Nothing)) => {}
            Event::Ended(Ok(Left::Handled)) => outage.over(&metrics, pump.is_paused()),
            Event::Ended(Ok(Left::Kept(delivery))) => {
                pump.hold(*delivery);
                let until = outage.failed(&metrics, &station.options.requeue_pauses);
                queue.pause_until(until);
                suspects.pause_until(until);
            }
            Event::Ended(Err(error)) => {
                // Its delivery was dropped with it, and so returned.
                tracing::error!(queue = &*station.options.queue, %error, "the task of a delivery ended");
            }
            Event::Closed => break,
        }
    }
    metrics.consumer.set(ConsumerState::Draining);
    drain([queue, suspects], drain_timeout).await;
    metrics.consumer.clear();
    Ok(())
}

/// Lets what runs finish in time; what does not is dropped, and so returns to the queue.
async fn drain(mut pumps: [Pump<Left>; 2], timeout: Duration) {
    let deadline = Instant::now() + timeout;
    for pump in &mut pumps {
        pump.stop();
    }
    for pump in &mut pumps {
        // Those that are kept are dropped, and so returned.
        pump.finish(deadline, drop).await;
        pump.abort().await;
    }
}

/// A fault of this machine, while it lasts.
#[derive(Default)]
struct Outage {
    /// Pauses so far.
    failed: u32,
    until: Option<Instant>,
}

impl Outage {
    /// A delivery could not be handled. Several at once make one pause.
    fn failed(&mut self, metrics: &QueueMetrics, pauses: &Pauses) -> Instant {
        let now = Instant::now();
        if let Some(until) = self.until.filter(|until| *until > now) {
            return until;
        }
        let until = now + pauses.after(self.failed);
        self.failed = self.failed.saturating_add(1);
        self.until = Some(until);
        metrics.set_paused(true);
        until
    }

    /// A delivery was handled: the fault is over, unless this one began before the pause.
    fn over(&mut self, metrics: &QueueMetrics, paused: bool) {
        if self.failed > 0 && !paused {
            *self = Outage::default();
            metrics.set_paused(false);
        }
    }
}

/// The pumps of the queue and of its suspects, of which there is one at a time. They share the places.
async fn subscribe(
    broker: &Arc<dyn Broker>,
    options: &WorkOptions,
) -> Result<(Pump<Left>, Pump<Left>), BrokerError> {
    let places = Arc::new(Semaphore::new(usize::from(options.concurrency.max(1))));
    let topology = options.topology();
    let start = |queue: Arc<str>, prefetch| {
        let consume = ConsumeOptions {
            prefetch,
            ..ConsumeOptions::queue(queue)
        };
        Pump::start(&**broker, consume, places.clone())
    };
    let prefetch = options.prefetch.max(options.concurrency);
    let mut failed = 0;
    loop {
        let subscribed = async {
            broker.declare(&topology).await?;
            let queue = start(options.queue.clone(), prefetch).await?;
            Ok((queue, start(options.suspects().into(), 1).await?))
        };
        match subscribed.await {
            Ok((mut queue, mut suspects)) => {
                queue.mend(broker.clone(), topology.clone());
                suspects.mend(broker.clone(), topology);
                return Ok((queue, suspects));
            }
            Err(error @ BrokerError::NotFound { .. }) => {
                // Somebody deletes it while we declare it.
                tracing::warn!(queue = &*options.queue, %error, "not consuming yet");
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(queue = &*options.queue, %error, "not consuming yet");
            }
            Err(error) => return Err(error),
        }
        sleep(Pauses::default().after(failed)).await;
        failed += 1;
    }
}

/// What becomes of a delivery.
#[derive(Debug, PartialEq)]
enum Action {
    Done {
        publish: Vec<Publication>,
        repeated: bool,
    },
    Requeue,
    Retry {
        delay: Duration,
    },
    DeadLetter {
        reason: String,
    },
}

/// The decision, pure: `attempt` attempts were made, the one just finished included.
fn decide(verdict: Verdict, attempt: u32, policy: &RetryPolicy) -> Action {
    let next = |reason: String| match policy.delays.get((attempt as usize).saturating_sub(1)) {
        Some(delay) => Action::Retry { delay: *delay },
        None => Action::DeadLetter { reason },
    };
    match verdict {
        Verdict::Done { publish } => Action::Done {
            publish,
            repeated: false,
        },
        Verdict::Repeated { publish } => Action::Done {
            publish,
            repeated: true,
        },
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

#[cfg(test)]
mod tests;
