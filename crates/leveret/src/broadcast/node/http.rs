//! A node's paths: what its heart asks, health, metrics, and the document of them.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::Node;
use crate::{
    broadcast::{
        NodeState,
        wire::{node_path, serve},
    },
    http::{Guard, Scope, guarded},
    metrics::text::CONTENT_TYPE,
};

/// How long the broker may take to count the queue.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// The paths of operators, with what they are.
const OPEN: [(&str, &str, &str); 4] = [
    ("/health/live", "get", "Answers as long as the process can"),
    (
        "/health/ready",
        "get",
        "200 while the node is live, else 503 with its state",
    ),
    ("/metrics", "get", "Metrics in the Prometheus text format"),
    ("/api/openapi.json", "get", "This document"),
];

/// The paths of the heart, with what they are.
const LINK: [(&str, &str, &str); 5] = [
    (
        node_path::QUERY,
        "post",
        "Answers a question from a snapshot",
    ),
    (
        node_path::CONTENTS,
        "get",
        "The digest of all contents at exactly the seq `at`, which the node waits for",
    ),
    (
        node_path::OUTCOMES,
        "get",
        "Outcomes of writes behind the seq `after`",
    ),
    (node_path::SNAPSHOT, "get", "A copy of the whole database"),
    (node_path::NUDGE, "post", "Asks the heart for orders now"),
];

/// A node's routes, behind the guard: health is open to all, the rest to who may look, and what the heart asks to who may do everything.
/// Serve them with [`http::serve`](crate::http::serve()).
pub fn router(node: &Node, guard: Guard) -> Router {
    let directory = node.0.options.directory.clone();
    let database_id = node.status().database_id.clone();
    let link = serve::node_routes(node.link(), &database_id, directory);
    let routes = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/openapi.json", get(|| async { Json(document()) }))
        .with_state(node.clone())
        .merge(link);
    guarded(routes, guard, scope)
}

/// The scope of a request.
fn scope(_method: &Method, path: &str) -> Option<Scope> {
    match path {
        _ if path.starts_with("/health/") => None,
        "/metrics" | "/api/openapi.json" => Some(Scope::Read),
        _ => Some(Scope::Admin),
    }
}

async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

async fn ready(State(node): State<Node>) -> Response {
    let status = node.status();
    let code = match status.state {
        NodeState::Live => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "status": if code == StatusCode::OK { "ready" } else { "not_ready" },
        "node_id": node.0.options.node_id,
        "state": status.state,
        "fault": status.fault,
        "position": status.position,
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(node): State<Node>) -> Response {
    let queue = node.0.options.queue();
    let asked = timeout(ASK_TIMEOUT, node.0.broker.queue_stats(&queue)).await;
    let depth = asked.ok().and_then(Result::ok).map(|stats| stats.ready);
    let text = node.metrics().text(&node.0.options, &node.status(), depth);
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))];
    (kind, text).into_response()
}

/// The OpenAPI document of a node.
pub fn document() -> Value {
    let paths = OPEN.iter().chain(&LINK).map(|&(path, method, summary)| {
        let mut operation = json!({
            "summary": summary,
            "responses": { "200": { "description": "Done" }, "default": { "description": "A problem" } },
        });
        if !path.starts_with("/health/") {
            operation["security"] = json!([{ "token": [] }, {}]);
        }
        let mut methods = Map::new();
        methods.insert(method.to_owned(), operation);
        (path.to_owned(), Value::Object(methods))
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Leveret node",
            "description": "A database node: what its heart asks of it, and how it is.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": Value::Object(paths.collect()),
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
    })
}
