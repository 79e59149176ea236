//! The worker: takes jobs from the queue, drives each to its end, drains on shutdown.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_core::ids::RunId;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Inner,
    drive::{Disposal, DriveError, drive},
    health::{Part, What},
    suspects::{Lane, Turn, acquit},
    wire::Job,
};
use crate::broker::{
    BrokerError, ConsumeOptions, Consumer, ConsumerState, Delivery, Publication, Receipt,
    Unfinished,
    publish::{self, Persist},
    work::dead_letter,
};

/// How a worker takes jobs.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Jobs executed at once. Default 256.
    pub concurrency: u16,
    /// Jobs taken from the broker at once, those that wait for a place or, after crashes, for their turn included; at least `concurrency`.
    /// Default 512.
    pub prefetch: u16,
    /// On shutdown, how long running jobs may take before they go back to the queue. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for WorkerOptions {
    fn default() -> WorkerOptions {
        WorkerOptions {
            concurrency: 256,
            prefetch: 512,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Pause before something that this process cannot do now is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a worker that stops may take to tell the store that it does so by itself.
const ACQUIT_TIME_MAX: Duration = Duration::from_secs(1);

/// Works until `shutdown` turns true (or its sender is gone), then drains: takes no more jobs, finishes what runs within
/// `drain_timeout`, and returns the rest to the queue. Nothing is lost either way.
pub(crate) async fn work(
    inner: Arc<Inner>,
    options: WorkerOptions,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    let consumer = inner
        .broker
        .consume(ConsumeOptions {
            queue: inner.names.execution.clone(),
            prefetch: options.prefetch.max(options.concurrency),
            tag: Arc::from("leveret-worker"),
        })
        .await?;
    let mut state = consumer.state();
    let mut arrivals = Arrivals {
        consumer,
        waiting: VecDeque::new(),
        suspects: Lane::default(),
    };
    let mut looks = interval((inner.options.quiet / 4).max(PAUSE));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tell(&inner, *state.borrow_and_update());
    let mut lost = false;
    let mut jobs = JoinSet::new();
    let places = usize::from(options.concurrency);
    inner.local.open(places);
    loop {
        let room = jobs.len() < places;
        let turn_at = arrivals.suspects.next_at().filter(|_| room);
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            Ok(()) = state.changed() => {
                let now = *state.borrow_and_update();
                tell(&inner, now);
                // Live once more: it was lost in between, unseen.
                if now == ConsumerState::Lost || (now == ConsumerState::Live && !lost) {
                    tokio::spawn(acquit(&inner));
                    // They come again with the others.
                    arrivals.suspects.clear();
                }
                lost = now == ConsumerState::Lost;
            }
            Some(ended) = jobs.join_next(), if !jobs.is_empty() => arrivals.ended(ended),
            _ = looks.tick(), if !room || !arrivals.suspects.is_empty() => arrivals.attend(&inner),
            () = sleep_until(turn_at.unwrap_or_else(Instant::now)), if turn_at.is_some() => {}
            delivery = arrivals.next(), if room => match delivery {
                Some(delivery) => take(&inner, &mut jobs, delivery),
                None => break,
            },
        }
        while let Some(ended) = jobs.try_join_next() {
            arrivals.ended(ended);
        }
        take_more(&inner, &mut jobs, &mut arrivals, places);
    }
    tell(&inner, ConsumerState::Draining);
    let deadline = Instant::now() + options.drain_timeout;
    arrivals.suspects.clear();
    // Runs that are driven here may still wait for the deliveries of their first jobs.
    tokio::select! {
        () = inner.local.drain(places, deadline) => {}
        () = hand_over_all(&inner, &mut arrivals) => {}
    }
    arrivals.stop();
    drain(&inner, jobs, deadline).await;
    inner.metrics.consumer.clear();
    Ok(())
}

/// Deliveries that have no place yet.
struct Arrivals {
    consumer: Consumer,
    /// Found waiting at the last look, oldest first.
    waiting: VecDeque<Delivery>,
    /// Were driven as far as it takes to find that they are suspected.
    suspects: Lane<Delivery>,
}

impl Arrivals {
    /// The next delivery; `None` when the broker was closed. Cancel-safe.
    async fn next(&mut self) -> Option<Delivery> {
        match self.waiting.pop_front() {
            Some(delivery) => Some(delivery),
            None => self.consumer.next().await,
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        let waiting = self.waiting.pop_front();
        waiting.or_else(|| self.consumer.try_next())
    }

    /// Takes no more deliveries; those that wait return to the queue.
    fn stop(&mut self) {
        self.consumer.cancel();
        self.waiting.clear();
    }

    /// What became of a job: one that turns out to be suspected waits here.
    fn ended(&mut self, ended: Result<Handled, JoinError>) {
        match ended {
            Ok(Handled::Settled) => {}
            Ok(Handled::SettledInTurn) => self.suspects.ended_well(),
            Ok(Handled::Suspected(delivery, counted)) => {
                self.suspects.wait(*delivery, counted, Instant::now());
            }
            Err(error) => report(&error),
        }
    }

    /// Tells the reconciler that the runs of those which waited since the last look, and of the suspects, are not stalled.
    fn attend(&mut self, inner: &Arc<Inner>) {
        let bytes_max = inner.options.message_bytes_max;
        let jobs = self.waiting.iter().chain(self.suspects.waiting());
        let runs: Vec<RunId> = jobs
            .filter_map(|job| Job::decode(&job.message.body, bytes_max).ok())
            .map(|job| job.execution_id)
            .collect();
        while let Some(delivery) = self.consumer.try_next() {
            self.waiting.push_back(delivery);
        }
        if runs.is_empty() {
            return;
        }
        let inner = inner.clone();
        tokio::spawn(async move {
            let until = inner.clock.now() + inner.options.quiet;
            if let Err(error) = inner.store.put_off(&runs, until).await {
                tracing::warn!(%error, "jobs that wait for a place may be taken for lost");
            }
        });
    }
}

/// Gives deliveries to the runs that wait for them here; the others return to the queue with the rest.
async fn hand_over_all(inner: &Arc<Inner>, arrivals: &mut Arrivals) {
    let mut others = Vec::new();
    while let Some(delivery) = arrivals.next().await {
        others.extend(claim(inner, delivery).map(|(delivery, _)| delivery));
    }
}

/// Hands the delivery to a run that is driven here and waits for it; else gives it back, with whether it counts as redelivered.
fn claim(inner: &Inner, delivery: Delivery) -> Option<(Delivery, bool)> {
    let redelivered = delivery.redelivered;
    if redelivered || inner.one_file.is_none() {
        return Some((delivery, redelivered));
    }
    let fresh = Job::decode(&delivery.message.body, inner.options.message_bytes_max)
        .ok()
        .filter(|job| job.fresh);
    let Some(job) = fresh else {
        return Some((delivery, redelivered));
    };
    match inner.local.claim(&job.execution_id) {
        None => Some((delivery, redelivered)),
        // A run that was driven here and is no more: part of it may have been executed.
        Some(driver) => driver.send(delivery).err().map(|delivery| (delivery, true)),
    }
}

fn tell(inner: &Inner, state: ConsumerState) {
    inner.metrics.consumer.set(state);
    inner
        .health
        .set(Part::Consumer, state == ConsumerState::Live);
}

/// Takes the suspects whose turn it is, and what has arrived in the meantime, without a turn of the loop for each.
fn take_more(
    inner: &Arc<Inner>,
    jobs: &mut JoinSet<Handled>,
    arrivals: &mut Arrivals,
    places: usize,
) {
    while jobs.len() < places {
        if !arrivals.suspects.is_empty()
            && let Some((delivery, turn)) = arrivals.suspects.next(Instant::now())
        {
            jobs.spawn(handle_in_turn(inner.clone(), delivery, turn));
        } else if let Some(delivery) = arrivals.try_next() {
            take(inner, jobs, delivery);
        } else {
            return;
        }
    }
}

fn take(inner: &Arc<Inner>, jobs: &mut JoinSet<Handled>, delivery: Delivery) {
    inner.metrics.consumed.inc();
    jobs.spawn(handle(inner.clone(), delivery));
}

fn report(error: &JoinError) {
    if error.is_panic() {
        // Its delivery was dropped with it, and so returned to the queue.
        tracing::error!(%error, "a job's task panicked; the job returns to its queue");
    }
}

/// Waits for what runs; what is not done in time is dropped, which returns its deliveries.
async fn drain(inner: &Arc<Inner>, mut jobs: JoinSet<Handled>, deadline: Instant) {
    let finished = tokio::time::timeout_at(deadline, async {
        while let Some(ended) = jobs.join_next().await {
            // One that turns out to be suspected is dropped, and so returned.
            if let Err(error) = &ended {
                report(error);
            }
        }
    });
    if finished.await.is_err() {
        tracing::warn!(
            jobs = jobs.len(),
            "jobs did not finish within the drain timeout and return to their queue"
        );
        let acquitted = acquit(inner);
        jobs.shutdown().await;
        drop(tokio::time::timeout(ACQUIT_TIME_MAX, acquitted).await);
    }
}

/// What became of a delivery.
enum Handled {
    /// It was acked, dead-lettered and acked, or returned; or a run that is driven here has it.
    Settled,
    /// So was a suspect, in its turn.
    SettledInTurn,
    /// It is to be handled again in its turn; its step was counted so often.
    Suspected(Box<Delivery>, u32),
}

/// Brings one delivery to its end, unless it is suspected.
async fn handle(inner: Arc<Inner>, delivery: Delivery) -> Handled {
    let Some((delivery, redelivered)) = claim(&inner, delivery) else {
        return Handled::Settled;
    };
    inner.observer.room().await;
    let driven = match &delivery.flaw {
        Some(flaw) => Ok(Disposal::Dead(flaw.to_string(), Vec::new())),
        None => drive(&inner, &delivery.message.body, redelivered, None).await,
    };
    if let Err(DriveError::Suspected(counted)) = driven {
        return Handled::Suspected(Box::new(delivery), counted);
    }
    finish(&inner, delivery, driven).await;
    Handled::Settled
}

/// Brings the delivery of a suspect to its end, unless another process counted it again in the meantime.
async fn handle_in_turn(inner: Arc<Inner>, delivery: Delivery, turn: Turn) -> Handled {
    inner.observer.room().await;
    let driven = drive(&inner, &delivery.message.body, true, Some(&turn)).await;
    if let Err(DriveError::Suspected(counted)) = driven {
        return Handled::Suspected(Box::new(delivery), counted);
    }
    let well = driven.is_ok();
    finish(&inner, delivery, driven).await;
    if well {
        Handled::SettledInTurn
    } else {
        Handled::Settled
    }
}

/// Settles a delivery by what came of driving it.
pub(crate) async fn finish(
    inner: &Arc<Inner>,
    delivery: Delivery,
    driven: Result<Disposal, DriveError>,
) {
    let (mut publications, reason) = match driven {
        Ok(Disposal::Done(publications)) => (publications, None),
        Ok(Disposal::Dead(reason, publications)) => (publications, Some(reason)),
        Err(DriveError::Bad(bad)) => (Vec::new(), Some(bad.to_string())),
        // Those are handled again instead.
        Err(DriveError::Suspected(_)) => return delivery.receipt.requeue(),
        Err(DriveError::Store(error)) => {
            // What can be repeated was, until it worked: this is a store that is closing, or one that refuses.
            tracing::error!(%error, "a job cannot be executed and returns to its queue");
            tokio::time::sleep(PAUSE).await;
            inner.metrics.requeued.inc();
            return delivery.receipt.requeue();
        }
    };
    if let Some(reason) = reason {
        inner.metrics.dead_letters.inc();
        tracing::warn!(%reason, "a job goes to the dead-letter queue");
        let now = inner.clock.now();
        publications.push(dead_letter(
            &delivery,
            &inner.names.execution,
            &reason,
            1,
            now,
        ));
    }
    settle(inner, publications, delivery.receipt).await;
}

/// Publishes, then acks; until that works, or the connection that the delivery came by is gone and the job with it.
async fn settle(inner: &Arc<Inner>, publications: Vec<Publication>, receipt: Receipt) {
    if publications.is_empty() {
        inner.metrics.acked.inc();
        return receipt.ack();
    }
    inner.observer.flush().await;
    let count = publications.len();
    let held = Mutex::new(None);
    let on_failure = |error: &BrokerError, left| {
        inner.metrics.broker_errors.inc();
        tracing::debug!(%error, left, "what follows from a job is not published; trying again");
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        inner.hold_back(&mut held, What::Successors, error);
    };
    let persist = Persist::new(&inner.topology).telling(&on_failure);
    let receipts = vec![receipt];
    let settled = publish::all_then_ack(&*inner.broker, publications, receipts, &persist).await;
    let left = settled
        .as_ref()
        .map_or_else(|error| error.left.len(), |()| 0);
    inner.metrics.published.add((count - left) as u64);
    match settled {
        Ok(()) => inner.metrics.acked.inc(),
        // The job is back in its queue already.
        Err(unfinished) if unfinished.error.is_retryable() => {}
        Err(Unfinished {
            error, receipts, ..
        }) => {
            tracing::error!(%error, "what follows from a job cannot be published; the job returns to its queue");
            tokio::time::sleep(PAUSE).await;
            inner.metrics.requeued.inc();
            receipts.into_iter().for_each(Receipt::requeue);
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_core::{json::Json, parse::workflow_from_json};
    use serde_json::json;

    use super::*;
    use crate::{
        broker::memory::MemoryBroker,
        nodes::{NodeContext, NodeError, Registry},
        runtime::{Engine, EngineParts, StartRequest},
        store::memory::MemoryStore,
    };

    /// A run that is driven here and a job, neither of which ends: both are given the same time.
    #[tokio::test(start_paused = true)]
    async fn drains_within_its_time() {
        let mut registry = Registry::builtin();
        registry.register_fn("hang", |_: NodeContext| {
            std::future::pending::<Result<serde_json::Value, NodeError>>()
        });
        let parts = EngineParts {
            registry,
            ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
        };
        let engine = Engine::new(parts).await.expect("declares");
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "hang" }] });
        let workflow = workflow_from_json(&definition, None).expect("valid");
        let request = StartRequest {
            workflow: Arc::new(workflow),
            input: Json::null(),
            run_id: None,
        };
        let (run_id, _) = engine.start(request).await.expect("starts");
        let (stop, stopped) = watch::channel(false);
        let options = WorkerOptions::default();
        let drain_timeout = options.drain_timeout;
        let working = tokio::spawn(work(engine.inner.clone(), options, stopped));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let run = engine.store().run(&run_id).await.expect("answers");
        let hash = run.expect("is there").workflow_hash;
        let plan = engine.inner.plan(&hash).await.expect("reads");
        let plan = plan.expect("is stored");
        let driven = engine
            .inner
            .local
            .place(&plan, &RunId::new("r").expect("an id"));
        assert!(driven.is_some());

        stop.send_replace(true);
        let begun = Instant::now();
        working.await.expect("no panic").expect("works");
        let took = begun.elapsed();
        assert!(took < drain_timeout + Duration::from_secs(1), "{took:?}");
    }
}
