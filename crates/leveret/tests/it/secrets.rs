//! No secret that a workflow reads is in the errors of its steps, which are stored and shown.

use std::sync::Arc;

use leveret::{
    core::{json::Json, parse::workflow_from_json},
    runtime::{EngineParts, Roles, Secrets, StartRequest},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

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

#[tokio::test]
async fn they_are_left_out_whole_and_as_they_are_quoted() {
    check(
        r#"N; N = fail "{{ [secret('HALF')][0] == '' ? '' : 'told ' + secret('KEY') }}""#,
        &["told [secret]"],
    )
    .await;
    check(
        r#"N; N = http x; N.params = {"url":"http://127.0.0.1:1","headers":"{{ secret('QUOTED') }}"}"#,
        &[r#"parameters: invalid type: string "[secret]", expected a map"#],
    )
    .await;
}

/// A server that repeats what it was sent, with the secret where the error is cut.
#[tokio::test]
async fn they_are_left_out_before_an_answer_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("has one"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let _read = stream.read(&mut [0; 4096]).await.expect("reads");
        let body = format!("{}sk_live_0123456789 is not valid", "x".repeat(190));
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 401 no\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).await.expect("writes");
    });
    let definition = json!({ "id": "w", "secrets": ["KEY"], "nodes": [{
        "id": "N", "uses": "http",
        "params": { "url": url, "headers": { "authorization": "{{ secret('KEY') }}" } },
    }] });
    let [error] = &errors(&definition).await[..] else {
        panic!("it fails")
    };
    assert!(error.ends_with("xx[secret] i…"), "{error}");
}
