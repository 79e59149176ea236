//! Fires schedules: looks at those that are due, takes their due times, and starts the runs.
//!
//! Any number of processes do so at once, without a leader. A due time is taken by a change of the schedule, which one of them makes
//! ([`Schedules::change`](crate::schedules::Schedules::change)); its run has an id that follows from schedule and due time. A crash between both leaves the
//! due time taken and the run to be started: whoever looks next, when the claim is over, starts it, and if it was started that is the same run.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use leveret_core::{
    ids::{RunId, ScheduleId},
    schedule::{Compiled, Overlap, Schedule},
    time::Timestamp,
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{Engine, StartError, StartRequest};
use crate::{
    schedules::{Change, Kept, Schedules},
    store::{RunStatus, StoreError},
};

/// How many schedules are looked at in one go.
const BATCH: u32 = 200;
/// How many of them at once.
const AT_ONCE: usize = 16;
/// How long others leave it to whoever took a due time to start its run.
const CLAIM: Duration = Duration::from_secs(5);
/// How often the store is asked for schedules that other processes changed.
const POLL: Duration = Duration::from_millis(500);
/// Pause after an error.
const PAUSE: Duration = Duration::from_millis(500);

/// Names the runs of schedules.
const SCHEDULED_RUNS: Uuid = Uuid::from_u128(0x6c65_7665_7265_7400_8000_7363_6865_6475);

/// The run of a due time: the same whoever starts it.
pub(crate) fn run_of(id: &ScheduleId, due: Timestamp) -> RunId {
    // Ids have no control characters, so that no two pairs give the same name.
    let name = format!("{id}\0{}", due.0);
    RunId::new(Uuid::new_v5(&SCHEDULED_RUNS, name.as_bytes()).to_string()).expect("a UUID is an id")
}

/// Fires what is due; returns how many schedules were looked at.
///
/// When it returns, each due time that it took has its run, durably, or stands in its schedule as one that is to be started, which the next look
/// does. So it is after an error, or a crash.
pub(crate) async fn run_once(engine: &Engine, now: Timestamp) -> Result<usize, StoreError> {
    let schedules = engine.store().schedules();
    let due = schedules.due(now, BATCH).await?;
    let looked_at = due.len();
    let fired = stream::iter(due).map(|kept| fire(engine, &*schedules, kept, now));
    let mut fired = fired.buffer_unordered(AT_ONCE);
    let mut failed = None;
    while let Some(result) = fired.next().await {
        failed = failed.or(result.err());
    }
    failed.map_or(Ok(looked_at), Err)
}

async fn fire(
    engine: &Engine,
    schedules: &dyn Schedules,
    kept: Kept,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Kept {
        id,
        version,
        mut schedule,
    } = kept;
    let compiled = match schedule.spec.compiled() {
        Ok(compiled) => compiled,
        Err(error) => return give_up(schedules, &id, version, schedule, &error.to_string()).await,
    };
    let is_running = is_running(engine, &schedule).await?;
    let name = |due| run_of(&id, due);
    let over = schedule.take(&compiled, id.as_str(), now, is_running, name);
    let taken = change(&id, version, &schedule, &compiled, now, over);
    if schedules.change(&taken).await? {
        start(engine, schedules, &id, version + 1, schedule, &compiled).await?;
    }
    Ok(())
}

/// The next version of a schedule, which is left to its maker for a while if there is something to be started.
pub(crate) fn change(
    id: &ScheduleId,
    version: u64,
    schedule: &Schedule,
    compiled: &Compiled,
    now: Timestamp,
    over: Vec<leveret_core::schedule::Firing>,
) -> Change {
    Change {
        id: id.clone(),
        version,
        look_at: schedule.look_at(compiled, id.as_str(), now, now + CLAIM),
        schedule: schedule.clone(),
        over,
    }
}

/// Whether the run that was started last is running, as far as that matters.
async fn is_running(engine: &Engine, schedule: &Schedule) -> Result<bool, StoreError> {
    let Some(run_id) = &schedule.last_run else {
        return Ok(false);
    };
    if schedule.spec.overlap == Overlap::Allow {
        return Ok(false);
    }
    let run = engine.store().run(run_id).await?;
    Ok(run.is_some_and(|run| run.status == RunStatus::Running))
}

/// Starts what is to be started of a schedule that has this version, and then remembers it.
pub(crate) async fn start(
    engine: &Engine,
    schedules: &dyn Schedules,
    id: &ScheduleId,
    version: u64,
    mut schedule: Schedule,
    compiled: &Compiled,
) -> Result<(), StoreError> {
    if schedule.starting.is_empty() {
        return Ok(());
    }
    let workflow = newest(engine, &schedule).await?;
    let mut over = Vec::new();
    for firing in schedule.starting.clone() {
        let failure = match (&workflow, &firing.run_id) {
            (Some(workflow), Some(run_id)) => {
                let started = engine.start(StartRequest {
                    workflow: workflow.clone(),
                    input: schedule.spec.input.clone(),
                    run_id: Some(run_id.clone()),
                });
                match started.await {
                    // A conflict: it was started before the workflow or the input changed.
                    Ok(_) | Err(StartError::Conflict { .. }) => None,
                    Err(StartError::Store(error)) if error.is_retryable() => return Err(error),
                    Err(error) => Some(error.to_string()),
                }
            }
            _ => Some(format!(
                "there is no workflow '{}'",
                schedule.spec.workflow_id
            )),
        };
        if let Some(failure) = &failure {
            let schedule_id = id.as_str();
            tracing::warn!(
                schedule_id,
                failure,
                "schedule {id} cannot start a run: {failure}"
            );
        }
        over.extend(schedule.started(firing.number, engine.clock().now(), failure));
    }
    let now = engine.clock().now();
    // If somebody else was faster, the claim was over, or the schedule was changed: the next look sees what is started.
    let remembered = change(id, version, &schedule, compiled, now, over);
    schedules.change(&remembered).await.map(drop)
}

async fn newest(
    engine: &Engine,
    schedule: &Schedule,
) -> Result<Option<Arc<leveret_core::workflow::Workflow>>, StoreError> {
    match engine.store().workflow(&schedule.spec.workflow_id).await? {
        Some(record) => engine.workflow_by_hash(&record.hash).await,
        None => Ok(None),
    }
}

/// A schedule that no version of this program can have stored: it is looked at no more.
async fn give_up(
    schedules: &dyn Schedules,
    id: &ScheduleId,
    version: u64,
    schedule: Schedule,
    error: &str,
) -> Result<(), StoreError> {
    tracing::error!(
        schedule_id = id.as_str(),
        error,
        "schedule {id} cannot be used: {error}"
    );
    let change = Change {
        id: id.clone(),
        version,
        schedule,
        look_at: None,
        over: Vec::new(),
    };
    schedules.change(&change).await.map(drop)
}

/// Fires schedules until `shutdown` turns true.
pub(crate) async fn run(engine: Engine, mut shutdown: watch::Receiver<bool>) {
    let schedules = engine.store().schedules();
    while !*shutdown.borrow() && shutdown.has_changed().is_ok() {
        let now = engine.clock().now();
        let pause = match run_once(&engine, now).await {
            Ok(looked_at) if looked_at == BATCH as usize => continue,
            Ok(_) => until_next(&engine, &*schedules).await,
            Err(StoreError::Closed) => return,
            Err(error) => {
                engine.inner.look_at(&error);
                tracing::warn!(%error, "schedules wait for the store; trying again");
                PAUSE
            }
        };
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// How long nothing is due, as far as the store says.
async fn until_next(engine: &Engine, schedules: &dyn Schedules) -> Duration {
    let next = schedules.next_look().await.ok().flatten();
    let now = engine.clock().now();
    next.map_or(POLL, |due| {
        Duration::from_millis(due.ms_since(now).max(1)).min(POLL)
    })
}
