//! The definition that a message carries, and that a run keeps to the definition and the input that it began with.

use std::{sync::Arc, time::Duration};

use leveret::{
    broker::{ConsumeOptions, Message, Publication},
    core::{ids::RunId, json::Json, parse::workflow_from_json},
    runtime::{Engine, Roles, StartRequest},
};
use serde_json::{Value, json};

use crate::harness::{blueprint, in_memory, serving, work};

/// An engine with a run of `A>B`, and what another definition of its workflow is like.
async fn begun() -> (Engine, RunId, Value) {
    let engine = Engine::new(in_memory()).await.expect("declares");
    let request = StartRequest {
        workflow: Arc::new(
            workflow_from_json(&blueprint("A>B; B = const 1"), None).expect("valid"),
        ),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = engine.start(request).await.expect("starts");
    (engine, run_id, blueprint("A>C; C = const 2"))
}

async fn publish(engine: &Engine, job: &Value) {
    let message = Message {
        body: job.to_string().into(),
        ..Message::default()
    };
    let publication = Publication::to_queue(engine.names().execution.clone(), message);
    for published in engine.broker().publish(vec![publication]).await {
        published.expect("publishes");
    }
}

/// Publishes a message that comes once, or again.
async fn deliver(engine: &Engine, job: &Value, again: bool) {
    if again {
        publish_twice(engine, job).await;
    } else {
        publish(engine, job).await;
    }
}

/// Publishes a message that comes again: the first time nobody settles it.
async fn publish_twice(engine: &Engine, job: &Value) {
    let queue = engine.names().execution.clone();
    let mut consumer = engine
        .broker()
        .consume(ConsumeOptions::queue(queue))
        .await
        .expect("consumes");
    let original = consumer.next().await.expect("the run's own job is there");
    publish(engine, job).await;
    drop(consumer.next().await.expect("the other job is there"));
    original.receipt.requeue();
}

/// Whether it comes for the first time or again.
#[tokio::test(start_paused = true)]
async fn a_first_message_with_another_one_is_dead_lettered() {
    for again in [false, true] {
        first_message_with_another_one(again).await;
    }
}

async fn first_message_with_another_one(again: bool) {
    let (engine, run_id, other) = begun().await;
    let job = json!({
        "workflow_id": other["id"], "execution_id": run_id.as_str(), "node_id": "A", "workflow": other,
    });
    deliver(&engine, &job, again).await;
    let (summary, letters) = work(&engine, &run_id).await;
    assert_eq!(summary, "completed 1 | A B |");
    assert_eq!(
        letters,
        [format!(
            "run {run_id} was begun with another definition of its workflow"
        )]
    );
}

/// A copy of a first message is dropped; what only has the same run id is told to whoever sent it.
#[tokio::test(start_paused = true)]
async fn a_first_message_with_another_input_is_dead_lettered() {
    for again in [false, true] {
        let (engine, run_id, _) = begun().await;
        let job = json!({
            "workflow_id": "case", "execution_id": run_id.as_str(), "node_id": "A",
            "workflow": blueprint("A>B; B = const 1"), "input": { "another": 1 },
        });
        deliver(&engine, &job, again).await;
        let (summary, letters) = work(&engine, &run_id).await;
        assert_eq!(summary, "completed 1 | A B |");
        assert_eq!(
            letters,
            [format!("run {run_id} was begun with another input")]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_job_of_another_definition_is_dead_lettered() {
    let (engine, run_id, other) = begun().await;
    let job = json!({
        "workflow_id": other["id"], "execution_id": run_id.as_str(), "node_id": "A", "workflow": other,
        "cancel": true,
    });
    publish(&engine, &job).await;
    let (summary, letters) = work(&engine, &run_id).await;
    assert_eq!(summary, "completed 1 | A B |");
    assert_eq!(
        letters,
        [format!(
            "run {run_id} was begun with another definition of its workflow"
        )]
    );
}

/// Publishes a message to a worker, and returns the completion of its run.
async fn work_on(job: &Value) -> Value {
    let engine = serving(in_memory(), Roles::all()).await;
    let queue = ConsumeOptions::queue(engine.names().completion.clone());
    let mut completions = engine.broker().consume(queue).await.expect("consumes");
    let message = Message::json(job.to_string());
    let published = engine.broker().publish(vec![Publication::to_queue(
        engine.names().execution.clone(),
        message,
    )]);
    for published in published.await {
        published.expect("publishes");
    }
    let delivery = tokio::time::timeout(Duration::from_secs(30), completions.next()).await;
    let delivery = delivery.expect("the run ends").expect("a completion");
    let body = serde_json::from_slice(&delivery.message.body).expect("JSON");
    delivery.receipt.ack();
    body
}

/// As Rune's API sends it: its names, and fields that are not ours.
#[tokio::test(start_paused = true)]
async fn a_first_message_in_runes_words_is_worked_on() {
    let job = json!({
        "workflow_id": "case", "workflow_version": 3, "workflow_version_id": 17, "execution_id": "ex1", "current_node": "A",
        "workflow_definition": blueprint("A>B; B = const 1"), "accumulated_context": {},
    });
    let completion = work_on(&job).await;
    assert_eq!(completion["execution_id"], "ex1");
    assert_eq!(completion["status"], "completed");
    assert_eq!(completion["final_context"], json!({ "$B": 1 }));
}

/// In both words at once, which agree, and with a definition that has no name but that of the message.
#[tokio::test(start_paused = true)]
async fn a_first_message_in_both_words_is_worked_on() {
    let mut definition = blueprint("A>B; B = const 1");
    definition.as_object_mut().expect("an object").remove("id");
    let job = json!({
        "workflow_id": "named", "execution_id": "ex1", "node_id": "A", "current_node": "A",
        "workflow": definition, "workflow_definition": definition,
    });
    let completion = work_on(&job).await;
    assert_eq!(completion["workflow_id"], "named");
    assert_eq!(completion["status"], "completed");
}
