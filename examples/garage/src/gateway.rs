//! A simulated Mercado Pago, as a sandbox of payment providers is: it decides by the amount's last two digits.
//!
//! | amount ends in | what happens |
//! |---|---|
//! | 01 | rejected |
//! | 02 | in process, then approved: a webhook says so, and whoever asks is told |
//! | 03 | always fails (500), and never charges |
//! | 04 | charges, and answers after its caller's timeout; later calls with the same key at once |
//! | 05 | charges; its refund fails twice (500), then works |
//! | 06 | charges; its refund always fails (500) |
//! | all else | charges |
//!
//! A key charges once, and refunds once, whatever happens. Everything is in memory and ends with the process.

pub(crate) mod ledger;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, sync::watch, time::Instant};
use uuid::Uuid;

use self::ledger::{Charged, Ledger, Refunded, Request};
use crate::{
    billing::signature,
    failure::{self, Failure},
    money::Money,
    request::Params,
    settings::Settings,
    stack::{Place, Role},
};

/// How long an amount that ends in 04 keeps its caller waiting.
const STALL: Duration = Duration::from_secs(3);
/// How long an amount that ends in 02 is in process.
const IN_PROCESS: Duration = Duration::from_millis(500);
/// How often a webhook is tried, and the pause between tries.
const WEBHOOK_TRIES: u32 = 10;
const WEBHOOK_PAUSE: Duration = Duration::from_secs(1);
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Webhooks that are under way at once.
const WEBHOOKS_MAX: usize = 64;

/// Its routes. Without a secret it sends no webhooks: nobody would believe them.
pub(crate) fn router(webhook_secret: Option<String>) -> Router {
    router_with(webhook_secret, IN_PROCESS)
}

/// The same, where what is in process is so for so long.
pub(crate) fn router_with(webhook_secret: Option<String>, in_process: Duration) -> Router {
    let webhooks = webhook_secret.map(|secret| Webhooks {
        secret: secret.into(),
        client: reqwest::Client::builder()
            .no_proxy()
            .timeout(WEBHOOK_TIMEOUT)
            .build()
            .expect("a client can be built"),
        places: Arc::new(Semaphore::new(WEBHOOKS_MAX)),
    });
    Router::new()
        .route("/v1/payments", post(charge))
        .route("/v1/payments/search", get(search))
        .route("/v1/payments/{id}", get(show))
        .route("/v1/payments/{id}/refunds", post(refund))
        .route("/charges", get(report))
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .fallback(failure::no_route)
        .method_not_allowed_fallback(failure::no_method)
        .with_state(Simulator {
            ledger: Arc::new(Mutex::new(Ledger::new(in_process))),
            began: Instant::now(),
            in_process,
            webhooks,
        })
}

/// Runs one along with the services of this process; its URL. What is not set is agreed upon: access token, webhook secret, public URL.
pub(crate) async fn simulate(
    settings: &mut Settings,
    places: &[Place],
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<String> {
    let mercado_pago = &mut settings.mercado_pago;
    mercado_pago.access_token.get_or_insert_with(random);
    let secret = mercado_pago.webhook_secret.get_or_insert_with(random);
    if mercado_pago.public_url.is_none() {
        let billing = places.iter().find(|place| place.role == Role::Billing);
        let address = billing
            .map(|place| place.listener.local_addr())
            .transpose()?;
        mercado_pago.public_url = address.map(|address| format!("http://{}", reached(address)));
    }
    let listener = crate::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = router(Some(secret.clone()));
    tokio::spawn(async move {
        let served = leveret::http::serve(listener, router, stopped).await;
        if let Err(error) = served.context("the gateway ended") {
            tracing::error!(
                error = format!("{error:#}"),
                "the simulated gateway is away"
            );
        }
    });
    Ok(url)
}

/// Where one is reached in this machine that listens there.
fn reached(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[derive(Clone)]
struct Simulator {
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    in_process: Duration,
    webhooks: Option<Webhooks>,
}

impl Simulator {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn shown(&self, id: u64) -> Result<Value, Failure> {
        let shown = self.ledger().shown(id, self.now());
        shown.ok_or_else(unknown)
    }
}

/// What is read of the body of a payment.
#[derive(Deserialize)]
struct Wanted {
    transaction_amount: Value,
    external_reference: String,
    #[serde(default)]
    notification_url: Option<String>,
}

async fn charge(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let key = key(&headers)?;
    let wanted: Wanted = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad_request(format!("the body: {error}")))?;
    let amount = Money::read(&wanted.transaction_amount)
        .map_err(|reason| Failure::bad_request(format!("transaction_amount {reason}")))?;
    if amount.0 == 0 {
        return Err(Failure::bad_request("transaction_amount is not above zero"));
    }
    let request = Request {
        amount,
        reference: wanted.external_reference,
        notification_url: wanted.notification_url,
    };
    let charged = simulator
        .ledger()
        .charge(&key, request.clone(), simulator.now());
    let id = match charged {
        Charged::Done(id) => id,
        Charged::InProcess(id) => {
            simulator.announce(id, request.notification_url);
            id
        }
        Charged::Late(id) => {
            tokio::time::sleep(STALL).await;
            id
        }
        Charged::Fails => return Err(fails()),
        Charged::OtherBody => {
            return Err(Failure::conflict("the key belongs to another payment"));
        }
    };
    Ok((StatusCode::CREATED, Json(simulator.shown(id)?)).into_response())
}

async fn show(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let id = id.parse().map_err(|_| unknown())?;
    Ok(Json(simulator.shown(id)?))
}

async fn search(
    State(simulator): State<Simulator>,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let reference = params
        .get("external_reference")
        .ok_or_else(|| Failure::bad_request("external_reference is missing"))?;
    let results = simulator.ledger().search(reference, simulator.now());
    let paging = json!({ "total": results.len(), "limit": results.len(), "offset": 0 });
    Ok(Json(json!({ "results": results, "paging": paging })))
}

async fn refund(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let key = key(&headers)?;
    let id: u64 = id.parse().map_err(|_| unknown())?;
    let refunded = simulator.ledger().refund(id, &key, simulator.now());
    match refunded {
        Refunded::Done => {
            let body = json!({ "payment_id": id, "status": "approved" });
            Ok((StatusCode::CREATED, Json(body)).into_response())
        }
        Refunded::Fails => Err(fails()),
        Refunded::Unknown => Err(unknown()),
        Refunded::NotPaid => Err(Failure::bad_request("nothing was paid")),
    }
}

async fn report(State(simulator): State<Simulator>) -> Json<Value> {
    Json(simulator.ledger().report(simulator.now()))
}

fn key(headers: &HeaderMap) -> Result<String, Failure> {
    let key = headers.get("x-idempotency-key");
    let key = key.and_then(|key| key.to_str().ok());
    let key = key.filter(|key| !key.is_empty() && key.len() <= 255);
    let missing = || Failure::bad_request("the header X-Idempotency-Key is missing");
    key.map(str::to_owned).ok_or_else(missing)
}

fn fails() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
}

fn unknown() -> Failure {
    Failure::not_found("Payment not found")
}

/// Tells what became of payments.
#[derive(Clone)]
struct Webhooks {
    secret: Arc<str>,
    client: reqwest::Client,
    places: Arc<Semaphore>,
}

impl Simulator {
    /// Says, when it is decided, that something became of a payment.
    fn announce(&self, id: u64, url: Option<String>) {
        let (Some(webhooks), Some(url)) = (self.webhooks.clone(), url) else {
            return;
        };
        let in_process = self.in_process;
        tokio::spawn(async move {
            tokio::time::sleep(in_process).await;
            for _ in 0..WEBHOOK_TRIES {
                let Ok(place) = webhooks.places.acquire().await else {
                    return;
                };
                if webhooks.send(id, &url).await {
                    return;
                }
                drop(place);
                tokio::time::sleep(WEBHOOK_PAUSE).await;
            }
            tracing::warn!(id, "nobody takes the webhook of a payment");
        });
    }
}

impl Webhooks {
    /// Whether somebody took it.
    async fn send(&self, id: u64, url: &str) -> bool {
        let (id, request_id) = (id.to_string(), Uuid::new_v4().to_string());
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ts = since.map_or(0, |since| since.as_secs()).to_string();
        let v1 = signature::sign(&self.secret, &id, &request_id, &ts);
        let body = json!({ "type": "payment", "action": "payment.updated", "data": { "id": id } });
        let request = self
            .client
            .post(url)
            .query(&[("data.id", &*id), ("type", "payment")])
            .header("x-request-id", request_id)
            .header("x-signature", format!("ts={ts},v1={v1}"))
            .json(&body);
        let sent = request.send().await;
        sent.is_ok_and(|response| response.status().is_success())
    }
}
