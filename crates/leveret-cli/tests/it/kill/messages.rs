//! Messages that are no jobs are dead-lettered with the reason, and the consumer goes on.

use leveret::{
    broker::{ConsumeOptions, Header, Message, Publication},
    core::json::Json,
    runtime::StartRequest,
    store::RunStatus,
};

use super::{
    load::workflow,
    rig::{NEVER, PATIENCE, Rig, Worker},
    servers::Place,
};

/// What is wrong with each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_dead_lettered_with_the_reason() {
    let Some(place) = Place::shared("kill-malformed").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let (engine, names) = (&rig.engine, rig.engine.names().clone());
    let bad = [
        ("not json", "not a job"),
        (r#"{"workflow_id":"w","execution_id":"e"}"#, "node_id"),
        (
            r#"{"workflow_id":"w","execution_id":"no-such-run","node_id":"a"}"#,
            "is not recorded",
        ),
        (
            r#"{"workflow_id":"w","execution_id":"e","node_id":"a","workflow":{"id":"w","nodes":[{"uses":"log"}]}}"#,
            "not valid",
        ),
    ];
    let publish =
        |body: String| Publication::to_queue(names.execution.clone(), Message::json(body));
    let mut batch: Vec<Publication> = bad
        .iter()
        .map(|(body, _)| publish((*body).to_owned()))
        .collect();
    batch.push(publish(format!("\"{}\"", "x".repeat((16 << 20) - 2))));
    for result in engine.broker().publish(batch).await {
        result.expect("publishes");
    }
    let worker = Worker::start(&rig.place);
    let request = StartRequest {
        workflow: workflow("malformed", &[]),
        input: Json::null(),
        run_id: None,
    };
    let result = engine.start_and_wait(request).await;
    let result = result.expect("the run starts");
    assert_eq!(result.status, RunStatus::Completed, "the consumer goes on");

    let letters = ConsumeOptions::queue(names.dead_letters.clone());
    let mut letters = engine.broker().consume(letters).await.expect("consumes");
    let mut reasons = Vec::new();
    while reasons.len() < bad.len() + 1 {
        let letter = tokio::time::timeout(PATIENCE, letters.next()).await;
        let letter = letter
            .expect("the letters come")
            .expect("the consumer lives");
        match letter.message.headers.get("x-leveret-reason") {
            Some(Header::Text(reason)) => reasons.push(reason.clone()),
            other => panic!("no reason: {other:?}"),
        }
        letter.receipt.ack();
    }
    for (_, expect) in bad {
        assert!(
            reasons.iter().any(|reason| reason.contains(expect)),
            "{expect} is not in {reasons:?}"
        );
    }
    drop(worker);
    rig.end().await;
}
