//! Dead letters: list, show, replay, discard. Over any broker, so that each process that has one can serve its own.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRef, FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer,
    detach::Detached,
    extract::{NoQuery, Params},
    page,
    problem::{Problem, ProblemBody},
};
use crate::broker::{
    Broker, BrokerError,
    dead_letters::{self, Choice, Letters, Report, Summary, work_queue},
};

/// How long a request waits for another one that looks at dead letters, before the answer is 503.
const TURN_MAX: Duration = Duration::from_secs(30);

/// How long a replay goes on whose client went away.
const REPLAY_MAX: Duration = Duration::from_secs(600);

/// The queues whose dead letters are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterQueues {
    /// These work queues.
    pub names: Vec<Arc<str>>,
    /// And all whose name begins so; every one, if it is empty. Those that the broker knows are listed.
    pub prefix: Option<String>,
}

impl DeadLetterQueues {
    fn contains(&self, queue: &str) -> bool {
        let prefix = self.prefix.as_deref();
        self.names.iter().any(|name| &**name == queue)
            || prefix.is_some_and(|prefix| queue.starts_with(prefix))
    }

    /// The work queues to list.
    fn listed(&self, broker: &dyn Broker) -> Vec<Arc<str>> {
        let known = broker.known_queues();
        let known = known.iter().map(|name| work_queue(name));
        let known = known.filter(|name| self.contains(name));
        let mut all: Vec<Arc<str>> = known.map(Arc::from).collect();
        all.extend(self.names.iter().cloned());
        all
    }
}

/// What the routes share.
#[derive(Clone)]
pub(super) struct DeadLetters(Arc<Served>);

struct Served {
    broker: Arc<dyn Broker>,
    queues: DeadLetterQueues,
    /// Two that look at a queue at the same time would see a part of it each.
    turn: Mutex<()>,
}

impl DeadLetters {
    pub(super) fn new(broker: Arc<dyn Broker>, queues: DeadLetterQueues) -> DeadLetters {
        DeadLetters(Arc::new(Served {
            broker,
            queues,
            turn: Mutex::default(),
        }))
    }

    async fn turn(&self) -> Result<MutexGuard<'_, ()>, Problem> {
        let turn = timeout(TURN_MAX, self.0.turn.lock()).await;
        turn.map_err(|_| {
            Problem::unavailable("another request looks at dead letters, and takes long")
        })
    }

    /// The work queue of a path, if it is served here.
    fn served(&self, name: &str) -> Result<String, Problem> {
        let queue = work_queue(name);
        if self.0.queues.contains(queue) {
            return Ok(queue.to_owned());
        }
        Err(Problem::no_dead_letters(queue))
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("queues", &self.0.queues)
            .finish_non_exhaustive()
    }
}

/// The routes under `/api/v1/dlq` over a broker alone, for a process without an engine.
pub fn dead_letters(broker: Arc<dyn Broker>, queues: DeadLetterQueues) -> Router {
    let (served, _) = routes::<DeadLetters>().split_for_parts();
    served.with_state(DeadLetters::new(broker, queues))
}

pub(super) fn routes<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    DeadLetters: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(replay))
        .routes(routes!(discard))
}

/// The queues that have dead letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterList {
    /// In the order of their names.
    pub items: Vec<Summary>,
}

/// A queue of the path: the work queue, or its dead letter queue.
pub(super) struct QueueInPath(String);

impl<S: Send + Sync> FromRequestParts<S> for QueueInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(QueueInPath(name))
    }
}

/// Which letters are shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// At most so many, from the oldest on.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// Those whose reason contains this text.
    reason: Option<String>,
    /// Those of this message id.
    message_id: Option<String>,
    /// Whether with headers and body.
    #[serde(default)]
    #[param(required = false, default = false)]
    full: bool,
}

/// Which letters are replayed or discarded.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SettleQuery {
    /// At most so many, from the oldest on. All when absent.
    #[param(minimum = 1)]
    limit: Option<u64>,
    /// Those whose reason contains this text.
    reason: Option<String>,
    /// Those of this message id.
    message_id: Option<String>,
    /// Only say how many it would be.
    #[serde(default)]
    #[param(required = false, default = false)]
    dry_run: bool,
}

impl SettleQuery {
    fn choice(self) -> Result<(Choice, bool), Problem> {
        if self.limit == Some(0) {
            return Err(Problem::bad_request("limit is at least 1"));
        }
        let choice = Choice {
            reason: self.reason,
            message_id: self.message_id,
            limit: self.limit,
        };
        Ok((choice, self.dry_run))
    }
}

/// Lists the queues that have dead letters: how many, why, since when.
#[utoipa::path(get, path = "/api/v1/dlq", operation_id = "list_dead_letters", tag = "dead letters", responses(
    (status = 200, description = "The queues", body = DeadLetterList),
    (status = 503, description = "The broker is not available", body = ProblemBody, content_type = "application/problem+json"),
))]
async fn list(State(dead): State<DeadLetters>, _: NoQuery) -> Result<Response, Problem> {
    let broker = &*dead.0.broker;
    let names = dead.0.queues.listed(broker);
    let _turn = dead.turn().await?;
    let items = dead_letters::list(broker, &names).await?;
    Ok(answer::json(StatusCode::OK, &DeadLetterList { items }))
}

/// Shows dead letters of a queue, oldest first. It takes none away; each comes marked redelivered from then on.
#[utoipa::path(get, path = "/api/v1/dlq/{queue}", operation_id = "show_dead_letters", tag = "dead letters",
    params(("queue" = String, Path, description = "The work queue, or its dead letter queue"), ShowQuery),
    responses(
        (status = 200, description = "The letters", body = Letters),
        (status = 400, description = "A parameter is not valid", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "The queue has no dead letter queue", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The broker is not available", body = ProblemBody, content_type = "application/problem+json"),
    ))]
async fn show(
    State(dead): State<DeadLetters>,
    QueueInPath(name): QueueInPath,
    Params(query): Params<ShowQuery>,
) -> Result<Response, Problem> {
    let queue = dead.served(&name)?;
    let choice = Choice {
        limit: Some(page::limit(query.limit)?.into()),
        reason: query.reason,
        message_id: query.message_id,
    };
    let _turn = dead.turn().await?;
    let letters = dead_letters::show(&*dead.0.broker, &queue, &choice, query.full).await;
    let letters = letters.map_err(|error| of_queue(error, &queue))?;
    Ok(answer::json(StatusCode::OK, &letters))
}

/// Moves dead letters back to the queues that they came from. Those done are there, confirmed; after an error, ask again: no letter is lost,
/// and at most a batch of them is in both places, with the same message ids.
#[utoipa::path(post, path = "/api/v1/dlq/{queue}/replay", operation_id = "replay_dead_letters", tag = "dead letters",
    params(("queue" = String, Path, description = "The work queue, or its dead letter queue"), SettleQuery),
    responses(
        (status = 200, description = "What became of them", body = Report),
        (status = 400, description = "A parameter is not valid", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "The queue has no dead letter queue", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The broker is not available", body = ProblemBody, content_type = "application/problem+json"),
    ))]
async fn replay(
    State(dead): State<DeadLetters>,
    QueueInPath(name): QueueInPath,
    Params(query): Params<SettleQuery>,
) -> Result<Response, Problem> {
    let queue = dead.served(&name)?;
    let (choice, dry_run) = query.choice()?;
    // A client that goes away does not interrupt it in the middle of a batch.
    let replay = async move {
        let _turn = dead.turn().await?;
        let report = dead_letters::replay(&*dead.0.broker, &queue, &choice, dry_run).await;
        report.map_err(|error| of_queue(error, &queue))
    };
    let report = Detached::new(REPLAY_MAX, replay).await?;
    Ok(answer::json(StatusCode::OK, &report))
}

/// Removes dead letters for good.
#[utoipa::path(post, path = "/api/v1/dlq/{queue}/discard", operation_id = "discard_dead_letters", tag = "dead letters",
    params(("queue" = String, Path, description = "The work queue, or its dead letter queue"), SettleQuery),
    responses(
        (status = 200, description = "What became of them", body = Report),
        (status = 400, description = "A parameter is not valid", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "The queue has no dead letter queue", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The broker is not available", body = ProblemBody, content_type = "application/problem+json"),
    ))]
async fn discard(
    State(dead): State<DeadLetters>,
    QueueInPath(name): QueueInPath,
    Params(query): Params<SettleQuery>,
) -> Result<Response, Problem> {
    let queue = dead.served(&name)?;
    let (choice, dry_run) = query.choice()?;
    let _turn = dead.turn().await?;
    let report = dead_letters::discard(&*dead.0.broker, &queue, &choice, dry_run).await;
    let report = report.map_err(|error| of_queue(error, &queue))?;
    Ok(answer::json(StatusCode::OK, &report))
}

fn of_queue(error: BrokerError, queue: &str) -> Problem {
    match error {
        BrokerError::NotFound { .. } => Problem::no_dead_letters(queue),
        error => error.into(),
    }
}
