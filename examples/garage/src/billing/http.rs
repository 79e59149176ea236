//! The routes of quotes, payments and webhooks.

mod lists;
mod payments;
mod quotes;
mod webhook;

use std::time::Duration;

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use leveret::service::{
    Key, Of, Service,
    documents::{Document, Order, Query},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

pub(super) use self::{
    lists::{limit, paged},
    webhook::public,
};
use super::bill::{Ask, Bill, BillMessage, BillState, KIND, What};
use crate::{
    auth::Caller,
    failure::Failure,
    ids::Id,
    money::Money,
    openapi::Operation,
    request::{IdempotencyKey, Keyed, check_text},
};

/// How long a work order is waited for whose event is on its way.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// How long the outcome of a payment is waited for.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// How often a bill is looked at without a hint: another process may have changed it.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most that a request may keep as metadata, in bytes.
const METADATA_BYTES_MAX: usize = 10_000;

pub(super) type Answer = Result<Response, Failure>;

/// Routes that need a token.
pub(super) fn router(service: &Service) -> Router {
    Router::new()
        .route("/quotes", post(quotes::make).get(quotes::list))
        .route("/quotes/{id}", get(quotes::show))
        .route("/quotes/work-order/{id}", get(quotes::of_work_order))
        .route(
            "/quotes/{id}/approve",
            put(quotes::approve).patch(quotes::approve),
        )
        .route(
            "/quotes/{id}/reject",
            put(quotes::reject).patch(quotes::reject),
        )
        .route("/quotes/{id}/send", put(quotes::send).patch(quotes::send))
        .route("/payments", post(payments::make).get(payments::list))
        .route("/payments/{id}", get(payments::show))
        .route("/payments/work-order/{id}", get(payments::of_work_order))
        .route("/payments/{id}/process", post(payments::process))
        .route(
            "/payments/{id}/verify",
            put(payments::verify).patch(payments::verify),
        )
        .with_state(service.clone())
}

/// Who asks for what, with which key.
struct Request<'a> {
    caller: &'a Caller,
    key: &'a IdempotencyKey,
    verb: &'a str,
    fingerprint: &'a str,
}

impl Request<'_> {
    fn keyed(&self) -> Option<Keyed> {
        Keyed::of(self.key, &self.caller.sub, self.verb, self.fingerprint)
    }

    /// The id of what it makes for a work order: the same request makes the same.
    fn id(&self, kind: &str, work_order_id: &Id) -> Id {
        let keyed = self.keyed();
        keyed.map_or_else(Id::new, |keyed| {
            keyed.id(&format!("{kind}/{work_order_id}"))
        })
    }

    /// Has it decided.
    async fn ask(
        &self,
        service: &Service,
        work_order_id: Id,
        what: What,
    ) -> Result<BillState, Failure> {
        let ask = BillMessage::Ask(Box::new(Ask {
            work_order_id,
            keyed: self.keyed(),
            what,
        }));
        Ok(service.call(&Of::<Bill>::default(), &ask).await?)
    }
}

/// The bill of a work order, which may be on its way.
async fn known(service: &Service, work_order_id: &Id) -> Result<BillState, Failure> {
    let key = key_of(work_order_id);
    let mut watch = service.watch(&key);
    let end = Instant::now() + KNOWN_WITHIN;
    loop {
        let state = load(service, &key).await?;
        if let Some(state) = state.filter(|state| state.created) {
            return Ok(state);
        }
        if Instant::now() >= end {
            return Err(no_work_order(work_order_id));
        }
        // A hint or the time: either way it is looked at again.
        drop(timeout(LOOK_EVERY, watch.next()).await);
    }
}

/// The bill of a work order when something has become of it, or as it is when the time is over.
async fn until(
    service: &Service,
    mut state: BillState,
    is_over: impl Fn(&BillState) -> bool,
) -> Result<BillState, Failure> {
    let key = key_of(&state.work_order_id);
    let mut watch = service.watch(&key);
    let end = Instant::now() + SETTLED_WITHIN;
    while !is_over(&state) && Instant::now() < end {
        if let Some(stored) = load(service, &key).await? {
            state = stored;
        }
        if is_over(&state) {
            break;
        }
        drop(timeout(LOOK_EVERY, watch.next()).await);
    }
    Ok(state)
}

/// The bill that has a value of a field, if the caller may see it.
async fn find(
    service: &Service,
    caller: &Caller,
    field: &str,
    (name, id): (&str, &Id),
) -> Result<BillState, Failure> {
    let query = Query {
        kind: KIND.into(),
        filter: vec![(field.into(), id.as_str().into())],
        order: Order::Newest,
        after: None,
        limit: 1,
    };
    let page = service.documents().list(&query).await?;
    let state = page.documents.first().map(read).transpose()?.flatten();
    let state = state.filter(|state| caller.may_see(state.customer_id));
    state.ok_or_else(|| Failure::not_found(format!("{name} {id} not found")))
}

/// What a customer may not see is not found.
fn own(caller: &Caller, state: &BillState) -> Result<(), Failure> {
    if caller.may_see(state.customer_id) {
        return Ok(());
    }
    Err(no_work_order(&state.work_order_id))
}

fn no_work_order(id: &Id) -> Failure {
    Failure::not_found(format!("Work order {id} not found"))
}

async fn load(service: &Service, key: &Key) -> Result<Option<BillState>, Failure> {
    let loaded = service.documents().load(std::slice::from_ref(key)).await?;
    Ok(loaded.first().map(read).transpose()?.flatten())
}

fn key_of(work_order_id: &Id) -> Key {
    Of::<Bill>::key(work_order_id.as_str())
}

fn read(document: &Document) -> Result<Option<BillState>, Failure> {
    let Some(state) = &document.state else {
        return Ok(None);
    };
    let read = serde_json::from_str(state.text());
    read.map(Some).map_err(|error| {
        tracing::error!(%error, id = &*document.key.id, "a stored bill cannot be read");
        let message = "The bill cannot be read";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, Json(body)).into_response()
}

/// A uuid in a body.
fn id(name: &str, text: &str) -> Result<Id, Failure> {
    Id::parse(text).ok_or_else(|| Failure::bad_request(format!("{name} is no uuid")))
}

/// An amount in a body.
pub(super) fn money(name: &str, value: &Value) -> Result<Money, Failure> {
    Money::read(value).map_err(|reason| Failure::bad_request(format!("{name} {reason}")))
}

fn metadata(metadata: Option<Map<String, Value>>) -> Result<Option<Map<String, Value>>, Failure> {
    let Some(metadata) = metadata else {
        return Ok(None);
    };
    let text = serde_json::to_string(&metadata).unwrap_or_default();
    check_text("metadata", &text, METADATA_BYTES_MAX)?;
    Ok(Some(metadata))
}

/// What it can be asked.
pub(super) fn operations() -> Vec<Operation> {
    let text = || json!({ "type": "string" });
    let uuid = || json!({ "type": "string", "format": "uuid" });
    let amount = || json!({ "type": ["string", "number"] });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false });
    let item = object(
        &["name", "description", "quantity", "unitPrice"],
        json!({ "name": text(), "description": text(), "quantity": { "type": "integer", "minimum": 1 }, "unitPrice": amount() }),
    );
    let quote = object(
        &["workOrderId", "customerId", "items"],
        json!({
            "workOrderId": uuid(), "customerId": { "type": "integer" }, "items": { "type": "array", "minItems": 1, "items": item },
            "validUntil": { "type": "string", "format": "date-time" }, "metadata": { "type": "object" },
        }),
    );
    let payment = object(
        &[
            "quoteId",
            "workOrderId",
            "customerId",
            "amount",
            "paymentMethod",
        ],
        json!({
            "quoteId": uuid(), "workOrderId": uuid(), "customerId": { "type": "integer" }, "amount": amount(),
            "paymentMethod": { "enum": ["PIX", "CREDIT_CARD", "DEBIT_CARD", "BOLETO"] }, "metadata": { "type": "object" },
            "process": { "type": "boolean" },
        }),
    );
    let both = |path, summary, again, body: Option<Value>| {
        let operation = |method, summary| Operation {
            body: body.clone(),
            ..Operation::new(method, path, summary)
        };
        [operation("put", summary), operation("patch", again)]
    };
    let reason = object(&[], json!({ "reason": text() }));
    let mut operations = vec![
        Operation::new("post", "/quotes", "Makes a quote of a work order. It takes the place of one that waits for an answer.")
            .created()
            .body(quote),
        Operation::new("get", "/quotes", "The newest quotes; a customer's own. The header x-next is the `after` of the next page.")
            .query(&["limit", "after"]),
        Operation::new("get", "/quotes/{id}", "A quote."),
        Operation::new("get", "/quotes/work-order/{id}", "The quotes of a work order, newest first."),
        Operation::new("post", "/payments", "Makes a payment of an approved quote; with `process` it is charged at once: 201 paid, 400 rejected, 202 if that is not known after 10 s.")
            .created()
            .body(payment),
        Operation::new("get", "/payments", "The newest payments; a customer's own. The header x-next is the `after` of the next page.")
            .query(&["limit", "after"]),
        Operation::new("get", "/payments/{id}", "A payment."),
        Operation::new("get", "/payments/work-order/{id}", "The payments of a work order, newest first."),
        Operation::new("post", "/payments/{id}/process", "Charges a PENDING payment: 201 with what came of it, 202 if that is not known after 10 s.")
            .created(),
        Operation::new("post", "/webhooks/mercadopago", "Mercado Pago says that something became of a payment; it is asked what. Signed.")
            .query(&["data.id", "type"])
            .body(json!({ "type": "object" }))
            .public(),
    ];
    operations.extend(both(
        "/quotes/{id}/approve",
        "The customer agrees. 409 when it is answered, or has expired.",
        "The same.",
        None,
    ));
    operations.extend(both(
        "/quotes/{id}/reject",
        "The customer does not agree; the work order is cancelled.",
        "The same.",
        Some(reason),
    ));
    operations.extend(both(
        "/quotes/{id}/send",
        "The customer is sent the quote.",
        "The same.",
        None,
    ));
    operations.extend(both(
        "/payments/{id}/verify",
        "Asks Mercado Pago what became of a payment.",
        "The same.",
        None,
    ));
    operations
}
