//! A gateway as payment providers' sandboxes are: it decides by the amount's last two digits.
//!
//! | amount ends in | what happens |
//! |---|---|
//! | 01 | declined |
//! | 02 | fails twice (503), then charges |
//! | 03 | always fails (503), and never charges |
//! | 04 | charges, and answers after its caller's timeout; later calls with the same key at once |
//! | all else | charges |
//!
//! A key charges once, whatever happens. Everything is in memory and ends with the process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long an amount that ends in 04 keeps its caller waiting.
const STALL: Duration = Duration::from_secs(3);
/// The most keys that it remembers.
const KEYS_MAX: usize = 5_000_000;

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Request {
    order_id: Value,
    amount: i64,
    currency: String,
}

#[derive(Debug)]
struct Charge {
    id: String,
    order_id: Value,
    amount: i64,
    declined: bool,
    refunded: bool,
}

#[derive(Debug, Default)]
struct Ledger {
    charges: Vec<Charge>,
    refunds: Vec<(Value, i64)>,
    /// What each key asked for, how often, and its charge.
    keys: HashMap<String, (Request, u32, Option<usize>)>,
    by_id: HashMap<String, usize>,
}

/// What a charge comes to.
enum Decision {
    Charge(usize),
    Stall(usize),
    Fail,
    OtherBody,
    Full,
}

impl Ledger {
    fn charge(&mut self, key: &str, request: Request) -> Decision {
        if !self.keys.contains_key(key) && self.keys.len() >= KEYS_MAX {
            return Decision::Full;
        }
        let (known, calls, charge) = self
            .keys
            .entry(key.to_owned())
            .or_insert_with(|| (request.clone(), 0, None));
        if *known != request {
            return Decision::OtherBody;
        }
        *calls += 1;
        if let Some(charge) = *charge {
            return Decision::Charge(charge);
        }
        let (ending, calls) = (request.amount % 100, *calls);
        if ending == 3 || (ending == 2 && calls <= 2) {
            return Decision::Fail;
        }
        let at = self.charges.len();
        *charge = Some(at);
        let id = format!("ch_{at:08}");
        self.by_id.insert(id.clone(), at);
        self.charges.push(Charge {
            id,
            order_id: request.order_id,
            amount: request.amount,
            declined: ending == 1,
            refunded: false,
        });
        if ending == 4 {
            Decision::Stall(at)
        } else {
            Decision::Charge(at)
        }
    }

    fn shown(&self, at: usize) -> Value {
        let charge = &self.charges[at];
        let status = match (charge.declined, charge.refunded) {
            (true, _) => "declined",
            (false, true) => "refunded",
            (false, false) => "approved",
        };
        json!({
            "id": charge.id,
            "order_id": charge.order_id,
            "amount": charge.amount,
            "status": status,
        })
    }

    fn report(&self, key: Option<&str>) -> Value {
        let wanted: Vec<usize> = match key {
            Some(key) => {
                let known = self.keys.get(key);
                known
                    .and_then(|(_, _, charge)| *charge)
                    .into_iter()
                    .collect()
            }
            None => (0..self.charges.len()).collect(),
        };
        let mut counts: HashMap<String, u32> = HashMap::new();
        for charge in self.charges.iter().filter(|charge| !charge.declined) {
            *counts.entry(charge.order_id.to_string()).or_default() += 1;
        }
        let twice = self.charges.iter().filter(|charge| {
            let count = counts.get(&charge.order_id.to_string());
            !charge.declined && count.is_some_and(|count| *count > 1)
        });
        let mut twice: Vec<_> = twice.map(|charge| charge.order_id.clone()).collect();
        twice.dedup();
        let charges: Vec<_> = wanted.into_iter().map(|at| self.shown(at)).collect();
        let refunds = self.refunds.iter();
        let refunds =
            refunds.map(|(order_id, amount)| json!({ "order_id": order_id, "amount": amount }));
        json!({
            "charges": charges,
            "refunds": refunds.collect::<Vec<_>>(),
            "charged_twice": twice,
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Simulator(Arc<Mutex<Ledger>>);

impl Simulator {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gateway's routes.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/charges", post(charge).get(list))
        .route("/charges/{id}/refund", post(refund))
        .route(
            "/health/live",
            get(|| async { Json(json!({ "status": "live" })) }),
        )
        .with_state(Simulator::default())
}

async fn list(State(simulator): State<Simulator>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let url = reqwest::Url::parse(&format!("http://local/?{query}"));
    let key = url.ok().and_then(|url| {
        let mut pairs = url.query_pairs().into_owned();
        pairs.find(|(name, _)| name == "key").map(|(_, key)| key)
    });
    Json(simulator.ledger().report(key.as_deref())).into_response()
}

async fn charge(State(simulator): State<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(key) = key(&headers) else {
        return refused(
            StatusCode::BAD_REQUEST,
            "the header Idempotency-Key is missing",
        );
    };
    let request: Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if request.amount <= 0 {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "amount is not above zero");
    }
    let decision = simulator.ledger().charge(&key, request);
    let at = match decision {
        Decision::Charge(at) => at,
        Decision::Stall(at) => {
            tokio::time::sleep(STALL).await;
            at
        }
        Decision::Fail => return refused(StatusCode::SERVICE_UNAVAILABLE, "try again"),
        Decision::OtherBody => {
            return refused(StatusCode::CONFLICT, "the key belongs to another charge");
        }
        Decision::Full => return refused(StatusCode::SERVICE_UNAVAILABLE, "too many keys"),
    };
    let ledger = simulator.ledger();
    let status = if ledger.charges[at].declined {
        StatusCode::PAYMENT_REQUIRED
    } else {
        StatusCode::OK
    };
    (status, Json(ledger.shown(at))).into_response()
}

async fn refund(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if key(&headers).is_none() {
        return refused(
            StatusCode::BAD_REQUEST,
            "the header Idempotency-Key is missing",
        );
    }
    let mut ledger = simulator.ledger();
    let Some(&at) = ledger.by_id.get(&id) else {
        return refused(StatusCode::NOT_FOUND, "there is no such charge");
    };
    if ledger.charges[at].declined {
        return refused(
            StatusCode::CONFLICT,
            "a declined charge has nothing to refund",
        );
    }
    if !ledger.charges[at].refunded {
        ledger.charges[at].refunded = true;
        let refund = (
            ledger.charges[at].order_id.clone(),
            ledger.charges[at].amount,
        );
        ledger.refunds.push(refund);
    }
    Json(ledger.shown(at)).into_response()
}

fn key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get("idempotency-key")?.to_str().ok()?;
    (!key.is_empty()).then(|| key.to_owned())
}

fn refused(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({ "error": detail }))).into_response()
}
