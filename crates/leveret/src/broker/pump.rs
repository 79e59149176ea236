//! The one consumer loop: what the engine's worker, work queues, services and replicas have in common.
//!
//! ```text
//! queue --> consumer --> ahead --a place--> job: handles, publishes and acks
//!                          ^------ hold, e.g. while this machine has a fault of its own
//! ```
//!
//! A [`Pump`] owns a consumer, the deliveries that were read and have no place yet, and the jobs that run. Its user asks for the
//! [next event](Pump::next) in a loop, and starts a job for what arrives:
//!
//! - **A job has a place**, which ends with the job, or when the job gives it up ([`Place::give_up`]) because it only waits for a
//!   queue that is full: the others go on. The prefetch bounds how many do that.
//! - **A batch** is what has arrived: after the first delivery, [`Pump::take_more`] gives others that are here, for one job.
//! - **A pause** keeps deliveries here and starts no jobs; those that run go on. It ends by itself.
//! - **What is held** is handled again before all others, without having been returned to its queue: the broker counts no redelivery.
//! - **A queue that was deleted** is declared again until its consumer is live, with what else belongs to it.
//! - **The end**: no more deliveries are taken, jobs finish in time, and the rest returns to its queue.
//!
//! Nothing is lost at any time: a delivery that is dropped returns to its queue, and so does all that a crash interrupts.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Broker, BrokerError, ConsumeOptions, Consumer, ConsumerState, Delivery, Topology,
    publish::Pauses,
};

/// The right of a job to run. Ends when it is dropped.
#[derive(Debug)]
pub struct Place(Mutex<Option<OwnedSemaphorePermit>>);

impl Place {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Place {
        Place(Mutex::new(Some(permit)))
    }

    /// Leaves the place to another job, while this one waits.
    pub fn give_up(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What a pump's user has to look at.
#[expect(
    clippy::large_enum_variant,
    reason = "an event is taken apart where it is returned; a box would cost each delivery an allocation"
)]
#[derive(Debug)]
pub enum Event<T> {
    /// A delivery, and a place for its job.
    Arrived(Delivery, Place),
    /// A job ended, or panicked.
    Ended(Result<T, JoinError>),
    /// The consumer's state changed, perhaps back again in between.
    State(ConsumerState),
    /// The pause is over.
    Resumed,
    /// The broker was closed.
    Closed,
}

/// A consumer and the jobs that its deliveries became, each of which returns a `T`.
#[derive(Debug)]
pub struct Pump<T> {
    consumer: Consumer,
    state: watch::Receiver<ConsumerState>,
    /// Deliveries that were read and have no place yet, oldest first.
    ahead: VecDeque<Delivery>,
    places: Arc<Semaphore>,
    jobs: JoinSet<T>,
    paused_until: Option<Instant>,
    mender: Option<Mender>,
}

impl<T: Send + 'static> Pump<T> {
    /// Subscribes. `places` bounds the jobs that run at once; pumps may share it. An error if the queue does not exist.
    pub async fn start(
        broker: &dyn Broker,
        options: ConsumeOptions,
        places: Arc<Semaphore>,
    ) -> Result<Pump<T>, BrokerError> {
        let consumer = broker.consume(options).await?;
        let mut state = consumer.state();
        state.mark_changed();
        Ok(Pump {
            consumer,
            state,
            ahead: VecDeque::new(),
            places,
            jobs: JoinSet::new(),
            paused_until: None,
            mender: None,
        })
    }

    /// Declares `topology` again when the consumer is lost, as it is when somebody deleted its queue.
    pub fn mend(&mut self, broker: Arc<dyn Broker>, topology: Topology) {
        self.mender = Some(Mender {
            broker,
            topology: Arc::new(topology),
            is_busy: Arc::new(AtomicBool::new(false)),
        });
    }

    /// The next event; the first is the consumer's state. Cancel-safe: what was read stays in the pump.
    pub async fn next(&mut self) -> Event<T> {
        loop {
            let paused = self.paused_until;
            let has_ahead = !self.ahead.is_empty();
            tokio::select! {
                biased;
                Ok(()) = self.state.changed() => {
                    let state = *self.state.borrow_and_update();
                    if let (ConsumerState::Lost, Some(mender)) = (state, &self.mender) {
                        mender.mend(self.state.clone());
                    }
                    return Event::State(state);
                }
                Some(ended) = self.jobs.join_next(), if !self.jobs.is_empty() => return Event::Ended(ended),
                () = sleep_until(paused.unwrap_or_else(Instant::now)), if paused.is_some() => {
                    self.paused_until = None;
                    return Event::Resumed;
                }
                Ok(permit) = self.places.clone().acquire_owned(), if has_ahead && paused.is_none() => {
                    if let Some(delivery) = self.ahead.pop_front() {
                        return Event::Arrived(delivery, Place::new(permit));
                    }
                }
                delivery = self.consumer.next(), if !has_ahead => match delivery {
                    Some(delivery) => self.ahead.push_back(delivery),
                    None => return Event::Closed,
                },
            }
        }
    }

    /// A job that has ended.
    pub fn try_ended(&mut self) -> Option<Result<T, JoinError>> {
        self.jobs.try_join_next()
    }

    /// A place, if one is free and there is no pause.
    pub fn try_place(&mut self) -> Option<Place> {
        if self.paused_until.is_some() {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned();
        permit.ok().map(Place::new)
    }

    /// A delivery that has arrived, for a job that has a place.
    pub fn take_more(&mut self) -> Option<Delivery> {
        let ahead = self.ahead.pop_front();
        ahead.or_else(|| self.consumer.try_next())
    }

    /// Starts a job.
    pub fn spawn(&mut self, job: impl Future<Output = T> + Send + 'static) {
        self.jobs.spawn(job);
    }

    /// Whether no place is free.
    pub fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Starts no jobs for deliveries until then.
    pub fn pause_until(&mut self, until: Instant) {
        self.paused_until = Some(until);
    }

    /// Whether there is a pause.
    pub fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Keeps a delivery, to give it out again before all others.
    pub fn hold(&mut self, delivery: Delivery) {
        self.ahead.push_front(delivery);
    }

    /// The deliveries that wait for a place, as of the last [look](Self::read_ahead).
    pub fn ahead(&self) -> impl Iterator<Item = &Delivery> {
        self.ahead.iter()
    }

    /// Reads all deliveries that have arrived.
    pub fn read_ahead(&mut self) {
        while let Some(delivery) = self.consumer.try_next() {
            self.ahead.push_back(delivery);
        }
    }

    /// The next delivery without a place, for those who end; `None` when the broker was closed. Cancel-safe.
    pub async fn next_delivery(&mut self) -> Option<Delivery> {
        match self.ahead.pop_front() {
            Some(delivery) => Some(delivery),
            None => self.consumer.next().await,
        }
    }

    /// Takes no more deliveries; those that wait for a place return to the queue. Idempotent.
    pub fn stop(&mut self) {
        self.consumer.cancel();
        self.ahead.clear();
    }

    /// Waits until all jobs have ended, each of which is told to `ended`, or the time is over. Returns how many have not.
    pub async fn finish(
        &mut self,
        deadline: Instant,
        mut ended: impl FnMut(Result<T, JoinError>),
    ) -> usize {
        let all = async {
            while let Some(result) = self.jobs.join_next().await {
                ended(result);
            }
        };
        // Whether in time or not, the jobs tell.
        let _ = timeout_at(deadline, all).await;
        self.jobs.len()
    }

    /// Ends the jobs at their next `await`; the deliveries that they have return to their queues.
    pub async fn abort(&mut self) {
        self.jobs.shutdown().await;
    }
}

/// Declares what is gone.
#[derive(Clone)]
struct Mender {
    broker: Arc<dyn Broker>,
    topology: Arc<Topology>,
    is_busy: Arc<AtomicBool>,
}

impl std::fmt::Debug for Mender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mender")
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

impl Mender {
    /// Goes on until the consumer is live, or its pump is gone.
    fn mend(&self, mut state: watch::Receiver<ConsumerState>) {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let Mender {
            broker,
            topology,
            is_busy,
        } = self.clone();
        tokio::spawn(async move {
            let mut failed = 0;
            while *state.borrow_and_update() == ConsumerState::Lost {
                if let Err(error) = broker.declare(&topology).await {
                    tracing::warn!(%error, "a consumer was lost, and what it needs cannot be declared");
                    if matches!(error, BrokerError::Closed) {
                        break;
                    }
                }
                let pause = sleep(Pauses::default().after(failed));
                failed += 1;
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { break },
                    () = pause => {}
                }
            }
            is_busy.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests;
