//! Workers are killed in the middle of a batch.

use std::{sync::Arc, time::Instant};

use leveret::{
    core::{ids::RunId, json::Json, parse::workflow_from_json},
    runtime::StartRequest,
};
use serde_json::{Value, json};

use super::{
    rig::{NEVER, PATIENCE, POLL, Rig, Worker},
    servers::Place,
};

/// How many items a batch has.
const ITEMS: u64 = 1500;
/// How often a worker is killed in it.
const KILLS: u64 = 8;

/// Two workers, each killed four times with `kill -9` and started again: every item is in the list, in its place, whether they begin all at
/// once, or some at a time, by the ends of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_item_is_in_the_list_whichever_worker_is_killed() {
    let Some(place) = Place::shared("kill-batches").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    for (name, limits) in [
        ("all", json!({})),
        ("some", json!({ "concurrency": 40 })),
        ("chunks", json!({ "chunkSize": 200, "concurrency": 120 })),
    ] {
        batch(&rig, name, limits).await;
    }
    rig.assert_no_dead_letters().await;
    rig.end().await;
}

async fn batch(rig: &Rig, name: &str, mut params: Value) {
    params["gatherNodeId"] = json!("all");
    let definition = json!({
        "id": format!("kill-{name}"),
        "nodes": [
            { "id": "each", "uses": "batch-scatter", "params": params },
            { "id": "say", "uses": "log", "params": { "message": "item {{ index }}", "level": "debug" } },
            { "id": "made", "uses": "set", "params": { "output": ["{{ item }}", "{{ index }}"] } },
            { "id": "all", "uses": "batch-gather" },
        ],
        "edges": [
            { "source": "each", "target": "say" },
            { "source": "say", "target": "made" },
            { "source": "made", "target": "all" },
        ],
    });
    let workflow = workflow_from_json(&definition, None).expect("valid");
    let items: Vec<u64> = (0..ITEMS).map(|item| item * 3).collect();
    let run_id = RunId::new(format!("{}{name}", rig.place.prefix)).expect("an id");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::from(json!(items)),
        run_id: Some(run_id.clone()),
    };
    rig.engine.start(request).await.expect("starts");
    let mut workers = [Worker::start(&rig.place), Worker::start(&rig.place)];
    let begun = Instant::now();
    for kill in 0..KILLS {
        // Each item makes four rows.
        let rows = ITEMS * 3 / (KILLS + 1) * (kill + 1);
        until_recorded(rig, &run_id, rows).await;
        workers[kill as usize % 2] = Worker::start(&rig.place);
    }
    let ended = tokio::time::timeout(PATIENCE, rig.engine.wait(&run_id)).await;
    let result = ended.expect("the run ends").expect("answers");
    let result = result.expect("is recorded");
    let expect: Vec<Value> = (0..ITEMS).map(|item| json!([item * 3, item])).collect();
    assert_eq!(result.error, None, "{name}");
    assert_eq!(result.output.value(), &json!(expect), "{name}");
    assert_eq!(result.steps.len() as u64, 2 * ITEMS + 2, "{name}");
    println!(
        "{name}: {KILLS} kills, {ITEMS} items, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
}

/// Waits until so many steps and items of the run are recorded beside those of the scatter.
async fn until_recorded(rig: &Rig, run_id: &RunId, rows: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let steps = rig.engine.store().steps(run_id).await.expect("answers");
        if steps.len() as u64 >= ITEMS + rows {
            return;
        }
        assert!(Instant::now() < deadline, "not in time: {rows} rows");
        tokio::time::sleep(POLL).await;
    }
}
