//! What a completion message tells.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use leveret::{
    Connected,
    broker::{Binding, ConsumeOptions, Message, Publication, Queue, Topology},
    connect,
    core::{json::Json, parse::workflow_from_json},
    runtime::{
        Engine, EngineOptions, EngineParts, Part, Publish, Roles, RunResult, StartRequest,
        WorkerOptions,
    },
};
use serde_json::{Value, json};

use tokio::time::Instant;

use crate::harness::{PausedClock, TempDir, blueprint, in_memory, serving};

/// A serving engine whose messages have 1000 bytes at most.
async fn engine() -> Engine {
    serving(
        EngineParts {
            options: EngineOptions {
                message_bytes_max: 1000,
                ..EngineOptions::default()
            },
            ..in_memory()
        },
        Roles::all(),
    )
    .await
}

/// Runs a workflow of two terminal nodes that echo the input; its result.
async fn run(engine: &Engine, input: &str) -> RunResult {
    let workflow = workflow_from_json(&blueprint("A>B A>C"), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::from(json!(input)),
        run_id: None,
    };
    engine.start_and_wait(request).await.expect("starts")
}

/// The next completion message.
async fn completion(engine: &Engine) -> Value {
    let queue = ConsumeOptions::queue(engine.names().completion.clone());
    let mut completions = engine.broker().consume(queue).await.expect("consumes");
    let delivery = tokio::time::timeout(Duration::from_secs(10), completions.next()).await;
    let delivery = delivery.ok().flatten().expect("the completion comes");
    let body = serde_json::from_slice(&delivery.message.body).expect("JSON");
    delivery.receipt.ack();
    body
}

#[tokio::test]
async fn it_has_the_outputs_of_the_terminal_nodes() {
    let engine = engine().await;
    run(&engine, "x").await;
    let completion = completion(&engine).await;
    assert_eq!(completion["final_context"], json!({ "$B": "x", "$C": "x" }));
    assert_eq!(completion.get("final_context_left_out"), None);
}

/// Two outputs that fit each, and not together: without them the end is told all the same.
#[tokio::test]
async fn it_leaves_out_outputs_that_make_it_too_large() {
    let input = "x".repeat(600);
    let engine = engine().await;
    let result = run(&engine, &input).await;
    let completion = completion(&engine).await;
    assert_eq!(result.output.value()["B"], json!(input));
    assert_eq!(completion["status"], "completed");
    assert_eq!(completion["final_context"], json!({}));
    assert_eq!(completion["final_context_left_out"], json!(true));
}

/// It ends as it begins, without a worker.
async fn without_nodes(engine: &Engine) {
    let workflow = workflow_from_json(&json!({ "id": "w", "nodes": [] }), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    let completion = completion(engine).await;
    assert_eq!(completion["execution_id"], run_id.as_str());
    assert_eq!(completion["status"], "completed");
    assert_eq!(completion["final_context"], json!({}));
    assert_eq!(engine.metrics().runs_completed.get(), 1);
}

#[tokio::test]
async fn it_comes_for_a_run_without_nodes_too() {
    without_nodes(&engine().await).await;
}

#[tokio::test]
async fn it_comes_for_a_run_without_nodes_too_if_all_is_in_one_file() {
    let directory = TempDir::new();
    let url = format!("sqlite:{}", directory.file("leveret.db"));
    let Connected {
        store,
        broker,
        one_file,
        ..
    } = connect(&url, "embedded:").await.expect("connects");
    let parts = EngineParts {
        one_file,
        publish: Publish::EVERYTHING,
        ..EngineParts::new(store, broker)
    };
    let engine = Engine::new(parts).await.expect("declares");
    without_nodes(&engine).await;
    engine.close().await;
}

/// How the run ended, when, and after how long: the message agrees with what is recorded.
#[tokio::test(start_paused = true)]
async fn it_tells_how_when_and_why_a_run_ended() {
    let clock = Arc::new(PausedClock::new("run", Instant::now()));
    let parts = EngineParts {
        clock,
        ..in_memory()
    };
    let engine = serving(parts, Roles::all()).await;
    let slow = "A>B; A = sleep; A.params = {\"duration\":1500}; B = ";
    let cases = [
        ("const 7", "completed", Value::Null, json!({ "$B": 7 })),
        ("fail boom", "failed", json!("boom"), json!({})),
        ("hang", "halted", json!("cancelled"), json!({})),
    ];
    for (last, status, reason, context) in cases {
        let definition = blueprint(&format!("{slow}{last}"));
        let request = StartRequest {
            workflow: Arc::new(workflow_from_json(&definition, None).expect("valid")),
            input: Json::null(),
            run_id: None,
        };
        let (run_id, _) = engine.start(request).await.expect("starts");
        if status == "halted" {
            tokio::time::sleep(Duration::from_secs(2)).await;
            engine.cancel(&run_id).await.expect("cancels");
        }
        let told = completion(&engine).await;
        let run = engine
            .store()
            .run(&run_id)
            .await
            .expect("the store answers");
        let run = run.expect("the run is recorded");
        let ended_at = run.ended_at.expect("the run ended");
        let duration_ms = ended_at.ms_since(run.created_at);
        assert!((1500..3000).contains(&duration_ms), "{duration_ms}");
        assert_eq!(told["execution_id"], run_id.as_str());
        assert_eq!(told["workflow_id"], "case");
        assert_eq!(told["status"], status);
        assert_eq!(told["failure_reason"], reason);
        assert_eq!(told.get("failure_reason").is_some(), !reason.is_null());
        assert_eq!(told["completed_at"], ended_at.to_string());
        assert_eq!(told["total_duration_ms"], duration_ms);
        assert_eq!(told["final_context"], context);
    }
}

/// Without faults there is one message a run, however it ends: they are counted, long after the ends.
#[tokio::test(start_paused = true)]
async fn it_is_published_once() {
    let clock = Arc::new(PausedClock::new("run", Instant::now()));
    let parts = EngineParts {
        clock,
        ..in_memory()
    };
    let engine = serving(parts, Roles::all()).await;
    let texts = [
        "A>B B>C",
        "S>A S>B S>C A>J B>J C>J; J.join = any",
        "A B C",
        "A>C; A = fail boom",
        "S>A S>B; A = fail boom; B = sleep; B.params = {\"duration\":500}",
        "A>B; B = hang",
    ];
    let mut expected = Vec::new();
    for text in texts.iter().cycle().take(30) {
        let request = StartRequest {
            workflow: Arc::new(workflow_from_json(&blueprint(text), None).expect("valid")),
            input: Json::null(),
            run_id: None,
        };
        let (run_id, _) = engine.start(request).await.expect("starts");
        if text.contains("hang") {
            tokio::time::sleep(Duration::from_secs(1)).await;
            engine.cancel(&run_id).await.expect("cancels");
        }
        expected.push(run_id.to_string());
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    let queue = engine.names().completion.clone();
    let stats = engine.broker().queue_stats(&queue).await.expect("counts");
    let mut told = Vec::new();
    for _ in 0..stats.ready {
        let body = completion(&engine).await;
        told.push(body["execution_id"].as_str().expect("an id").to_owned());
    }
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
}

/// Somebody deleted its queue: it comes back, and so does the message.
#[tokio::test(start_paused = true)]
async fn it_is_not_lost_with_its_queue() {
    let engine = engine().await;
    let queue = engine.names().completion.clone();
    engine.broker().delete_queue(&queue).await.expect("deletes");
    run(&engine, "x").await;
    let declared = async {
        while !matches!(engine.broker().queue_stats(&queue).await, Ok(stats) if stats.ready == 1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let declared = tokio::time::timeout(Duration::from_secs(30), declared).await;
    declared.expect("the queue comes back");
    assert_eq!(completion(&engine).await["status"], "completed");
}

/// Two clients cancel a run at the same moment, each with a job that tells of it in case the client goes away: one of them does.
#[tokio::test(start_paused = true)]
async fn it_comes_once_for_cancellations_at_the_same_time() {
    let engine = engine().await;
    let workflow = workflow_from_json(&blueprint("A; A = hang"), None).expect("valid");
    let hash = workflow.hash.to_string();
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    engine.cancel(&run_id).await.expect("cancels");
    let of_another = json!({
        "workflow_id": "flow", "workflow_hash": hash, "execution_id": run_id, "node_id": "A", "cancel": true, "cancelled_at": 1,
    });
    let message = Message::json(of_another.to_string());
    let publication = Publication::to_queue(engine.names().execution.clone(), message);
    for published in engine.broker().publish(vec![publication]).await {
        published.expect("publishes");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(completion(&engine).await["status"], "halted");
    let queue = engine.names().completion.clone();
    let stats = engine.broker().queue_stats(&queue).await;
    assert_eq!(stats.expect("the queue is there").ready, 0);
    assert_eq!(engine.metrics().dead_letters.get(), 0);
}

/// A queue of others gets completions, too, and is full: more runs end than the worker takes deliveries, readiness tells what waits, and all
/// completions come when there is room.
#[tokio::test(start_paused = true)]
async fn a_full_queue_holds_up_nothing_else() {
    const RUNS: usize = 12;
    let parts = EngineParts {
        clock: Arc::new(PausedClock::new("r", Instant::now())),
        ..in_memory()
    };
    let roles = Roles {
        worker: Some(WorkerOptions {
            concurrency: 2,
            prefetch: 4,
            ..WorkerOptions::default()
        }),
        ..Roles::all()
    };
    let engine = serving(parts, roles).await;
    let names = engine.names().clone();
    let audit = Topology {
        queues: vec![Queue::plain("audit").length_max(1)],
        bindings: vec![Binding {
            queue: "audit".into(),
            exchange: names.exchange,
            routing_key: names.completion,
        }],
        ..Topology::default()
    };
    engine.broker().declare(&audit).await.expect("declares");
    let mut missing = BTreeSet::new();
    for _ in 0..RUNS {
        let ended = tokio::time::timeout(Duration::from_secs(60), run(&engine, "x")).await;
        let result = ended.expect("the run ends");
        missing.insert(format!("{}/completion", result.run_id));
    }
    // Through several tries.
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(999)).await;
        assert_eq!(engine.not_ready(true).await, [Part::Publishing]);
    }
    assert_eq!(engine.held_back().len(), 1, "{:?}", engine.held_back());

    let queue = ConsumeOptions::queue("audit");
    let mut completions = engine.broker().consume(queue).await.expect("consumes");
    while !missing.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(60), completions.next()).await;
        let delivery = next.ok().flatten().expect("the completion comes");
        missing.remove(&*delivery.message.message_id.clone().expect("has an id"));
        delivery.receipt.ack();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.not_ready(true).await, []);
    assert_eq!(engine.store().next_timer().await.expect("answers"), None);
}
