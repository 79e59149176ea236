//! What a drive holds on to.

use leveret_core::parse::workflow_from_json;
use serde_json::{Value, json};

use super::{ending::TERMINALS_AT_ONCE, *};
use crate::{
    broker::memory::MemoryBroker,
    runtime::{Engine, EngineOptions, EngineParts, Publish},
    store::memory::MemoryStore,
};

async fn engine(options: EngineOptions) -> Engine {
    let parts = EngineParts {
        options,
        publish: Publish {
            completion: true,
            ..Publish::NOTHING
        },
        ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
    };
    Engine::new(parts).await.expect("declares its topology")
}

fn drive_of<'a>(engine: &'a Engine, definition: &Value) -> Drive<'a> {
    let inner = &engine.inner;
    let workflow = workflow_from_json(definition, None).expect("valid");
    let plan = inner.plans.insert(Arc::new(workflow), &inner.registry);
    Drive::new(inner, plan, inner.clock.new_run_id(), Coming::Once)
}

/// Begins the run, and drives it from its only start node.
async fn begin(drive: &mut Drive<'_>) {
    let workflow = drive.plan.workflow.clone();
    let place = workflow.graph.start_place(workflow.graph.starts()[0]);
    let now = drive.inner.clock.now();
    let new = drive
        .inner
        .new_run(drive.run_id.clone(), workflow, Json::null(), now);
    drive.inner.start_durably(new).await.expect("starts");
    let driven = drive.chain(Ready { place, via: None }, 0, false).await;
    driven.expect("the store answers");
}

/// Only a fallback reads the input of another node.
#[tokio::test]
async fn inputs_are_kept_of_nodes_that_have_a_fallback() {
    let engine = engine(EngineOptions::default()).await;
    let mut drive = drive_of(
        &engine,
        &json!({
            "id": "w",
            "nodes": [
                { "id": "A", "uses": "set", "inputs": { "x": "{{ 1 }}" } },
                { "id": "B", "uses": "set", "inputs": { "x": "{{ 2 }}" }, "config": { "fallback": "F" } },
                { "id": "F", "uses": "set" },
            ],
            "edges": [{ "source": "A", "target": "B" }],
        }),
    );
    begin(&mut drive).await;
    assert!(
        drive.known.node(&Place::root(1)).is_some(),
        "B was executed"
    );
    assert_eq!(drive.known.input_of(&Place::root(0)), None);
    assert_eq!(
        drive.known.input_of(&Place::root(1)),
        Some(&Json::from(json!({ "x": 2 })))
    );
}

/// What whoever waits for the run would be told without reading it back.
#[tokio::test]
async fn a_trail_with_large_outputs_is_not_kept() {
    let engine = engine(EngineOptions::default()).await;
    for (bytes, kept) in [(5, Some(3)), (5 << 20, None)] {
        let output = json!({ "output": "x".repeat(bytes) });
        let mut drive = drive_of(
            &engine,
            &json!({
                "id": "w",
                "nodes": [
                    { "id": "A", "uses": "set", "params": output },
                    { "id": "B", "uses": "set", "params": output },
                    { "id": "C", "uses": "sleep", "params": { "duration": "1h" } },
                ],
                "edges": [{ "source": "A", "target": "B" }, { "source": "B", "target": "C" }],
            }),
        );
        drive.trail.begin(true);
        begin(&mut drive).await;
        let trail = std::mem::take(&mut drive.trail).whole();
        assert_eq!(trail.map(|steps| steps.len()), kept);
    }
}

/// A completion whose outputs would make it too large does not load them all to see that.
#[tokio::test]
async fn a_completion_loads_no_more_than_fits() {
    let engine = engine(EngineOptions {
        message_bytes_max: 5000,
        ..EngineOptions::default()
    })
    .await;
    let node = |id| json!({ "id": id, "uses": "set", "params": { "output": "x".repeat(1000) } });
    let mut nodes = vec![node("S".to_owned())];
    let mut edges = Vec::new();
    for n in 0..100 {
        nodes.push(node(format!("T{n}")));
        edges.push(json!({ "source": "S", "target": format!("T{n}") }));
    }
    let definition = json!({ "id": "w", "nodes": nodes, "edges": edges });
    let mut first = drive_of(&engine, &definition);
    begin(&mut first).await;
    let run_id = first.run_id.clone();
    for edge in 0..100 {
        let mut drive = drive_of(&engine, &definition);
        drive.run_id = run_id.clone();
        let ready = Ready {
            place: Place::root(edge + 1),
            via: Some(edge),
        };
        drive.chain(ready, 0, false).await.expect("answers");
    }
    let mut drive = drive_of(&engine, &definition);
    drive.run_id = run_id;
    drive.repeat_completion().await.expect("answers");
    let [completion] = &drive.publications[..] else {
        panic!("the run has ended")
    };
    let body: Value = serde_json::from_slice(&completion.message.body).expect("JSON");
    assert_eq!(body["final_context_left_out"], json!(true));
    let loaded = (0..=100).filter(|&node| drive.known.node(&Place::root(node)).is_some());
    assert_eq!(loaded.count(), TERMINALS_AT_ONCE);
}
