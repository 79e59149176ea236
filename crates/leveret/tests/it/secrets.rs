//! No secret that a workflow reads is in the errors of its steps, which are stored and shown.

use std::sync::Arc;

use leveret::{
    core::{json::Json, parse::workflow_from_json},
    runtime::{EngineParts, Roles, Secrets, StartRequest},
};
use serde_json::{Value, json};

use crate::harness::{blueprint, in_memory, serving};

#[derive(Debug)]
struct Vault;

impl Secrets for Vault {
    fn secret(&self, name: &str) -> Option<String> {
        let value = match name {
            "KEY" => "sk_live_0123456789",
            "HALF" => "sk_live",
            "QUOTED" => r#"it's"x"#,
            _ => return None,
        };
        Some(value.to_owned())
    }
}

/// The errors of the steps, in the order of their nodes' names.
async fn errors(definition: &Value) -> Vec<String> {
    let parts = EngineParts {
        secrets: Arc::new(Vault),
        ..in_memory()
    };
    let engine = serving(parts, Roles::all()).await;
    let request = StartRequest {
        workflow: Arc::new(workflow_from_json(definition, None).expect("valid")),
        input: Json::from(json!({})),
        run_id: None,
    };
    let result = engine.start_and_wait(request).await.expect("ends");
    let errors = result.steps.into_values().filter_map(|step| step.error);
    errors.map(|error| error.message).collect()
}

async fn check(text: &str, expect: &[&str]) {
    assert_eq!(errors(&blueprint(text)).await, expect, "{text}");
}

/// A fallback takes what was handed to the node that failed: the expressions are of that node and its edges, the error is the fallback's.
#[tokio::test]
async fn they_are_left_out_of_the_error_of_a_fallback() {
    let none = "expression `run.input[secret('KEY')].x`: in `run.input[secret('KEY')]`: there is no field `[secret]`";
    check(
        r#"N; N = echo; N.inputs = "{{ run.input[secret('KEY')].x }}"; N.config = {"fallback":"F"}; F = echo"#,
        &[none, none],
    )
    .await;
    check(
        r#"A>N~run.input[secret('KEY')].x~; N = echo; N.config = {"fallback":"F"}; F = echo"#,
        &[none, none],
    )
    .await;
}
