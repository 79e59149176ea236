//! The worker: takes jobs from the queue, drives each to its end, drains on shutdown.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_core::ids::{RunId, StepKey};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinError,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Inner,
    drive::{Coming, Disposal, DriveError, drive},
    health::{Part, What},
    suspects::{Lane, Turn, acquit},
    wire::Job,
};
use crate::{
    broker::{
        BrokerError, ConsumeOptions, ConsumerState, Delivery, Publication, Receipt, Unfinished,
        publish::{self, Pauses, Persist},
        pump::{Event, Place, Pump},
        work::dead_letter,
    },
    store::NewTimer,
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

/// Pauses before a completion that was refused is tried again.
const LATER: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
};
/// So long after that it is published, or known to be refused again.
const LATER_MARGIN: Duration = Duration::from_secs(5);

/// How long a worker that stops may take to tell the store that it does so by itself.
const ACQUIT_TIME_MAX: Duration = Duration::from_secs(1);

/// Works until `shutdown` turns true (or its sender is gone), then drains: takes no more jobs, finishes what runs within
/// `drain_timeout`, and returns the rest to the queue. Nothing is lost either way.
pub(crate) async fn work(
    inner: Arc<Inner>,
    options: WorkerOptions,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    let places = usize::from(options.concurrency);
    let consume = ConsumeOptions {
        queue: inner.names.execution.clone(),
        prefetch: options.prefetch.max(options.concurrency),
        tag: Arc::from("leveret-worker"),
    };
    let semaphore = Arc::new(Semaphore::new(places));
    let mut pump = Pump::start(&*inner.broker, consume, semaphore).await?;
    pump.mend(inner.broker.clone(), inner.topology.clone());
    let mut suspects = Lane::default();
    let mut looks = interval((inner.options.quiet / 4).max(PAUSE));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    inner.local.open(places);
    loop {
        let room = !pump.is_full();
        let turn_at = suspects.next_at().filter(|_| room);
        let event = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            _ = looks.tick(), if !room || !suspects.is_empty() => {
                attend(&inner, &mut pump, &suspects);
                None
            }
            () = sleep_until(turn_at.unwrap_or_else(Instant::now)), if turn_at.is_some() => None,
            event = pump.next() => Some(event),
        };
        match event {
            None | Some(Event::Resumed) => {}
            Some(Event::Closed) => break,
            Some(Event::State(now)) => {
                tell(&inner, now);
                // Live once more: it was lost in between, unseen.
                if now == ConsumerState::Lost
                    || (now == ConsumerState::Live && before == Some(ConsumerState::Live))
                {
                    tokio::spawn(acquit(&inner));
                    // They come again with the others.
                    suspects.clear();
                }
                before = Some(now);
            }
            Some(Event::Ended(ended)) => look_at(&mut suspects, ended),
            Some(Event::Arrived(delivery, place)) => take(&inner, &mut pump, delivery, place),
        }
        while let Some(ended) = pump.try_ended() {
            look_at(&mut suspects, ended);
        }
        take_more(&inner, &mut pump, &mut suspects);
    }
    tell(&inner, ConsumerState::Draining);
    let deadline = Instant::now() + options.drain_timeout;
    suspects.clear();
    // Runs that are driven here may still wait for the deliveries of their first jobs.
    tokio::select! {
        () = inner.local.drain(places, deadline) => {}
        () = hand_over_all(&inner, &mut pump) => {}
    }
    pump.stop();
    drain(&inner, pump, deadline).await;
    inner.metrics.consumer.clear();
    Ok(())
}

/// What became of a job: one that turns out to be suspected waits here.
fn look_at(suspects: &mut Lane<Delivery>, ended: Result<Handled, JoinError>) {
    match ended {
        Ok(Handled::Settled) => {}
        Ok(Handled::SettledInTurn) => suspects.ended_well(),
        Ok(Handled::Suspected(delivery, counted)) => {
            suspects.wait(*delivery, counted, Instant::now());
        }
        Err(error) => report(&error),
    }
}

/// Tells the reconciler that the runs of those which waited since the last look, and of the suspects, are not stalled.
fn attend(inner: &Arc<Inner>, pump: &mut Pump<Handled>, suspects: &Lane<Delivery>) {
    let bytes_max = inner.options.message_bytes_max;
    let jobs = pump.ahead().chain(suspects.waiting());
    let runs: Vec<RunId> = jobs
        .filter_map(|job| Job::decode(&job.message.body, bytes_max).ok())
        .map(|job| job.execution_id)
        .collect();
    pump.read_ahead();
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

/// Gives deliveries to the runs that wait for them here; the others return to the queue with the rest.
async fn hand_over_all(inner: &Arc<Inner>, pump: &mut Pump<Handled>) {
    let mut others = Vec::new();
    while let Some(delivery) = pump.next_delivery().await {
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
fn take_more(inner: &Arc<Inner>, pump: &mut Pump<Handled>, suspects: &mut Lane<Delivery>) {
    while let Some(place) = pump.try_place() {
        if !suspects.is_empty()
            && let Some((delivery, turn)) = suspects.next(Instant::now())
        {
            pump.spawn(handle_in_turn(inner.clone(), delivery, turn, place));
        } else if let Some(delivery) = pump.take_more() {
            take(inner, pump, delivery, place);
        } else {
            return;
        }
    }
}

fn take(inner: &Arc<Inner>, pump: &mut Pump<Handled>, delivery: Delivery, place: Place) {
    inner.metrics.consumed.inc();
    pump.spawn(handle(inner.clone(), delivery, place));
}

fn report(error: &JoinError) {
    if error.is_panic() {
        // Its delivery was dropped with it, and so returned to the queue.
        tracing::error!(%error, "a job's task panicked; the job returns to its queue");
    }
}

/// Waits for what runs; what is not done in time is dropped, which returns its deliveries.
async fn drain(inner: &Arc<Inner>, mut pump: Pump<Handled>, deadline: Instant) {
    let left = pump.finish(deadline, |ended| {
        // One that turns out to be suspected is dropped, and so returned.
        if let Err(error) = &ended {
            report(error);
        }
    });
    let left = left.await;
    if left > 0 {
        tracing::warn!(
            jobs = left,
            "jobs did not finish within the drain timeout and return to their queue"
        );
        let acquitted = acquit(inner);
        pump.abort().await;
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
async fn handle(inner: Arc<Inner>, delivery: Delivery, place: Place) -> Handled {
    let Some((delivery, redelivered)) = claim(&inner, delivery) else {
        return Handled::Settled;
    };
    inner.observer.room().await;
    let driven = if let Some(flaw) = &delivery.flaw {
        Ok(Disposal::Dead(flaw.to_string(), Vec::new()))
    } else {
        let coming = Coming::of(&delivery.message, redelivered);
        drive(&inner, &delivery.message.body, coming, None).await
    };
    if let Err(DriveError::Suspected(counted)) = driven {
        return Handled::Suspected(Box::new(delivery), counted);
    }
    finish(&inner, delivery, driven, Some(&place)).await;
    Handled::Settled
}

/// Brings the delivery of a suspect to its end, unless another process counted it again in the meantime.
async fn handle_in_turn(
    inner: Arc<Inner>,
    delivery: Delivery,
    turn: Turn,
    place: Place,
) -> Handled {
    inner.observer.room().await;
    let (body, coming) = (&delivery.message.body, Coming::Redelivered);
    let driven = drive(&inner, body, coming, Some(&turn)).await;
    if let Err(DriveError::Suspected(counted)) = driven {
        return Handled::Suspected(Box::new(delivery), counted);
    }
    let well = driven.is_ok();
    finish(&inner, delivery, driven, Some(&place)).await;
    if well {
        Handled::SettledInTurn
    } else {
        Handled::Settled
    }
}

/// Settles a delivery by what came of driving it. Leaves its place to another job if it must wait for the broker.
pub(crate) async fn finish(
    inner: &Arc<Inner>,
    delivery: Delivery,
    driven: Result<Disposal, DriveError>,
    place: Option<&Place>,
) {
    let (mut publications, mut ended, mut reason) = (Vec::new(), None, None);
    match driven {
        Ok(Disposal::Done(all)) => publications = all,
        Ok(Disposal::Ended {
            completion,
            step,
            attempts,
        }) => {
            publications.push(completion);
            ended = Some((step, attempts));
        }
        Ok(Disposal::Dead(why, all)) => (publications, reason) = (all, Some(why)),
        Err(DriveError::Bad(bad)) => reason = Some(bad.to_string()),
        // Those are handled again instead.
        Err(DriveError::Suspected(_)) => return delivery.receipt.requeue(),
        // What can be repeated was, until it worked: this is a store that is closing, or one that refuses.
        Err(DriveError::Store(error)) => return give_back(inner, &error, [delivery.receipt]).await,
    }
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
    settle(inner, publications, delivery.receipt, ended, place).await;
}

/// Returns jobs to their queue that cannot be executed here now.
async fn give_back(
    inner: &Inner,
    error: &(dyn Error + Sync),
    receipts: impl IntoIterator<Item = Receipt>,
) {
    tracing::error!(%error, "a job cannot be brought to its end and returns to its queue");
    tokio::time::sleep(PAUSE).await;
    inner.metrics.requeued.inc();
    receipts.into_iter().for_each(Receipt::requeue);
}

/// Publishes, then acks; until that works, or the connection that the delivery came by is gone and the job with it. If the run has `ended`,
/// and a queue refuses its completion, that is [told later](tell_later).
async fn settle(
    inner: &Arc<Inner>,
    publications: Vec<Publication>,
    receipt: Receipt,
    ended: Option<(StepKey, u32)>,
    place: Option<&Place>,
) {
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
        // A queue that is full holds up only what must go there. The prefetch bounds how many wait.
        if let Some(place) = place {
            place.give_up();
        }
    };
    let persist = Persist::new(&inner.topology).telling(&on_failure);
    let once = Persist {
        deadline: Some(Instant::now()),
        ..persist
    };
    let (first, receipts) = (ended.as_ref().map_or(&persist, |_| &once), vec![receipt]);
    let settled = publish::all_then_ack(&*inner.broker, publications, receipts, first).await;
    let settled = match (settled, ended) {
        (Err(unfinished), Some(ended)) if unfinished.receipts.iter().any(Receipt::is_open) => {
            let Unfinished {
                error,
                left,
                receipts,
            } = unfinished;
            if let BrokerError::NotAccepted { .. } = error {
                return tell_later(inner, ended, &error, receipts).await;
            }
            let left = left.into_iter().map(Publication::again).collect();
            publish::all_then_ack(&*inner.broker, left, receipts, &persist).await
        }
        (settled, _) => settled,
    };
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
        }) => give_back(inner, &error, receipts).await,
    }
}

/// A run has ended and a queue refuses its completion: a timer has the job published again, which then tells of the end. So no delivery waits for
/// that queue, and the others go on.
///
/// Acks when the timer is durable. A crash before that redelivers.
async fn tell_later(
    inner: &Arc<Inner>,
    (key, attempts): (StepKey, u32),
    refusal: &BrokerError,
    receipts: Vec<Receipt>,
) {
    let pause = LATER.after(attempts);
    let due = inner.clock.now() + pause;
    let timer = NewTimer {
        key,
        due,
        attempts: attempts.saturating_add(1),
    };
    if let Err(error) = inner.remind(timer).await {
        return give_back(inner, &error, receipts).await;
    }
    let told_by = Instant::now() + pause + LATER_MARGIN;
    inner.health.put_off(What::Successors, refusal, told_by);
    inner.timers.hint(due);
    inner.metrics.acked.inc();
    receipts.into_iter().for_each(Receipt::ack);
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
