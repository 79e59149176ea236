//! `/payments`.

use axum::{extract::State, http::StatusCode};
use leveret::service::Service;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Answer, Request, answer, find, id, key_of, known, lists, load, metadata, money, own, until,
};
use crate::{
    auth::Caller,
    billing::bill::{BillState, Method, NewPayment, PAYMENT, Payment, What},
    failure::Failure,
    ids::Id,
    request::{Body, IdempotencyKey, Params, PathId},
    statuses::PaymentStatus,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PaymentBody {
    quote_id: String,
    work_order_id: String,
    customer_id: i64,
    amount: Value,
    payment_method: Method,
    metadata: Option<Map<String, Value>>,
    /// Whether it is charged at once.
    #[serde(default)]
    process: bool,
}

pub(super) async fn make(
    State(service): State<Service>,
    caller: Caller,
    key: IdempotencyKey,
    body: Body<PaymentBody>,
) -> Answer {
    let request = Request {
        caller: &caller,
        key: &key,
        verb: "pay",
        fingerprint: &body.fingerprint,
    };
    let body = body.value;
    let work_order_id = id("workOrderId", &body.work_order_id)?;
    let new = NewPayment {
        id: request.id("payment", &work_order_id),
        quote_id: id("quoteId", &body.quote_id)?,
        customer_id: body.customer_id,
        amount: money("amount", &body.amount)?,
        method: body.payment_method,
        metadata: metadata(body.metadata)?,
        process: body.process,
    };
    if !caller.may_see(new.customer_id) {
        return Err(Failure::forbidden("This is another customer's"));
    }
    own(&caller, &known(&service, &work_order_id).await?)?;
    let payment_id = new.id.clone();
    let state = request.ask(&service, work_order_id, What::Pay(new)).await?;
    if !body.process {
        return shown_one(&state, &payment_id, StatusCode::CREATED);
    }
    let state = settled(&service, state, &payment_id).await?;
    let payment = state.payment(&payment_id);
    match payment.map(|payment| payment.status) {
        Some(PaymentStatus::Processing) => shown_one(&state, &payment_id, StatusCode::ACCEPTED),
        Some(PaymentStatus::Rejected) => {
            let reason = payment.and_then(|payment| payment.reason.as_deref());
            let reason = reason.unwrap_or("the gateway said no");
            let message = format!("Payment {payment_id} is REJECTED: {reason}");
            Err(Failure::bad_request(message))
        }
        _ => shown_one(&state, &payment_id, StatusCode::CREATED),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

pub(super) async fn process(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<NoBody>,
) -> Answer {
    let found = find(&service, &caller, PAYMENT, ("Payment", &id)).await?;
    let verb = format!("process {id}");
    let request = Request {
        caller: &caller,
        key: &key,
        verb: &verb,
        fingerprint: &body.fingerprint,
    };
    let what = What::Process {
        payment_id: id.clone(),
    };
    let state = request.ask(&service, found.work_order_id, what).await?;
    let state = settled(&service, state, &id).await?;
    let is_under_way = |payment: &Payment| payment.status == PaymentStatus::Processing;
    let status = if state.payment(&id).is_some_and(is_under_way) {
        StatusCode::ACCEPTED
    } else {
        StatusCode::CREATED
    };
    shown_one(&state, &id, status)
}

/// Waits for the answer of the gateway.
pub(super) async fn verify(
    State(service): State<Service>,
    caller: Caller,
    PathId(id): PathId,
    key: IdempotencyKey,
    body: Body<NoBody>,
) -> Answer {
    let found = find(&service, &caller, PAYMENT, ("Payment", &id)).await?;
    let verb = format!("verify {id}");
    let request = Request {
        caller: &caller,
        key: &key,
        verb: &verb,
        fingerprint: &body.fingerprint,
    };
    let what = What::Verify {
        payment_id: id.clone(),
    };
    let state = request.ask(&service, found.work_order_id, what).await?;
    let outcomes = state.payment(&id).map_or(0, |payment| payment.outcomes);
    let state = until(&service, state, |state| {
        state.payment(&id).is_none_or(|payment| {
            payment.status != PaymentStatus::Processing || payment.outcomes > outcomes
        })
    });
    shown_one(&state.await?, &id, StatusCode::OK)
}

/// The bill when it is known what came of a payment, or as it is after a while.
async fn settled(service: &Service, state: BillState, id: &Id) -> Result<BillState, Failure> {
    until(service, state, |state| {
        let payment = state.payment(id);
        payment.is_none_or(|payment| payment.status != PaymentStatus::Processing)
    })
    .await
}

pub(super) async fn list(State(service): State<Service>, caller: Caller, params: Params) -> Answer {
    lists::list(&service, &caller, params, PAYMENT, all_shown).await
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
    let state = find(&service, &caller, PAYMENT, ("Payment", &id)).await?;
    shown_one(&state, &id, StatusCode::OK)
}

fn shown_one(state: &BillState, id: &Id, status: StatusCode) -> Answer {
    let payment = state.payment(id);
    let payment = payment.ok_or_else(|| Failure::not_found(format!("Payment {id} not found")))?;
    Ok(answer(status, &shown(state, payment)))
}

/// Newest first.
fn all_shown(state: &BillState) -> Vec<Value> {
    let payments = state.payments.iter().rev();
    payments.map(|payment| shown(state, payment)).collect()
}

fn shown(state: &BillState, payment: &Payment) -> Value {
    let refund = payment.refund.as_ref().map(
        |refund| json!({ "status": refund.status, "reason": refund.reason, "error": refund.error }),
    );
    json!({
        "_id": payment.id,
        "id": payment.id,
        "quoteId": payment.quote_id,
        "workOrderId": state.work_order_id,
        "customerId": state.customer_id,
        "amount": payment.amount,
        "paymentMethod": payment.method,
        "status": payment.status,
        "reason": payment.reason,
        "refund": refund,
        "mercadoPagoId": payment.charge_id,
        "mercadoPagoStatus": payment.charge_status,
        "metadata": payment.metadata,
        "createdAt": payment.created_at.to_string(),
        "updatedAt": payment.updated_at.to_string(),
    })
}
