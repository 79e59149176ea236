//! From rows to columns, as `unnest` takes them, and from columns of a row to values.

use std::borrow::Cow;

use leveret_core::{
    graph::EdgeIx,
    ids::{IdError, NodeId, RunId, WorkflowId},
    json::Json,
    time::Timestamp,
    workflow::WorkflowHash,
};
use tokio_postgres::{Row, types::ToSql};

use crate::store::{
    Finished, Outcome, StepError, StepStatus, StoreError,
    commit::{edge_to_i64, node_id, status_of},
};

/// Run, node and scope.
pub(super) type StepKeys<'a> = (&'a str, &'a str, Cow<'a, str>);

/// What stands in the place of a step and was not executed.
pub(super) struct Stand<'a> {
    pub(super) status: StepStatus,
    pub(super) via: Option<EdgeIx>,
    pub(super) output: Option<&'a str>,
    pub(super) error: Option<&'a StepError>,
}

impl Stand<'_> {
    /// A step that will not be executed.
    pub(super) fn passed(status: StepStatus) -> Self {
        Stand {
            status,
            via: None,
            output: None,
            error: None,
        }
    }
}

/// Steps as columns.
#[derive(Default)]
pub(super) struct StepColumns<'a> {
    run_ids: Vec<&'a str>,
    node_ids: Vec<&'a str>,
    scopes: Vec<Cow<'a, str>>,
    statuses: Vec<&'a str>,
    attempts: Vec<i64>,
    vias: Vec<i64>,
    started: Vec<i64>,
    finished: Vec<i64>,
    actions: Vec<Option<&'a str>>,
    outputs: Vec<Option<&'a str>>,
    errors: Vec<Option<String>>,
}

/// The order in which all transactions touch their rows.
pub(super) fn step_order(finished: &Finished) -> (&str, &str, &str) {
    (
        finished.run_id.as_str(),
        node_id(&finished.workflow, finished.node),
        finished.scope.as_str(),
    )
}

impl<'a> StepColumns<'a> {
    /// The steps, sorted by key.
    pub(super) fn of(steps: impl IntoIterator<Item = &'a Finished>) -> StepColumns<'a> {
        let mut sorted: Vec<&Finished> = steps.into_iter().collect();
        sorted.sort_unstable_by_key(|finished| step_order(finished));
        let mut columns = StepColumns::default();
        for finished in sorted {
            columns.push(finished);
        }
        columns
    }

    fn push(&mut self, finished: &'a Finished) {
        let (run_id, node_id, scope) = step_order(finished);
        self.push_at((run_id, node_id, Cow::Borrowed(scope)), finished);
    }

    /// Adds a step by this key, which may be in another scope than its own.
    pub(super) fn push_at(&mut self, key: StepKeys<'a>, finished: &'a Finished) {
        let status = status_of(&finished.outcome);
        self.push_key(key, finished.finished_at, status);
        self.attempts.push(i64::from(finished.attempts));
        self.vias.push(edge_to_i64(finished.via));
        self.started.push(finished.started_at.0);
        let (action, output, error) = match &finished.outcome {
            Outcome::Completed { output, action, .. } => {
                (action.as_deref(), Some(output.text()), None)
            }
            Outcome::Waiting { error, .. } => (None, None, error.as_ref()),
            Outcome::Failed { error, .. } => (None, None, Some(error)),
        };
        self.actions.push(action);
        self.outputs.push(output);
        self.errors.push(error.map(error_text));
    }

    /// Adds what stands in the place of a step.
    pub(super) fn push_stand(&mut self, key: StepKeys<'a>, at: Timestamp, stand: &Stand<'a>) {
        self.push_key(key, at, stand.status);
        self.attempts.push(0);
        self.vias.push(edge_to_i64(stand.via));
        self.started.push(at.0);
        self.actions.push(None);
        self.outputs.push(stand.output);
        self.errors.push(stand.error.map(error_text));
    }

    fn push_key(&mut self, key: StepKeys<'a>, at: Timestamp, status: StepStatus) {
        self.run_ids.push(key.0);
        self.node_ids.push(key.1);
        self.scopes.push(key.2);
        self.statuses.push(status.as_str());
        self.finished.push(at.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.run_ids.is_empty()
    }

    /// As parameters 1 to 11.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 11] {
        [
            &self.run_ids,
            &self.node_ids,
            &self.scopes,
            &self.statuses,
            &self.attempts,
            &self.vias,
            &self.started,
            &self.finished,
            &self.actions,
            &self.outputs,
            &self.errors,
        ]
    }
}

pub(super) fn error_text(error: &StepError) -> String {
    serde_json::to_string(error).expect("an error prints")
}

fn corrupt(column: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::corrupt(format!("column {column}: {error}"))
}

/// Reads a column; one of another type is corrupt.
pub(super) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: usize,
) -> Result<T, StoreError> {
    row.try_get(column)
        .map_err(|error| StoreError::corrupt(error.to_string()))
}

pub(super) fn error_at(row: &Row, column: usize) -> Result<Option<StepError>, StoreError> {
    let text: Option<&str> = get(row, column)?;
    text.map(|text| serde_json::from_str(text).map_err(|error| corrupt("error", &error)))
        .transpose()
}

/// JSON; null where there is none.
pub(super) fn json_at(row: &Row, column: usize) -> Result<Json, StoreError> {
    Ok(json_option_at(row, column)?.unwrap_or_default())
}

pub(super) fn json_option_at(row: &Row, column: usize) -> Result<Option<Json>, StoreError> {
    let text: Option<String> = get(row, column)?;
    text.map(|text| Json::from_text(text).map_err(|error| corrupt("of JSON", &error)))
        .transpose()
}

pub(super) fn time_at(row: &Row, column: usize) -> Result<Timestamp, StoreError> {
    get(row, column).map(Timestamp)
}

pub(super) fn count_at(row: &Row, column: usize) -> Result<u32, StoreError> {
    let count: i64 = get(row, column)?;
    u32::try_from(count).map_err(|error| corrupt("of a count", &error))
}

pub(super) fn hash_at(row: &Row, column: usize) -> Result<WorkflowHash, StoreError> {
    let bytes: &[u8] = get(row, column)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|error| corrupt("hash", &error))?;
    Ok(WorkflowHash::from(bytes))
}

macro_rules! id_at {
    ($name:ident, $id:ident) => {
        pub(super) fn $name(row: &Row, column: usize) -> Result<$id, StoreError> {
            $id::new(get::<&str>(row, column)?)
                .map_err(|error: IdError| corrupt("of an id", &error))
        }
    };
}

id_at!(run_id_at, RunId);
id_at!(node_id_at, NodeId);
id_at!(workflow_id_at, WorkflowId);
