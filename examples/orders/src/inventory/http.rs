//! `/stock`: how many of an item are there.

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use leveret::service::Service;
use serde_json::{Value, json};

use super::{Inventory, StockMessage, StockState, stock};
use crate::{
    problem::{Body, Named, Problem, answer},
    wire::check_text,
};

/// The most of one item.
const QUANTITY_MAX: i64 = 1_000_000_000_000;

/// The routes of the inventory service.
pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .route("/stock/{item}", get(show).put(set))
        .with_state(service)
}

async fn show(State(service): State<Service>, Named(item): Named) -> Result<Response, Problem> {
    let unknown = || Problem::not_found(format!("there is no stock of '{item}'"));
    if check_text(&item, "item").is_err() {
        return Err(unknown());
    }
    let loaded = service.documents().load(&[stock(&item)]).await?;
    let state = loaded.first().and_then(|document| document.state.as_ref());
    let state = state.ok_or_else(unknown)?;
    let state: StockState = serde_json::from_str(state.text()).map_err(|error| {
        tracing::error!(%error, "stored stock cannot be read");
        unknown()
    })?;
    Ok(answer(StatusCode::OK, &shown(&state)))
}

async fn set(
    State(service): State<Service>,
    Named(item): Named,
    Body(body): Body,
) -> Result<Response, Problem> {
    check_text(&item, "item").map_err(|detail| Problem::field("item", detail))?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Problem::field("", "the body is no JSON object"));
    };
    if let Some(other) = fields.keys().find(|name| *name != "quantity") {
        return Err(Problem::field(other, "is unknown; there is quantity"));
    }
    let quantity = fields.get("quantity");
    let quantity = quantity.ok_or_else(|| Problem::field("quantity", "is missing"))?;
    let allowed = |quantity: &i64| (0..=QUANTITY_MAX).contains(quantity);
    let quantity = quantity.as_i64().filter(allowed).ok_or_else(|| {
        let detail = format!("is {quantity}, not a whole number from 0 to {QUANTITY_MAX}");
        Problem::field("quantity", detail)
    })?;
    let state = service
        .call(&Inventory, &StockMessage::Set { item, quantity })
        .await?;
    Ok(answer(StatusCode::OK, &shown(&state)))
}

fn shown(state: &StockState) -> Value {
    json!({
        "quantity": state.quantity,
        "reserved": state.reserved,
        "available": state.quantity - state.reserved,
    })
}
