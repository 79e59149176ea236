//! A run with all that is known of it, for people who want to know where it is.

use std::collections::{BTreeMap, HashMap};

use leveret_core::{
    decide::{decide_start, unfinished},
    ids::{EventName, RunId, SignalKey, StepKey, WorkflowId},
    json::Json,
    workflow::{Workflow, WorkflowHash},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    runtime::{Engine, RunResult, StepResult},
    store::{RunStatus, StepError, StepStatus, Store, StoreError, Wait, WaitFilter, WaitKind},
};

/// A run with its steps, as recorded now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunDetail {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Its workflow.
    #[schema(value_type = String)]
    pub workflow_id: WorkflowId,
    /// The SHA-256 of the definition that it executes.
    pub workflow_hash: String,
    /// The version of the workflow that has this definition; null if it is not among the newest ones, or came with the run.
    pub version: Option<u32>,
    /// Where it stands.
    pub status: RunStatus,
    /// Its input.
    #[schema(value_type = serde_json::Value)]
    pub input: Json,
    /// The output of its terminal node, or a map of outputs by terminal node if there are several; null until the run completed.
    #[schema(value_type = serde_json::Value)]
    pub output: Json,
    /// The first failure that nothing handled.
    pub error: Option<StepError>,
    /// When it was asked for, RFC 3339.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it ended, RFC 3339.
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
    /// From when it was asked for to its end, or to now.
    pub duration_ms: u64,
    /// Its steps by node.
    pub steps: BTreeMap<String, StepDetail>,
    /// The nodes whose steps are executed now, or wait for a worker.
    pub under_way: Vec<String>,
}

/// A step, as recorded now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepDetail {
    /// Where it stands.
    pub status: StepStatus,
    /// Its output.
    #[schema(value_type = serde_json::Value)]
    pub output: Json,
    /// Its last error.
    pub error: Option<StepError>,
    /// How often its body was executed.
    pub attempts: u32,
    /// When its first attempt began, RFC 3339.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// When it ended or began to wait, RFC 3339.
    #[schema(format = DateTime)]
    pub finished_at: String,
    /// When it is tried again or goes on, RFC 3339; null if it does not wait for a time.
    #[schema(format = DateTime)]
    pub due_at: Option<String>,
    /// What it waits for besides; null if for nothing.
    pub waits_for: Option<WaitDetail>,
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WaitDetail {
    /// Who may end the wait.
    pub kind: WaitKind,
    /// The event.
    #[schema(value_type = String)]
    pub event: EventName,
    /// The key by which a signal finds it, if it has one.
    #[schema(value_type = Option<String>)]
    pub key: Option<SignalKey>,
}

/// How many versions of a workflow are looked at for that of a run, from the newest on.
const VERSIONS_MAX: u32 = 20;

/// Of how many steps it is told what they wait for.
const WAITS_MAX: u32 = 10_000;

/// Reads a run; `None` if there is none of this id.
pub(super) async fn of_run(
    engine: &Engine,
    run_id: &RunId,
) -> Result<Option<RunDetail>, StoreError> {
    let store = &**engine.store();
    let Some(run) = store.run(run_id).await? else {
        return Ok(None);
    };
    let workflow = engine.workflow_by_hash(&run.workflow_hash).await?;
    let missing = || StoreError::corrupt(format!("definition {} is not stored", run.workflow_hash));
    let workflow = workflow.ok_or_else(missing)?;
    let steps = store.steps(run_id).await?;
    let is_running = run.status == RunStatus::Running;
    let (timers, waits, under_way) = if is_running {
        let timers = store.timers_of(run_id).await?;
        let filter = WaitFilter {
            run_id: Some(run_id.clone()),
            limit: WAITS_MAX,
            ..WaitFilter::default()
        };
        let waits = store.waits(&filter).await?.into_iter();
        let waits = waits.map(|record| (record.key, record.wait)).collect();
        (timers, waits, under_way(store, run_id, &workflow).await?)
    } else {
        (Vec::new(), HashMap::new(), Vec::new())
    };
    let until = run.ended_at.unwrap_or_else(|| engine.clock().now());
    let duration_ms = until.ms_since(run.created_at);
    let version = version(store, &run.workflow_id, &run.workflow_hash).await?;
    let mut details: BTreeMap<String, StepDetail> = BTreeMap::new();
    let RunResult {
        output,
        steps: mut results,
        ..
    } = RunResult::new(&workflow, run.clone(), steps.clone(), duration_ms);
    for step in steps {
        let name = StepResult::name(&step);
        let Some(result) = results.remove(&name) else {
            continue;
        };
        let timer = timers
            .iter()
            .find(|(node, scope, _)| *node == step.node_id && *scope == step.scope);
        let key = StepKey {
            run_id: run_id.clone(),
            node_id: step.node_id.clone(),
            scope: step.scope.clone(),
        };
        let wait = waits.get(&key);
        let detail = StepDetail {
            status: result.status,
            output: result.output,
            error: result.error,
            attempts: result.attempts,
            started_at: step.started_at.to_string(),
            finished_at: step.finished_at.to_string(),
            due_at: timer.map(|(_, _, due)| due.to_string()),
            waits_for: wait.map(|wait: &Wait| WaitDetail {
                kind: wait.kind,
                event: wait.event.clone(),
                key: wait.key.clone(),
            }),
        };
        details.insert(name, detail);
    }
    Ok(Some(RunDetail {
        run_id: run.run_id,
        workflow_id: run.workflow_id,
        workflow_hash: run.workflow_hash.to_string(),
        version,
        status: run.status,
        input: run.input,
        output,
        error: run.error,
        created_at: run.created_at.to_string(),
        ended_at: run.ended_at.map(|at| at.to_string()),
        duration_ms,
        steps: details,
        under_way,
    }))
}

/// What should be running, from what is recorded.
async fn under_way(
    store: &dyn Store,
    run_id: &RunId,
    workflow: &Workflow,
) -> Result<Vec<String>, StoreError> {
    let Some(progress) = store.progress(run_id).await? else {
        return Ok(Vec::new());
    };
    if progress.status != RunStatus::Running {
        return Ok(Vec::new());
    }
    let (marks, joins) = progress.resolve(workflow)?;
    let starts = decide_start(&workflow.graph).ready;
    let mut ready = unfinished(&workflow.graph, starts, &marks, &joins);
    ready.sort_unstable();
    let name = |ready: &leveret_core::decide::Ready| {
        let node = &workflow.nodes[ready.place.node].id;
        match ready.place.scope.as_str() {
            "" => node.to_string(),
            scope => format!("{node}/{scope}"),
        }
    };
    Ok(ready.iter().map(name).collect())
}

async fn version(
    store: &dyn Store,
    id: &WorkflowId,
    hash: &WorkflowHash,
) -> Result<Option<u32>, StoreError> {
    let Some(newest) = store.workflow(id).await? else {
        return Ok(None);
    };
    if newest.hash == *hash {
        return Ok(Some(newest.version));
    }
    let oldest = newest.version.saturating_sub(VERSIONS_MAX).max(1);
    for version in (oldest..newest.version).rev() {
        let record = store.workflow_version(id, version).await?;
        if record.is_some_and(|record| record.hash == *hash) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}
