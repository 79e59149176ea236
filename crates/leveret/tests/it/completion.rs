//! What a completion message tells.

use std::sync::Arc;

use leveret::{
    broker::{ConsumeOptions, memory::MemoryBroker},
    core::{json::Json, parse::workflow_from_json},
    runtime::{
        Engine, EngineOptions, EngineParts, Publish, Roles, RunResult, StartRequest, StatusMessages,
    },
    store::memory::MemoryStore,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{blueprint, registry};

/// Runs a workflow of two terminal nodes that echo the input, with messages of 1000 bytes at most; its result and completion message.
async fn run(input: &str) -> (RunResult, Value) {
    let engine = Engine::new(EngineParts {
        registry: registry(),
        publish: Publish {
            status: StatusMessages::Off,
            completion: true,
        },
        options: EngineOptions {
            message_bytes_max: 1000,
            ..EngineOptions::default()
        },
        ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
    });
    let engine = engine.await.expect("declares");
    let (_stop, stopped) = watch::channel(false);
    let serving = engine.clone();
    tokio::spawn(async move { serving.serve(Roles::all(), stopped).await });
    let workflow = workflow_from_json(&blueprint("A>B A>C"), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::from(json!(input)),
        run_id: None,
    };
    let result = engine.start_and_wait(request).await.expect("starts");
    let queue = ConsumeOptions::queue(engine.names().completion.clone());
    let mut completions = engine.broker().consume(queue).await.expect("consumes");
    let delivery = completions.next().await.expect("the completion comes");
    let body = serde_json::from_slice(&delivery.message.body).expect("JSON");
    delivery.receipt.ack();
    (result, body)
}

#[tokio::test]
async fn it_has_the_outputs_of_the_terminal_nodes() {
    let (_, completion) = run("x").await;
    assert_eq!(completion["final_context"], json!({ "$B": "x", "$C": "x" }));
    assert_eq!(completion.get("final_context_left_out"), None);
}

/// Two outputs that fit each, and not together: without them the end is told all the same.
#[tokio::test]
async fn it_leaves_out_outputs_that_make_it_too_large() {
    let input = "x".repeat(600);
    let (result, completion) = run(&input).await;
    assert_eq!(result.output.value()["B"], json!(input));
    assert_eq!(completion["status"], "completed");
    assert_eq!(completion["final_context"], json!({}));
    assert_eq!(completion["final_context_left_out"], json!(true));
}
