//! Signals: to a run by its id, or by a key to the runs that wait with it.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use leveret_core::{
    ids::{EventName, RunId, SignalId, SignalKey},
    json::Json,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::{
    Api, Shared, answer,
    detach::Detached,
    extract::{Id, NoQuery, is_json, media_type, read_body},
    problem::{Problem, ProblemBody},
    schema::{self, RunInPath},
};
use crate::store::{Addressee, NewSignal, Signalled};

/// A signal to a run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignalBody {
    /// The event that it brings.
    #[schema(value_type = String, schema_with = schema::id)]
    event: EventName,
    /// What it brings, the output of the step that it wakes; null when absent.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Json,
    /// The client's own name of it: sent again, it counts once.
    #[serde(default)]
    #[schema(value_type = Option<String>, schema_with = schema::optional_id)]
    id: Option<SignalId>,
}

/// A signal by a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyedSignalBody {
    /// The event that it brings.
    #[schema(value_type = String, schema_with = schema::id)]
    event: EventName,
    /// The key that the runs wait with.
    #[schema(value_type = String, schema_with = schema::id)]
    key: SignalKey,
    /// What it brings; null when absent.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Json,
    /// The client's own name of it: sent again, it counts once.
    #[serde(default)]
    #[schema(value_type = Option<String>, schema_with = schema::optional_id)]
    id: Option<SignalId>,
}

/// A signal that is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignalTaken {
    /// `delivered`: steps go on with it; `kept`: the next wait for it gets it; `repeated`: one of this id was taken before.
    pub status: SignalStatus,
    /// How many steps go on with it.
    pub woken: u64,
}

/// What became of a signal that is recorded. The texts are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalStatus {
    /// Steps go on with it.
    Delivered,
    /// The next wait for it gets it.
    Kept,
    /// One of this id was taken before.
    Repeated,
}

/// Sends a signal to a run. It ends the oldest wait for its event there, or is kept for the next one. Accepted means durable.
#[utoipa::path(post, path = "/api/v1/runs/{run_id}/signals", operation_id = "signal_run", tag = "runs",
    params(RunInPath),
    request_body(content = SignalBody, description = "The signal"),
    responses(
        (status = 202, description = "It is recorded", body = SignalTaken),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The run has ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now; send it again, with an id so that it counts once", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn to_run(
    State(api): State<Api>,
    Id(run_id): Id<RunId>,
    _: NoQuery,
    request: Request,
) -> Result<Response, Problem> {
    let SignalBody { event, data, id } = body(&api, request).await?;
    let to = Addressee::Run(run_id);
    let signal = NewSignal {
        to,
        event,
        id,
        data,
    };
    send(&api, signal).await
}

/// Sends a signal by a key. It ends the oldest wait for its event and key in each run, or is kept for the next one if there is none.
#[utoipa::path(post, path = "/api/v1/signals", operation_id = "signal_key", tag = "runs",
    request_body(content = KeyedSignalBody, description = "The signal"),
    responses(
        (status = 202, description = "It is recorded", body = SignalTaken),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now; send it again, with an id so that it counts once", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn by_key(
    State(api): State<Api>,
    _: NoQuery,
    request: Request,
) -> Result<Response, Problem> {
    let KeyedSignalBody {
        event,
        key,
        data,
        id,
    } = body(&api, request).await?;
    let to = Addressee::Key(key);
    let signal = NewSignal {
        to,
        event,
        id,
        data,
    };
    send(&api, signal).await
}

/// A body that is JSON, and says so.
pub(super) async fn body<T: DeserializeOwned>(
    api: &Shared,
    request: Request,
) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    if !media_type(&parts.headers)?.is_some_and(|media_type| is_json(&media_type)) {
        return Err(Problem::content_type("application/json"));
    }
    let bytes = read_body(&parts.headers, body, &api.options).await?;
    // serde takes a list for an object, its items for the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request("the body must be an object"));
    }
    serde_json::from_slice(&bytes).map_err(|error| Problem::not_json(&error))
}

async fn send(api: &Shared, signal: NewSignal) -> Result<Response, Problem> {
    signal
        .data
        .readable()
        .map_err(|error| Problem::bad_request(format!("the data cannot be taken in: {error}")))?;
    let to = signal.to.clone();
    let taken = match deliver(api, signal).await? {
        Signalled::Recorded { woken, .. } => SignalTaken {
            status: if woken > 0 {
                SignalStatus::Delivered
            } else {
                SignalStatus::Kept
            },
            woken,
        },
        Signalled::Repeated => SignalTaken {
            status: SignalStatus::Repeated,
            woken: 0,
        },
        refused => return Err(refusal(&to, &refused)),
    };
    Ok(answer::json(StatusCode::ACCEPTED, &taken))
}

/// Sends a signal; it goes on when the client does not wait for it.
pub(super) async fn deliver(api: &Shared, signal: NewSignal) -> Result<Signalled, Problem> {
    let (engine, bound) = (api.engine.clone(), api.options.start_timeout);
    let sent = Detached::new(bound, async move { engine.signal(signal).await });
    let sent = tokio::time::timeout(bound, sent).await;
    let late = "the signal could not be recorded in time; with an id it can be sent again";
    Ok(sent.map_err(|_| Problem::unavailable(late))??)
}

/// Why a signal was not taken.
pub(super) fn refusal(to: &Addressee, refused: &Signalled) -> Problem {
    match (to, refused) {
        (Addressee::Run(run_id) | Addressee::Node(run_id, ..), Signalled::Ended(status)) => {
            Problem::ended_before(run_id, *status)
        }
        (Addressee::Node(_, node_id, _), Signalled::NotWaiting) => Problem::not_waiting(node_id),
        (Addressee::Node(_, node_id, _), Signalled::Over) => Problem::waits_no_more(node_id),
        (Addressee::Run(run_id) | Addressee::Node(run_id, ..), _) => Problem::no_run(run_id),
        (Addressee::Key(_), _) => Problem::bad_request("the signal has no addressee"),
    }
}
