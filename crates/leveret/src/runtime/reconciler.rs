//! The reconciler: publishes again what should be running but is not.
//!
//! It finds running runs in which nothing was recorded for a while and no timer is set, and publishes the jobs that follow from what is
//! recorded, those of steps that wait for nothing among them: neither for a timer nor for a signal. Two kinds of runs are quiet and not stalled, and left alone: those of which a
//! worker has a job, executed ([`attended`]) or waiting for a place, which it says in the store from time to time; and those whose jobs wait in
//! the queue, as long as that was never empty since they became quiet.
//!
//! What is taken for stalled by mistake may be executed twice at the step at hand; its result is still recorded once.

use std::{pin::pin, sync::Arc, time::Duration};

use leveret_core::{
    decide::decide_start,
    graph::Place,
    ids::{NodeId, RunId, Scope},
    time::Timestamp,
};
use tokio::sync::watch;

use super::{
    Inner,
    course::{Found, outstanding},
    health::What,
    plan::Plan,
    timers::FireError,
    wire::Job,
};
use crate::store::{Load, Loaded, NodeRef, RunStatus, StepStatus, StoreError, Waited, Wanted};

/// How many steps of a run that wait for nothing are taken up in one go; the others when the run is stalled again.
const WAITING_MAX: u32 = 1000;

/// How many runs are looked at in one go.
const BATCH: u32 = 200;

/// Looks at the runs that are due. Returns how many were looked at. One of which something cannot be read is left out, and
/// logged.
pub(crate) async fn run_once(inner: &Inner, now: Timestamp) -> Result<u32, FireError> {
    let (stalled, looked_at) = inner
        .store
        .claim_stalled(now, inner.options.quiet, BATCH)
        .await?;
    for run_id in stalled {
        match revive(inner, &run_id).await {
            Err(error) if !error.is_retryable() => {
                let run_id = run_id.as_str();
                tracing::error!(%error, run_id, "run {run_id} is stalled and cannot be taken up");
            }
            // The next one would fare no better.
            Err(error) => return Err(error),
            Ok(()) => {}
        }
    }
    Ok(looked_at)
}

/// Publishes the jobs that follow from what is recorded of a run.
async fn revive(inner: &Inner, run_id: &RunId) -> Result<(), FireError> {
    let load = (run_id.clone(), Load::default());
    let Some(run) = inner
        .store
        .load(&[load])
        .await?
        .into_iter()
        .next()
        .flatten()
    else {
        return Ok(());
    };
    if run.status != RunStatus::Running {
        return Ok(());
    }
    let Some(plan) = inner.plan(&run.workflow_hash).await? else {
        tracing::error!(
            run_id = run_id.as_str(),
            "run {run_id} is stalled and its definition is not stored"
        );
        return Ok(());
    };
    let starts = decide_start(&plan.workflow.graph).ready;
    let read = |places: Option<Vec<(NodeRef, Scope)>>| async move {
        match places {
            None => inner.store.progress(run_id).await,
            Some(places) => inner.store.progress_at(run_id, &places).await,
        }
    };
    let Found::Running(ready) = outstanding(&plan.workflow, &starts, read).await? else {
        return Ok(());
    };
    let mut jobs: Vec<Job> = ready
        .iter()
        .map(|ready| plan.job_at(run_id, ready))
        .collect();
    jobs.extend(waiting(inner, &plan, run_id).await?);
    if jobs.is_empty() {
        // It waits for signals.
        return Ok(());
    }
    tracing::info!(
        run_id = run_id.as_str(),
        jobs = jobs.len(),
        "run {run_id} is stalled; publishing its jobs again"
    );
    inner.metrics.reconciled.inc();
    let jobs = jobs.iter().map(|job| inner.names.job(job).again());
    let jobs = jobs.collect();
    for result in inner.broker.publish(jobs).await {
        result?;
        inner.metrics.published.inc();
    }
    Ok(())
}

/// The jobs of the steps that wait in a run without timers: theirs fired, and what it published was lost. None of those that wait for a signal which
/// has not come.
async fn waiting(inner: &Inner, plan: &Plan, run_id: &RunId) -> Result<Vec<Job>, StoreError> {
    let steps = inner.store.waiting_steps(run_id, WAITING_MAX).await?;
    let place = |(id, scope): (NodeId, Scope)| {
        let node = plan.workflow.node_ix(id.as_str())?;
        Some(Place { node, scope })
    };
    let mut places: Vec<Place> = steps.into_iter().filter_map(place).collect();
    places.sort_unstable();
    let load = |place: &Place| {
        let node = NodeRef::new(&plan.workflow, place.node);
        let load = Load {
            step: Some((node.clone(), place.scope.clone())),
            nodes: vec![Wanted::exactly(node, place.scope.clone())],
            wait: true,
            ..Load::default()
        };
        (run_id.clone(), load)
    };
    let loads: Vec<_> = places.iter().map(load).collect();
    let loaded = inner.store.load(&loads).await?;
    let job = |(place, loaded): (Place, Option<Loaded>)| {
        let loaded = loaded?;
        let (StepStatus::Waiting, attempts) = loaded.step? else {
            return None;
        };
        if let Some(Waited::Open) = loaded.wait {
            return None;
        }
        Some(Job {
            via: loaded.nodes.into_iter().next()??.via,
            attempts,
            ..plan.job(run_id, place.node).within(&place.scope)
        })
    };
    Ok(places.into_iter().zip(loaded).filter_map(job).collect())
}

/// Waits for the body of a step. When that takes long, the reconciler is told every so often that the run is not stalled.
pub(crate) async fn attended<T>(inner: &Inner, run_id: &RunId, body: impl Future<Output = T>) -> T {
    let mut body = pin!(body);
    loop {
        if let Ok(result) = tokio::time::timeout(inner.options.quiet / 4, &mut body).await {
            return result;
        }
        let until = inner.clock.now() + inner.options.quiet;
        tokio::select! {
            biased;
            result = &mut body => return result,
            told = inner.store.put_off(std::slice::from_ref(run_id), until) => {
                if let Err(error) = told {
                    tracing::warn!(%error, run_id = run_id.as_str(), "a long step may be taken for stalled");
                }
            }
        }
    }
}

/// Whether the queue of jobs is empty: all that were published before are with workers, or lost.
async fn is_empty(inner: &Inner) -> bool {
    let stats = inner.broker.queue_stats(&inner.names.execution).await;
    stats.is_ok_and(|stats| stats.ready == 0)
}

/// How many times the queue is looked at between two looks at the runs: one that workers keep up with is seldom empty for long.
const LOOKS: u32 = 15;

/// Reconciles until `shutdown` turns true.
pub(crate) async fn run(inner: Arc<Inner>, mut shutdown: watch::Receiver<bool>) {
    let quiet = inner.options.quiet;
    let pause = (quiet / 4).clamp(Duration::from_millis(50), Duration::from_secs(15));
    let (mut empty_at, mut looks, mut refused) = (None, 0, None);
    loop {
        // Those of a process that is gone.
        inner.starter.look();
        let now = inner.clock.now();
        if is_empty(&inner).await {
            empty_at = Some(now);
        }
        let mut more = false;
        if looks == 0 && empty_at.is_some_and(|at| at + quiet > now) {
            match run_once(&inner, now).await {
                Ok(looked_at) => {
                    refused = None;
                    more = looked_at == BATCH;
                }
                Err(error) => {
                    error.look_at(&inner, What::StalledRuns, &mut refused).await;
                }
            }
        }
        let pause = if more {
            Duration::from_millis(1)
        } else {
            looks = (looks + 1) % LOOKS;
            pause / LOOKS
        };
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
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
        runtime::{Engine, EngineParts},
        sqlite::tests::TempPath,
        store::sqlite::SqliteStore,
    };

    /// A run of which something cannot be read is not taken up, and those beside it are.
    #[tokio::test]
    async fn an_unreadable_run_holds_no_others() {
        let path = TempPath::new();
        let database = path.open();
        let store = SqliteStore::open(database.clone()).expect("migrates");
        let parts = EngineParts::new(Arc::new(store), Arc::new(MemoryBroker::new()));
        let engine = Engine::new(parts).await.expect("declares");
        let inner = &engine.inner;
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
        for id in ["first", "second", "third"] {
            let run_id = RunId::new(id).expect("an id");
            let new = inner.new_run(run_id, workflow.clone(), Json::null(), Timestamp(0));
            inner.store.start(&[new]).await.expect("starts");
        }
        let spoil = "UPDATE runs SET workflow_hash = x'00' WHERE run_id = 'second'";
        let spoilt = database.write(move |session| Ok(session.execute_batch(spoil)?));
        spoilt.await.expect("writes");

        let looked_at = run_once(inner, Timestamp(0) + inner.options.quiet).await;
        assert_eq!(looked_at.expect("looks"), 3);
        assert_eq!(inner.metrics.reconciled.get(), 2);
        engine.close().await;
        database.close().await;
    }
}
