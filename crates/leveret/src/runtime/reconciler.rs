//! The reconciler: publishes again what should be running but is not.
//!
//! It finds running runs in which nothing was recorded for a while and no timer is set, and publishes the jobs that follow from what is
//! recorded. A run that is only slow is executed twice at the step at hand; its result is still recorded once.

use std::{sync::Arc, time::Duration};

use leveret_core::{
    decide::{decide_start, unfinished},
    ids::RunId,
    time::Timestamp,
};
use tokio::sync::watch;

use super::{Inner, timers::FireError, wire::Job};
use crate::store::RunStatus;

/// How many runs are looked at in one go.
const BATCH: u32 = 200;

/// Looks at the runs that are due. Returns how many were looked at.
pub(crate) async fn run_once(inner: &Inner, now: Timestamp) -> Result<u32, FireError> {
    let (stalled, looked_at) = inner
        .store
        .claim_stalled(now, inner.options.quiet, BATCH)
        .await?;
    for run_id in stalled {
        revive(inner, &run_id).await?;
    }
    Ok(looked_at)
}

/// Publishes the jobs that follow from what is recorded of a run.
async fn revive(inner: &Inner, run_id: &RunId) -> Result<(), FireError> {
    let Some(progress) = inner.store.progress(run_id).await? else {
        return Ok(());
    };
    if progress.status != RunStatus::Running {
        return Ok(());
    }
    let Some(plan) = inner.plan(&progress.workflow_hash).await? else {
        tracing::error!(
            run_id = run_id.as_str(),
            "run {run_id} is stalled and its definition is not stored"
        );
        return Ok(());
    };
    let (marks, joins) = progress.resolve(&plan.workflow)?;
    let starts = decide_start(&plan.workflow.graph).ready;
    let ready = unfinished(&plan.workflow.graph, starts, &marks, &joins);
    tracing::info!(
        run_id = run_id.as_str(),
        jobs = ready.len(),
        "run {run_id} is stalled; publishing its jobs again"
    );
    inner.metrics.reconciled.inc();
    let jobs = ready
        .into_iter()
        .map(|ready| {
            inner.names.job(&Job {
                workflow_id: plan.workflow.id.clone(),
                execution_id: run_id.clone(),
                node_id: plan.node_id(ready.node).clone(),
                workflow: None,
                workflow_hash: Some(plan.workflow.hash.to_string()),
                input: None,
                via: ready.via,
                attempts: 0,
                fresh: false,
            })
        })
        .collect();
    for result in inner.broker.publish(jobs).await {
        result?;
        inner.metrics.published.inc();
    }
    Ok(())
}

/// Reconciles until `shutdown` turns true.
pub(crate) async fn run(inner: Arc<Inner>, mut shutdown: watch::Receiver<bool>) {
    let pause = (inner.options.quiet / 4).clamp(Duration::from_millis(50), Duration::from_secs(15));
    loop {
        let looked_at = match run_once(&inner, inner.clock.now()).await {
            Ok(looked_at) => looked_at,
            Err(error) => {
                tracing::warn!(%error, "stalled runs were not looked at; trying again");
                0
            }
        };
        let pause = if looked_at == BATCH {
            Duration::from_millis(1)
        } else {
            pause
        };
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
