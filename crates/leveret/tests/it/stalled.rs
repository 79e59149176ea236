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
    core::{ids::RunId, json::Json, parse::workflow_from_json, time::Timestamp},
    nodes::{NodeContext, Registry},
    runtime::{Clock, Engine, EngineParts, Roles, StartRequest, WorkerOptions},
    store::memory::MemoryStore,
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::harness::blueprint;

/// The test's time, which passes at once.
#[derive(Debug)]
struct PausedClock {
    begun: Instant,
    runs: AtomicU64,
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000) + self.begun.elapsed()
    }

    fn random(&self) -> f64 {
        0.5
    }

    fn new_run_id(&self) -> RunId {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        RunId::new(format!("r{number}")).expect("an id")
    }
}

/// An engine, and how many steps it executed; each takes ten minutes.
async fn engine() -> (Engine, Arc<AtomicU64>) {
    let executed = Arc::new(AtomicU64::new(0));
    let count = executed.clone();
    let mut registry = Registry::default();
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
        clock: Arc::new(PausedClock {
            begun: Instant::now(),
            runs: AtomicU64::new(0),
        }),
        ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
    };
    (Engine::new(parts).await.expect("declares"), executed)
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
    let (engine, executed) = engine().await;
    let (_stop, stopped) = watch::channel(false);
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(Roles::all(), stopped).await }
    });
    let result = engine.start_and_wait(request()).await.expect("ends");
    assert_eq!(result.steps.len(), 2);
    assert_eq!(executed.load(Ordering::Relaxed), 2);
    assert_eq!(engine.metrics().reconciled.get(), 0);
    serving.abort();
}

/// All jobs are with a worker that has one place: the queue is empty, and the last one begins after twenty minutes.
#[tokio::test(start_paused = true)]
async fn jobs_that_wait_for_a_place_are_executed_once() {
    let (engine, executed) = engine().await;
    let (_stop, stopped) = watch::channel(false);
    let roles = Roles {
        worker: Some(WorkerOptions {
            concurrency: 1,
            prefetch: 10,
            ..WorkerOptions::default()
        }),
        ..Roles::all()
    };
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(roles, stopped).await }
    });
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
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn jobs_that_wait_are_not_published_again_and_lost_ones_are() {
    let (engine, _) = engine().await;
    let (_stop, stopped) = watch::channel(false);
    let roles = Roles {
        worker: None,
        ..Roles::all()
    };
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(roles, stopped).await }
    });
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
    serving.abort();
}
