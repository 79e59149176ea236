//! Runs whose values are large, or many.

use std::sync::Arc;

use leveret::{
    broker::ConsumeOptions,
    core::{json::Json, parse::workflow_from_json},
    runtime::{Engine, Roles, StartRequest},
};
use serde_json::{Value, json};

use crate::harness::{blueprint, in_memory, serving, work};

fn request(definition: &Value, input: Value) -> StartRequest {
    StartRequest {
        workflow: Arc::new(workflow_from_json(definition, None).expect("valid")),
        input: Json::from(input),
        run_id: None,
    }
}

/// A pure step at the end of a chain reads the output at its start, behind more than a worker keeps at hand.
#[tokio::test]
async fn a_pure_chain_forgets_nothing_that_is_not_recorded() {
    let engine = serving(in_memory(), Roles::all()).await;
    let text = r#"A>B B>C C>D D>E; A = set; B = set; C = set; D = set; E = set;
        A.params = {"output":"mark"}; B.params = {"output":"{{ run.input }}"}; C.params = {"output":"{{ run.input }}"};
        D.inputs = "A"; E.params = {"output":"{{ [A, D] }}"}"#;
    let input = json!("x".repeat(5 << 20));
    let result = engine
        .start_and_wait(request(&blueprint(text), input))
        .await
        .expect("ends");
    assert_eq!(result.output.value(), &json!(["mark", "mark"]));
}

/// The input travels with each first job only as long as that is little in all; the steps get it either way.
#[tokio::test(start_paused = true)]
async fn many_first_jobs_do_not_carry_the_input_each() {
    let engine = Engine::new(in_memory()).await.expect("declares");
    let names: Vec<String> = (0..200).map(|n| format!("n{n}")).collect();
    let input = json!("x".repeat(60_000));
    let request = request(&blueprint(&names.join(" ")), input.clone());
    let (run_id, _) = engine.start(request).await.expect("starts");
    let queue = ConsumeOptions {
        prefetch: 200,
        ..ConsumeOptions::queue(engine.names().execution.clone())
    };
    let mut consumer = engine.broker().consume(queue).await.expect("consumes");
    let mut jobs = Vec::new();
    for _ in &names {
        jobs.push(consumer.next().await.expect("a job for each start"));
    }
    let bytes: usize = jobs.iter().map(|job| job.message.body.len()).sum();
    assert!(bytes < 2 << 20, "{bytes} bytes");
    for job in jobs {
        job.receipt.requeue();
    }
    drop(consumer);
    let (summary, _) = work(&engine, &run_id).await;
    assert!(summary.starts_with("completed"), "{summary}");
    let result = engine.result(&run_id).await.expect("answers");
    let result = result.expect("is recorded");
    assert!(
        result
            .steps
            .values()
            .all(|step| step.output.value() == &input)
    );
}
