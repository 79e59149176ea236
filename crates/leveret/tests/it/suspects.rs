//! A step that was delivered too often is given up: what follows from that, and what does not.

use std::sync::Arc;

use leveret::{
    broker::ConsumeOptions,
    core::{
        ids::{NodeId, RunId, Scope, StepKey},
        json::Json,
        parse::workflow_from_json,
    },
    runtime::{Engine, EngineOptions, StartRequest},
};

use crate::harness::{blueprint, in_memory, work};

async fn engine() -> Engine {
    Engine::new(in_memory()).await.expect("declares")
}

/// Starts a run whose first step, `A`, was redelivered so often.
async fn redelivered(engine: &Engine, text: &str, count: u32) -> RunId {
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    let key = StepKey {
        run_id: run_id.clone(),
        node_id: NodeId::new("A").expect("an id"),
        scope: Scope::root(),
    };
    let set = engine.store().set_redeliveries(&key, count).await;
    set.expect("the store answers");
    // Dropped without being settled, the job comes again.
    let queue = ConsumeOptions::queue(engine.names().execution.clone());
    let mut consumer = engine.broker().consume(queue).await.expect("consumes");
    drop(consumer.next().await.expect("the job is there"));
    run_id
}

const GIVEN_UP: &str = "the step was delivered 6 times and was never recorded: it ended its worker each time, or its result cannot be stored";

#[tokio::test(start_paused = true)]
async fn a_step_within_the_bound_is_executed() {
    let engine = engine().await;
    let last = EngineOptions::default().deliveries_max - 2;
    let run_id = redelivered(&engine, "A>B; A = const 7", last).await;
    let (summary, letters) = work(&engine, &run_id).await;
    assert_eq!((&*summary, letters.len()), ("completed 7 | A B |", 0));
}

#[tokio::test(start_paused = true)]
async fn a_step_at_the_bound_is_given_up() {
    let engine = engine().await;
    let run_id = redelivered(&engine, "A>B; A = const 7", 4).await;
    let (summary, letters) = work(&engine, &run_id).await;
    assert_eq!(
        summary,
        format!("failed {GIVEN_UP} | | A:failed B:cancelled")
    );
    assert_eq!(letters, [GIVEN_UP]);
}

/// The fallback runs at once, and not when the reconciler finds the run.
#[tokio::test(start_paused = true)]
async fn the_fallback_of_a_step_that_is_given_up_runs() {
    let engine = engine().await;
    let text = r#"A>B; A = const 7; A.config = {"fallback":"F"}; F = const 8"#;
    let run_id = redelivered(&engine, text, 4).await;
    let (summary, letters) = work(&engine, &run_id).await;
    assert_eq!(summary, "completed 8 | B F | A:failed");
    assert_eq!(letters, [GIVEN_UP]);
}
