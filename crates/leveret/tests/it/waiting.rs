//! Steps that wait more than once, and what a step reads of the run around it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use leveret::{
    core::{json::Json, parse::workflow_from_json},
    nodes::{NodeContext, NodeError, NodeOutput, Verdict},
    runtime::{EngineParts, Roles, RunResult, StartRequest},
    store::StepStatus,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Harness, PausedClock, blueprint, in_memory, registry, serving};

/// Waits three times, fails once in between, and is done.
fn poll(calls: &AtomicU32, ctx: &NodeContext) -> Result<Verdict, NodeError> {
    match calls.fetch_add(1, Ordering::SeqCst) {
        0..3 => Ok(Verdict::WaitUntil(ctx.now + Duration::from_secs(60))),
        3 => Err(NodeError::transient("not reachable")),
        _ => Ok(Json::from(json!("done")).into()),
    }
}

fn parts() -> EngineParts {
    EngineParts {
        registry: registry(),
        clock: Arc::new(PausedClock::new("r", Instant::now())),
        ..in_memory()
    }
}

async fn result(text: &str, parts: EngineParts) -> RunResult {
    let engine = serving(parts, Roles::all()).await;
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    };
    let result = engine.start_and_wait(request).await.expect("ends");
    assert_eq!(engine.metrics().reconciled.get(), 0);
    assert_eq!(engine.metrics().dead_letters.get(), 0);
    result
}

#[tokio::test(start_paused = true)]
async fn a_step_waits_as_often_as_it_likes() {
    let mut parts = parts();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    parts.registry.register_fn("poll", move |ctx: NodeContext| {
        let verdict = poll(&counted, &ctx);
        async move { verdict }
    });
    let text = r#"P>Q; P = poll; P.config = {"maxRetries":5,"retryDelay":1000}"#;
    let result = result(text, parts).await;
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    assert_eq!(result.steps["Q"].output, Json::from(json!("done")));
}

/// `J` reads what `B` set, though `A`, which is driven on to `J`, read it before.
#[tokio::test(start_paused = true)]
async fn a_join_reads_the_context_of_all_branches() {
    let mut parts = parts();
    parts
        .registry
        .register_fn("slow", |ctx: NodeContext| async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(ctx.input)
        });
    parts.registry.register_fn("late", |_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(NodeOutput {
            context: vec![("flag".into(), Json::from(json!("on")))],
            ..NodeOutput::default()
        })
    });
    let text = r#"S>A S>B A>J B>J; A = slow; B = late; A.inputs = "flag"; J.inputs = "flag""#;
    let result = result(text, parts).await;
    let output = |node: &str| -> Value { result.steps[node].output.value().clone() };
    assert_eq!((output("A"), output("J")), (json!(null), json!("on")));
}

/// A run that is driven while its start is on its way to the disk: the second step reads the context, which only the store knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_not_visible_yet_loads_nothing() {
    let harness = Harness::start().await;
    let text = r#"A>B B>C; A = set; B = set; B.inputs = "flag""#;
    for _ in 0..20 {
        let result = harness
            .run_result(&blueprint(text), json!({ "flag": "on" }))
            .await;
        assert_eq!(result.steps["C"].output, Json::from(json!("on")));
    }
    assert_eq!(harness.engine.metrics().dead_letters.get(), 0);
    harness.stop().await;
}

/// A step that is tried again at once, again and again, is not tried any more when its run is cancelled.
#[tokio::test(start_paused = true)]
async fn no_attempt_follows_a_cancel() {
    let mut parts = parts();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    parts.registry.register_fn("busy", move |_: NodeContext| {
        let calls = counted.clone();
        async move {
            calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err::<Value, _>(NodeError::transient("busy"))
        }
    });
    let engine = serving(parts, Roles::all()).await;
    let text = r#"A>B; A = busy; A.config = {"maxRetries":100,"retryDelay":0}"#;
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.cancel(&run_id).await.expect("cancels");
    let before = calls.load(Ordering::SeqCst);
    assert!(before > 5, "{before} calls");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(calls.load(Ordering::SeqCst), before);
}

/// What PostgreSQL cannot hold fails the step, whatever the store.
#[tokio::test(start_paused = true)]
async fn a_null_character_in_an_action_fails_the_step() {
    let mut parts = parts();
    parts
        .registry
        .register_fn("nul", |ctx: NodeContext| async move {
            let key = ctx.params["value"].as_str().unwrap_or_default();
            Ok(NodeOutput {
                action: (key == "action").then(|| "a\0".into()),
                context: vec![(
                    format!("k{}", if key == "key" { "\0" } else { "" }).into(),
                    Json::null(),
                )],
                ..NodeOutput::default()
            })
        });
    let engine = serving(parts, Roles::all()).await;
    for (which, status) in [
        ("action", StepStatus::Failed),
        ("key", StepStatus::Failed),
        ("no", StepStatus::Completed),
    ] {
        let workflow = workflow_from_json(&blueprint(&format!("A; A = nul {which}")), None);
        let request = StartRequest {
            workflow: Arc::new(workflow.expect("valid")),
            input: Json::null(),
            run_id: None,
        };
        let result = engine.start_and_wait(request).await.expect("ends");
        assert_eq!(result.steps["A"].status, status, "{which}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_in_a_run_that_ended() {
    let engine = serving(parts(), Roles::all()).await;
    let text = r#"A>B; A = sleep; A.params = {"duration":"1h"}"#;
    let workflow = workflow_from_json(&blueprint(text), None).expect("valid");
    let request = StartRequest {
        workflow: Arc::new(workflow),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    while engine
        .store()
        .next_timer()
        .await
        .expect("answers")
        .is_none()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let of_nap = async || {
        let result = engine.result(&run_id).await.expect("answers");
        result.expect("the run is recorded").steps["A"].status
    };
    assert_eq!(of_nap().await, StepStatus::Waiting);
    engine.cancel(&run_id).await.expect("cancels");
    assert_eq!(of_nap().await, StepStatus::Cancelled);
}
