//! Runs whose values are large, or many.

use std::sync::Arc;

use leveret::{
    core::{json::Json, parse::workflow_from_json},
    runtime::{Roles, StartRequest},
};
use serde_json::{Value, json};

use crate::harness::{blueprint, in_memory, serving};

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
