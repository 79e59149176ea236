//! `/quotes`.

use axum::{extract::State, http::StatusCode};
use leveret::{core::time::Timestamp, service::Service};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Request, answer, find, id, key_of, known, lists, load, metadata, money};
use crate::{
    auth::{Caller, Staff},
    billing::{
        QuoteValidFor,
        bill::{BillState, Item, NewQuote, QUOTE, Quote, What},
    },
    failure::Failure,
    ids::Id,
    money::Money,
    request::{Body, IdempotencyKey, Params, PathId, TEXT_BYTES_MAX, check_text},
    statuses::QuoteStatus,
};

/// The most lines of a quote.
const ITEMS_MAX: usize = 100;
/// The largest quantity of a line.
const QUANTITY_MAX: i64 = 1_000_000;
/// The longest name of a line, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// How long a quote may be valid.
const VALID_FOR_MAX: std::time::Duration = std::time::Duration::from_secs(366 * 24 * 3600);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct QuoteBody {
    work_order_id: String,
    customer_id: i64,
    items: Vec<ItemBody>,
    valid_until: Option<String>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ItemBody {
    name: String,
    description: String,
    quantity: i64,
    unit_price: Value,
}

pub(super) async fn make(
    State(service): State<Service>,
    axum::Extension(QuoteValidFor(valid_for)): axum::Extension<QuoteValidFor>,
    Staff(caller): Staff,
    key: IdempotencyKey,
    body: Body<QuoteBody>,
) -> Answer {
    let request = Request {
        caller: &caller,
        key: &key,
        verb: "quote",
        fingerprint: &body.fingerprint,
    };
    let QuoteBody {
        work_order_id,
        customer_id,
        items,
        valid_until,
        metadata: more,
    } = body.value;
    let work_order_id = id("workOrderId", &work_order_id)?;
    let items = read_items(items)?;
    let lines = items.iter().try_fold(Money(0), |total, item| {
        total.plus(item.unit_price.times(item.quantity)?)
    });
    let total = lines.filter(|total| total.0 > 0);
    let total = total.ok_or_else(|| {
        Failure::bad_request("items have no total above zero and within what can be counted")
    })?;
    let now = service.now();
    let new = NewQuote {
        id: request.id("quote", &work_order_id),
        customer_id,
        items,
        total,
        valid_until: match valid_until {
            Some(text) => read_valid_until(&text, now)?,
            None => now + valid_for,
        },
        metadata: metadata(more)?,
    };
    known(&service, &work_order_id).await?;
    let quote_id = new.id.clone();
    let state = request
        .ask(&service, work_order_id, What::Quote(new))
        .await?;
    shown_one(&state, &quote_id, StatusCode::CREATED)
}

fn read_items(items: Vec<ItemBody>) -> Result<Vec<Item>, Failure> {
    if !(1..=ITEMS_MAX).contains(&items.len()) {
        return Err(Failure::bad_request(format!("items are 1 to {ITEMS_MAX}")));
    }
    let items = items.into_iter().map(|item| {
        check_text("items.name", &item.name, NAME_BYTES_MAX)?;
        check_text("items.description", &item.description, TEXT_BYTES_MAX)?;
        if !(1..=QUANTITY_MAX).contains(&item.quantity) {
            let message = format!("items.quantity is 1 to {QUANTITY_MAX}");
            return Err(Failure::bad_request(message));
        }
        Ok(Item {
            unit_price: money("items.unitPrice", &item.unit_price)?,
            name: item.name,
            description: item.description,
            quantity: item.quantity,
        })
    });
    items.collect()
}

/// A time, or a day, of which all is meant.
fn read_valid_until(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let whole_day = format!("{text}T23:59:59.999Z");
    let read = text.parse::<Timestamp>().or_else(|_| whole_day.parse());
    let read = read.map_err(|error| Failure::bad_request(format!("validUntil is {error}")))?;
    if read <= now || read > now + VALID_FOR_MAX {
        let message = "validUntil is in the future, a year at most";
        return Err(Failure::bad_request(message));
    }
    Ok(read)
}

pub(super) async fn list(State(service): State<Service>, caller: Caller, params: Params) -> Answer {
    lists::list(&service, &caller, params, QUOTE, all_shown).await
}

pub(super) async fn of_work_order(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
) -> Answer {
    let state = load(&service, &key_of(&id)).await?;
    lists::of_bill(&caller, state.as_ref(), all_shown)
}

pub(super) async fn show(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
) -> Answer {
    let state = find(&service, &caller, QUOTE, ("Quote", &id)).await?;
    shown_one(&state, &id, StatusCode::OK)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

pub(super) async fn approve(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<NoBody>,
) -> Answer {
    let what = What::Approve {
        quote_id: id.clone(),
    };
    let verb = ("approve", &*body.fingerprint);
    let state = decide(&service, &caller, &id, &key, verb, what).await?;
    let is_expired = |quote: &Quote| quote.status == QuoteStatus::Expired;
    if state.quote(&id).is_some_and(is_expired) {
        return Err(Failure::conflict("Quote has expired"));
    }
    shown_one(&state, &id, StatusCode::OK)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RejectBody {
    reason: Option<String>,
}

pub(super) async fn reject(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<RejectBody>,
) -> Answer {
    let reason = body.value.reason;
    if let Some(reason) = &reason {
        check_text("reason", reason, TEXT_BYTES_MAX)?;
    }
    let what = What::Reject {
        quote_id: id.clone(),
        reason,
    };
    let verb = ("reject", &*body.fingerprint);
    let state = decide(&service, &caller, &id, &key, verb, what).await?;
    shown_one(&state, &id, StatusCode::OK)
}

pub(super) async fn send(
    State(service): State<Service>,
    Staff(caller): Staff,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<NoBody>,
) -> Answer {
    let what = What::Send {
        quote_id: id.clone(),
    };
    let verb = ("send", &*body.fingerprint);
    let state = decide(&service, &caller, &id, &key, verb, what).await?;
    shown_one(&state, &id, StatusCode::OK)
}

/// Something is done to a quote by somebody who may.
async fn decide(
    service: &Service,
    caller: &Caller,
    id: &Id,
    key: &IdempotencyKey,
    (verb, fingerprint): (&str, &str),
    what: What,
) -> Result<BillState, Failure> {
    let found = find(service, caller, QUOTE, ("Quote", id)).await?;
    let verb = format!("{verb} {id}");
    let request = Request {
        caller,
        key,
        verb: &verb,
        fingerprint,
    };
    request.ask(service, found.work_order_id, what).await
}

fn shown_one(state: &BillState, id: &Id, status: StatusCode) -> Answer {
    let quote = state.quote(id);
    let quote = quote.ok_or_else(|| Failure::not_found(format!("Quote {id} not found")))?;
    Ok(answer(status, &shown(state, quote)))
}

/// Newest first.
fn all_shown(state: &BillState) -> Vec<Value> {
    let quotes = state.quotes.iter().rev();
    quotes.map(|quote| shown(state, quote)).collect()
}

fn shown(state: &BillState, quote: &Quote) -> Value {
    let items = quote.items.iter().map(|item| {
        json!({
            "name": item.name,
            "description": item.description,
            "quantity": item.quantity,
            "unitPrice": item.unit_price,
            "totalPrice": item.unit_price.times(item.quantity),
        })
    });
    json!({
        "_id": quote.id,
        "id": quote.id,
        "workOrderId": state.work_order_id,
        "customerId": state.customer_id,
        "items": items.collect::<Vec<_>>(),
        "totalAmount": quote.total,
        "status": quote.status,
        "reason": quote.reason,
        "validUntil": quote.valid_until.to_string(),
        "approvedAt": quote.approved_at.map(|at| at.to_string()),
        "metadata": quote.metadata,
        "createdAt": quote.created_at.to_string(),
        "updatedAt": quote.updated_at.to_string(),
    })
}
