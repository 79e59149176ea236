//! Durable timers: wakes steps that sleep or wait for their next attempt.
//!
//! A timer is a row in the store; memory holds only when the next one is due. Firing is claim, publish, confirm, remove: a crash in
//! between fires again, and the step that was woken before makes that harmless. What is claimed and not confirmed is tried again until it is:
//! it may have woken its step, which ended the timer, and the broker may have lost what follows. When the claim is over, others may try, too.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_core::time::Timestamp;
use tokio::sync::{Notify, watch};

use super::{
    Inner,
    health::{HeldBack, What},
    wire::Job,
};
use crate::{
    broker::BrokerError,
    store::{StoreError, Timer},
};

/// How many timers are fired at once.
const BATCH: u32 = 512;
/// How long a claimed timer is nobody else's; so late it fires if whoever claimed it died. Firing takes milliseconds, and twice does no harm.
pub(crate) const CLAIM: Duration = Duration::from_secs(5);
/// How often the store is asked for timers that other processes set.
const POLL: Duration = Duration::from_millis(500);
/// Pause after an error.
const PAUSE: Duration = Duration::from_millis(500);

/// When a timer was set in this process: a hint to look earlier than the next poll.
#[derive(Debug, Default)]
pub(crate) struct TimerHints {
    earliest: Mutex<Option<Timestamp>>,
    set: Notify,
}

impl TimerHints {
    pub(crate) fn hint(&self, due: Timestamp) {
        let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        if earliest.is_none_or(|known| due < known) {
            *earliest = Some(due);
            self.set.notify_one();
        }
    }

    fn take(&self) -> Option<Timestamp> {
        self.earliest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Fires the timers that are due now. Returns how many.
///
/// After it returns, their jobs are confirmed by the broker and the timers are gone. A crash before repeats some of them; after an error, what
/// was not published is due again when the claim ends.
pub(crate) async fn run_once(inner: &Inner, now: Timestamp) -> Result<usize, FireError> {
    let timers = inner.store.claim_timers(now, CLAIM, BATCH).await?;
    fire(inner, timers, &mut Vec::new()).await
}

/// Publishes the jobs of claimed timers and removes these; returns how many. Those that are not confirmed are `held` afterwards. What is published and
/// cannot be removed is due again when its claim ends.
pub(crate) async fn fire(
    inner: &Inner,
    timers: Vec<Timer>,
    held: &mut Vec<Timer>,
) -> Result<usize, FireError> {
    if timers.is_empty() {
        return Ok(0);
    }
    let jobs = timers
        .iter()
        // Whoever claimed it before may have died after this.
        .map(|timer| inner.names.job(&job_of(timer)).again())
        .collect();
    let (mut published, mut refusal) = (Vec::new(), None);
    for (timer, result) in timers.into_iter().zip(inner.broker.publish(jobs).await) {
        match result {
            Ok(()) => published.push(timer),
            Err(error) => {
                held.push(timer);
                refusal = Some(error);
            }
        }
    }
    inner.metrics.timers_fired.add(published.len() as u64);
    inner.metrics.published.add(published.len() as u64);
    inner.store.remove_timers(&published).await?;
    refusal.map_or(Ok(published.len()), |error| Err(error.into()))
}

/// Why timers were not fired; they are due again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FireError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl FireError {
    /// Does what may help before the next try, and tells of it: as [`Inner::look_at`], and of what the broker did not take that it is held
    /// back.
    pub(crate) async fn look_at(&self, inner: &Inner, what: What, held: &mut Option<HeldBack>) {
        match self {
            FireError::Store(error) => {
                inner.look_at(error);
                tracing::warn!(%error, "{what} wait for the store; trying again");
            }
            FireError::Broker(error) => {
                inner.metrics.broker_errors.inc();
                inner.hold_back(held, what, error);
                inner.declare_again(error).await;
            }
        }
    }

    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            FireError::Store(error) => error.is_retryable(),
            FireError::Broker(error) => error.is_retryable(),
        }
    }
}

fn job_of(timer: &Timer) -> Job {
    let Timer {
        key,
        workflow_id,
        workflow_hash,
        ..
    } = timer;
    let job = Job::new(
        workflow_id.clone(),
        workflow_hash,
        key.run_id.clone(),
        key.node_id.clone(),
    );
    Job {
        via: timer.via,
        attempts: timer.attempts,
        ..job.within(&key.scope)
    }
}

/// Fires timers until `shutdown` turns true.
pub(crate) async fn run(inner: Arc<Inner>, mut shutdown: watch::Receiver<bool>) {
    let (mut held, mut refused) = (Vec::new(), None::<HeldBack>);
    // Looked at before each batch: others may keep timers due for as long as this runs.
    while !*shutdown.borrow() && shutdown.has_changed().is_ok() {
        let pause = match fire_next(&inner, &mut held).await {
            Ok(fired) => {
                refused = None;
                if fired == 0 {
                    until_next(&inner).await
                } else {
                    Duration::ZERO
                }
            }
            Err(error) => {
                error.look_at(&inner, What::Timers, &mut refused).await;
                PAUSE
            }
        };
        if pause.is_zero() {
            continue;
        }
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = inner.timers.set.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Fires what is held of earlier claims, else what is due now. What the broker does not confirm is held: a batch at most.
async fn fire_next(inner: &Inner, held: &mut Vec<Timer>) -> Result<usize, FireError> {
    let timers = if held.is_empty() {
        let now = inner.clock.now();
        inner.store.claim_timers(now, CLAIM, BATCH).await?
    } else {
        std::mem::take(held)
    };
    fire(inner, timers, held).await
}

/// How long nothing is due, as far as the store and the hints say.
async fn until_next(inner: &Inner) -> Duration {
    let hinted = inner.timers.take();
    let stored = inner.store.next_timer().await.ok().flatten();
    let now = inner.clock.now();
    let next = [hinted, stored].into_iter().flatten().min();
    next.map_or(POLL, |due| {
        Duration::from_millis(due.ms_since(now).max(1)).min(POLL)
    })
}

#[cfg(test)]
mod tests {
    use leveret_core::{
        ids::{RunId, Scope},
        json::Json,
        parse::workflow_from_json,
    };
    use serde_json::json;

    use super::*;
    use crate::{
        broker::memory::MemoryBroker,
        runtime::{Engine, EngineParts, Publish, Roles, clock::Clock},
        store::{Finished, Outcome, Woken, memory::MemoryStore},
    };

    /// Time of the paused clock.
    #[derive(Debug)]
    struct PausedClock(tokio::time::Instant);

    impl Clock for PausedClock {
        fn now(&self) -> Timestamp {
            Timestamp(0) + self.0.elapsed()
        }

        fn random(&self) -> f64 {
            0.5
        }

        fn new_run_id(&self) -> RunId {
            RunId::new("run").expect("an id")
        }
    }

    async fn engine() -> Engine {
        let (store, broker) = (MemoryStore::new(), MemoryBroker::new());
        let parts = EngineParts {
            clock: Arc::new(PausedClock(tokio::time::Instant::now())),
            publish: Publish::NOTHING,
            ..EngineParts::new(Arc::new(store), Arc::new(broker))
        };
        Engine::new(parts).await.expect("declares")
    }

    /// Records a run whose only step waits until that time.
    async fn waiting_step(inner: &Inner, until: Timestamp) {
        let definition = json!({ "id": "w", "nodes": [{ "id": "rest", "uses": "sleep", "params": { "duration": "1s" } }] });
        let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
        let now = inner.clock.now();
        let new = inner.new_run(
            inner.clock.new_run_id(),
            workflow.clone(),
            Json::null(),
            now,
        );
        let finished = Finished {
            run_id: new.run_id.clone(),
            workflow,
            node: 0,
            scope: Scope::root(),
            via: None,
            attempts: 1,
            started_at: now,
            finished_at: now,
            woken: Woken::No,
            outcome: Outcome::Waiting {
                until: Some(until),
                wait: None,
                error: None,
            },
        };
        inner.store.start(&[new]).await.expect("starts");
        inner
            .store
            .commit(&[finished.into()])
            .await
            .expect("commits");
    }

    /// A timer whose job no queue takes, for somebody deleted it, is fired as soon as the queue is declared again, which is done at once, and
    /// not only when its claim has ended.
    #[tokio::test(start_paused = true)]
    async fn what_the_broker_refused_is_fired_when_it_takes_it() {
        let engine = engine().await;
        let inner = &engine.inner;
        waiting_step(inner, Timestamp(1_000)).await;
        let queue = &inner.names.execution;
        inner.broker.delete_queue(queue).await.expect("deletes");
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn({
            let engine = engine.clone();
            let roles = Roles {
                worker: None,
                timers: true,
                reconciler: false,
            };
            async move { engine.serve(roles, stopped).await }
        });
        tokio::time::sleep(Duration::from_millis(900)).await;
        let exchange = &inner.names.exchange;
        inner
            .broker
            .delete_exchange(exchange)
            .await
            .expect("deletes");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stats = inner.broker.queue_stats(queue).await.expect("counts");
        assert_eq!(stats.ready, 1, "the job is in the queue");
        assert_eq!(inner.store.next_timer().await.expect("answers"), None);
        stop.send_replace(true);
        serving.await.expect("no panic").expect("serves");
    }

    /// Whoever is asked to stop does not first fire all that is due.
    #[tokio::test(start_paused = true)]
    async fn stops_while_timers_are_due() {
        let engine = engine().await;
        let inner = &engine.inner;
        waiting_step(inner, Timestamp(0)).await;
        let (_stop, stopped) = watch::channel(true);
        run(inner.clone(), stopped).await;
        let next = inner.store.next_timer().await.expect("answers");
        assert_eq!(next, Some(Timestamp(0)));
    }
}
