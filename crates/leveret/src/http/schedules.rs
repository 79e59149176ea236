//! Schedules: put, show, list, remove, pause and resume, run now, history.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use leveret_core::{
    ids::{RunId, ScheduleId},
    schedule::{Compiled, Firing, FiringState, Schedule, Spec},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, answer,
    extract::{Id, NoQuery, Params, is_json, media_type, read_body},
    page::{self, Page},
    problem::{Problem, ProblemBody},
    runs::RunBegun,
    schema::ScheduleInPath,
};
use crate::{
    runtime::schedules::{change, start},
    schedules::Kept,
    store::RunStatus,
};

/// How many due times are told.
const NEXT: usize = 5;

/// How often a change is tried that others were faster with, such as the schedule's own firings.
const CHANGES_MAX: usize = 20;

/// What is asked of a schedule.
#[derive(ToSchema)]
#[schema(as = ScheduleSpec)]
#[allow(dead_code)] // The schema of `leveret_core::schedule::Spec`.
pub(super) struct SpecBody {
    /// Whose runs it starts: of the newest version at each time.
    workflow_id: String,
    /// The interval: milliseconds, or text as `10s`. It is due for the first time one interval after. Either this or `cron`.
    #[schema(value_type = Option<serde_json::Value>)]
    every: Option<()>,
    /// A cron pattern of five fields, or six with seconds in front.
    cron: Option<String>,
    /// The zone of the pattern, as in `Europe/Berlin`; `UTC` if absent.
    time_zone: Option<String>,
    /// The input of its runs; null if absent.
    #[schema(value_type = Option<serde_json::Value>)]
    input: Option<()>,
    /// While the run before is running: `skip` (default), `queue` or `allow`.
    overlap: Option<String>,
    /// Of times that were missed: `none`, `one` (default) or `all`.
    catch_up: Option<String>,
    /// Each firing is late by a share of this: milliseconds, or text as `10s`.
    #[schema(value_type = Option<serde_json::Value>)]
    jitter: Option<()>,
}

/// A schedule.
#[derive(Serialize, ToSchema)]
pub(super) struct ScheduleItem {
    /// Its name.
    schedule_id: String,
    /// What is asked of it.
    #[serde(flatten)]
    #[schema(value_type = SpecBody)]
    spec: Spec,
    /// Whether it is paused.
    paused: bool,
    /// When it was put for the first time, RFC 3339.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was put last, RFC 3339.
    #[schema(format = DateTime)]
    changed_at: String,
    /// The next five due times, RFC 3339; fewer if there are no more. While it is paused: none.
    next: Vec<String>,
    /// How many due times wait for a run to end.
    queued: usize,
    /// The run that was started last.
    #[schema(value_type = Option<String>)]
    last_run_id: Option<RunId>,
}

impl ScheduleItem {
    fn new(id: &ScheduleId, schedule: Schedule) -> ScheduleItem {
        let next = match schedule.spec.compiled() {
            Ok(compiled) if schedule.paused_at.is_none() => schedule.upcoming(&compiled, NEXT),
            _ => Vec::new(),
        };
        ScheduleItem {
            schedule_id: id.to_string(),
            paused: schedule.paused_at.is_some(),
            created_at: schedule.created_at.to_string(),
            changed_at: schedule.changed_at.to_string(),
            next: next.iter().map(Timestamp::to_string).collect(),
            queued: schedule.queued.len(),
            last_run_id: schedule.last_run,
            spec: schedule.spec,
        }
    }

    fn of(kept: Kept) -> ScheduleItem {
        ScheduleItem::new(&kept.id, kept.schedule)
    }
}

/// What became of a due time.
#[derive(Serialize, ToSchema)]
pub(super) struct FiringItem {
    /// 1 for the first of the schedule.
    number: u64,
    /// When it was due, RFC 3339; of one that was asked for by hand, when that was.
    #[schema(format = DateTime)]
    due_at: String,
    /// Whether it was asked for by hand.
    manual: bool,
    /// `started`, `skipped` or `failed`.
    #[schema(value_type = String)]
    state: FiringState,
    /// Since when, RFC 3339.
    #[schema(format = DateTime)]
    at: String,
    /// Its run.
    #[schema(value_type = Option<String>)]
    run_id: Option<RunId>,
    /// Why it was skipped, or failed.
    detail: Option<String>,
}

impl From<Firing> for FiringItem {
    fn from(firing: Firing) -> FiringItem {
        FiringItem {
            number: firing.number,
            due_at: firing.due_at.to_string(),
            manual: firing.manual,
            state: firing.state,
            at: firing.at.to_string(),
            run_id: firing.run_id,
            detail: firing.detail,
        }
    }
}

/// Puts a schedule, in the place of one that has its name. Other times than before count from now.
#[utoipa::path(put, path = "/api/v1/schedules/{id}", operation_id = "put_schedule", tag = "schedules",
    params(ScheduleInPath),
    request_body(content = SpecBody, description = "What is asked of it"),
    responses(
        (status = 200, description = "It was there", body = ScheduleItem),
        (status = 201, description = "It is new", body = ScheduleItem),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "No schedule, or one that is never due", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn put(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    _: NoQuery,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let said = media_type(&parts.headers)?;
    if !said.is_some_and(|media_type| is_json(&media_type)) {
        return Err(Problem::content_type("application/json"));
    }
    let bytes = read_body(&parts.headers, body, &api.options).await?;
    let spec = spec(&bytes)?;
    let now = api.engine.clock().now();
    let compiled = spec
        .compile(now)
        .map_err(|error| Problem::invalid_schedule(error.to_string()))?;
    let workflow = api.newest.get(&api.engine, &spec.workflow_id).await?;
    if workflow.is_none() {
        let detail = format!("there is no workflow '{}'", spec.workflow_id);
        return Err(Problem::invalid_schedule(detail));
    }
    let schedules = api.engine.store().schedules();
    for _ in 0..CHANGES_MAX {
        let (version, schedule) = match schedules.get(&id).await? {
            None => (0, Schedule::new(spec.clone(), &compiled, now)),
            Some(kept) => {
                let mut schedule = kept.schedule;
                schedule.change(spec.clone(), &compiled, now);
                (kept.version, schedule)
            }
        };
        let next = change(&id, version, &schedule, &compiled, now, Vec::new());
        if schedules.change(&next).await? {
            let status = match version {
                0 => StatusCode::CREATED,
                _ => StatusCode::OK,
            };
            return Ok(answer::json(status, &ScheduleItem::new(&id, schedule)));
        }
    }
    Err(busy())
}

/// A body that is JSON and no spec is told so as one that cannot be used.
fn spec(bytes: &[u8]) -> Result<Spec, Problem> {
    // serde takes a list for an object, its items for the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::invalid_schedule("the body must be an object"));
    }
    let spec: Spec = serde_json::from_slice(bytes).map_err(|error| {
        if error.is_data() {
            Problem::invalid_schedule(error.to_string())
        } else {
            Problem::not_json(&error)
        }
    })?;
    spec.input
        .readable()
        .map_err(|error| Problem::bad_request(format!("the input cannot be taken in: {error}")))?;
    Ok(spec)
}

fn busy() -> Problem {
    Problem::unavailable("others change this schedule all the time; try again")
}

/// Shows a schedule.
#[utoipa::path(get, path = "/api/v1/schedules/{id}", operation_id = "show_schedule", tag = "schedules",
    params(ScheduleInPath),
    responses(
        (status = 200, description = "The schedule", body = ScheduleItem),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let kept = api.engine.store().schedules().get(&id).await?;
    let kept = kept.ok_or_else(|| Problem::no_schedule(&id))?;
    Ok(answer::json(StatusCode::OK, &ScheduleItem::of(kept)))
}

/// Removes a schedule with its history. Runs that it started go on.
#[utoipa::path(delete, path = "/api/v1/schedules/{id}", operation_id = "delete_schedule", tag = "schedules",
    params(ScheduleInPath),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    if api.engine.store().schedules().remove(&id).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Problem::no_schedule(&id))
    }
}

/// Which part of a list is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1)]
    after: Option<String>,
}

/// Lists schedules by name.
#[utoipa::path(get, path = "/api/v1/schedules", operation_id = "list_schedules", tag = "schedules", params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<ScheduleItem>),
        (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after = query
        .after
        .map(|cursor| Ok::<_, Problem>(ScheduleId::new(page::decode(&cursor)?)?))
        .transpose()?;
    let schedules = api.engine.store().schedules();
    let kept = schedules.list(after.as_ref(), limit + 1).await?;
    let cursor = |kept: &Kept| page::encode(kept.id.as_str());
    let page = Page::cut(kept, limit, cursor, ScheduleItem::of);
    Ok(answer::json(StatusCode::OK, &page))
}

/// Lists what became of due times, the newest first: the last thousand.
#[utoipa::path(get, path = "/api/v1/schedules/{id}/history", operation_id = "schedule_history", tag = "schedules",
    params(ScheduleInPath, PageQuery),
    responses(
        (status = 200, description = "A page", body = Page<FiringItem>),
        (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn history(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    Params(query): Params<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let before = query.after.map(|cursor| {
        let text = page::decode(&cursor)?;
        text.parse::<u64>()
            .map_err(|_| Problem::bad_request("`after` is no `next` of a page before"))
    });
    let before = before.transpose()?;
    let schedules = api.engine.store().schedules();
    let firings = schedules.history(&id, before, limit + 1).await?;
    if firings.is_empty() && schedules.get(&id).await?.is_none() {
        return Err(Problem::no_schedule(&id));
    }
    let cursor = |firing: &Firing| page::encode(&firing.number.to_string());
    let page = Page::cut(firings, limit, cursor, FiringItem::from);
    Ok(answer::json(StatusCode::OK, &page))
}

/// Changes a schedule that is there; returns it with its version.
async fn edit(
    api: &Api,
    id: &ScheduleId,
    mut edit: impl FnMut(&mut Schedule, &Compiled, Timestamp),
) -> Result<(Schedule, Compiled, u64), Problem> {
    let schedules = api.engine.store().schedules();
    for _ in 0..CHANGES_MAX {
        let kept = schedules.get(id).await?;
        let kept = kept.ok_or_else(|| Problem::no_schedule(id))?;
        let mut schedule = kept.schedule;
        let compiled = schedule
            .spec
            .compiled()
            .map_err(|error| Problem::invalid_schedule(error.to_string()))?;
        let now = api.engine.clock().now();
        edit(&mut schedule, &compiled, now);
        let next = change(id, kept.version, &schedule, &compiled, now, Vec::new());
        if schedules.change(&next).await? {
            return Ok((schedule, compiled, kept.version + 1));
        }
    }
    Err(busy())
}

/// Pauses a schedule: nothing falls due until it is resumed. Runs that it started go on.
#[utoipa::path(post, path = "/api/v1/schedules/{id}/pause", operation_id = "pause_schedule", tag = "schedules",
    params(ScheduleInPath),
    responses(
        (status = 200, description = "It is paused", body = ScheduleItem),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn pause(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let (schedule, ..) = edit(&api, &id, |schedule, _, now| schedule.pause(now)).await?;
    Ok(answer::json(
        StatusCode::OK,
        &ScheduleItem::new(&id, schedule),
    ))
}

/// Goes on with the next due time from now on. What was due meanwhile is not made up for.
#[utoipa::path(post, path = "/api/v1/schedules/{id}/resume", operation_id = "resume_schedule", tag = "schedules",
    params(ScheduleInPath),
    responses(
        (status = 200, description = "It goes on", body = ScheduleItem),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn resume(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let resume = |schedule: &mut Schedule, compiled: &Compiled, now| schedule.resume(compiled, now);
    let (schedule, ..) = edit(&api, &id, resume).await?;
    Ok(answer::json(
        StatusCode::OK,
        &ScheduleItem::new(&id, schedule),
    ))
}

/// Starts a run of a schedule now, whatever else is due or running, also while it is paused.
#[utoipa::path(post, path = "/api/v1/schedules/{id}/run", operation_id = "run_schedule", tag = "schedules",
    params(ScheduleInPath),
    responses(
        (status = 202, description = "The run is recorded, or will be within seconds", body = RunBegun),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn run(
    State(api): State<Api>,
    Id(id): Id<ScheduleId>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let run_id = api.engine.clock().new_run_id();
    let fire = |schedule: &mut Schedule, _: &Compiled, now| schedule.fire_now(run_id.clone(), now);
    let (schedule, compiled, version) = edit(&api, &id, fire).await?;
    let schedules = api.engine.store().schedules();
    let started = start(&api.engine, &*schedules, &id, version, schedule, &compiled);
    if let Err(error) = started.await {
        let schedule_id = id.as_str();
        tracing::warn!(%error, schedule_id, "a run of schedule {id} is started later");
    }
    let begun = RunBegun {
        run_id,
        status: RunStatus::Running,
    };
    Ok(answer::json(StatusCode::ACCEPTED, &begun))
}
