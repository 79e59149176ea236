//! What should be running of a run, from what is recorded of it.
//!
//! Of a run without batches everything is read at once. A batch may have very many items, so that of a run with batches only the places are read
//! that the way leads to.

use std::{collections::HashSet, future::Future};

use leveret_core::{
    decide::{Course, MissingPlaces, Ready, unfinished, unfinished_in},
    graph::Place,
    ids::Scope,
    workflow::{Workflow, WorkflowHash},
};

use crate::store::{NodeRef, Progress, RunStatus, StoreError};

/// How many places are read with one call, at most.
const PLACES_AT_ONCE: usize = 4096;

/// What is found.
pub(crate) enum Found {
    /// There is no such run.
    NoRun,
    /// It has ended.
    Ended,
    /// It has another definition.
    Other(WorkflowHash),
    /// These should be running; the [items](leveret_core::graph::Graph::opening) of a batch are one thing to do.
    Running(Vec<Ready>),
}

/// What should be running, as far as it follows from these. `read` reads what is recorded of the run: all of it, or what stands at some places.
pub(crate) async fn outstanding<F>(
    workflow: &Workflow,
    from: &[Ready],
    read: impl Fn(Option<Vec<(NodeRef, Scope)>>) -> F,
) -> Result<Found, StoreError>
where
    F: Future<Output = Result<Option<Progress>, StoreError>>,
{
    let graph = &workflow.graph;
    if !graph.has_batches() {
        let progress = match checked(workflow, read(None).await?) {
            Ok(progress) => progress,
            Err(found) => return Ok(found),
        };
        let (marks, joins) = progress.resolve(workflow)?;
        let ready = unfinished(graph, from.iter().cloned(), &marks, &joins);
        return Ok(Found::Running(ready));
    }
    let mut course = Course {
        known: Some(HashSet::new()),
        ..Course::default()
    };
    let mut wanted: Vec<Place> = from.iter().map(|ready| ready.place.clone()).collect();
    wanted.retain(|place| graph.opening(place).is_none());
    loop {
        for some in places(workflow, &wanted).chunks(PLACES_AT_ONCE) {
            let key = |place: &Place| {
                let node = NodeRef::new(workflow, place.node);
                (node, place.scope.clone())
            };
            let keys: Vec<_> = some.iter().map(key).collect();
            let progress = match checked(workflow, read(Some(keys)).await?) {
                Ok(progress) => progress,
                Err(found) => return Ok(found),
            };
            let (marks, joins) = progress.resolve(workflow)?;
            course.marks.extend(marks);
            course.joins.extend(joins);
            course
                .known
                .get_or_insert_default()
                .extend(some.iter().cloned());
        }
        match unfinished_in(graph, from.iter().cloned(), &course) {
            Ok(ready) => return Ok(Found::Running(ready)),
            Err(MissingPlaces(missing)) => wanted = missing,
        }
    }
}

/// These places, and what is near them.
fn places(workflow: &Workflow, wanted: &[Place]) -> Vec<Place> {
    let mut all: Vec<Place> = wanted.to_vec();
    let mut seen: HashSet<Place> = wanted.iter().cloned().collect();
    for place in wanted {
        let near = workflow.graph.nearby(place).into_iter();
        all.extend(near.filter(|place| seen.insert(place.clone())));
    }
    all
}

/// The progress of a run that runs, by this definition.
fn checked(workflow: &Workflow, progress: Option<Progress>) -> Result<Progress, Found> {
    let progress = progress.ok_or(Found::NoRun)?;
    if progress.workflow_hash != workflow.hash {
        return Err(Found::Other(progress.workflow_hash));
    }
    if progress.status != RunStatus::Running {
        return Err(Found::Ended);
    }
    Ok(progress)
}
