//! What is recorded with a step because it follows from it, as data: every store writes this, and decides nothing of its own.

use std::{borrow::Cow, sync::Arc};

use leveret_core::{
    decide::{Arrival, Decision, JoinPoint, JoinState, Passed},
    graph::{EdgeIx, Place},
    ids::{Scope, ScopePart},
    json::Json,
    time::Timestamp,
};

use super::{Finished, Outcome, StepError, StepStatus, Wait};

/// One thing to write, in the transaction of the step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write<'a> {
    /// A join's state, in the place of the one before.
    Join {
        join: &'a JoinPoint,
        state: &'a JoinState,
    },
    /// A step that will not be executed, unless it is recorded already.
    Pass {
        place: &'a Place,
        status: StepStatus,
    },
    /// An item of a scatter, in its scope.
    Item { scope: &'a Scope, value: &'a Json },
    /// What came of an item: it stands at the gather, unless an error stands there already.
    Arrival {
        place: &'a Place,
        status: StepStatus,
        via: Option<EdgeIx>,
    },
    /// The error of an item that its batch goes on without, unless one stands there already.
    Caught { place: Place, error: &'a StepError },
    /// The step also stands in this scope: that around the loop which it ended.
    Close { scope: &'a Scope },
    /// Among the steps of its node within a scope, the step is the latest.
    Latest { within: Scope },
    /// The run's error, unless it has one.
    Error(Cow<'a, StepError>),
    /// The timer of the step that ended, in the place of the one before.
    Timer { due: Timestamp },
    /// The signal that the step waits for from now on, in the place of the one before: its oldest kept signal ends the wait at once, and its timer is
    /// due then.
    Wait(&'a Wait),
    /// A value of the run's context, in the place of the one before.
    Context { key: &'a Arc<str>, value: &'a Json },
    /// The run's end, as its error says: written last.
    End,
}

/// What follows from a step that is recorded, in the order in which it is to be written. Nothing for a step that only hands over to the next
/// one.
pub(crate) fn follow<'a>(finished: &'a Finished, decision: &'a Decision) -> Vec<Write<'a>> {
    let mut writes = Vec::new();
    let joins = decision.joins.iter();
    writes.extend(joins.map(|(join, state)| Write::Join { join, state }));
    let passed = decision.passed.iter();
    writes.extend(passed.map(|(place, passed)| Write::Pass {
        place,
        status: passed_status(*passed),
    }));
    if let Outcome::Completed {
        items: Some(items), ..
    } = &finished.outcome
    {
        let items = items.iter();
        writes.extend(items.map(|(scope, value)| Write::Item { scope, value }));
    }
    // In front of what came of the item, which may be its end.
    if let Outcome::Failed { error, .. } = &finished.outcome
        && let Some(place) = caught_at(finished)
    {
        writes.push(Write::Caught { place, error });
    }
    let arrived = decision.arrived.iter();
    writes.extend(
        arrived.map(|Arrival { place, via, passed }| Write::Arrival {
            place,
            status: passed.map_or(StepStatus::Completed, passed_status),
            via: *via,
        }),
    );
    let closes = decision.closes.as_ref();
    writes.extend(closes.map(|scope| Write::Close { scope }));
    if !matches!(finished.outcome, Outcome::Waiting { .. }) {
        let within = finished
            .workflow
            .latest_within(finished.node, &finished.scope);
        writes.extend(within.map(|within| Write::Latest { within }));
    }
    match &finished.outcome {
        Outcome::Failed { error, .. } if fails_run(finished) => {
            writes.push(Write::Error(of_item(finished, error)));
        }
        Outcome::Failed { .. } => {}
        Outcome::Waiting { until, wait, .. } => {
            writes.extend(until.map(|due| Write::Timer { due }));
            writes.extend(wait.as_ref().map(Write::Wait));
        }
        Outcome::Completed { context, .. } => {
            let context = context.iter();
            writes.extend(context.map(|(key, value)| Write::Context { key, value }));
        }
    }
    writes.extend(decision.ended.then_some(Write::End));
    writes
}

/// Whether the outcome leaves the run failed: no fallback takes over, no edge on failure, and no batch goes on without the item.
pub(crate) fn fails_run(finished: &Finished) -> bool {
    let graph = &finished.workflow.graph;
    fails_for_good(finished) && graph.tolerated_by(finished.node).is_none()
}

/// Where the failure stands of an item that its batch goes on without, if the outcome is one.
fn caught_at(finished: &Finished) -> Option<Place> {
    let graph = &finished.workflow.graph;
    let (node, depth) = graph.tolerated_by(finished.node)?;
    let scope = finished.scope.first_parts(depth);
    fails_for_good(finished).then_some(Place { node, scope })
}

/// The error of the run by a step's: one in an item names that, and the node.
fn of_item<'a>(finished: &Finished, error: &'a StepError) -> Cow<'a, StepError> {
    let parts = finished.scope.parts().unwrap_or_default();
    let items = parts.iter().filter_map(|part| match part {
        ScopePart::Item(index) => Some(index.to_string()),
        _ => None,
    });
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return Cow::Borrowed(error);
    }
    let message = format!(
        "item {}, node '{}': {}",
        items.join("/"),
        error.node_id,
        error.message
    );
    Cow::Owned(StepError {
        message,
        ..error.clone()
    })
}

fn fails_for_good(finished: &Finished) -> bool {
    match &finished.outcome {
        Outcome::Failed { fall_back, .. } => {
            !(*fall_back && finished.workflow.graph.makes_up_for(finished.node))
        }
        _ => false,
    }
}

/// The status to record for a node that was passed.
pub(crate) fn passed_status(passed: Passed) -> StepStatus {
    match passed {
        Passed::Skipped => StepStatus::Skipped,
        Passed::Cancelled => StepStatus::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use leveret_core::{
        decide::Joins,
        ids::{EventName, NodeId, RunId},
        parse::workflow_from_json,
    };
    use serde_json::json;

    use super::*;
    use crate::store::{ErrorCode, WaitKind, Woken, commit::decide_finished};

    /// What follows from the end of `a`, one line each.
    fn check(definition: &serde_json::Value, outcome: Outcome, expect: &[&str]) {
        let workflow = Arc::new(workflow_from_json(definition, None).expect("valid"));
        let at = Timestamp(1);
        let finished = Finished {
            run_id: RunId::new("r").expect("an id"),
            workflow: workflow.clone(),
            node: 0,
            scope: Scope::root(),
            via: None,
            attempts: 1,
            started_at: at,
            finished_at: at,
            woken: Woken::No,
            outcome,
        };
        let none = |_: &[JoinPoint]| Ok::<_, std::convert::Infallible>(Vec::new());
        let Ok(decision) = decide_finished(&finished, &mut Joins::new(), none);
        let lines: Vec<String> = follow(&finished, &decision)
            .into_iter()
            .map(|write| match write {
                Write::Join { join, state } => format!("join {join:?} {state}"),
                Write::Pass { place, status } => {
                    format!(
                        "{status} {}{}",
                        workflow.nodes[place.node].id,
                        place.scope.as_str()
                    )
                }
                Write::Item { scope, value } => format!("item {scope:?} {}", value.text()),
                Write::Arrival { place, status, via } => {
                    format!("{status} {:?} {via:?}", place.scope)
                }
                Write::Caught { place, error } => format!("caught {error} {:?}", place.scope),
                Write::Close { scope } => format!("closes {scope:?}"),
                Write::Latest { within } => format!("latest {within:?}"),
                Write::Error(error) => format!("error {error}"),
                Write::Timer { due } => format!("timer {}", due.0),
                Write::Wait(wait) => format!("wait {}", wait.event),
                Write::Context { key, value } => format!("context {key} {}", value.text()),
                Write::End => "end".to_owned(),
            })
            .collect();
        assert_eq!(lines, expect);
    }

    fn completed(taken: &[usize], context: &[(&str, i64)]) -> Outcome {
        let context = context.iter();
        Outcome::Completed {
            output: Json::null(),
            action: None,
            taken: taken.to_vec(),
            context: context
                .map(|&(key, value)| (Arc::from(key), Json::from(json!(value))))
                .collect(),
            items: None,
        }
    }

    fn error() -> StepError {
        StepError {
            message: "no".to_owned(),
            code: ErrorCode::NodeFailed,
            node_id: NodeId::new("a").expect("an id"),
            status: None,
        }
    }

    #[test]
    fn tells_what_is_recorded_with_a_step() {
        let chain = json!({
            "id": "w",
            "nodes": [{ "id": "a", "uses": "set" }, { "id": "b", "uses": "set" }],
            "edges": [{ "source": "a", "target": "b" }],
        });
        check(&chain, completed(&[0], &[]), &[]);
        check(
            &chain,
            completed(&[0], &[("k", 1), ("l", 2)]),
            &["context k 1", "context l 2"],
        );
        check(&chain, completed(&[], &[]), &["skipped b", "end"]);
        let failed = |fall_back| Outcome::Failed {
            error: error(),
            fall_back,
        };
        check(&chain, failed(true), &["cancelled b", "error no", "end"]);
        let waiting = |until: Option<i64>, event: Option<&str>| Outcome::Waiting {
            until: until.map(Timestamp),
            wait: event.map(|event| Wait {
                event: EventName::new(event).expect("an event"),
                key: None,
                kind: WaitKind::Signal,
                about: Json::null(),
            }),
            error: None,
        };
        check(&chain, waiting(Some(7), None), &["timer 7"]);
        check(&chain, waiting(Some(7), Some("e")), &["timer 7", "wait e"]);
        check(&chain, waiting(None, Some("e")), &["wait e"]);

        let guarded = json!({
            "id": "w",
            "nodes": [
                { "id": "a", "uses": "set", "config": { "fallback": "f" } },
                { "id": "f", "uses": "set" },
            ],
        });
        check(&guarded, failed(true), &["join End t.,0"]);
        check(
            &guarded,
            failed(false),
            &["join End tt!1", "skipped f", "error no", "end"],
        );
    }
}
