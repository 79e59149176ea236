//! One delivery: counts it if it may have ended its process, asks the handler, and does what that says.

use std::{
    any::Any,
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    Action, Handler, Verdict, WorkOptions, decide,
    letters::{attempts, dead_letter, deaths, restore, retry, suspected},
};
use crate::{
    broker::{
        Broker, BrokerError, Delivery, Publication, Topology,
        publish::{self, Persist},
        pump::Place,
    },
    metrics::queues::HeldBack,
};

/// From so many deaths on, suspects are handled one at a time.
const ALONE_FROM: u32 = 2;

/// An ack that this process gave has left it after so long: it goes out with the next turn of its consumer's task.
const ACK_TIME_MAX: Duration = Duration::from_millis(100);

/// The most ids that are remembered of deliveries whose connection was lost while they were here.
const LIVED_MAX: usize = 10_000;

/// Where a delivery comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Queue,
    Suspects,
}

/// What is left of a delivery when its job ends.
#[derive(Debug)]
pub(super) enum Left {
    /// It was settled, or is gone.
    Nothing,
    /// It was settled as its handler said.
    Handled,
    /// It is to be handled again, after a pause.
    Kept(Box<Delivery>),
}

/// What the jobs of one queue share.
pub(super) struct Station<H> {
    broker: Arc<dyn Broker>,
    pub(super) options: WorkOptions,
    topology: Topology,
    handler: H,
    lived: Lived,
    /// When a delivery was last given up for its copy.
    counted_at: Mutex<Option<Instant>>,
}

impl<H: Handler> Station<H> {
    pub(super) fn new(broker: Arc<dyn Broker>, options: WorkOptions, handler: H) -> Station<H> {
        Station {
            broker,
            topology: options.topology(),
            options,
            handler,
            lived: Lived::default(),
            counted_at: Mutex::default(),
        }
    }

    pub(super) async fn process(
        &self,
        mut delivery: Delivery,
        source: Source,
        place: Place,
    ) -> Left {
        if !delivery.receipt.is_open() {
            // It waited here when its connection was lost, and comes again.
            return Left::Nothing;
        }
        restore(&mut delivery, &self.options.queue);
        if let Some(reason) = self.refusal(&delivery) {
            let made = attempts(&delivery.message);
            return self.bury(delivery, &reason, made, &place).await;
        }
        if delivery.redelivered && !self.lived.has(&delivery) {
            return self.count(delivery, source, &place).await;
        }
        if deaths(&delivery.message) > 0 {
            self.let_acks_leave().await;
        }
        self.lived.begin(&delivery);
        let attempt = attempts(&delivery.message).saturating_add(1);
        let verdict = self.ask(&delivery, attempt).await;
        let id = delivery.message.message_id.clone();
        // Where its connection is gone, it comes again, and must be known then.
        let id = id.filter(|_| delivery.receipt.is_open());
        let left = self.act(delivery, attempt, verdict, &place).await;
        if !matches!(left, Left::Kept(_)) {
            self.lived.end(id);
        }
        left
    }

    /// Why a delivery reaches no handler.
    fn refusal(&self, delivery: &Delivery) -> Option<String> {
        let size = delivery.message.body.len();
        let limit = self.options.message_bytes_max;
        match &delivery.flaw {
            Some(flaw) => Some(flaw.to_string()),
            None if size > limit => {
                Some(format!("the body has {size} bytes, the limit is {limit}"))
            }
            None => None,
        }
    }

    /// A delivery that may have ended its process gives its place to a copy that says so, or is dead.
    async fn count(&self, delivery: Delivery, source: Source, place: &Place) -> Left {
        let options = &self.options;
        options.metrics.suspected.inc();
        let deaths = deaths(&delivery.message).saturating_add(1);
        if deaths >= options.deaths_max.max(ALONE_FROM + 1) {
            let reason = format!(
                "it was delivered {deaths} times and never settled: each time its process died, or lost its connection, while it had the message"
            );
            let made = attempts(&delivery.message);
            return self.bury(delivery, &reason, made, place).await;
        }
        let alone = source == Source::Suspects || deaths >= ALONE_FROM;
        let copy = if alone {
            suspected(&delivery, &options.suspects(), deaths)
        } else {
            suspected(&delivery, &options.queue, deaths)
        };
        match self.move_on(vec![copy], delivery, place).await {
            Ok(()) => {
                *self.counted_at() = Some(Instant::now());
                Left::Nothing
            }
            Err(failed) => self.cannot_move_on(failed),
        }
    }

    /// Where publishing and acking are two steps, a copy can be here before the ack of what it stands for has left. If it ended the process
    /// then, both would come again.
    async fn let_acks_leave(&self) {
        if self.broker.capabilities().atomic_publish_then_ack {
            return;
        }
        let counted_at = *self.counted_at();
        if let Some(at) = counted_at {
            tokio::time::sleep(ACK_TIME_MAX.saturating_sub(at.elapsed())).await;
        }
    }

    fn counted_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.counted_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, delivery: &Delivery, attempt: u32) -> Verdict {
        let begun = Instant::now();
        let handling = AssertUnwindSafe(self.handler.handle(delivery, attempt)).catch_unwind();
        let verdict = handling.await.unwrap_or_else(|panic| Verdict::Retry {
            reason: format!("the handler panicked: {}", panic_text(&*panic)),
        });
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.options.metrics.duration_us.observe(took);
        verdict
    }

    async fn act(&self, delivery: Delivery, attempt: u32, verdict: Verdict, place: &Place) -> Left {
        let metrics = &self.options.metrics;
        match decide(verdict, attempt, &self.options.retry) {
            Action::Requeue => {
                metrics.requeued.inc();
                Left::Kept(Box::new(delivery))
            }
            Action::Done { publish, repeated } => {
                match self.move_on(publish, delivery, place).await {
                    Ok(()) => {
                        metrics.handled.inc();
                        metrics.duplicates.add(repeated.into());
                        Left::Handled
                    }
                    Err(Failed {
                        error,
                        delivery: Some(delivery),
                    }) => {
                        let reason = format!("what follows from it cannot be published: {error}");
                        self.bury(*delivery, &reason, attempt, place).await
                    }
                    Err(failed) => self.cannot_move_on(failed),
                }
            }
            Action::Retry { delay } => {
                let copy = retry(&delivery, &self.options.queue, delay, attempt);
                match self.move_on(vec![copy], delivery, place).await {
                    Ok(()) => {
                        metrics.retried.inc();
                        Left::Handled
                    }
                    Err(failed) => self.cannot_move_on(failed),
                }
            }
            Action::DeadLetter { reason } => self.bury(delivery, &reason, attempt, place).await,
        }
    }

    /// Makes a dead letter of a delivery.
    async fn bury(&self, delivery: Delivery, reason: &str, attempt: u32, place: &Place) -> Left {
        let queue = &*self.options.queue;
        tracing::warn!(queue, reason, attempt, "dead letter");
        let letter = dead_letter(&delivery, queue, reason, attempt, (self.options.clock)());
        match self.move_on(vec![letter], delivery, place).await {
            Ok(()) => {
                self.options.metrics.dead_letters.inc();
                Left::Handled
            }
            Err(failed) => self.cannot_move_on(failed),
        }
    }

    /// Publishes, then acks, for as long as that may help.
    async fn move_on(
        &self,
        publications: Vec<Publication>,
        delivery: Delivery,
        place: &Place,
    ) -> Result<(), Failed> {
        if publications.is_empty() {
            delivery.receipt.ack();
            return Ok(());
        }
        let held: Mutex<Option<HeldBack>> = Mutex::default();
        let options = &self.options;
        let on_failure = |error: &BrokerError, left| {
            options.metrics.publish_failures.inc();
            place.give_up();
            held.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| options.metrics.hold_back());
            tracing::warn!(queue = &*options.queue, %error, left, "what follows from a delivery is not published");
        };
        let mut persist = Persist::new(&self.topology).telling(&on_failure);
        persist.pauses = options.publish_pauses;
        let Delivery {
            message,
            flaw,
            exchange,
            routing_key,
            redelivered,
            receipt,
        } = delivery;
        let moved = publish::all_then_ack(&*self.broker, publications, vec![receipt], &persist);
        let Err(unfinished) = moved.await else {
            return Ok(());
        };
        // Waiting would help: so it was given up because the delivery is gone, and comes again.
        let gone = unfinished.error.is_retryable();
        let receipt = unfinished.receipts.into_iter().next();
        let delivery = receipt.filter(|_| !gone).map(|receipt| {
            Box::new(Delivery {
                message,
                flaw,
                exchange,
                routing_key,
                redelivered,
                receipt,
            })
        });
        Err(Failed {
            error: unfinished.error,
            delivery,
        })
    }

    /// The queue that a delivery should go to takes nothing, for good: somebody has to mend that.
    fn cannot_move_on(&self, failed: Failed) -> Left {
        let Some(delivery) = failed.delivery else {
            return Left::Nothing;
        };
        tracing::error!(queue = &*self.options.queue, error = %failed.error, "a delivery cannot be moved on, and is kept");
        Left::Kept(delivery)
    }
}

/// A delivery that was not moved on. It is not there any more if its connection is gone.
struct Failed {
    error: BrokerError,
    delivery: Option<Box<Delivery>>,
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

/// The ids of messages that are with a handler of this process, or were when their connection was lost: it lived through them.
#[derive(Default)]
struct Lived(Mutex<HashSet<Arc<str>>>);

impl Lived {
    fn has(&self, delivery: &Delivery) -> bool {
        let id = delivery.message.message_id.as_ref();
        id.is_some_and(|id| self.lock().contains(id))
    }

    fn begin(&self, delivery: &Delivery) {
        if let Some(id) = &delivery.message.message_id {
            let mut all = self.lock();
            if all.len() >= LIVED_MAX {
                // Then some are counted that need not be.
                all.clear();
            }
            all.insert(id.clone());
        }
    }

    /// The delivery was settled.
    fn end(&self, id: Option<Arc<str>>) {
        if let Some(id) = id {
            self.lock().remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
