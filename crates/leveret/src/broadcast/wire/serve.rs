//! The links over HTTP, from the answering side: routes over any link.

use std::{io::ErrorKind, path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query as Params, Request, State, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::BytesMut;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::{fs::File, io::AsyncReadExt};

use super::{
    DATABASE_HEADER,
    client::{At, Digested},
    file, heart_path, node_path,
    read::{Answer, Question},
};
use crate::broadcast::{
    link::{HeartLink, LinkError, NodeLink, Registration},
    replica::Snapshot,
};

/// The largest registration or question, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How much of a snapshot is sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// The node's routes that its heart calls. Each answer says of which database it is. Snapshots are made in the directory, and removed when
/// they are sent.
pub fn node_routes(link: Arc<dyn NodeLink>, database_id: &str, dir: PathBuf) -> Router {
    let says = HeaderValue::from_str(database_id).ok();
    Router::new()
        .route(node_path::QUERY, post(query))
        .route(node_path::CONTENTS, get(contents))
        .route(node_path::OUTCOMES, get(outcomes))
        .route(node_path::SNAPSHOT, get(node_snapshot))
        .route(node_path::NUDGE, post(nudge))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Node { link, dir })
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let says = says.clone();
            async move {
                let mut response = next.run(request).await;
                if let Some(says) = says {
                    response.headers_mut().insert(DATABASE_HEADER, says);
                }
                response
            }
        }))
}

/// The heart's routes that its nodes call. Snapshots are made in the directory, and removed when they are sent.
pub fn heart_routes(link: Arc<dyn HeartLink>, dir: PathBuf) -> Router {
    Router::new()
        .route(heart_path::NODES, post(register))
        .route(heart_path::LOG, get(fetch))
        .route(heart_path::SNAPSHOT, get(heart_snapshot))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Heart { link, dir })
}

#[derive(Clone)]
struct Node {
    link: Arc<dyn NodeLink>,
    dir: PathBuf,
}

#[derive(Clone)]
struct Heart {
    link: Arc<dyn HeartLink>,
    dir: PathBuf,
}

async fn query(
    State(node): State<Node>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(question) = question?;
    let answer: Answer = node.link.query(question.into()).await?.into();
    Ok(Json(answer).into_response())
}

async fn contents(State(node): State<Node>, Params(at): Params<At>) -> Result<Response, Refusal> {
    let (position, digest) = node.link.contents(at.at, at.of).await?;
    let digest = file::hex(&digest);
    Ok(Json(Digested { position, digest }).into_response())
}

#[derive(Deserialize)]
struct After {
    after: u64,
    #[serde(default)]
    limit: u32,
}

async fn outcomes(
    State(node): State<Node>,
    Params(after): Params<After>,
) -> Result<Response, Refusal> {
    let outcomes = node.link.outcomes(after.after, after.limit).await?;
    Ok(Json(outcomes).into_response())
}

async fn node_snapshot(State(node): State<Node>) -> Result<Response, Refusal> {
    let snapshot = node.link.snapshot(node.dir.clone()).await?;
    send_snapshot(snapshot).await
}

async fn nudge(State(node): State<Node>) -> Result<StatusCode, Refusal> {
    node.link.nudge().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn register(
    State(heart): State<Heart>,
    registration: Result<Json<Registration>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(registration) = registration?;
    Ok(Json(heart.link.register(registration).await?).into_response())
}

async fn fetch(
    State(heart): State<Heart>,
    Params(after): Params<After>,
) -> Result<Response, Refusal> {
    Ok(Json(heart.link.fetch(after.after).await?).into_response())
}

#[derive(Deserialize)]
struct Who {
    /// None for a snapshot that is for no node.
    node_id: Option<String>,
}

async fn heart_snapshot(
    State(heart): State<Heart>,
    Params(who): Params<Who>,
) -> Result<Response, Refusal> {
    let node_id = who.node_id.unwrap_or_default();
    let snapshot = heart.link.snapshot(&node_id, heart.dir.clone());
    send_snapshot(snapshot.await?).await
}

/// Streams the file. On a system that lets a file go on being read once its name is gone, nothing is left of it whatever happens.
async fn send_snapshot(snapshot: Snapshot) -> Result<Response, Refusal> {
    let opened = File::open(&snapshot.path).await;
    let removed = tokio::fs::remove_file(&snapshot.path).await;
    let file = opened.and_then(|file| removed.map(|()| file));
    let file = file.map_err(|error| LinkError::Unavailable {
        detail: format!("{}: {error}", snapshot.path.display()),
    })?;
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        match file.read_buf(&mut piece).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((piece.freeze(), file))),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                Ok(Some((piece.freeze(), file)))
            }
            Err(error) => Err(error),
        }
    });
    let mut headers = vec![
        (file::EPOCH, snapshot.position.epoch.to_string()),
        (file::SEQ, snapshot.position.seq.to_string()),
        (file::SIZE, snapshot.size_bytes.to_string()),
        (file::DIGEST, file::hex(&snapshot.digest)),
        ("content-type", "application/octet-stream".to_owned()),
        ("content-length", snapshot.size_bytes.to_string()),
    ];
    if let Some(cluster) = &snapshot.cluster {
        headers.push((file::CLUSTER, cluster.to_string()));
    }
    let mut response = Response::builder();
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let response = response.body(Body::from_stream(pieces));
    response.map_err(|error| {
        Refusal(LinkError::Refused {
            detail: error.to_string(),
        })
    })
}

/// An error of a link as an answer.
struct Refusal(LinkError);

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Refusal {
        Refusal(error)
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Refusal {
        Refusal(LinkError::Refused {
            detail: rejection.body_text(),
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let detail = self.0.to_string();
        match self.0 {
            LinkError::NameTaken { node_id, advertise } => {
                let members = json!({ "node_id": node_id, "advertise": advertise });
                problem_with(StatusCode::CONFLICT, "name-taken", &detail, members)
            }
            LinkError::Unavailable { detail } => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &detail)
            }
            LinkError::Refused { detail } => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "refused", &detail)
            }
        }
    }
}

/// A problem of RFC 9457.
pub(crate) fn problem(status: StatusCode, kind: &str, detail: &str) -> Response {
    problem_with(status, kind, detail, json!({}))
}

/// The same with further members, an object.
pub(crate) fn problem_with(
    status: StatusCode,
    kind: &str,
    detail: &str,
    mut members: serde_json::Value,
) -> Response {
    members["type"] = format!("urn:leveret:problem:{kind}").into();
    members["title"] = status.canonical_reason().unwrap_or_default().into();
    members["status"] = status.as_u16().into();
    members["detail"] = detail.into();
    answer(status, &members)
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    let kind = HeaderValue::from_static("application/problem+json");
    (status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response()
}
