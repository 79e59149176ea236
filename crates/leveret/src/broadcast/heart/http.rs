//! The heart over HTTP: writes, questions, operators' orders, and what nodes ask for.
//!
//! Errors are `application/problem+json`. Bodies are strict and bounded. Serve the routes with [`http::serve`](crate::http::serve()).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::future::join_all;
use leveret_core::broadcast::{Outcome, SqlError, StatementResult, Value};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AdminError, Heart, HeartState, Mistake, QuestionError, ReadRequest, Recovered, Status,
    Verified, WriteError, WriteRequest, Written, metrics,
    request::{ReadBody, WriteBody},
};
use crate::{
    broadcast::{
        replica::ReadError,
        wire::serve::{heart_routes, problem, problem_with},
    },
    http::{Guard, ProblemBody, Scope, describe, guarded},
    metrics::text::CONTENT_TYPE,
};

/// The largest body, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// How long the broker may take to count a queue.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Leveret heart",
        description = "Replicated writes: SQL that every node applies, in one order. Errors are `application/problem+json`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "data", description = "Writes and questions"),
        (name = "cluster", description = "Nodes, and orders for them"),
        (name = "operations", description = "Health, metrics, and this document"),
    ),
    components(schemas(ProblemBody)),
)]
struct Document;

fn routes() -> OpenApiRouter<Heart> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(write))
        .routes(routes!(read))
        .routes(routes!(status))
        .routes(routes!(verify))
        .routes(routes!(rebuild))
        .routes(routes!(remove))
        .routes(routes!(recover))
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(scrape))
        .routes(routes!(openapi))
}

/// The OpenAPI 3.1 document of a heart.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    describe(&mut document, scope);
    document
}

/// A heart's routes, behind the guard: health is open to all.
pub fn router(heart: &Heart, guard: Guard) -> Router {
    let directory = heart.0.options.directory.clone();
    let link = heart_routes(Arc::new(heart.clone()), directory);
    let (own, _) = routes().split_for_parts();
    let all = own
        .with_state(heart.clone())
        .merge(link)
        .method_not_allowed_fallback(|| async {
            let detail = "this path does not take this method; see the header Allow";
            problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .fallback(|| async {
            let detail = "there is nothing at this path; see /api/openapi.json";
            problem(StatusCode::NOT_FOUND, "not-found", detail)
        });
    guarded(all, guard, scope)
}

/// The scope of a request. What nodes ask for is everything there is.
fn scope(_method: &Method, path: &str) -> Option<Scope> {
    match path {
        _ if path.starts_with("/health/") => None,
        "/read" | "/status" | "/metrics" | "/api/openapi.json" => Some(Scope::Read),
        "/write" => Some(Scope::Run),
        _ => Some(Scope::Admin),
    }
}

/// What came of a write.
#[derive(Debug, Serialize, ToSchema)]
struct WriteAnswer {
    /// The epoch of the heart that logged it.
    epoch: u64,
    /// Its place among all writes.
    seq: u64,
    /// One result a statement; null at level `accepted`, and with an error.
    #[schema(value_type = Option<Vec<Object>>)]
    results: Option<Vec<StatementResult>>,
    /// What is wrong with its SQL: then none of its statements happened, on any node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    error: Option<SqlError>,
}

impl From<Written> for WriteAnswer {
    fn from(written: Written) -> WriteAnswer {
        let (results, error) = match written.outcome {
            None => (None, None),
            Some(Outcome::Done(results)) => (Some(results), None),
            Some(Outcome::Failed(error)) => (None, Some(error)),
        };
        WriteAnswer {
            epoch: written.position.epoch,
            seq: written.position.seq,
            results,
            error,
        }
    }
}

/// Logs a write and waits for its level: `{"sql", "args"}` or `{"statements": [{"sql", "args"}, …]}`, `ack` (`accepted`, `one`, `quorum`, `all`),
/// `timeout_ms`. With the header `Idempotency-Key` the same request again is the same write.
#[utoipa::path(post, path = "/write", tag = "data", request_body = WriteBody, responses(
    (status = 200, description = "Logged, and applied as widely as asked; an SQL error is in `error`", body = WriteAnswer),
    (status = 400, description = "Not a write; nothing was logged"),
    (status = 409, description = "The key belongs to another write"),
    (status = 422, description = "A PostgreSQL node is a member, and would not take it; nothing was logged"),
    (status = 503, description = "Not possible now"),
    (status = 504, description = "Logged (`epoch`, `seq`), but not applied as widely as asked in time"),
))]
async fn write(State(heart): State<Heart>, headers: HeaderMap, body: Body) -> Response {
    let body = match read_body(&headers, body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let request = key(&headers).and_then(|key| WriteRequest::parse(&body, key));
    let request = match request {
        Ok(request) => request,
        Err(Mistake(detail)) => return bad_request(&detail),
    };
    match heart.write(request).await {
        Ok(written) => Json(WriteAnswer::from(written)).into_response(),
        Err(error) => not_written(&error),
    }
}

fn not_written(error: &WriteError) -> Response {
    let detail = error.to_string();
    match error {
        WriteError::KeyTaken => problem(StatusCode::CONFLICT, "key-taken", &detail),
        WriteError::NotYet { position } => problem_with(
            StatusCode::GATEWAY_TIMEOUT,
            "not-yet",
            &detail,
            json!({ "epoch": position.epoch, "seq": position.seq }),
        ),
        WriteError::NotPortable { statement, .. } => problem_with(
            StatusCode::UNPROCESSABLE_ENTITY,
            "not-portable",
            &detail,
            json!({ "statement": statement }),
        ),
        WriteError::Unavailable { .. } => unavailable(&detail),
        WriteError::Uncertain { .. } => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "uncertain", &detail)
        }
    }
}

/// An answer to a question.
#[derive(Debug, Serialize, ToSchema)]
struct ReadAnswer {
    /// The columns.
    columns: Vec<String>,
    /// The rows.
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    rows: Vec<Vec<Value>>,
    /// Who gave them.
    node_id: String,
    /// The last write in the snapshot that gave them.
    seq: u64,
}

/// Asks a node: `{"sql", "args"}`, `level` (`any`, `session`, `bounded`, `latest`), `min_seq`, `max_lag_ms`, `timeout_ms`.
#[utoipa::path(post, path = "/read", tag = "data", request_body = ReadBody, responses(
    (status = 200, description = "The rows", body = ReadAnswer),
    (status = 400, description = "Not a question"),
    (status = 422, description = "An SQL error, or more than a question may do or give"),
    (status = 503, description = "No node answers, or this heart cannot say what is latest"),
    (status = 504, description = "No node is as fresh as asked for, in time"),
))]
async fn read(State(heart): State<Heart>, headers: HeaderMap, body: Body) -> Response {
    let body = match read_body(&headers, body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let request = match ReadRequest::parse(&body) {
        Ok(request) => request,
        Err(Mistake(detail)) => return bad_request(&detail),
    };
    match heart.read(request).await {
        Ok(answer) => Json(ReadAnswer {
            columns: answer.rows.columns,
            rows: answer.rows.rows,
            node_id: answer.node_id.to_string(),
            seq: answer.rows.seq,
        })
        .into_response(),
        Err(error) => not_read(&error),
    }
}

fn not_read(error: &QuestionError) -> Response {
    const REFUSED: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    let detail = error.to_string();
    match error {
        QuestionError::Read(ReadError::Sql { code, .. }) => {
            problem_with(REFUSED, "sql", &detail, json!({ "code": code }))
        }
        QuestionError::Read(ReadError::NotReadOnly { .. }) => {
            problem(REFUSED, "not-read-only", &detail)
        }
        QuestionError::Read(ReadError::Limit { what: "time" }) | QuestionError::NotYet { .. } => {
            problem(StatusCode::GATEWAY_TIMEOUT, "not-yet", &detail)
        }
        QuestionError::Read(ReadError::Limit { .. }) => problem(REFUSED, "limit", &detail),
        QuestionError::Read(_) | QuestionError::NoNode { .. } | QuestionError::NotLatest { .. } => {
            unavailable(&detail)
        }
    }
}

/// How the cluster is.
#[utoipa::path(get, path = "/status", tag = "cluster", responses(
    (status = 200, description = "The heart and its nodes", body = Status),
))]
async fn status(State(heart): State<Heart>) -> Response {
    Json(heart.status().await).into_response()
}

/// Compares the contents of all nodes at one seq; those that differ are quarantined.
#[utoipa::path(post, path = "/verify", tag = "cluster", responses(
    (status = 200, description = "What was found", body = Verified),
    (status = 503, description = "Not possible now"),
))]
async fn verify(State(heart): State<Heart>) -> Response {
    ordered(heart.verify().await)
}

/// Puts a snapshot in the place of a node's contents; answers when it serves.
#[utoipa::path(post, path = "/nodes/{node_id}/rebuild", tag = "cluster",
    params(("node_id" = String, Path, description = "The node")),
    responses(
        (status = 200, description = "It serves"),
        (status = 404, description = "There is no such node"),
        (status = 422, description = "There is nothing to rebuild it from"),
        (status = 503, description = "Not possible now"),
    ),
)]
async fn rebuild(State(heart): State<Heart>, Path(node_id): Path<String>) -> Response {
    let rebuilt = heart.rebuild(&node_id).await;
    ordered(rebuilt.map(|()| json!({ "node_id": node_id })))
}

/// Makes a node no member any more, and deletes its queue.
#[utoipa::path(delete, path = "/nodes/{node_id}", tag = "cluster",
    params(("node_id" = String, Path, description = "The node")),
    responses(
        (status = 200, description = "It is no member any more"),
        (status = 404, description = "There is no such node"),
        (status = 503, description = "Not possible now"),
    ),
)]
async fn remove(State(heart): State<Heart>, Path(node_id): Path<String>) -> Response {
    let removed = heart.remove(&node_id).await;
    ordered(removed.map(|()| json!({ "node_id": node_id })))
}

/// Goes on behind what nodes have applied, when the log is lost or older than that.
#[utoipa::path(post, path = "/recover", tag = "cluster", responses(
    (status = 200, description = "Where it goes on", body = Recovered),
    (status = 422, description = "There is nothing to recover, or the nodes do not agree"),
    (status = 503, description = "Not possible now"),
))]
async fn recover(State(heart): State<Heart>) -> Response {
    ordered(heart.recover().await)
}

fn ordered(result: Result<impl Serialize, AdminError>) -> Response {
    match result {
        Ok(body) => Json(body).into_response(),
        Err(error @ AdminError::NoNode(_)) => {
            problem(StatusCode::NOT_FOUND, "not-found", &error.to_string())
        }
        Err(error @ AdminError::Refused(_)) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "refused",
            &error.to_string(),
        ),
        Err(AdminError::Unavailable(detail)) => unavailable(&detail),
    }
}

/// Answers as long as the process can.
#[utoipa::path(get, path = "/health/live", tag = "operations", responses(
    (status = 200, description = "The process lives"),
))]
async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

/// Whether this heart takes writes.
#[utoipa::path(get, path = "/health/ready", tag = "operations", responses(
    (status = 200, description = "It does"),
    (status = 503, description = "It does not, with why"),
))]
async fn ready(State(heart): State<Heart>) -> Response {
    let (status, _) = heart.known_status();
    let (code, word) = match status.state {
        HeartState::Active => (StatusCode::OK, "ready"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = json!({
        "status": word,
        "state": status.state,
        "detail": status.detail,
        "broker_fault": status.broker_fault,
    });
    (code, Json(body)).into_response()
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
))]
async fn scrape(State(heart): State<Heart>) -> Response {
    let shared = &heart.0;
    let depths = heart.node_ids().into_iter().map(|node_id| async move {
        let queue = shared.options.names.node_queue(&node_id);
        let asked = timeout(DEPTH_TIMEOUT, shared.parts.broker.queue_stats(&queue)).await;
        let depth = asked.ok()?.ok()?.ready;
        Some((node_id.to_string(), depth))
    });
    let depths: BTreeMap<String, u64> = join_all(depths).await.into_iter().flatten().collect();
    let status = heart.status().await;
    let waiting = shared.state().waiting.len();
    let text = metrics::text::print(&shared.metrics, &status, waiting, &depths);
    let kind = HeaderValue::from_static(CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "operations", responses(
    (status = 200, description = "The OpenAPI 3.1 document", body = serde_json::Value),
))]
async fn openapi() -> Response {
    Json(document()).into_response()
}

/// Takes a body in JSON, within the bounds on size and time.
async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Response> {
    // Asked for also of those who could leave it out: a page of others cannot send it unasked.
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let detail = "the body must be application/json; say so in the header Content-Type";
        return Err(problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            detail,
        ));
    }
    match timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let detail =
                format!("the body was cut, or has more than the {BODY_BYTES_MAX} bytes allowed");
            Err(problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                &detail,
            ))
        }
        Err(_) => {
            let detail = "the body did not arrive in time";
            Err(problem(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail))
        }
    }
}

/// The client's own name of a write that may be repeated.
fn key(headers: &HeaderMap) -> Result<Option<&str>, Mistake> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| values.next().is_none() && !text.is_empty() && text.len() <= KEY_BYTES_MAX);
    text.map(Some).ok_or_else(|| {
        Mistake(format!(
            "there is one Idempotency-Key, of 1 to {KEY_BYTES_MAX} printable characters"
        ))
    })
}

fn bad_request(detail: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, "bad-request", detail)
}

fn unavailable(detail: &str) -> Response {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the document refers to is in it, and each operation has a name of its own.
    #[test]
    fn the_document_is_whole() {
        let document = serde_json::to_value(document()).unwrap();
        let mut refers = Vec::new();
        references(&document, &mut refers);
        assert!(!refers.is_empty());
        for to in refers {
            let at = document.pointer(to.trim_start_matches('#'));
            assert!(at.is_some(), "{to} is not there");
        }
        let mut ids = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{id} is there twice");
            }
        }
        let body = &document["components"]["schemas"]["WriteBody"]["properties"];
        assert_eq!(body["ack"]["type"], "string", "{body}");
        assert_eq!(body["ack"]["enum"][2], "quorum", "{body}");
    }

    fn references<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(|to| to.as_str()));
                fields.values().for_each(|value| references(value, found));
            }
            serde_json::Value::Array(values) => {
                for value in values {
                    references(value, found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn scopes_of_requests() {
        let check = |path: &str, expect| assert_eq!(scope(&Method::POST, path), expect, "{path}");
        check("/health/ready", None);
        check("/metrics", Some(Scope::Read));
        check("/read", Some(Scope::Read));
        check("/write", Some(Scope::Run));
        for path in [
            "/verify",
            "/nodes",
            "/nodes/1",
            "/recover",
            "/log",
            "/snapshot",
            "/x",
        ] {
            check(path, Some(Scope::Admin));
        }
    }
}
