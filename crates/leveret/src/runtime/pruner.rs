//! The pruner: removes runs that ended longer ago than they are kept, a few at a time.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::Inner;
use crate::store::{Pass, Store, StoreError};
use leveret_core::time::Timestamp;

/// How many runs are looked at in one call of the store.
pub(crate) const BATCH: u32 = 100;

/// Between two passes over all runs.
const PAUSE_MAX: Duration = Duration::from_secs(600);
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How many times as long as a batch took nothing is removed afterwards: the runs that go on have the store for themselves.
const REST: u32 = 4;

/// Removes what ended before that time; returns how many runs these were.
pub(crate) async fn run_once(store: &dyn Store, before: Timestamp) -> Result<u64, StoreError> {
    let (mut removed, mut pass) = (0, Some(Pass::default()));
    while let Some(at) = pass {
        let begun = Instant::now();
        let (some, next) = store.prune(before, at, BATCH).await?;
        removed += u64::from(some);
        pass = next;
        if some > 0 {
            tokio::time::sleep(begun.elapsed() * REST).await;
        }
    }
    Ok(removed)
}

/// Prunes until `shutdown` turns true.
pub(crate) async fn run(inner: Arc<Inner>, kept: Duration, mut shutdown: watch::Receiver<bool>) {
    let pause = (kept / 10).clamp(PAUSE_MIN, PAUSE_MAX);
    let kept_ms = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
    loop {
        let before = Timestamp(inner.clock.now().0.saturating_sub(kept_ms));
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            pruned = run_once(&*inner.store, before) => match pruned {
                Ok(0) => {}
                Ok(runs) => {
                    inner.metrics.runs_pruned.add(runs);
                    tracing::info!(runs, "{runs} runs that ended more than {kept:?} ago were removed");
                }
                Err(error) => tracing::warn!(%error, "runs that ended long ago are not removed"),
            }
        }
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_core::{json::Json, parse::workflow_from_json};
    use serde_json::json;

    use super::*;
    use crate::{
        broker::memory::MemoryBroker,
        runtime::{Engine, EngineOptions, EngineParts, Roles, StartRequest},
        store::memory::MemoryStore,
    };

    /// Runs are there as long as they are kept, and then not.
    #[tokio::test]
    async fn what_ended_is_removed_in_time() {
        let parts = EngineParts {
            options: EngineOptions {
                retention: Some(Duration::from_millis(300)),
                ..EngineOptions::default()
            },
            ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
        };
        let engine = Engine::new(parts).await.expect("declares");
        let (_stop, stopped) = watch::channel(false);
        let serving = engine.clone();
        tokio::spawn(async move { serving.serve(Roles::all(), stopped).await });
        let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "set" }] });
        let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
        let request = StartRequest {
            workflow,
            input: Json::null(),
            run_id: None,
        };
        let result = engine.start_and_wait(request).await.expect("ends");
        let gone = async {
            while engine
                .store()
                .run(&result.run_id)
                .await
                .expect("answers")
                .is_some()
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .expect("is removed");
        assert_eq!(engine.metrics().runs_pruned.get(), 1);
    }
}
