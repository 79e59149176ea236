//! Durable timers: wakes steps that sleep or wait for their next attempt.
//!
//! A timer is a row in the store; memory holds only when the next one is due. Firing is claim, publish, confirm, remove: a crash in
//! between fires again, and the step that was woken before makes that harmless.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_core::time::Timestamp;
use tokio::sync::{Notify, watch};

use super::{Inner, wire::Job};
use crate::store::{StoreError, Timer};

/// How many timers are fired at once.
const BATCH: u32 = 512;
/// How long a claimed timer is nobody else's.
const CLAIM: Duration = Duration::from_secs(30);
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
/// After it returns, their jobs are confirmed by the broker and the timers are gone. A crash before repeats some of them.
pub(crate) async fn run_once(inner: &Inner, now: Timestamp) -> Result<usize, FireError> {
    let timers = inner.store.claim_timers(now, CLAIM, BATCH).await?;
    if timers.is_empty() {
        return Ok(0);
    }
    let jobs = timers
        .iter()
        .map(|timer| inner.names.job(&job_of(timer)))
        .collect();
    let mut published = Vec::new();
    let mut failed = None;
    for (timer, result) in timers.iter().zip(inner.broker.publish(jobs).await) {
        match result {
            Ok(()) => published.push(timer.clone()),
            Err(error) => failed = Some(error),
        }
    }
    inner.store.remove_timers(&published).await?;
    inner.metrics.timers_fired.add(published.len() as u64);
    inner.metrics.published.add(published.len() as u64);
    match failed {
        None => Ok(published.len()),
        Some(error) => Err(error.into()),
    }
}

/// Why timers were not fired; they are due again later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FireError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] crate::broker::BrokerError),
}

fn job_of(timer: &Timer) -> Job {
    Job {
        workflow_id: timer.workflow_id.clone(),
        execution_id: timer.key.run_id.clone(),
        node_id: timer.key.node_id.clone(),
        workflow: None,
        workflow_hash: Some(timer.workflow_hash.to_string()),
        input: None,
        via: timer.via,
        attempts: timer.attempts,
        fresh: false,
    }
}

/// Fires timers until `shutdown` turns true.
pub(crate) async fn run(inner: Arc<Inner>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let pause = match run_once(&inner, inner.clock.now()).await {
            Ok(0) => until_next(&inner).await,
            Ok(_) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "timers were not fired; trying again");
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
        if *shutdown.borrow() {
            return;
        }
    }
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
