//! What all stores share in committing a step: from an outcome to a decision, and the texts of joins.

use std::sync::Arc;

use leveret_core::{
    decide::{
        Decision, Ending, JoinPoint, JoinState, Joins, Mark, MissingJoins, decide, fresh_join,
    },
    graph::{EdgeIx, Graph, NodeIx, Place, Role},
    ids::Scope,
    workflow::Workflow,
};

use super::{Finished, JoinKey, Outcome, StepStatus, StoreError};

/// How the outcome ends the step; `None` while it waits.
pub(crate) fn ending_of(outcome: &Outcome) -> Option<Ending<'_>> {
    match outcome {
        Outcome::Completed {
            items: Some(items), ..
        } => Some(Ending::Scattered {
            items: items.len() as u64,
        }),
        Outcome::Completed { taken, .. } => Some(Ending::Completed {
            taken: taken.into(),
        }),
        Outcome::Failed { fall_back, .. } => Some(Ending::Failed {
            fall_back: *fall_back,
        }),
        Outcome::Waiting { .. } => None,
    }
}

/// The status to record for the outcome.
pub(crate) fn status_of(outcome: &Outcome) -> StepStatus {
    match outcome {
        Outcome::Completed { .. } => StepStatus::Completed,
        Outcome::Waiting { .. } => StepStatus::Waiting,
        Outcome::Failed { .. } => StepStatus::Failed,
    }
}

/// Decides a step whose joins `load` reads; a join that is not stored yet is to be left out by `load`.
pub(crate) fn decide_finished<E>(
    finished: &Finished,
    joins: &mut Joins,
    mut load: impl FnMut(&[JoinPoint]) -> Result<Vec<(JoinPoint, JoinState)>, E>,
) -> Result<Decision, E> {
    let Some(ending) = ending_of(&finished.outcome) else {
        return Ok(Decision::default());
    };
    let (graph, place) = (&finished.workflow.graph, finished.place());
    loop {
        match decide(graph, &place, &ending, joins) {
            Ok(decision) => return Ok(decision),
            Err(MissingJoins(missing)) => {
                let loaded = load(&missing)?;
                provide(graph, joins, &missing, loaded);
            }
        }
    }
}

/// Adds loaded joins, and fresh ones for those that are not stored.
pub(crate) fn provide(
    graph: &Graph,
    joins: &mut Joins,
    missing: &[JoinPoint],
    loaded: impl IntoIterator<Item = (JoinPoint, JoinState)>,
) {
    joins.extend(loaded);
    for join in missing {
        joins
            .entry(join.clone())
            .or_insert_with(|| fresh_join(graph, join));
    }
}

/// The key under which a join is stored.
pub(crate) fn key_of(workflow: &Workflow, join: &JoinPoint) -> JoinKey {
    match join {
        JoinPoint::Place(Place { node, scope }) | JoinPoint::Items(Place { node, scope }) => {
            JoinKey {
                node: Arc::from(workflow.nodes[*node].id.as_str()),
                scope: scope.clone(),
            }
        }
        JoinPoint::End => JoinKey {
            node: Arc::from(""),
            scope: Scope::root(),
        },
    }
}

/// The join that is stored under a key.
pub(crate) fn join_of(workflow: &Workflow, key: &JoinKey) -> Result<JoinPoint, StoreError> {
    if key.node.is_empty() {
        return Ok(JoinPoint::End);
    }
    let node = workflow.node_ix(&key.node).ok_or_else(|| {
        StoreError::corrupt(format!("join '{}' is not in the run's workflow", key.node))
    })?;
    let scope = key.scope.clone();
    let place = Place { node, scope };
    let graph = &workflow.graph;
    if graph.role(node) == Role::Gather && !graph.is_item_row(&place) {
        return Ok(JoinPoint::Items(place));
    }
    Ok(JoinPoint::Place(place))
}

/// Reads a stored join state.
pub(crate) fn parse_join(text: &str) -> Result<JoinState, StoreError> {
    text.parse()
        .map_err(|error: leveret_core::decide::JoinStateError| {
            StoreError::corrupt(error.to_string())
        })
}

/// An edge as stored; -1 for none.
pub(crate) fn edge_to_i64(edge: Option<EdgeIx>) -> i64 {
    edge.and_then(|edge| i64::try_from(edge).ok()).unwrap_or(-1)
}

/// An edge as it was stored.
pub(crate) fn edge_from_i64(stored: i64) -> Option<EdgeIx> {
    usize::try_from(stored).ok()
}

/// The id of a node, for rows.
pub(crate) fn node_id(workflow: &Workflow, node: NodeIx) -> &str {
    workflow.nodes[node].id.as_str()
}

/// What a recorded status means for going on.
pub(crate) fn mark_of(status: StepStatus) -> Mark {
    match status {
        StepStatus::Waiting => Mark::Waiting,
        StepStatus::Failed => Mark::Failed,
        StepStatus::Completed | StepStatus::Skipped | StepStatus::Cancelled => Mark::Final,
    }
}
