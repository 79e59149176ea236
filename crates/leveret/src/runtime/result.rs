//! The result of a run, as the API and the CLI print it.

use std::collections::BTreeMap;

use leveret_core::{
    graph::{NodeIx, Place},
    ids::{NodeId, RunId, Scope, WorkflowId},
    json::Json,
    workflow::Workflow,
};
use serde::{Deserialize, Serialize};

use crate::store::{RunRecord, RunStatus, StepError, StepRecord, StepStatus};

/// A run and its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct RunResult {
    /// The run.
    #[cfg_attr(feature = "http", schema(value_type = String))]
    pub run_id: RunId,
    /// Its workflow.
    #[cfg_attr(feature = "http", schema(value_type = String))]
    pub workflow_id: WorkflowId,
    /// Where it stands.
    pub status: RunStatus,
    /// The output of its terminal node, or a map of outputs by terminal node if there are several; null until the run completed.
    #[cfg_attr(feature = "http", schema(value_type = serde_json::Value))]
    pub output: Json,
    /// The first failure that nothing handled.
    pub error: Option<StepError>,
    /// From when it was asked for to its end, or to now.
    pub duration_ms: u64,
    /// Its steps by node.
    pub steps: BTreeMap<String, StepResult>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct StepResult {
    /// Where it stands.
    pub status: StepStatus,
    /// Its output.
    #[cfg_attr(feature = "http", schema(value_type = serde_json::Value))]
    pub output: Json,
    /// Its last error.
    pub error: Option<StepError>,
    /// How often its body was executed.
    pub attempts: u32,
}

impl StepResult {
    /// The name of a step among those of its run: its node, and its scope if it is in one.
    pub(crate) fn name(step: &StepRecord) -> String {
        if step.scope.is_root() {
            return step.node_id.to_string();
        }
        format!("{}/{}", step.node_id, step.scope.as_str())
    }
}

impl RunResult {
    /// Puts a result together. `duration_ms` is that of the run so far.
    pub(crate) fn new(
        workflow: &Workflow,
        run: RunRecord,
        steps: Vec<StepRecord>,
        duration_ms: u64,
    ) -> RunResult {
        let output = match run.status {
            RunStatus::Completed => output_of(workflow, &steps),
            _ => Json::null(),
        };
        let steps = steps
            .into_iter()
            .filter(|step| is_step(workflow, &step.node_id, &step.scope))
            .map(|step| {
                let name = StepResult::name(&step);
                let StepRecord {
                    status,
                    output,
                    error,
                    attempts,
                    ..
                } = step;
                // Its timer finds the run ended.
                let status = match status {
                    StepStatus::Waiting if run.status != RunStatus::Running => {
                        StepStatus::Cancelled
                    }
                    status => status,
                };
                (
                    name,
                    StepResult {
                        status,
                        output,
                        error,
                        attempts,
                    },
                )
            })
            .collect();
        RunResult {
            run_id: run.run_id,
            workflow_id: run.workflow_id,
            status: run.status,
            output,
            error: run.error,
            duration_ms,
            steps,
        }
    }
}

/// Whether it is a step, not what stands for an item of a batch at its scatter or gather.
pub(crate) fn is_step(workflow: &Workflow, node_id: &NodeId, scope: &Scope) -> bool {
    if scope.is_root() || !workflow.graph.has_batches() {
        return true;
    }
    let Some(node) = workflow.node_ix(node_id.as_str()) else {
        return true;
    };
    let scope = scope.clone();
    !workflow.graph.is_item_row(&Place { node, scope })
}

fn output_of(workflow: &Workflow, steps: &[StepRecord]) -> Json {
    let recorded = |node: NodeIx| {
        let id = &workflow.nodes[node].id;
        steps
            .iter()
            .find(|step| step.node_id == *id && step.scope.as_str().is_empty())
    };
    let output = |node: NodeIx| -> Option<Json> {
        std::iter::successors(Some(node), |&node| workflow.nodes[node].config.fallback)
            .filter_map(recorded)
            .find(|step| step.status == StepStatus::Completed)
            .map(|step| step.output.clone())
    };
    let terminals: Vec<NodeIx> = workflow.graph.terminals().collect();
    match terminals[..] {
        [] => Json::null(),
        [single] => output(single).unwrap_or_default(),
        _ => {
            let outputs: serde_json::Map<String, serde_json::Value> = terminals
                .iter()
                .filter_map(|&node| {
                    Some((
                        workflow.nodes[node].id.to_string(),
                        output(node)?.value().clone(),
                    ))
                })
                .collect();
            Json::from(serde_json::Value::Object(outputs))
        }
    }
}
