//! Live events of a run: the steps recorded so far, then those that come, then the end.
//!
//! Hints of this process say when to look; steps of other processes are found by looking twice a second. Both read the store, so that
//! an event tells only what is recorded.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use leveret_core::{
    ids::{NodeId, RunId, WorkflowId},
    json::Json,
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast},
    time::Instant,
};
use utoipa::ToSchema;

use self::seen::{Order, Position, Seen};
use super::{
    Api,
    extract::{Id, NoQuery},
    problem::{Problem, ProblemBody},
    schema::RunInPath,
};
use crate::{
    runtime::{RunChanged, RunResult},
    store::{RunRecord, RunStatus, StepError, StepRecord, StepStatus, StoreError},
};

mod seen;

/// How often the store is asked when nothing is heard.
const POLL: Duration = Duration::from_millis(500);
/// How long a stream rests between two looks, however much is heard: many steps make one look.
const REST: Duration = Duration::from_millis(50);
/// How often an idle stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The id of the last event. A client that comes back with it is told not to come again.
const END: &str = "end";

/// A step, as recorded: the data of events of type `step`.
#[derive(Serialize, ToSchema)]
pub(super) struct StepEvent<'a> {
    #[schema(value_type = String)]
    run_id: &'a RunId,
    #[schema(value_type = String)]
    node_id: &'a NodeId,
    /// Where in loops and batches; empty outside.
    scope: &'a str,
    status: StepStatus,
    attempts: u32,
    #[schema(value_type = serde_json::Value)]
    output: &'a Json,
    error: Option<&'a StepError>,
    #[schema(format = DateTime)]
    started_at: String,
    /// When it ended or began to wait.
    #[schema(format = DateTime)]
    finished_at: String,
}

/// How a run ended: the data of the event of type `end`. The result without its steps.
#[derive(Serialize, ToSchema)]
pub(super) struct EndEvent<'a> {
    #[schema(value_type = String)]
    run_id: &'a RunId,
    #[schema(value_type = String)]
    workflow_id: &'a WorkflowId,
    status: RunStatus,
    #[schema(value_type = serde_json::Value)]
    output: &'a Json,
    error: Option<&'a StepError>,
    duration_ms: u64,
}

/// An event as it is streamed.
#[derive(ToSchema)]
#[expect(dead_code, reason = "described here, printed by the server")]
struct StreamEvent {
    /// `step` or `end`.
    event: String,
    /// Names the event for `Last-Event-ID`.
    id: String,
    /// JSON: a `StepEvent` or an `EndEvent`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// Streams what happens to a run: first the steps recorded so far, then those that come, each as an event of type `step`; then
/// one of type `end`, and the stream closes. With `Last-Event-ID` only what comes after that event. At least once: after a
/// reconnect, steps may come again.
#[utoipa::path(get, path = "/api/v1/runs/{run_id}/events", operation_id = "run_events", tag = "runs",
    params(
        RunInPath,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the client has"),
    ),
    responses(
        (status = 200, description = "Events of types `step` and `end`, with JSON data", content_type = "text/event-stream",
            body = StreamEvent),
        (status = 204, description = "The client has the end already"),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now, or too many streams", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn events(
    State(api): State<Api>,
    Id(run_id): Id<RunId>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    // Register for hints before the first look.
    let changes = api.engine.changes();
    let run = api
        .engine
        .store()
        .run(&run_id)
        .await?
        .ok_or_else(|| Problem::no_run(&run_id))?;
    if last == Some(END) && run.status != RunStatus::Running {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let slot = api.streams.clone().try_acquire_owned();
    let slot = slot.map_err(|_| Problem::unavailable("too many event streams are open"))?;
    let workflow = api.engine.workflow_by_hash(&run.workflow_hash).await?;
    let order = Order::of(workflow);
    let mut steps = api.engine.store().steps(&run_id).await?;
    let seen = last
        .and_then(|id| id.parse().ok())
        .map_or_else(Seen::default, |at| Seen::up_to(at, &mut steps, &order));
    let mut follow = Follow {
        run_id,
        changes,
        order,
        seen,
        queue: VecDeque::new(),
        ended: false,
        looked_at: Instant::now(),
        api,
        _slot: slot,
    };
    follow.tell(run, steps).await?;
    let events = stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await?;
        Some((Ok::<_, Infallible>(event), follow))
    });
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

/// A stream's state.
struct Follow {
    api: Api,
    run_id: RunId,
    changes: broadcast::Receiver<RunChanged>,
    order: Order,
    seen: Seen,
    queue: VecDeque<Event>,
    ended: bool,
    looked_at: Instant,
    _slot: OwnedSemaphorePermit,
}

impl Follow {
    /// The next event; `None` at the end of the stream: the run ended, the process stops, or the store refuses.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let api = self.api.clone();
            tokio::select! {
                biased;
                () = api.stopped() => return None,
                () = self.news() => {}
            }
            match self.look().await {
                Ok(()) => {}
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, "a stream of events waits for the store");
                }
                Err(error) => {
                    tracing::warn!(%error, run_id = self.run_id.as_str(), "the events of run {} break off", self.run_id);
                    return None;
                }
            }
        }
    }

    /// Waits until there may be news. Cancel-safe: a hint that is lost makes the next look later, not wrong.
    async fn news(&mut self) {
        let jitter = POLL.mul_f64(fastrand::f64() / 5.0);
        let deadline = self.looked_at + POLL - jitter;
        let run_id = &self.run_id;
        let changes = &mut self.changes;
        let hint = async {
            loop {
                match changes.recv().await {
                    Ok(hint) if hint.run_id != *run_id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => {
                        return std::future::pending().await;
                    }
                }
            }
        };
        if tokio::time::timeout_at(deadline, hint).await.is_ok() {
            tokio::time::sleep_until(self.looked_at + REST).await;
        }
    }

    /// The run first: when it has ended, all its steps are there.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.looked_at = Instant::now();
        let store = self.api.engine.store().clone();
        let Some(run) = store.run(&self.run_id).await? else {
            self.ended = true;
            return Ok(());
        };
        let steps = store.steps(&self.run_id).await?;
        self.tell(run, steps).await
    }

    /// Queues events of what is new.
    async fn tell(&mut self, run: RunRecord, mut steps: Vec<StepRecord>) -> Result<(), StoreError> {
        for (step, position) in self.seen.news(&mut steps, &self.order) {
            self.queue
                .push_back(step_event(&self.run_id, step, position));
        }
        let Some(ended_at) = run.ended_at.filter(|_| run.status != RunStatus::Running) else {
            return Ok(());
        };
        let hash = run.workflow_hash;
        let workflow = self.api.engine.workflow_by_hash(&hash).await?;
        let workflow = workflow.ok_or_else(|| StoreError::Corrupt {
            detail: format!("definition {hash} is not stored"),
        })?;
        let duration_ms = ended_at.ms_since(run.created_at);
        self.queue.push_back(end_event(&RunResult::new(
            &workflow,
            run,
            steps,
            duration_ms,
        )));
        self.ended = true;
        Ok(())
    }
}

fn step_event(run_id: &RunId, step: &StepRecord, position: Position) -> Event {
    let data = StepEvent {
        run_id,
        node_id: &step.node_id,
        scope: step.scope.as_str(),
        status: step.status,
        attempts: step.attempts,
        output: &step.output,
        error: step.error.as_ref(),
        started_at: step.started_at.to_string(),
        finished_at: step.finished_at.to_string(),
    };
    event("step", position.to_string(), &data)
}

fn end_event(result: &RunResult) -> Event {
    let RunResult {
        run_id,
        workflow_id,
        status,
        output,
        error,
        duration_ms,
        ..
    } = result;
    let data = EndEvent {
        run_id,
        workflow_id,
        status: *status,
        output,
        error: error.as_ref(),
        duration_ms: *duration_ms,
    };
    event("end", END.to_owned(), &data)
}

fn event(kind: &str, id: String, data: &impl Serialize) -> Event {
    Event::default()
        .event(kind)
        .id(id)
        .json_data(data)
        .expect("an event prints")
}
