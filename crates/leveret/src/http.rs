//! The HTTP API: workflows, runs, live events, health, metrics, and the OpenAPI document of it all.
//!
//! - **Accepted means durable**: an answer that names a run is sent after the run is recorded. A client that goes away
//!   takes back nothing.
//! - **Everything is bounded**: bodies, pages, streams, connections, waits; see [`ApiOptions`] and [`serve()`].
//! - **A [`Guard`] stands in front**: tokens with scopes, and without tokens no web pages of others.
//! - **Errors are `application/problem+json`**, and one file (`problem`) decides which error is which status.
//!
//! [`router`] makes the routes, [`serve()`] listens. Each route comes with its entry in the document, from one macro, so that
//! there is none without.

use std::{fmt, sync::Arc, time::Duration};

pub use axum::Router;
use axum::{
    extract::{FromRef, State},
    response::{IntoResponse, Response},
};
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::runtime::{Engine, Names};

mod answer;
mod approvals;
mod dead_letters;
mod detach;
mod detail;
mod events;
mod extract;
mod guard;
mod health;
mod newest;
mod page;
mod problem;
mod runs;
mod schedules;
mod schema;
mod scrape;
mod security;
mod serve;
mod signals;
#[cfg(test)]
mod tests;
mod webhooks;
mod workflows;

pub use self::{
    approvals::ApprovalItem,
    dead_letters::{DeadLetterList, DeadLetterQueues, dead_letters},
    detail::{RunDetail, StepDetail, WaitDetail},
    guard::{Guard, Scope, ScopeOf, Tokens, TokensError, guarded},
    page::Page,
    problem::ProblemBody,
    runs::{Cancelled, RunBegun, RunItem, StartBody},
    serve::{CONNECTIONS_MAX, DRAIN_TIMEOUT, serve},
    signals::{SignalStatus, SignalTaken},
    webhooks::WebhookTaken,
    workflows::{WorkflowDetail, WorkflowItem, WorkflowPut},
};
use self::{
    dead_letters::DeadLetters, extract::NoQuery, newest::Newest, problem::Problem,
    scrape::QueueStatsCache,
};

pub(crate) use self::security::describe;

/// Bounds and behaviour of the API.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// A larger request body is refused with 413. Default 16 MiB.
    pub body_bytes_max: usize,
    /// A body that takes longer to arrive is refused with 408. Default 30 s.
    pub body_timeout: Duration,
    /// How long starting a run may take, broker and store being away, before the answer is 503. Default 20 s, longer than
    /// the engine's own start timeout.
    pub start_timeout: Duration,
    /// How long a client may wait for the end of a run; after that it is told that the run is still running. Default 1 h.
    pub wait_max: Duration,
    /// How many event streams may be open; more are refused with 503. Default 1024.
    pub streams_max: usize,
    /// Names of node types that workers elsewhere have: definitions may use them, whatever their parameters. Default: none.
    pub node_types: Vec<String>,
    /// Who may ask. Default: everybody but web pages of others.
    pub guard: Guard,
    /// Whether this process is ready only while its worker consumes. Default false.
    pub needs_consumer: bool,
    /// Turns true when the process stops: event streams end, and those who wait for runs are told that they still run.
    /// Default: never.
    pub shutdown: Option<watch::Receiver<bool>>,
}

impl Default for ApiOptions {
    fn default() -> ApiOptions {
        ApiOptions {
            body_bytes_max: 16 << 20,
            body_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(20),
            wait_max: Duration::from_secs(3600),
            streams_max: 1024,
            node_types: Vec::new(),
            guard: Guard::default(),
            needs_consumer: false,
            shutdown: None,
        }
    }
}

/// What handlers share.
#[derive(Clone)]
struct Api(Arc<Shared>);

struct Shared {
    engine: Engine,
    options: ApiOptions,
    newest: Newest,
    streams: Arc<Semaphore>,
    queue_stats: QueueStatsCache,
    dead_letters: DeadLetters,
    document: axum::body::Bytes,
}

impl FromRef<Api> for DeadLetters {
    fn from_ref(api: &Api) -> DeadLetters {
        api.dead_letters.clone()
    }
}

impl std::ops::Deref for Api {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Resolves when the process stops. Cancel-safe.
    async fn stopped(&self) {
        stopped(self.options.shutdown.clone()).await;
    }
}

/// Resolves when the flag turns true; never if there is none, or if nobody can set it any more.
async fn stopped(shutdown: Option<watch::Receiver<bool>>) {
    if let Some(mut shutdown) = shutdown
        && shutdown.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Leveret",
        description = "Durable workflows: definitions, runs and their events. Errors are `application/problem+json`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(events::StepEvent, events::EndEvent)),
    tags(
        (name = "workflows", description = "Definitions and their versions"),
        (name = "runs", description = "Executions of workflows"),
        (name = "schedules", description = "Runs at due times"),
        (name = "dead letters", description = "Messages that could not be handled: list, show, replay, discard"),
        (name = "operations", description = "Health, metrics, and this document"),
    ),
)]
struct Document;

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(workflows::list))
        .routes(routes!(workflows::show, workflows::put))
        .routes(routes!(runs::start))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::cancel))
        .routes(routes!(events::events))
        .routes(routes!(signals::to_run))
        .routes(routes!(signals::by_key))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::decide))
        .routes(routes!(webhooks::call))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::show, schedules::put, schedules::delete))
        .routes(routes!(schedules::history))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
        .merge(dead_letters::routes())
        .merge(operation_routes())
        .routes(routes!(openapi))
}

fn operation_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(scrape::metrics))
}

/// The OpenAPI 3.1 document of the API, as served at `/api/openapi.json`.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    describe(&mut document, security::scope);
    document
}

/// The API's routes over an engine. Serve them with [`serve()`], which also catches panics and bounds connections.
pub fn router(engine: Engine, options: ApiOptions) -> Router {
    over(engine, options, routes())
}

/// Health and metrics alone, for a process without the API. Serve them with [`serve()`].
pub fn operations(engine: Engine, options: ApiOptions) -> Router {
    over(engine, options, operation_routes())
}

fn over(engine: Engine, options: ApiOptions, routes: OpenApiRouter<Api>) -> Router {
    let (served, mut openapi) = routes.split_for_parts();
    describe(&mut openapi, security::scope);
    let document = openapi.to_json().expect("the document prints");
    let guard = options.guard.clone();
    let api = Api(Arc::new(Shared {
        streams: Arc::new(Semaphore::new(options.streams_max)),
        dead_letters: DeadLetters::new(
            engine.broker().clone(),
            DeadLetterQueues {
                names: engine.queues(),
                prefix: prefix(engine.names()),
            },
        ),
        engine,
        options,
        newest: Newest::default(),
        queue_stats: QueueStatsCache::default(),
        document: document.into(),
    }));
    let served = served
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::no_route() })
        .with_state(api);
    guarded(served, guard, security::scope)
}

/// What the names begin with, if they are those of [`Names::with_prefix`].
fn prefix(names: &Names) -> Option<String> {
    let (plain, own) = (Names::with_prefix(""), &names.execution);
    own.strip_suffix(&*plain.execution).map(str::to_owned)
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", operation_id = "openapi", tag = "operations", responses(
    (status = 200, description = "The OpenAPI 3.1 document", body = serde_json::Value),
    (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
))]
async fn openapi(State(api): State<Api>, _: NoQuery) -> Result<Response, Problem> {
    Ok((answer::JSON, api.document.clone()).into_response())
}
