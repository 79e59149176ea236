//! The ends of runs, as completion messages tell them and as they are recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use leveret::{
    broker::{ConsumeOptions, Consumer},
    core::ids::RunId,
    runtime::{Engine, RunResult},
    store::{RunStatus, StepStatus},
};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    load::STEPS,
    rig::{PATIENCE, POLL},
};

/// What completion messages told of each run: their message ids and statuses.
type Ends = BTreeMap<String, BTreeSet<(String, String)>>;

/// Collects completion messages until it is dropped.
#[derive(Debug)]
pub(crate) struct Completions {
    ends: Arc<Mutex<Ends>>,
    collecting: JoinHandle<()>,
}

impl Completions {
    /// Begins to collect what the engine's completion queue holds and gets.
    pub(crate) async fn of(engine: &Engine) -> Completions {
        let options = ConsumeOptions {
            prefetch: 1000,
            ..ConsumeOptions::queue(engine.names().completion.clone())
        };
        let consumer = engine.broker().consume(options).await.expect("consumes");
        let ends = Arc::default();
        let collecting = tokio::spawn(collect(consumer, Arc::clone(&ends)));
        Completions { ends, collecting }
    }

    /// How many runs have ended.
    pub(crate) fn count(&self) -> usize {
        lock(&self.ends).len()
    }

    /// Whether the completion of this run came.
    pub(crate) fn has(&self, run_id: &RunId) -> bool {
        lock(&self.ends).contains_key(run_id.as_str())
    }

    /// Waits for the completions of these runs. Each is then recorded as completed with all its [`STEPS`], each completed, and the copies of
    /// its completion message are one message.
    pub(crate) async fn assert_each_once(&self, engine: &Engine, runs: &BTreeSet<RunId>) {
        let begun = Instant::now();
        while let Some(missing) = runs.iter().find(|&run_id| !self.has(run_id)) {
            if begun.elapsed() > PATIENCE {
                let state = engine.result(missing).await;
                panic!("run {missing} does not complete: {state:#?}");
            }
            tokio::time::sleep(POLL).await;
        }
        for run_id in runs {
            let result = engine.result(run_id).await.expect("the store answers");
            assert_completed(&result.expect("the run is recorded"));
            let ends = lock(&self.ends)[run_id.as_str()].clone();
            let ends: Vec<_> = ends.iter().collect();
            assert!(
                matches!(ends[..], [(_, status)] if status == "completed"),
                "{run_id}: {ends:?}"
            );
        }
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        self.collecting.abort();
    }
}

fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn collect(mut consumer: Consumer, ends: Arc<Mutex<Ends>>) {
    while let Some(delivery) = consumer.next().await {
        let body: Value =
            serde_json::from_slice(&delivery.message.body).expect("a completion is JSON");
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let message_id = delivery.message.message_id.as_deref().unwrap_or_default();
        lock(&ends)
            .entry(text("execution_id"))
            .or_default()
            .insert((message_id.to_owned(), text("status")));
        delivery.receipt.ack();
    }
}

fn assert_completed(result: &RunResult) {
    let completed = |status| status == StepStatus::Completed;
    assert!(
        result.status == RunStatus::Completed
            && result.steps.len() == STEPS
            && result.steps.values().all(|step| completed(step.status)),
        "{result:#?}"
    );
}
