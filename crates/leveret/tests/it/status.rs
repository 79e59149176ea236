//! What status messages tell, and in which order.

use std::{sync::Arc, time::Duration};

use leveret::{
    broker::{Binding, ConsumeOptions, Queue, Topology},
    core::{json::Json, parse::workflow_from_json},
    runtime::{EngineParts, Publish, Roles, Secrets, StartRequest, StatusMessages},
};
use serde_json::{Value, json};

use crate::harness::{blueprint, in_memory, serving};

#[derive(Debug)]
struct OneSecret;

impl Secrets for OneSecret {
    fn secret(&self, _name: &str) -> Option<String> {
        Some("hunter2".to_owned())
    }
}

/// The status messages of a run, a line each, without what differs from run to run.
async fn statuses(status: StatusMessages, text: &str) -> String {
    let engine = serving(
        EngineParts {
            publish: Publish {
                status,
                completion: true,
            },
            secrets: Arc::new(OneSecret),
            ..in_memory()
        },
        Roles::all(),
    )
    .await;
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::from(json!({ "name": "Ada" })),
        run_id: None,
    };
    let result = engine.start_and_wait(request).await.expect("starts");
    // The completion is published when all statuses are.
    let completions = ConsumeOptions::queue(engine.names().completion.clone());
    let mut completions = engine
        .broker()
        .consume(completions)
        .await
        .expect("consumes");
    completions
        .next()
        .await
        .expect("a completion")
        .receipt
        .ack();

    let queue = ConsumeOptions {
        prefetch: 100,
        ..ConsumeOptions::queue(engine.names().status.clone())
    };
    let depth = engine.broker().queue_stats(&queue.queue).await;
    let ready = depth.expect("counts").ready;
    let metrics = engine.metrics();
    assert_eq!(
        metrics.published.get(),
        metrics.consumed.get() + 1 + ready,
        "the jobs, the completion, and the status messages"
    );
    assert_eq!(metrics.status_messages_lost.get(), 0);
    let mut consumer = engine.broker().consume(queue).await.expect("consumes");
    let mut lines = Vec::new();
    for _ in 0..ready {
        let delivery = consumer.next().await.expect("a status");
        let mut body: Value = serde_json::from_slice(&delivery.message.body).expect("JSON");
        delivery.receipt.ack();
        let object = body.as_object_mut().expect("an object");
        for (field, value) in [
            ("workflow_id", "case"),
            ("execution_id", result.run_id.as_str()),
        ] {
            assert_eq!(object.remove(field), Some(json!(value)));
        }
        assert!(
            object
                .remove("executed_at")
                .is_some_and(|at| at.is_string())
        );
        assert!(object.remove("duration_ms").is_some_and(|ms| ms.is_u64()));
        lines.push(body.to_string());
    }
    lines.join("\n")
}

const RETRIED: &str = "A>B B>C; A = const {{ input.name }}; B = flaky 1; \
    B.config = {\"maxRetries\":2,\"retryDelay\":1}; C = fail boom";

#[tokio::test(start_paused = true)]
async fn all_of_them() {
    insta::assert_snapshot!(statuses(StatusMessages::All, RETRIED).await, @r#"
    {"node_id":"A","node_name":"A","parameters":{"value":"Ada"},"status":"running"}
    {"node_id":"A","node_name":"A","output":"Ada","parameters":{"value":"Ada"},"status":"success"}
    {"node_id":"B","node_name":"B","parameters":{"value":1},"status":"running"}
    {"node_id":"B","node_name":"B","parameters":{"value":1},"status":"waiting"}
    {"node_id":"B","node_name":"B","parameters":{"value":1},"status":"running"}
    {"node_id":"B","node_name":"B","output":2,"parameters":{"value":1},"status":"success"}
    {"node_id":"C","node_name":"C","parameters":{"value":"boom"},"status":"running"}
    {"error":{"code":"NODE_EXECUTION_FAILED","message":"boom"},"node_id":"C","node_name":"C","parameters":{"value":"boom"},"status":"failed"}
    "#);
}

#[tokio::test(start_paused = true)]
async fn final_ones() {
    insta::assert_snapshot!(statuses(StatusMessages::Final, RETRIED).await, @r#"
    {"node_id":"A","node_name":"A","output":"Ada","parameters":{"value":"Ada"},"status":"success"}
    {"node_id":"B","node_name":"B","output":2,"parameters":{"value":1},"status":"success"}
    {"error":{"code":"NODE_EXECUTION_FAILED","message":"boom"},"node_id":"C","node_name":"C","parameters":{"value":"boom"},"status":"failed"}
    "#);
}

/// Steps that share a commit are told one after the other all the same, and one that takes its time is told when it begins.
#[tokio::test(start_paused = true)]
async fn steps_that_share_a_commit_are_told_in_order() {
    let text = "A>B B>C C>D; A = set; A.params = {\"value\":1}; B = set; B.params = {\"value\":2}; \
        C = const 3; D = set; D.params = {\"value\":4}";
    let told = statuses(StatusMessages::All, text).await;
    let words = told.lines().map(|line| {
        let body: Value = serde_json::from_str(line).expect("JSON");
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("node_id"), text("status"))
    });
    let words: Vec<String> = words.collect();
    assert_eq!(
        words.join(", "),
        "A running, A success, B running, B success, C running, C success, D running, D success"
    );
}

/// Case 69 of flowcraft's, in Rune's words: a node that cannot be made does not begin.
#[tokio::test(start_paused = true)]
async fn a_node_of_no_type_does_not_begin() {
    insta::assert_snapshot!(statuses(StatusMessages::All, "A; A = no-such-type").await, @r#"{"error":{"code":"NODE_CREATION_FAILED","details":{"error":"Implementation for 'no-such-type' not found."},"message":"Implementation for 'no-such-type' not found."},"node_id":"A","node_name":"A","parameters":{"value":""},"status":"failed"}"#);
}

/// How many status messages pass the exchange during a run, whoever listens.
async fn passing(status: StatusMessages) -> u64 {
    let publish = Publish {
        status,
        completion: true,
    };
    let parts = EngineParts {
        publish,
        ..in_memory()
    };
    let engine = serving(parts, Roles::all()).await;
    let queue: Arc<str> = Arc::from("listener");
    let topology = Topology {
        exchanges: Vec::new(),
        queues: vec![Queue::plain(queue.clone())],
        bindings: vec![Binding {
            queue: queue.clone(),
            exchange: engine.names().exchange.clone(),
            routing_key: engine.names().status.clone(),
        }],
    };
    engine.broker().declare(&topology).await.expect("declares");
    let workflow = workflow_from_json(&blueprint(RETRIED), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::from(json!({ "name": "Ada" })),
        run_id: None,
    };
    engine.start_and_wait(request).await.expect("starts");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counted = engine.broker().queue_stats(&queue).await.expect("counts");
    counted.ready
}

#[tokio::test(start_paused = true)]
async fn none_of_them() {
    assert_eq!(passing(StatusMessages::Off).await, 0);
    assert_eq!(passing(StatusMessages::Final).await, 3);
    assert_eq!(passing(StatusMessages::All).await, 8);
}

/// Parameters that were made of a secret are left out.
#[tokio::test(start_paused = true)]
async fn secrets_are_not_told() {
    let text = "A>B; A.params = {\"key\":\"{{ secret('KEY') }}\"}; B.params = {\"x\":1}";
    let told = statuses(StatusMessages::All, text).await;
    assert!(!told.contains("hunter2"), "{told}");
    insta::assert_snapshot!(told, @r#"
    {"node_id":"A","node_name":"A","status":"running"}
    {"node_id":"A","node_name":"A","output":{"name":"Ada"},"status":"success"}
    {"node_id":"B","node_name":"B","parameters":{"x":1},"status":"running"}
    {"node_id":"B","node_name":"B","output":{"name":"Ada"},"parameters":{"x":1},"status":"success"}
    "#);
}

/// Errors are stored: what a node type says of its parameters is told without the secret that was among them.
#[tokio::test(start_paused = true)]
async fn errors_tell_no_secrets() {
    let secret = "{{ secret('KEY') }}";
    let nodes = [
        (
            "switch",
            json!({ "cases": [{ "when": secret, "action": "x" }] }),
        ),
        ("sleep", json!({ "duration": secret })),
        ("log", json!({ "message": "m", "level": secret })),
        (
            "http",
            json!({ "url": "http://127.0.0.1:1", "method": secret }),
        ),
        (
            "http",
            json!({ "url": "http://127.0.0.1:1", "headers": secret }),
        ),
        (
            "const",
            json!({ "value": "{{ run.input[secret('KEY')].x }}" }),
        ),
    ];
    for (uses, params) in nodes {
        let text = format!("A; A = {uses}; A.params = {params}");
        let told = statuses(StatusMessages::Final, &text).await;
        assert!(told.contains("\"status\":\"failed\""), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

/// A fallback is handed what was handed to the node that failed.
#[tokio::test]
async fn parameters_of_a_fallback_tell_no_secrets_of_its_node() {
    let text = r#"N; N = fail no; N.inputs = "{{ secret('KEY') }}"; N.config = {"fallback":"F"};
        F = nothing; F.params = {"told":"{{ input }}"}"#;
    let told = statuses(StatusMessages::All, text).await;
    assert!(told.contains("\"node_id\":\"F\""), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}
