//! Live events of a run: the steps recorded so far, then those that come, then the end.
//!
//! Hints of this process say when to look; steps of other processes are found by looking twice a second. Both read the store, so that
//! an event tells only what is recorded. A look reads no outputs, and all looks together take a small share of the time, however large the run
//! is and however many follow it; outputs are read a page at a time, when the client has taken the page before.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

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
    ids::{NodeId, RunId, Scope, WorkflowId},
    json::Json,
    workflow::Workflow,
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
    runtime::{RunChanged, RunResult, is_step},
    store::{Load, NodeRef, RunStatus, StepError, StepHead, StepRecord, StepStatus, StoreError},
};

mod seen;

/// How often the store is asked when nothing is heard.
const POLL: Duration = Duration::from_millis(500);
/// How long a stream rests between two looks, however much is heard: many steps make one look.
const REST: Duration = Duration::from_millis(50);
/// How many times as long as a look took a stream rests after it, for each stream that is open.
const REST_PER_LOOK: u32 = 20;
/// It does not rest longer than that.
const REST_MAX: Duration = Duration::from_secs(10);
/// How many steps are read first.
const PAGE: usize = 8;
/// How many steps are read at once, at most.
const PAGE_MAX: usize = 256;
/// Where steps that were read together have more bytes of outputs, fewer are read next.
const PAGE_BYTES: usize = 1 << 20;
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
    let hash = run.workflow_hash;
    let workflow = api.engine.workflow_by_hash(&hash).await?;
    let workflow = workflow.ok_or_else(|| StoreError::Corrupt {
        detail: format!("definition {hash} is not stored"),
    })?;
    let order = Order::of(workflow.clone());
    let mut heads = heads_of(&api, &workflow, &run_id).await?;
    let seen = last
        .and_then(|id| id.parse().ok())
        .map_or_else(Seen::default, |at| Seen::up_to(at, &mut heads, &order));
    let mut follow = Follow {
        run_id,
        workflow,
        changes,
        order,
        seen,
        news: VecDeque::new(),
        page: PAGE,
        queue: VecDeque::new(),
        stands: Stands::GoesOn,
        looked_at: Instant::now(),
        rest: REST,
        api,
        _slot: slot,
    };
    follow.look().await?;
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
    workflow: Arc<Workflow>,
    changes: broadcast::Receiver<RunChanged>,
    order: Order,
    seen: Seen,
    /// Steps to tell of that were not read yet, each with the position behind it.
    news: VecDeque<(StepHead, Position)>,
    /// How many of them are read next.
    page: usize,
    queue: VecDeque<Event>,
    stands: Stands,
    looked_at: Instant,
    /// How long to rest between two looks.
    rest: Duration,
    _slot: OwnedSemaphorePermit,
}

/// Where the run stands, as far as the stream is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    GoesOn,
    /// All its steps are among the news; then the end is told.
    Ended,
    /// There is no more to tell.
    Told,
}

impl Follow {
    /// The next event; `None` at the end of the stream: the run ended, the process stops, or the store refuses.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            let result = match self.stands {
                _ if !self.news.is_empty() => self.read().await,
                Stands::Told => return None,
                Stands::Ended => self.end().await,
                Stands::GoesOn => {
                    let api = self.api.clone();
                    tokio::select! {
                        biased;
                        () = api.stopped() => return None,
                        () = self.hint() => {}
                    }
                    self.look().await
                }
            };
            match result {
                Ok(()) => {}
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, "a stream of events waits for the store");
                    let api = self.api.clone();
                    tokio::select! {
                        biased;
                        () = api.stopped() => return None,
                        () = tokio::time::sleep(POLL) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, run_id = self.run_id.as_str(), "the events of run {} break off", self.run_id);
                    return None;
                }
            }
        }
    }

    /// Waits until there may be news. Cancel-safe: a hint that is lost makes the next look later, not wrong.
    async fn hint(&mut self) {
        let jitter = POLL.mul_f64(fastrand::f64() / 5.0);
        let deadline = self.looked_at + POLL.saturating_sub(jitter).max(self.rest);
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
            tokio::time::sleep_until(self.looked_at + self.rest).await;
        }
    }

    /// Finds what is new. The run first: when it has ended, all its steps are there.
    async fn look(&mut self) -> Result<(), StoreError> {
        let store = self.api.engine.store().clone();
        let began = Instant::now();
        let of_run = [(self.run_id.clone(), Load::default())];
        let run = store.load(&of_run).await?.pop().flatten();
        let heads = heads_of(&self.api, &self.workflow, &self.run_id).await?;
        self.looked_at = Instant::now();
        let open = self.api.options.streams_max - self.api.streams.available_permits();
        self.rest = rest_after(self.looked_at - began, open);
        self.stands = match run.map(|run| run.status) {
            None => Stands::Told,
            Some(RunStatus::Running) => Stands::GoesOn,
            Some(_) => Stands::Ended,
        };
        self.news.extend(self.seen.news(heads, &self.order));
        Ok(())
    }

    /// Reads a page of what is new, and queues its events.
    async fn read(&mut self) -> Result<(), StoreError> {
        let page = self.page.min(self.news.len());
        let wanted = self.news.iter().take(page).map(|(head, _)| {
            let node = self.workflow.node_ix(head.node_id.as_str());
            let node = node.ok_or_else(|| StoreError::Corrupt {
                detail: format!("a step of node '{}', which there is not", head.node_id),
            })?;
            Ok((NodeRef::new(&self.workflow, node), head.scope.clone()))
        });
        let wanted: Vec<_> = wanted.collect::<Result<_, StoreError>>()?;
        let store = self.api.engine.store();
        let steps = store.steps_at(&self.run_id, &wanted).await?;
        let mut bytes = 0;
        for ((head, position), step) in self.news.drain(..page).zip(steps) {
            // What stands elsewhere since is told by the next look.
            let stays =
                |step: &StepRecord| (step.status, step.attempts) == (head.status, head.attempts);
            let Some(step) = step.filter(stays) else {
                continue;
            };
            bytes += step.output.text().len();
            self.queue
                .push_back(step_event(&self.run_id, &step, position));
        }
        self.page = page_after(self.page, bytes);
        Ok(())
    }

    /// Queues the end: of the steps, it reads those that make the run's output.
    async fn end(&mut self) -> Result<(), StoreError> {
        let store = self.api.engine.store();
        let Some(run) = store.run(&self.run_id).await? else {
            self.stands = Stands::Told;
            return Ok(());
        };
        let Workflow { nodes, graph, .. } = &*self.workflow;
        let fallback = |&node: &usize| nodes[node].config.fallback;
        let ends = graph.terminals();
        let ends = ends.flat_map(|node| std::iter::successors(Some(node), fallback));
        let wanted: Vec<_> = ends
            .map(|node| (NodeRef::new(&self.workflow, node), Scope::root()))
            .collect();
        let steps = store.steps_at(&self.run_id, &wanted).await?;
        let steps = steps.into_iter().flatten().collect();
        let ended_at = run.ended_at.unwrap_or(run.created_at);
        let duration_ms = ended_at.ms_since(run.created_at);
        let result = RunResult::new(&self.workflow, run, steps, duration_ms);
        self.queue.push_back(end_event(&result));
        self.stands = Stands::Told;
        Ok(())
    }
}

/// Where the steps of a run stand.
async fn heads_of(
    api: &Api,
    workflow: &Workflow,
    run_id: &RunId,
) -> Result<Vec<StepHead>, StoreError> {
    let mut heads = api.engine.store().step_heads(run_id).await?;
    heads.retain(|step| is_step(workflow, &step.node_id, &step.scope));
    Ok(heads)
}

/// How long a stream rests after a look that took so long: while as many are open, all their looks take one part in [`REST_PER_LOOK`].
fn rest_after(look: Duration, open: usize) -> Duration {
    let streams = u32::try_from(open.max(1)).unwrap_or(u32::MAX);
    let rest = look.saturating_mul(REST_PER_LOOK).saturating_mul(streams);
    rest.clamp(REST, REST_MAX)
}

/// How many steps are read next, after so many had so many bytes of outputs.
fn page_after(page: usize, bytes: usize) -> usize {
    if bytes > PAGE_BYTES {
        (page / 2).max(1)
    } else {
        (page * 2).min(PAGE_MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_a_share_of_the_time() {
        let ms = Duration::from_millis;
        let check = |look: u64, open: usize, expect: u64| {
            assert_eq!(rest_after(ms(look), open), ms(expect), "{look} {open}");
        };
        check(0, 1, 50);
        check(1, 0, 50);
        check(10, 1, 200);
        check(10, 20, 4_000);
        check(10, 1_000, 10_000);
    }

    #[test]
    fn pages_grow_while_outputs_are_small() {
        let mut page = PAGE;
        for _ in 0..10 {
            page = page_after(page, PAGE_BYTES);
        }
        assert_eq!(page, PAGE_MAX);
        for _ in 0..10 {
            page = page_after(page, PAGE_BYTES + 1);
        }
        assert_eq!(page, 1);
    }
}
