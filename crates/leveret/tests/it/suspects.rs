//! A step that was delivered too often is given up: what follows from that, and what does not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use leveret::{
    broker::ConsumeOptions,
    core::{
        ids::{NodeId, RunId, Scope, StepKey},
        json::Json,
        parse::workflow_from_json,
    },
    nodes::NodeContext,
    runtime::{Engine, EngineOptions, EngineParts, Roles, StartRequest, WorkerOptions},
};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::harness::{PausedClock, blueprint, in_memory, registry, work};

async fn engine() -> Engine {
    Engine::new(in_memory()).await.expect("declares")
}

fn request(text: &str) -> StartRequest {
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    }
}

/// Starts a run whose first step, `A`, was redelivered so often.
async fn redelivered(engine: &Engine, text: &str, count: u32) -> RunId {
    let run_id = counted(engine, text, count).await;
    return_jobs(engine, 1).await;
    run_id
}

/// Starts a run whose first step, `A`, was counted so often.
async fn counted(engine: &Engine, text: &str, count: u32) -> RunId {
    let (run_id, _) = engine.start(request(text)).await.expect("starts");
    let key = StepKey {
        run_id: run_id.clone(),
        node_id: NodeId::new("A").expect("an id"),
        scope: Scope::root(),
    };
    let set = engine.store().set_redeliveries(&key, count).await;
    set.expect("the store answers");
    run_id
}

/// Dropped without being settled, jobs come again.
async fn return_jobs(engine: &Engine, count: u16) {
    let queue = ConsumeOptions {
        prefetch: count,
        ..ConsumeOptions::queue(engine.names().execution.clone())
    };
    let mut consumer = engine.broker().consume(queue).await.expect("consumes");
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(consumer.next().await.expect("the job is there"));
    }
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

/// An engine on which a step `long` takes ten minutes, how many were begun, and runs of such a step that was counted once.
async fn suspects(count: u16) -> (Engine, Arc<AtomicU64>, Vec<RunId>) {
    let begun = Arc::new(AtomicU64::new(0));
    let counter = begun.clone();
    let mut registry = registry();
    registry.register_fn("long", move |_: NodeContext| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(json!(null))
        }
    });
    let parts = EngineParts {
        registry,
        clock: Arc::new(PausedClock::new("r", Instant::now())),
        ..in_memory()
    };
    let engine = Engine::new(parts).await.expect("declares");
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push(counted(&engine, "A; A = long", 1).await);
    }
    return_jobs(&engine, count).await;
    (engine, begun, runs)
}

fn serve(engine: &Engine, concurrency: u16) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let engine = engine.clone();
    let worker = WorkerOptions {
        concurrency,
        prefetch: 2 * concurrency,
        ..WorkerOptions::default()
    };
    let roles = Roles {
        worker: Some(worker),
        ..Roles::all()
    };
    let serving = tokio::spawn(async move { engine.serve(roles, stopped).await.expect("serves") });
    (stop, serving)
}

/// The reconciler leaves those alone that wait for their turn, although nothing of their runs is recorded for many minutes.
#[tokio::test(start_paused = true)]
async fn suspects_that_wait_are_executed_once() {
    let (engine, begun, runs) = suspects(4).await;
    let (_stop, _serving) = serve(&engine, 8);
    for run_id in &runs {
        engine.wait(run_id).await.expect("the store answers");
    }
    assert_eq!(begun.load(Ordering::Relaxed), 4);
    assert_eq!(engine.metrics().reconciled.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn suspects_that_wait_take_no_place() {
    let (engine, begun, _) = suspects(8).await;
    let (_stop, _serving) = serve(&engine, 8);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let fresh = engine.start_and_wait(request("A; A = const 7"));
    let ended = tokio::time::timeout(Duration::from_secs(1), fresh).await;
    assert_eq!(ended.expect("at once").expect("starts").output.text(), "7");
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}

/// One that began has its time to end; the others are back in the queue, and were not executed.
#[tokio::test(start_paused = true)]
async fn a_drain_returns_suspects_that_wait() {
    let (engine, begun, _) = suspects(4).await;
    let (stop, serving) = serve(&engine, 8);
    tokio::time::sleep(Duration::from_secs(590)).await;
    stop.send_replace(true);
    serving.await.expect("no panic");
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    let stats = engine.broker().queue_stats(&engine.names().execution).await;
    assert_eq!(stats.expect("the queue is there").ready, 3);
}

/// What the crash of a whole process left behind is done soon, if nothing of it ends a process.
#[tokio::test(start_paused = true)]
async fn many_innocent_suspects_are_not_done_one_by_one() {
    let (engine, begun, runs) = suspects(40).await;
    let (_stop, _serving) = serve(&engine, 64);
    for run_id in &runs {
        engine.wait(run_id).await.expect("the store answers");
    }
    assert_eq!(begun.load(Ordering::Relaxed), 40);
    // One, two, then eight at once and more, ten minutes each; one by one they take 400.
    let minutes = engine.clock().now().0 / 60_000 - 1_700_000_000_000 / 60_000;
    assert!(minutes < 60, "{minutes}");
}
