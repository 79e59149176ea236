//! What the reconciler takes for stalled, and what it leaves alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use leveret::{
    broker::memory::MemoryBroker,
    core::{json::Json, parse::workflow_from_json},
    nodes::{NodeContext, Registry},
    runtime::{Engine, EngineParts, Roles, StartRequest, WorkerOptions},
    store::memory::MemoryStore,
};
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{PausedClock, blueprint, serving};

/// A serving engine, and how many steps it executed; each takes ten minutes.
async fn engine(roles: Roles) -> (Engine, Arc<AtomicU64>) {
    let executed = Arc::new(AtomicU64::new(0));
    let count = executed.clone();
    let mut registry = Registry::builtin();
    registry.register_fn("long", move |_: NodeContext| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(json!(null))
        }
    });
    let parts = EngineParts {
        registry,
        clock: Arc::new(PausedClock::new("r", Instant::now())),
        ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
    };
    (serving(parts, roles).await, executed)
}

fn request() -> StartRequest {
    let text = "A>B; A = long; B = long";
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    }
}

async fn jobs(engine: &Engine) -> u64 {
    let stats = engine.broker().queue_stats(&engine.names().execution).await;
    stats.expect("the queue is there").ready
}

#[tokio::test(start_paused = true)]
async fn long_steps_are_executed_once() {
    let (engine, executed) = engine(Roles::all()).await;
    let result = engine.start_and_wait(request()).await.expect("ends");
    assert_eq!(result.steps.len(), 2);
    assert_eq!(executed.load(Ordering::Relaxed), 2);
    assert_eq!(engine.metrics().reconciled.get(), 0);
}

/// All jobs are with a worker that has one place: the queue is empty, and the last one begins after twenty minutes.
#[tokio::test(start_paused = true)]
async fn jobs_that_wait_for_a_place_are_executed_once() {
    let roles = Roles {
        worker: Some(WorkerOptions {
            concurrency: 1,
            prefetch: 10,
            ..WorkerOptions::default()
        }),
        ..Roles::all()
    };
    let (engine, executed) = engine(roles).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(engine.start(request()).await.expect("starts").0);
    }
    for run_id in &runs {
        let result = engine.wait(run_id).await.expect("the store answers");
        assert_eq!(result.expect("the run is there").steps.len(), 2);
    }
    assert_eq!(executed.load(Ordering::Relaxed), 6);
    assert_eq!(engine.metrics().reconciled.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_wait_are_not_published_again_and_lost_ones_are() {
    let roles = Roles {
        worker: None,
        ..Roles::all()
    };
    let (engine, _) = engine(roles).await;
    for _ in 0..3 {
        engine.start(request()).await.expect("starts");
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(jobs(&engine).await, 3);

    let queue = &engine.names().execution;
    assert_eq!(engine.broker().purge(queue).await.expect("purges"), 3);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(jobs(&engine).await, 3);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(jobs(&engine).await, 3);
}

/// A timer fired, and the job that it published was lost with its queue.
#[tokio::test(start_paused = true)]
async fn a_step_that_waits_for_nothing_is_woken() {
    let (engine, _) = engine(Roles::all()).await;
    let definition = json!({
        "id": "sleeper",
        "nodes": [{ "id": "nap", "uses": "sleep", "params": { "duration": "1h" } }, { "id": "after", "uses": "set" }],
        "edges": [{ "source": "nap", "target": "after" }],
    });
    let workflow = workflow_from_json(&definition, None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        ..request()
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    let store = engine.store();
    let due = loop {
        match store.next_timer().await.expect("the store answers") {
            Some(due) => break due,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let timers = store.claim_timers(due, Duration::ZERO, 1).await;
    let timers = timers.expect("the store answers");
    assert_eq!(timers.len(), 1);
    store
        .remove_timers(&timers)
        .await
        .expect("the store answers");
    let result = engine.wait(&run_id).await.expect("the store answers");
    let result = result.expect("the run is there");
    assert_eq!(result.steps["nap"].attempts, 1);
    assert_eq!(result.steps["after"].attempts, 1);
    assert_eq!(engine.metrics().reconciled.get(), 1);
}
