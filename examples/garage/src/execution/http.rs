//! `/executions` and `/queue`, for the garage's staff.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use leveret::service::{
    Of, Service,
    documents::{Document, Order, PAGE_MAX, Query},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    decide::{Change, Create, Executions, Message, Noted},
    state::{ACTIVE, CREATED, ExecutionState, KIND, STATUS, YES, id_of, key_of},
};
use crate::{
    auth::Staff,
    events::{PartUsed, ServicePerformed},
    failure::Failure,
    ids::Id,
    openapi::Operation,
    request::{Body, IdempotencyKey, Keyed, Params, PathId, TEXT_BYTES_MAX, check_text},
    settings::Settings,
    statuses::{EXECUTION, ExecutionStatus},
};

/// How many executions a list has unless it is said, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 500;
/// The most executions that a queue is sorted of: the oldest.
const QUEUE_MAX: usize = 10_000;
/// The most parts or services of one execution.
const ITEMS_MAX: usize = 200;
/// The largest quantity of a part, and duration of a service in minutes.
const COUNT_MAX: i64 = 1_000_000;
/// The most urgent.
const PRIORITY_MAX: i64 = 1000;
/// The longest id or name of a technician, part or service, in bytes.
const NAME_BYTES_MAX: usize = 200;

type Answer = Result<Response, Failure>;

/// The routes. All need a token.
pub(crate) fn router(service: &Service, _settings: &Settings) -> Router {
    let verb = |to| post(move |state, staff, id, key, body| go_on(state, staff, id, key, body, to));
    Router::new()
        .route("/executions", post(create).get(list))
        .route("/executions/queue", get(queue))
        .route("/queue", get(queue))
        .route("/queue/statistics", get(statistics))
        .route("/executions/work-order/{id}", get(of_work_order))
        .route("/executions/{id}", get(show).patch(change).put(change))
        .route(
            "/executions/{id}/start-diagnosis",
            verb(ExecutionStatus::Diagnosing),
        )
        .route(
            "/executions/{id}/complete-diagnosis",
            verb(ExecutionStatus::DiagnosisComplete),
        )
        .route(
            "/executions/{id}/start-repair",
            verb(ExecutionStatus::Repairing),
        )
        .route(
            "/executions/{id}/complete-repair",
            verb(ExecutionStatus::RepairComplete),
        )
        .route(
            "/executions/{id}/start-testing",
            verb(ExecutionStatus::Testing),
        )
        .route(
            "/executions/{id}/complete",
            verb(ExecutionStatus::Completed),
        )
        .route("/executions/{id}/fail", post(fail))
        .with_state(service.clone())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateBody {
    work_order_id: Id,
    technician_id: String,
    quote_id: Option<Id>,
    #[serde(default)]
    priority: i64,
}

async fn create(
    State(service): State<Service>,
    Staff(caller): Staff,
    key: IdempotencyKey,
    body: Body<CreateBody>,
) -> Answer {
    let request = Keyed::of(&key, &caller.sub, "create", &body.fingerprint);
    let CreateBody {
        work_order_id,
        technician_id,
        quote_id,
        priority,
    } = body.value;
    check_text("technicianId", &technician_id, NAME_BYTES_MAX)?;
    check_priority(priority)?;
    let create = Message::Create(Create {
        work_order_id,
        technician_id,
        quote_id,
        priority,
        request,
    });
    decided(&service, &create, StatusCode::CREATED).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChangeBody {
    status: Option<ExecutionStatus>,
    technician_id: Option<String>,
    priority: Option<i64>,
    diagnosis_notes: Option<String>,
    repair_notes: Option<String>,
    parts_used: Option<Vec<PartUsed>>,
    services_performed: Option<Vec<ServicePerformed>>,
    reason: Option<String>,
}

async fn change(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<ChangeBody>,
) -> Answer {
    let request = Keyed::of(&key, &caller.sub, "change", &body.fingerprint);
    let body = body.value;
    if body.reason.is_some() && body.status != Some(ExecutionStatus::Failed) {
        return Err(Failure::bad_request(
            "reason goes with the status FAILED only",
        ));
    }
    let noted = Noted {
        technician_id: body.technician_id,
        priority: body.priority,
        diagnosis_notes: body.diagnosis_notes,
        repair_notes: body.repair_notes,
        parts_used: body.parts_used,
        services_performed: body.services_performed,
        reason: body.reason,
    };
    check_noted(&noted)?;
    let change = Message::Change(Change {
        id,
        to: body.status,
        may_stay: true,
        noted,
        request,
    });
    decided(&service, &change, StatusCode::OK).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerbBody {
    notes: Option<String>,
    parts_used: Option<Vec<PartUsed>>,
    services_performed: Option<Vec<ServicePerformed>>,
}

/// A verb without a reason: `start-…`, `complete-…`, `complete`.
async fn go_on(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<VerbBody>,
    to: ExecutionStatus,
) -> Answer {
    let request = Keyed::of(&key, &caller.sub, to.as_str(), &body.fingerprint);
    let VerbBody {
        notes,
        parts_used,
        services_performed,
    } = body.value;
    let mut noted = Noted {
        parts_used,
        services_performed,
        ..Noted::default()
    };
    match (to, notes) {
        (_, None) => {}
        (ExecutionStatus::DiagnosisComplete, text) => noted.diagnosis_notes = text,
        (ExecutionStatus::RepairComplete, text) => noted.repair_notes = text,
        _ => {
            let message =
                "notes go with complete-diagnosis and complete-repair only; else see PATCH";
            return Err(Failure::bad_request(message));
        }
    }
    check_noted(&noted)?;
    let change = Message::Change(Change {
        id,
        to: Some(to),
        may_stay: false,
        noted,
        request,
    });
    decided(&service, &change, StatusCode::CREATED).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FailBody {
    reason: String,
}

async fn fail(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<FailBody>,
) -> Answer {
    let request = Keyed::of(&key, &caller.sub, "fail", &body.fingerprint);
    let noted = Noted {
        reason: Some(body.value.reason),
        ..Noted::default()
    };
    check_noted(&noted)?;
    let change = Message::Change(Change {
        id,
        to: Some(ExecutionStatus::Failed),
        may_stay: false,
        noted,
        request,
    });
    decided(&service, &change, StatusCode::CREATED).await
}

async fn decided(service: &Service, message: &Message, status: StatusCode) -> Answer {
    let decider = Of::<Executions>::default();
    let state = service.call(&decider, message).await?;
    Ok((status, Json(state.shown())).into_response())
}

async fn show(State(service): State<Service>, _: Staff, PathId(id): PathId) -> Answer {
    let found = find(&service, &id).await?;
    let unknown = || Failure::not_found(format!("Execution {id} not found"));
    Ok(Json(found.ok_or_else(unknown)?.shown()).into_response())
}

/// An array, empty when there is none.
async fn of_work_order(State(service): State<Service>, _: Staff, PathId(id): PathId) -> Answer {
    let found = find(&service, &id_of(&id)).await?;
    let shown: Vec<Value> = found.iter().map(ExecutionState::shown).collect();
    Ok(Json(shown).into_response())
}

async fn find(service: &Service, id: &Id) -> Result<Option<ExecutionState>, Failure> {
    let loaded = service.documents().load(&[key_of(id)]).await?;
    let state = loaded.first().map(read).transpose()?.flatten();
    Ok(state.filter(|state| state.status.is_some()))
}

/// The newest executions; in a page of them, the most urgent first, then the oldest.
async fn list(State(service): State<Service>, _: Staff, params: Params) -> Answer {
    let params = params.known(&["status", "limit", "after"])?;
    let mut filter = vec![(Arc::from(CREATED), Arc::from(YES))];
    if let Some(word) = params.get("status") {
        let unknown = || {
            let known: Vec<&str> = ExecutionStatus::ALL.iter().map(|s| s.as_str()).collect();
            Failure::bad_request(format!("status is one of {}", known.join(", ")))
        };
        let status = ExecutionStatus::parse(word).ok_or_else(unknown)?;
        filter.push((STATUS.into(), status.as_str().into()));
    }
    let query = Query {
        kind: KIND.into(),
        filter,
        order: Order::Newest,
        after: params.get("after").map(Into::into),
        limit: limit(&params, LIMIT_DEFAULT)?,
    };
    let page = service.documents().list(&query).await?;
    let mut states = page
        .documents
        .iter()
        .filter_map(|document| read(document).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    in_turn(&mut states);
    let mut response = shown(&states);
    if let Some(next) = page.next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert("x-next", next);
    }
    Ok(response)
}

/// All that have not ended, in their turn.
async fn queue(State(service): State<Service>, _: Staff, params: Params) -> Answer {
    let params = params.known(&["limit"])?;
    let limit = limit(&params, LIMIT_MAX)? as usize;
    let mut states = all(&service, (ACTIVE, YES)).await?;
    in_turn(&mut states);
    states.truncate(limit);
    Ok(shown(&states))
}

async fn statistics(State(service): State<Service>, _: Staff) -> Answer {
    let mut by_status = Map::new();
    let mut total = 0;
    for status in ExecutionStatus::ALL {
        if EXECUTION.is_final(*status) {
            continue;
        }
        let filter = [(Arc::from(STATUS), Arc::from(status.as_str()))];
        let count = service.documents().count(KIND, &filter).await?;
        total += count;
        by_status.insert(camel(status.as_str()), count.into());
    }
    let waiting = all(&service, (STATUS, ExecutionStatus::Queued.as_str())).await?;
    let now = service.now();
    let waited_ms = waiting.iter().map(|state| now.ms_since(state.created_at));
    let mean_ms = waited_ms.sum::<u64>() / (waiting.len() as u64).max(1);
    Ok(Json(json!({
        "total": total,
        "byStatus": by_status,
        "averageWaitTime": (mean_ms + 30_000) / 60_000,
    }))
    .into_response())
}

/// The most urgent first, then the oldest.
fn in_turn(states: &mut [ExecutionState]) {
    states.sort_by(|a, b| {
        let (first, then) = (b.priority.cmp(&a.priority), a.created_at.cmp(&b.created_at));
        first.then(then).then_with(|| a.id.cmp(&b.id))
    });
}

/// The oldest executions with a value of a field, [`QUEUE_MAX`] at most.
async fn all(
    service: &Service,
    (field, value): (&str, &str),
) -> Result<Vec<ExecutionState>, Failure> {
    let mut query = Query {
        kind: KIND.into(),
        filter: vec![(field.into(), value.into())],
        order: Order::Oldest,
        after: None,
        limit: PAGE_MAX,
    };
    let mut states = Vec::new();
    loop {
        let page = service.documents().list(&query).await?;
        for document in &page.documents {
            states.extend(read(document)?);
        }
        query.after = page.next;
        if query.after.is_none() || states.len() >= QUEUE_MAX {
            return Ok(states);
        }
    }
}

fn read(document: &Document) -> Result<Option<ExecutionState>, Failure> {
    let Some(state) = &document.state else {
        return Ok(None);
    };
    let read = serde_json::from_str(state.text());
    read.map(Some).map_err(|error| {
        tracing::error!(%error, id = &*document.key.id, "a stored execution cannot be read");
        let message = "The execution cannot be read";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

fn shown(states: &[ExecutionState]) -> Response {
    let shown: Vec<Value> = states.iter().map(ExecutionState::shown).collect();
    Json(shown).into_response()
}

fn limit(params: &Params, default: u32) -> Result<u32, Failure> {
    let Some(text) = params.get("limit") else {
        return Ok(default);
    };
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| Failure::bad_request(format!("limit is 1 to {LIMIT_MAX}")))
}

fn check_noted(noted: &Noted) -> Result<(), Failure> {
    let texts = [
        ("technicianId", &noted.technician_id, NAME_BYTES_MAX),
        ("diagnosisNotes", &noted.diagnosis_notes, TEXT_BYTES_MAX),
        ("repairNotes", &noted.repair_notes, TEXT_BYTES_MAX),
        ("reason", &noted.reason, TEXT_BYTES_MAX),
    ];
    for (name, text, most) in texts {
        if let Some(text) = text {
            check_text(name, text, most)?;
        }
    }
    noted.priority.map_or(Ok(()), check_priority)?;
    let parts = noted.parts_used.as_deref().unwrap_or_default();
    check_length("partsUsed", parts.len())?;
    for part in parts {
        check_text("partsUsed.partId", &part.part_id, NAME_BYTES_MAX)?;
        check_text("partsUsed.name", &part.name, NAME_BYTES_MAX)?;
        check_count("partsUsed.quantity", part.quantity)?;
    }
    let services = noted.services_performed.as_deref().unwrap_or_default();
    check_length("servicesPerformed", services.len())?;
    for service in services {
        check_text(
            "servicesPerformed.serviceId",
            &service.service_id,
            NAME_BYTES_MAX,
        )?;
        check_text("servicesPerformed.name", &service.name, NAME_BYTES_MAX)?;
        check_count("servicesPerformed.duration", service.duration)?;
    }
    Ok(())
}

fn check_priority(priority: i64) -> Result<(), Failure> {
    if (0..=PRIORITY_MAX).contains(&priority) {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "priority is 0 to {PRIORITY_MAX}"
    )))
}

fn check_length(name: &str, length: usize) -> Result<(), Failure> {
    if length <= ITEMS_MAX {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "{name} has more than {ITEMS_MAX} items"
    )))
}

fn check_count(name: &str, count: i64) -> Result<(), Failure> {
    if (1..=COUNT_MAX).contains(&count) {
        return Ok(());
    }
    Err(Failure::bad_request(format!("{name} is 1 to {COUNT_MAX}")))
}

/// `DIAGNOSIS_COMPLETE` as `diagnosisComplete`.
fn camel(status: &str) -> String {
    let mut camel = String::with_capacity(status.len());
    let mut is_upper = false;
    for letter in status.chars() {
        match (letter, is_upper) {
            ('_', _) => {
                is_upper = true;
                continue;
            }
            (letter, true) => camel.push(letter),
            (letter, false) => camel.push(letter.to_ascii_lowercase()),
        }
        is_upper = false;
    }
    camel
}

/// What it can be asked.
pub(crate) fn operations() -> Vec<Operation> {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false });
    let parts = || {
        let part = object(
            &["partId", "name", "quantity"],
            json!({ "partId": text(), "name": text(), "quantity": number() }),
        );
        json!({ "type": "array", "items": part })
    };
    let services = || {
        let service = object(
            &["serviceId", "name", "duration"],
            json!({ "serviceId": text(), "name": text(), "duration": number() }),
        );
        json!({ "type": "array", "items": service })
    };
    let create = object(
        &["workOrderId", "technicianId"],
        json!({ "workOrderId": text(), "technicianId": text(), "quoteId": text(), "priority": number() }),
    );
    let change = object(
        &[],
        json!({
            "status": { "enum": ExecutionStatus::ALL }, "technicianId": text(), "priority": number(),
            "diagnosisNotes": text(), "repairNotes": text(), "partsUsed": parts(), "servicesPerformed": services(), "reason": text(),
        }),
    );
    let done = || json!({ "partsUsed": parts(), "servicesPerformed": services() });
    let noted =
        || json!({ "notes": text(), "partsUsed": parts(), "servicesPerformed": services() });
    let verb = |path, summary, properties| {
        Operation::new("post", path, summary)
            .created()
            .body(object(&[], properties))
    };
    vec![
        Operation::new("post", "/executions", "Makes the execution of a work order, QUEUED.")
            .created()
            .body(create),
        Operation::new(
            "get",
            "/executions",
            "The newest executions; within the page the most urgent first, then the oldest. The header x-next is the `after` of the next page.",
        )
        .query(&["status", "limit", "after"]),
        Operation::new(
            "get",
            "/executions/queue",
            "All that have not ended: the most urgent first, then the oldest.",
        )
        .query(&["limit"]),
        Operation::new("get", "/queue", "The same.").query(&["limit"]),
        Operation::new(
            "get",
            "/queue/statistics",
            "How many there are of each status, and for how many minutes those that are QUEUED have waited on average.",
        ),
        Operation::new(
            "get",
            "/executions/work-order/{id}",
            "The execution of a work order: a list of one or none.",
        ),
        Operation::new("get", "/executions/{id}", "An execution."),
        Operation::new(
            "patch",
            "/executions/{id}",
            "Goes on with it, or notes something. 409 for a status that may not follow, or before it is paid.",
        )
        .body(change.clone()),
        Operation::new("put", "/executions/{id}", "The same.").body(change),
        verb("/executions/{id}/start-diagnosis", "QUEUED becomes DIAGNOSING.", done()),
        verb(
            "/executions/{id}/complete-diagnosis",
            "DIAGNOSING becomes DIAGNOSIS_COMPLETE.",
            noted(),
        ),
        verb(
            "/executions/{id}/start-repair",
            "DIAGNOSIS_COMPLETE, or TESTING that found a fault, becomes REPAIRING.",
            done(),
        ),
        verb("/executions/{id}/complete-repair", "REPAIRING becomes REPAIR_COMPLETE.", noted()),
        verb("/executions/{id}/start-testing", "REPAIR_COMPLETE becomes TESTING.", done()),
        verb(
            "/executions/{id}/complete",
            "TESTING, or REPAIR_COMPLETE, becomes COMPLETED; so does the work order.",
            done(),
        ),
        Operation::new(
            "post",
            "/executions/{id}/fail",
            "What has not ended becomes FAILED; the work order is cancelled and the money goes back.",
        )
        .created()
        .body(object(&["reason"], json!({ "reason": text() }))),
    ]
}
