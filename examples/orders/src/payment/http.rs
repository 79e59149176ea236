//! `/payments`: what became of an order's payment.

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use leveret::service::{Of, Service};
use serde_json::json;

use super::{Payment, PaymentState};
use crate::{
    problem::{Named, Problem, answer},
    wire::check_text,
};

/// The routes of the payment service.
pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .route("/payments/{order_id}", get(show))
        .with_state(service)
}

async fn show(State(service): State<Service>, Named(order_id): Named) -> Result<Response, Problem> {
    let unknown = || Problem::not_found(format!("there is no payment for order '{order_id}'"));
    if check_text(&order_id, "order_id").is_err() {
        return Err(unknown());
    }
    let key = Of::<Payment>::key(&order_id);
    let loaded = service.documents().load(&[key]).await?;
    let state = loaded.first().and_then(|document| document.state.as_ref());
    let state = state.ok_or_else(unknown)?;
    let state: PaymentState = serde_json::from_str(state.text()).map_err(|error| {
        tracing::error!(%error, "a stored payment cannot be read");
        unknown()
    })?;
    let timeline = state.timeline.iter().map(|entry| {
        json!({
            "at": entry.at.to_string(),
            "status": entry.status,
        })
    });
    let body = json!({
        "order_id": state.order_id,
        "user_id": state.user_id,
        "amount": state.amount,
        "currency": state.currency,
        "status": state.status,
        "transaction_id": state.transaction_id,
        "reason": state.reason,
        "idempotency_key": state.key,
        "timeline": timeline.collect::<Vec<_>>(),
    });
    Ok(answer(StatusCode::OK, &body))
}
