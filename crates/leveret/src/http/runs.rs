//! Runs: start (and wait), show, list, cancel.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use leveret_core::{
    ids::{RunId, WorkflowId},
    json::Json,
};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{Ref, RefOr, Schema, schema::AnyOfBuilder},
};
use uuid::Uuid;

use super::{
    Api, Shared, answer,
    detach::Detached,
    detail::{self, RunDetail},
    extract::{Id, NoQuery, Params, idempotency_key, is_json, media_type, read_body, run_id},
    page::{self, Page},
    problem::{Problem, ProblemBody},
    schema::{self, RunInPath, WorkflowInPath},
};
use crate::{
    runtime::{Awaited, RunResult, StartError, StartRequest},
    store::{RunFilter, RunRecord, RunStatus, StepError, StoreError},
};

/// The body of a start; may be absent.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    /// The input of the run; null when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub input: Option<Json>,
    /// The run's identity, of 1 to 200 bytes; a new one when absent. Not together with an `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::optional_id)]
    pub run_id: Option<String>,
}

/// A run that began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunBegun {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Where it stands.
    pub status: RunStatus,
}

/// A run, without its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunItem {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Its workflow.
    #[schema(value_type = String)]
    pub workflow_id: WorkflowId,
    /// The SHA-256 of the definition that it executes.
    pub workflow_hash: String,
    /// Where it stands.
    pub status: RunStatus,
    /// The first failure that nothing handled.
    pub error: Option<StepError>,
    /// When it was asked for, RFC 3339.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it ended, RFC 3339.
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
    /// From when it was asked for to its end; null while it is running.
    pub duration_ms: Option<u64>,
}

/// A run that was cancelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cancelled {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// `cancelled`.
    pub status: RunStatus,
    /// The first failure before.
    pub error: Option<StepError>,
    /// When it ended, RFC 3339.
    #[schema(format = DateTime)]
    pub ended_at: String,
    /// From when it was asked for to its end.
    pub duration_ms: u64,
}

/// How a run is started.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StartQuery {
    /// Whether the answer is the run's result, after its end.
    #[serde(default)]
    #[param(required = false, default = false)]
    wait: bool,
    /// With `wait`: after so long the answer is 202 and the run goes on.
    #[param(minimum = 1, maximum = 3_600_000)]
    timeout_ms: Option<u64>,
}

/// The longest `timeout_ms`.
const TIMEOUT_MS_MAX: u64 = 3_600_000;

impl StartQuery {
    /// For how long the client waits; `None`: not at all.
    fn patience(&self, longest: Duration) -> Result<Option<Duration>, Problem> {
        match self.timeout_ms {
            None => Ok(self.wait.then_some(longest)),
            Some(_) if !self.wait => Err(Problem::bad_request("timeout_ms goes with wait=true")),
            Some(ms) if (1..=TIMEOUT_MS_MAX).contains(&ms) => {
                Ok(Some(longest.min(Duration::from_millis(ms))))
            }
            Some(_) => Err(Problem::bad_request(format!(
                "timeout_ms is from 1 to {TIMEOUT_MS_MAX}"
            ))),
        }
    }
}

/// Starts a run of the newest version of a workflow. Asked again with the same `Idempotency-Key` (or `run_id`) and input, it
/// starts nothing and answers for the run that began before.
#[utoipa::path(post, path = "/api/v1/workflows/{id}/runs", operation_id = "start_run", tag = "runs",
    params(
        WorkflowInPath,
        StartQuery,
        ("Idempotency-Key" = Option<String>, Header,
            description = "The client's own name of this request: repeated, it starts one run", min_length = 1, max_length = 255),
    ),
    request_body(content = Option<StartBody>, description = "The input; may be absent"),
    responses(
        (status = 200, description = "With `wait=true` the result (`RunResult`); else the run began before (`RunBegun`)", body = StartAnswer),
        (status = 202, description = "The run is recorded: it runs, or begins when the broker is back", body = RunBegun),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such workflow", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The run exists with another workflow or input", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now; ask again with the same key", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn start(
    State(api): State<Api>,
    Id(workflow_id): Id<WorkflowId>,
    Params(query): Params<StartQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let patience = query.patience(api.options.wait_max)?;
    let (parts, body) = request.into_parts();
    let (input, run_id) = asked(&api, &workflow_id, &parts.headers, body).await?;
    let workflow = api.newest.get(&api.engine, &workflow_id).await?;
    let workflow = workflow.ok_or_else(|| Problem::no_workflow(&workflow_id))?;
    let request = StartRequest {
        workflow,
        input: input.clone(),
        run_id,
    };
    match begin(&api, request, patience).await? {
        Ok(Begun::Awaited(awaited, patience)) => {
            let run_id = awaited.run_id().clone();
            result_within(&api, run_id, patience, awaited.result()).await
        }
        Ok(Begun::New(run_id)) => Ok(running(run_id)),
        Ok(Begun::Before(run_id)) => Ok(answer::json(
            StatusCode::OK,
            &status_of(&api, &run_id).await?,
        )),
        Err(StartError::Conflict { run_id }) => {
            repeated(&api, &workflow_id, &input, &run_id).await?;
            match patience {
                Some(patience) => {
                    let result = ended(&api, &run_id);
                    result_within(&api, run_id.clone(), patience, result).await
                }
                None => Ok(answer::json(
                    StatusCode::OK,
                    &status_of(&api, &run_id).await?,
                )),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// The two kinds of answers with status 200. A result also has all that a run that began before has.
pub(super) struct StartAnswer;

impl PartialSchema for StartAnswer {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .description(Some("A result, or a run that began before"))
            .item(Ref::from_schema_name(RunResult::name()))
            .item(Ref::from_schema_name(RunBegun::name()))
            .into()
    }
}

impl ToSchema for StartAnswer {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((RunResult::name().into(), RunResult::schema()));
        RunResult::schemas(schemas);
        schemas.push((RunBegun::name().into(), RunBegun::schema()));
        RunBegun::schemas(schemas);
    }
}

/// What the body and the headers ask for: the input and the run's id, if the client names it.
async fn asked(
    api: &Shared,
    workflow_id: &WorkflowId,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<(Json, Option<RunId>), Problem> {
    let is_json = media_type(headers)?.map(|media_type| is_json(&media_type));
    let no_json = || Problem::content_type("application/json");
    if is_json == Some(false) {
        return Err(no_json());
    }
    let bytes = read_body(headers, body, &api.options).await?;
    // A body that does not say what it is may be one that a web page of others had sent.
    if is_json.is_none() && !bytes.is_empty() {
        return Err(no_json());
    }
    let body = start_body(&bytes)?;
    let input = body.input.unwrap_or_default();
    // The text was read past, not taken in: what no step could read shows only here. The place is one in the input.
    input
        .readable()
        .map_err(|error| Problem::bad_request(format!("the input cannot be taken in: {error}")))?;
    let run_id = match (run_id(body.run_id)?, idempotency_key(headers)?) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request(
                "run_id and Idempotency-Key exclude each other",
            ));
        }
        (Some(run_id), None) => Some(run_id),
        (None, Some(key)) => Some(named_run(workflow_id, key)),
        (None, None) => None,
    };
    Ok((input, run_id))
}

fn start_body(bytes: &[u8]) -> Result<StartBody, Problem> {
    // serde takes a list for an object, its items for the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request(
            "the body is a list; it must be an object: line 1 column 1",
        ));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(Problem::bad_request(
            "the body begins with a byte order mark, which JSON has not",
        ));
    }
    if bytes.starts_with(b"\xfe\xff") || bytes.starts_with(b"\xff\xfe") {
        return Err(Problem::bad_request("the body is UTF-16; JSON is UTF-8"));
    }
    if bytes.is_empty() {
        return Ok(StartBody::default());
    }
    let body: Option<StartBody> =
        serde_json::from_slice(bytes).map_err(|error| Problem::not_json(&error))?;
    Ok(body.unwrap_or_default())
}

/// The namespace of run ids made of idempotency keys. Persisted with them: never changes.
const KEYED_RUNS: Uuid = Uuid::from_u128(0x1e7e_4e70_0000_5000_8000_6964_656d_706f);

/// The run that an idempotency key names: a UUID v5 of workflow and key.
fn named_run(workflow_id: &WorkflowId, key: &[u8]) -> RunId {
    // Ids have no control characters, so that no two pairs give the same name.
    let name = [workflow_id.as_str().as_bytes(), key].join(&0);
    RunId::new(Uuid::new_v5(&KEYED_RUNS, &name).to_string()).expect("a UUID is an id")
}

/// A run that was started.
enum Begun {
    /// It is waited for, so long.
    Awaited(Awaited, Duration),
    /// It is new.
    New(RunId),
    /// It began with an earlier request.
    Before(RunId),
}

/// Starts the run; a client that goes away in the middle does not leave it half begun. Only a run that is waited for is driven
/// in this process at once.
async fn begin(
    api: &Shared,
    request: StartRequest,
    patience: Option<Duration>,
) -> Result<Result<Begun, StartError>, Problem> {
    let bound = api.options.start_timeout;
    let engine = api.engine.clone();
    let start = Detached::new(bound, async move {
        Ok(match patience {
            Some(patience) => Begun::Awaited(engine.start_awaited(request).await?, patience),
            None => match engine.start(request).await? {
                (run_id, true) => Begun::New(run_id),
                (run_id, false) => Begun::Before(run_id),
            },
        })
    });
    let late = "the run could not be recorded in time; ask again with the same Idempotency-Key";
    tokio::time::timeout(bound, start)
        .await
        .map_err(|_| Problem::unavailable(late))
}

/// Whether a run that exists is nevertheless what is asked for: the workflow may have got a new version since.
async fn repeated(
    api: &Shared,
    workflow_id: &WorkflowId,
    input: &Json,
    run_id: &RunId,
) -> Result<(), Problem> {
    let run = api.engine.store().run(run_id).await?;
    let same = run.is_some_and(|run| run.workflow_id == *workflow_id && run.input == *input);
    if same {
        Ok(())
    } else {
        Err(Problem::other_run(run_id))
    }
}

async fn status_of(api: &Shared, run_id: &RunId) -> Result<RunBegun, Problem> {
    let run = api
        .engine
        .store()
        .run(run_id)
        .await?
        .ok_or_else(|| Problem::no_run(run_id))?;
    Ok(RunBegun {
        run_id: run.run_id,
        status: run.status,
    })
}

fn running(run_id: RunId) -> Response {
    answer::json(
        StatusCode::ACCEPTED,
        &RunBegun {
            run_id,
            status: RunStatus::Running,
        },
    )
}

async fn ended(api: &Shared, run_id: &RunId) -> Result<RunResult, StoreError> {
    let result = api.engine.wait(run_id).await?;
    result.ok_or_else(|| StoreError::Corrupt {
        detail: format!("run {run_id} is gone"),
    })
}

/// The result, or that the run is still running when time is up or this process stops.
async fn result_within(
    api: &Shared,
    run_id: RunId,
    patience: Duration,
    result: impl Future<Output = Result<RunResult, StoreError>>,
) -> Result<Response, Problem> {
    tokio::select! {
        biased;
        result = result => Ok(answer::json(StatusCode::OK, &result?)),
        () = tokio::time::sleep(patience) => Ok(running(run_id)),
        () = api.stopped() => Ok(running(run_id)),
    }
}

/// Shows a run with its steps, as recorded now.
#[utoipa::path(get, path = "/api/v1/runs/{run_id}", operation_id = "show_run", tag = "runs",
    params(RunInPath),
    responses(
        (status = 200, description = "The run", body = RunDetail),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(api): State<Api>,
    Id(run_id): Id<RunId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let detail = detail::of_run(&api.engine, &run_id).await?;
    let detail = detail.ok_or_else(|| Problem::no_run(&run_id))?;
    Ok(answer::json(StatusCode::OK, &detail))
}

/// Which runs are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only runs of this workflow.
    #[param(schema_with = schema::id)]
    workflow_id: Option<String>,
    /// Only runs in this state.
    status: Option<RunStatus>,
    /// Items at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1)]
    after: Option<String>,
}

/// Lists runs, newest first.
#[utoipa::path(get, path = "/api/v1/runs", operation_id = "list_runs", tag = "runs", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = Page<RunItem>),
        (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let filter = RunFilter {
        workflow_id: query.workflow_id.map(WorkflowId::new).transpose()?,
        status: query.status,
        after: query.after.as_deref().map(page::run_position).transpose()?,
        limit: limit + 1,
    };
    let records = api.engine.store().runs(&filter).await?;
    let cursor = |run: &RunRecord| page::run_cursor(run.created_at, &run.run_id);
    Ok(answer::json(
        StatusCode::OK,
        &Page::cut(records, limit, cursor, item),
    ))
}

fn item(run: RunRecord) -> RunItem {
    RunItem {
        duration_ms: run
            .ended_at
            .map(|ended_at| ended_at.ms_since(run.created_at)),
        workflow_hash: run.workflow_hash.to_string(),
        created_at: run.created_at.to_string(),
        ended_at: run.ended_at.map(|ended_at| ended_at.to_string()),
        run_id: run.run_id,
        workflow_id: run.workflow_id,
        status: run.status,
        error: run.error,
    }
}

/// Cancels a run: no further step of it is recorded. Cancelling again changes nothing.
#[utoipa::path(post, path = "/api/v1/runs/{run_id}/cancel", operation_id = "cancel_run", tag = "runs",
    params(RunInPath),
    responses(
        (status = 200, description = "It is cancelled", body = Cancelled),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It ended before otherwise", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Id(run_id): Id<RunId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let (engine, id) = (api.engine.clone(), run_id.clone());
    // It goes on when the client does not wait for it.
    let cancel = Detached::new(api.options.start_timeout, async move {
        engine.cancel(&id).await
    });
    let end = cancel.await?.ok_or_else(|| Problem::no_run(&run_id))?;
    if end.status != RunStatus::Cancelled {
        return Err(Problem::ended_before(&run_id, end.status));
    }
    let cancelled = Cancelled {
        run_id,
        status: end.status,
        error: end.error,
        ended_at: end.ended_at.to_string(),
        duration_ms: end.ended_at.ms_since(end.created_at),
    };
    Ok(answer::json(StatusCode::OK, &cancelled))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids are stored and must not change: this is what the first release made of them.
    #[test]
    fn keys_name_runs_for_good() {
        let workflow_id = WorkflowId::new("order").unwrap();
        let named = |key: &str| named_run(&workflow_id, key.as_bytes()).to_string();
        insta::assert_snapshot!(named("k1"), @"0dda3efa-b67a-59f0-bfad-0af2e3951a87");
        assert_ne!(named("k1"), named("k2"));
    }

    #[test]
    fn bounds_patience() {
        let check = |wait, timeout_ms| {
            let patience = StartQuery { wait, timeout_ms }.patience(Duration::from_secs(60));
            patience
                .ok()
                .map(|patience| patience.map(|patience| patience.as_millis()))
        };
        assert_eq!(check(false, None), Some(None));
        assert_eq!(check(true, None), Some(Some(60_000)));
        assert_eq!(check(true, Some(5)), Some(Some(5)));
        assert_eq!(check(true, Some(3_600_000)), Some(Some(60_000)));
        assert_eq!(check(false, Some(5)), None);
        assert_eq!(check(true, Some(0)), None);
    }
}
