//! What a failed response says to whoever retries, and to expressions.

use std::time::{Duration, Instant};

use leveret::nodes::RETRY_AFTER_MAX;
use serde_json::{Value, json};

use super::{Server, answer, ok};
use crate::{
    harness::{Harness, blueprint},
    nodes::{attempt, context},
};

/// Seconds, or a date; of what is transient. The attempt began a second after 1970 did.
#[tokio::test]
async fn a_server_says_how_long_to_wait() {
    let seconds = |count| Some(Duration::from_secs(count));
    for (status, header, expect) in [
        ("429 Too Many Requests", "retry-after: 7", seconds(7)),
        ("503 Service Unavailable", "Retry-After:  0 ", seconds(0)),
        (
            "503 Service Unavailable",
            "retry-after: Thu, 01 Jan 1970 00:01:01 GMT",
            seconds(60),
        ),
        (
            "503 Service Unavailable",
            "retry-after: Thu, 01 Jan 1970 00:00:00 GMT",
            seconds(0),
        ),
        (
            "503 Service Unavailable",
            "retry-after: 99999999",
            Some(RETRY_AFTER_MAX),
        ),
        ("503 Service Unavailable", "retry-after: soon", None),
        ("503 Service Unavailable", "retry-after: -1", None),
        ("503 Service Unavailable", "x-y: 1", None),
        ("404 Not Found", "retry-after: 7", None),
    ] {
        let server = Server::start(vec![answer(status, &format!("{header}\r\n"), "")]).await;
        let error = attempt("http", context(json!({ "url": server.url() }))).await;
        let error = error.expect_err("no result");
        assert_eq!(error.retry_after(), expect, "{status} {header}");
        assert_eq!(error.status(), status[..3].parse().ok());
    }
}

/// Although the node's own delay is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_attempt_waits_as_long() {
    let away = answer("503 Service Unavailable", "retry-after: 1\r\n", "");
    let server = Server::start(vec![away, ok()]).await;
    let definition = blueprint(&format!(
        r#"A; A = http; A.params = {{"url":"{}"}}; A.config = {{"maxRetries":2,"retryDelay":0}}"#,
        server.url()
    ));
    let harness = Harness::start().await;
    let begun = Instant::now();
    let result = harness.run_result(&definition, Value::Null).await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(result.steps["A"].attempts, 2);
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_read_the_status_of_a_failed_response() {
    let server = Server::start(vec![answer("404 Not Found", "", "none")]).await;
    let definition = blueprint(&format!(
        r#"A; A = http; A.params = {{"url":"{}"}}; A.config = {{"fallback":"F"}}; F = set; F.params = {{"output":"{{{{ nodes.A.error.status }}}}"}}"#,
        server.url()
    ));
    let harness = Harness::start().await;
    let result = harness.run_result(&definition, Value::Null).await;
    let error = result.steps["A"].error.as_ref().expect("it failed");
    assert_eq!(error.status, Some(404));
    assert_eq!(result.steps["F"].output.value(), &json!(404));
    harness.stop().await;
}
