//! Webhooks: a call ends the wait of its node, once.
//!
//! Whoever knows the ids may call, as others call who have no token of this server: run ids cannot be guessed, and a webhook with a `secret` takes only
//! what is signed by it.

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use leveret_core::{
    ids::{EventName, NodeId, RunId, Scope, SignalId},
    json::Json,
    workflow::Node,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use utoipa::ToSchema;

use super::{
    Api, Shared, answer,
    extract::{is_json, media_type, read_body},
    problem::{Problem, ProblemBody},
    schema::NodeInPath,
    signals::{deliver, refusal},
};
use crate::{
    nodes::webhook::{event_of, secret_of, waits},
    store::{Addressee, Load, NewSignal, NodeRef, Signalled, StepStatus, WaitKind, Wanted},
};

/// The header with the hexadecimal HMAC-SHA256 of the body, with or without `sha256=` in front.
const SIGNATURE: &str = "x-leveret-signature";

/// The node types.
const USES: [&str; 2] = ["webhook", "WebhookNode"];

/// A call that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WebhookTaken {
    /// `delivered`.
    status: String,
}

/// Calls the webhook of a node. The body is its payload: JSON as it is, a form as an object, other text as text, all else in base64. Taken means durable.
#[utoipa::path(post, path = "/webhooks/{run_id}/{node_id}", operation_id = "call_webhook", tag = "runs",
    params(
        NodeInPath,
        ("X-Leveret-Signature" = Option<String>, Header,
            description = "The HMAC-SHA256 of the body in hexadecimal digits, by the node's secret, if it has one"),
    ),
    request_body(content = Option<serde_json::Value>, description = "The payload"),
    responses(
        (status = 200, description = "It is the first, and recorded", body = WebhookTaken),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Not signed by the node's secret", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such run or webhook, or it does not wait yet", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It was called before, or waits no more", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Compressed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now; call again", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn call(
    State(api): State<Api>,
    Path((run_id, node_id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let (run_id, node_id) = (RunId::new(run_id)?, NodeId::new(node_id)?);
    let (parts, body) = request.into_parts();
    let body = read_body(&parts.headers, body, &api.options).await?;
    let workflow = api.engine.workflow_of(&run_id).await?;
    let workflow = workflow.ok_or_else(|| Problem::no_run(&run_id))?;
    let nodes = workflow.nodes.iter().enumerate();
    let mut nodes = nodes.filter(|(_, node)| node.id == node_id && USES.contains(&&*node.uses));
    let Some((ix, node)) = nodes.next() else {
        return Err(Problem::no_webhook(&node_id));
    };
    if let Some(name) = secret_of(node.params.raw()) {
        let secret = api
            .engine
            .secret(name)
            .ok_or_else(|| Problem::no_secret(name))?;
        check_signature(&parts.headers, &secret, &body)?;
    }
    let data = payload(&parts.headers, &body)?;
    if waits(node.params.raw()) {
        let to = Addressee::Node(run_id, node_id.clone(), WaitKind::Webhook);
        let event = EventName::new(node_id.as_str())?;
        take(&api, to, event, None, data).await?;
    } else {
        let node_ref = NodeRef::new(&workflow, ix);
        bring(&api, &run_id, node, node_ref, data).await?;
    }
    let status = "delivered".to_owned();
    Ok(answer::json(StatusCode::OK, &WebhookTaken { status }))
}

/// The payload of a webhook that does not wait is a signal to its run, and an event for all who listen.
async fn bring(
    api: &Shared,
    run_id: &RunId,
    node: &Node,
    node_ref: NodeRef,
    data: Json,
) -> Result<(), Problem> {
    let latest = Wanted {
        node: node_ref,
        scope: Some(Scope::root()),
        latest: Some(Scope::root()),
    };
    let load = Load {
        nodes: vec![latest],
        ..Load::default()
    };
    let loaded = api.engine.store().load(&[(run_id.clone(), load)]).await?;
    let step = loaded
        .into_iter()
        .next()
        .flatten()
        .and_then(|run| run.nodes.into_iter().next()?);
    if !step.is_some_and(|step| step.status == StepStatus::Completed) {
        return Err(Problem::not_waiting(&node.id));
    }
    let event = event_of(run_id, &node.id).map_err(Problem::bad_request)?;
    let (to, id) = (Addressee::Run(run_id.clone()), SignalId::new("webhook")?);
    take(api, to, event.clone(), Some(id), data.clone()).await?;
    api.engine.tell_event(&event, &data).await;
    Ok(())
}

async fn take(
    api: &Shared,
    to: Addressee,
    event: EventName,
    id: Option<SignalId>,
    data: Json,
) -> Result<(), Problem> {
    let signal = NewSignal {
        to: to.clone(),
        event: event.clone(),
        id,
        data,
    };
    match deliver(api, signal).await? {
        Signalled::Recorded { .. } => Ok(()),
        Signalled::Repeated => Err(Problem::called_before()),
        refused => Err(refusal(&to, &refused)),
    }
}

/// Compares in a time that does not tell how much of the signature is right.
fn check_signature(headers: &HeaderMap, secret: &str, body: &[u8]) -> Result<(), Problem> {
    let mut values = headers.get_all(SIGNATURE).iter();
    let given = values.next().filter(|_| values.next().is_none());
    let given = given.and_then(|value| value.to_str().ok());
    let given = given.map(|text| text.strip_prefix("sha256=").unwrap_or(text));
    let given = given.and_then(from_hex).ok_or_else(Problem::no_signature)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .expect("an HMAC takes a key of any length");
    mac.update(body);
    mac.verify_slice(&given)
        .map_err(|_| Problem::no_signature())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

/// The body as a value, by its media type.
fn payload(headers: &HeaderMap, body: &[u8]) -> Result<Json, Problem> {
    if body.is_empty() {
        return Ok(Json::null());
    }
    let media_type = media_type(headers)?;
    match media_type.as_deref() {
        Some(json) if is_json(json) => {
            let payload: Json =
                serde_json::from_slice(body).map_err(|error| Problem::not_json(&error))?;
            payload.readable().map_err(|error| {
                Problem::bad_request(format!("the payload cannot be taken in: {error}"))
            })?;
            Ok(payload)
        }
        Some("application/x-www-form-urlencoded") => {
            let fields: Vec<(String, String)> =
                serde_urlencoded::from_bytes(body).map_err(|error| {
                    Problem::bad_request(format!("the form does not read: {error}"))
                })?;
            Ok(Json::from(form(fields)))
        }
        Some(text) if text.starts_with("text/") => {
            let text = std::str::from_utf8(body)
                .map_err(|_| Problem::bad_request("the text is not UTF-8"))?;
            Ok(Json::from(json!(text)))
        }
        other => {
            let media_type = other.unwrap_or("application/octet-stream");
            let bytes = BASE64.encode(body);
            Ok(Json::from(
                json!({ "base64": bytes, "media_type": media_type }),
            ))
        }
    }
}

/// The fields of a form; one that comes several times is a list.
fn form(fields: Vec<(String, String)>) -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in fields {
        match all.get_mut(&name) {
            None => {
                all.insert(name, json!(value));
            }
            Some(Value::Array(values)) => values.push(json!(value)),
            Some(first) => *first = json!([first.take(), value]),
        }
    }
    Value::Object(all)
}
