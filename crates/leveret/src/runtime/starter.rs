//! Begins runs that are recorded: publishes their first jobs, behind the answer that they were accepted.
//!
//! Usually a run's first jobs go out as soon as it is recorded. Where they cannot, because the broker is away, blocked, refuses or does not
//! keep up, the run is recorded as *unbegun* ([`NewRun::UNBEGUN`]), or marked so if its jobs were under way. Nothing of it stays in memory: when
//! the broker is back, one task of each process claims unbegun runs, the oldest first, publishes their first jobs, and stops when there are
//! none. So it does not matter which process accepted a run, nor whether that process lives.
//!
//! A process that dies between the record and the confirm of a job that was under way leaves a run that is not marked: the reconciler takes
//! it up when it was quiet for long enough.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leveret_core::{ids::RunId, workflow::WorkflowHash};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::{
    Inner,
    health::{HeldBack, What},
};
use crate::{
    broker::{Broker, BrokerError, Publication},
    store::StoreError,
};

/// How many first jobs may be under way, as units of [`UNIT_BYTES`]: 64 MiB.
const UNITS: u32 = 4096;
/// What counts as one.
const UNIT_BYTES: usize = 16 << 10;
/// How many runs without nodes may wait for their completions to be published; further ones are accepted when these are.
const ENDS_MAX: usize = 1024;
/// How many unbegun runs are begun at once.
const BATCH: u32 = 256;
/// Pause after a failure: doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a process stands with the first jobs of runs.
#[derive(Debug)]
pub(crate) struct Starter {
    under_way: Arc<Semaphore>,
    ends: Arc<Semaphore>,
    /// The last first job could not be published: none is tried before a run that is unbegun could begin.
    holds: AtomicBool,
    look: Arc<Notify>,
}

impl Default for Starter {
    fn default() -> Starter {
        Starter {
            under_way: Arc::new(Semaphore::new(UNITS as usize)),
            ends: Arc::new(Semaphore::new(ENDS_MAX)),
            holds: AtomicBool::new(false),
            look: Arc::default(),
        }
    }
}

/// The engine is gone: so is its task.
impl Drop for Starter {
    fn drop(&mut self) {
        self.look.notify_one();
    }
}

/// The right to publish a run's first jobs at once.
#[derive(Debug)]
pub(crate) struct Direct(OwnedSemaphorePermit);

impl Starter {
    /// Whether first jobs can be published at once. `None`: the run is to be recorded as unbegun.
    pub(crate) fn direct(&self, broker: &dyn Broker, jobs: &[Publication]) -> Option<Direct> {
        if self.holds.load(Ordering::Acquire) || !broker.is_connected() {
            return None;
        }
        let bytes: usize = jobs.iter().map(|job| job.message.body.len()).sum();
        let units = jobs.len().max(bytes / UNIT_BYTES) as u32;
        let permit = self
            .under_way
            .clone()
            .try_acquire_many_owned(units.min(UNITS));
        permit.ok().map(Direct)
    }

    /// There may be unbegun runs.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Waits for what is under way.
    pub(crate) async fn at_rest(&self) {
        let _jobs = self.under_way.acquire_many(UNITS).await;
        let _ends = self.ends.acquire_many(ENDS_MAX as u32).await;
    }

    /// The task that begins unbegun runs. It ends with the engine.
    pub(crate) fn task(inner: &Arc<Inner>) -> impl Future<Output = ()> + Send + 'static {
        begin_all(Arc::downgrade(inner), inner.starter.look.clone())
    }
}

/// Publishes the first jobs of a run that was recorded just now. If that fails, the run is unbegun.
pub(crate) fn begin(inner: &Arc<Inner>, run_id: RunId, jobs: Vec<Publication>, direct: Direct) {
    let inner = inner.clone();
    tokio::spawn(async move {
        let _under_way = direct.0;
        let results = inner.broker.publish(jobs).await;
        let published = results.iter().filter(|result| result.is_ok()).count();
        inner.metrics.published.add(published as u64);
        let Some(error) = results.into_iter().find_map(Result::err) else {
            return;
        };
        inner.metrics.broker_errors.inc();
        tracing::debug!(%error, run_id = run_id.as_str(), "first jobs are not published yet");
        inner.starter.holds.store(true, Ordering::Release);
        mark(&inner, vec![run_id]).await;
        inner.starter.look();
    });
}

/// Publishes the completion of a run without nodes, as often as it takes.
pub(crate) async fn tell_end(inner: &Arc<Inner>, completion: Publication) {
    let ends = inner.starter.ends.clone();
    let permit = ends.acquire_owned().await;
    let inner = inner.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let (mut held, mut failed) = (None, 0);
        while let Some(Err(error)) = inner.broker.publish(vec![completion.clone()]).await.pop() {
            inner.metrics.broker_errors.inc();
            if let BrokerError::Closed = error {
                return;
            }
            inner.hold_back(&mut held, What::Completions, &error);
            inner.declare_again(&error).await;
            sleep(pause(failed)).await;
            failed += 1;
        }
        inner.metrics.published.inc();
    });
}

/// Marks runs as unbegun, as soon as the store takes it.
async fn mark(inner: &Inner, runs: Vec<RunId>) {
    let marked = inner.durably(|| async {
        let answers = inner.marks.submit_all(runs.clone()).await?;
        answers.into_iter().collect::<Result<(), StoreError>>()
    });
    if let Err(error) = marked.await {
        tracing::error!(%error, "runs whose first jobs are not published wait for the reconciler");
    }
}

/// What came of a try to begin unbegun runs.
enum Tried {
    /// There is none.
    Idle,
    Begun,
    Failed,
}

async fn begin_all(inner: Weak<Inner>, look: Arc<Notify>) {
    loop {
        look.notified().await;
        let (mut held, mut failed) = (None, 0);
        loop {
            // Held for a step only, so that the engine can end.
            let Some(inner) = inner.upgrade() else {
                return;
            };
            match begin_some(&inner, &mut held).await {
                Tried::Idle => break,
                Tried::Begun => failed = 0,
                Tried::Failed => {
                    drop(inner);
                    sleep(pause(failed)).await;
                    failed += 1;
                }
            }
        }
    }
}

/// Begins some unbegun runs, if the broker is there; one alone as long as it is not known to take first jobs.
async fn begin_some(inner: &Inner, held: &mut Option<HeldBack>) -> Tried {
    if !inner.broker.is_connected() {
        return Tried::Failed;
    }
    let holds = inner.starter.holds.load(Ordering::Acquire);
    let until = inner.clock.now() + inner.options.quiet;
    let limit = if holds { 1 } else { BATCH };
    let claimed = match inner.store.claim_unbegun(until, limit).await {
        Ok(claimed) => claimed,
        Err(error) => {
            inner.look_at(&error);
            if !error.is_retryable() {
                tracing::error!(%error, "runs that are recorded cannot be begun");
                return Tried::Idle;
            }
            inner.metrics.store_errors.inc();
            return Tried::Failed;
        }
    };
    let refusal = if claimed.is_empty() {
        None
    } else {
        publish(inner, &claimed).await
    };
    let Some(error) = refusal else {
        inner.starter.holds.store(false, Ordering::Release);
        *held = None;
        return if claimed.is_empty() {
            Tried::Idle
        } else {
            Tried::Begun
        };
    };
    inner.starter.holds.store(true, Ordering::Release);
    inner.metrics.broker_errors.inc();
    if let BrokerError::Closed = error {
        return Tried::Idle;
    }
    inner.hold_back(held, What::FirstJobs, &error);
    inner.declare_again(&error).await;
    Tried::Failed
}

/// Publishes the first jobs of claimed runs. Those that could not be published are unbegun again; with the last reason.
async fn publish(inner: &Inner, claimed: &[(RunId, WorkflowHash)]) -> Option<BrokerError> {
    let (mut jobs, mut owners) = (Vec::new(), Vec::new());
    for (run_id, hash) in claimed {
        let plan = match inner.plan(hash).await {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                tracing::error!(
                    run_id = run_id.as_str(),
                    "run {run_id} cannot begin: its definition is not stored"
                );
                continue;
            }
            Err(error) => {
                tracing::error!(%error, run_id = run_id.as_str(), "run {run_id} cannot begin");
                continue;
            }
        };
        for &node in plan.workflow.graph.starts() {
            // It may have been under way before, and delivered.
            let place = plan.workflow.graph.start_place(node);
            let job = plan.job(run_id, node).within(&place.scope);
            let job = inner.names.job_from_client(&job);
            jobs.push(job.again());
            owners.push(run_id);
        }
    }
    let (mut left, mut refusal) = (Vec::new(), None);
    for (run_id, result) in owners.into_iter().zip(inner.broker.publish(jobs).await) {
        match result {
            Ok(()) => inner.metrics.published.inc(),
            Err(error) => {
                left.push(run_id.clone());
                refusal = Some(error);
            }
        }
    }
    left.dedup();
    if !left.is_empty() {
        mark(inner, left).await;
    }
    refusal
}

fn pause(failed: u32) -> Duration {
    PAUSE.saturating_mul(1 << failed.min(16)).min(PAUSE_MAX)
}
