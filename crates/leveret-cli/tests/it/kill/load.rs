//! Clients that start runs, and what they start.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leveret::{
    core::{ids::RunId, json::Json, parse::workflow_from_json, workflow::Workflow},
    runtime::{Engine, StartError, StartRequest},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time};

/// How long a client waits for the end of a run before it starts the next: a worker may have been killed with it.
const WAIT: Duration = Duration::from_millis(200);
/// How soon a client asks again when it was refused.
const PAUSE: Duration = Duration::from_millis(50);
/// How many steps a run of [`workflow`] has.
pub(crate) const STEPS: usize = 6;

/// A chain, a fan-out and a join; no node is pure. Nodes are `log`, but those of `special`: their `uses` and parameters.
pub(crate) fn workflow(id: &str, special: &[(&str, &str, Value)]) -> Arc<Workflow> {
    let workflow = workflow_from_json(&definition(id, special), None);
    Arc::new(workflow.expect("the workflow is valid"))
}

/// The same as a client writes it.
pub(crate) fn definition(id: &str, special: &[(&str, &str, Value)]) -> Value {
    let node = |id: &str| match special.iter().find(|(node, ..)| *node == id) {
        Some((_, uses, params)) => json!({ "id": id, "uses": uses, "params": params }),
        None => json!({ "id": id, "uses": "log", "params": { "message": id, "level": "debug" } }),
    };
    let edge = |source: &str, target: &str| json!({ "source": source, "target": target });
    let nodes: [_; STEPS] = ["a", "b", "c", "left", "right", "joined"].map(node);
    json!({
        "id": id,
        "nodes": nodes,
        "edges": [
            edge("a", "b"), edge("b", "c"), edge("c", "left"), edge("c", "right"), edge("left", "joined"),
            edge("right", "joined"),
        ],
    })
}

/// Clients at work until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    loading: Arc<AtomicBool>,
    clients: Vec<JoinHandle<BTreeSet<RunId>>>,
}

impl Load {
    pub(crate) fn start(engine: &Engine, workflow: &Arc<Workflow>, clients: usize) -> Load {
        let loading = Arc::new(AtomicBool::new(true));
        let client = |_| tokio::spawn(client(engine.clone(), workflow.clone(), loading.clone()));
        let clients = (0..clients).map(client).collect();
        Load { loading, clients }
    }

    /// Stops the clients, each when its last run is accepted; all that were.
    pub(crate) async fn stop(self) -> BTreeSet<RunId> {
        self.loading.store(false, Ordering::SeqCst);
        let mut all = BTreeSet::new();
        for client in self.clients {
            all.extend(client.await.expect("a client does not panic"));
        }
        all
    }
}

/// Starts runs, one after the other.
async fn client(
    engine: Engine,
    workflow: Arc<Workflow>,
    loading: Arc<AtomicBool>,
) -> BTreeSet<RunId> {
    let mut accepted = BTreeSet::new();
    while loading.load(Ordering::SeqCst) {
        let run_id = engine.clock().new_run_id();
        let request = StartRequest {
            workflow: workflow.clone(),
            input: Json::null(),
            run_id: Some(run_id.clone()),
        };
        // What was refused may have begun nevertheless: it is asked for again by its id.
        let awaited = loop {
            match engine.start_awaited(request.clone()).await {
                Ok(awaited) => break awaited,
                Err(StartError::Store(error)) if error.is_retryable() => {}
                Err(error) => panic!("{run_id}: {error}"),
            }
            time::sleep(PAUSE).await;
        };
        accepted.insert(run_id);
        drop(time::timeout(WAIT, awaited.result()).await);
    }
    accepted
}
