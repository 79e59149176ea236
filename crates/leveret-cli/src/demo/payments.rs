//! A payment service for the examples: it fails, declines and stalls as real ones do, but by a seed.
//!
//! `POST /charges` is the primary provider, `POST /backup/charges` a dearer one that is always up. Both take
//! `{order_id, amount_cents, currency, token}` with an `Idempotency-Key` header and promise:
//!
//! - a settled key (approved or declined) is answered again with what it was answered first, and charged once;
//! - a key with another body is refused with 409;
//! - what happens to an order follows from the seed, the order and the number of the try alone, not from the
//!   order in which requests arrive.
//!
//! `GET /charges` lists every charge, so that a test can see that nothing was charged twice. Everything is in
//! memory and ends with the process.

mod ledger;
mod plan;

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::ledger::{ChargeRequest, Ledger, Provider, Refusal};

/// How the service behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PaymentOptions {
    /// Decides which orders fail, are declined and stall.
    pub(crate) seed: u64,
    /// How long a stalled answer takes: longer than the timeout of the client that shall see one.
    pub(crate) stall: Duration,
    /// Idempotency keys kept for each provider; requests with further keys are refused with 503.
    pub(crate) keys_max: usize,
}

impl Default for PaymentOptions {
    fn default() -> Self {
        Self {
            seed: 7,
            stall: Duration::from_secs(3),
            keys_max: 1_000_000,
        }
    }
}

/// Serves until `shutdown` resolves, then finishes the requests in progress (a stalled one takes its time).
pub(crate) async fn serve(
    listener: TcpListener,
    options: PaymentOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(options))
        .with_graceful_shutdown(shutdown)
        .await
}

#[derive(Clone)]
struct Service {
    ledger: Arc<Mutex<Ledger>>,
    stall: Duration,
}

impl Service {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // The ledger is whole after each of its calls, even one that panicked on an assertion.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn router(options: PaymentOptions) -> Router {
    let ledger = Ledger::new(options.seed, options.keys_max);
    let service = Service {
        ledger: Arc::new(Mutex::new(ledger)),
        stall: options.stall,
    };
    Router::new()
        .route("/charges", get(list).post(charge))
        .route("/backup/charges", post(charge_backup))
        .route("/health", get(health))
        .with_state(service)
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn list(State(service): State<Service>) -> Json<Value> {
    Json(service.ledger().report())
}

async fn charge(
    State(service): State<Service>,
    headers: HeaderMap,
    Json(request): Json<ChargeRequest>,
) -> Response {
    settle(&service, Provider::Primary, &headers, request).await
}

async fn charge_backup(
    State(service): State<Service>,
    headers: HeaderMap,
    Json(request): Json<ChargeRequest>,
) -> Response {
    settle(&service, Provider::Backup, &headers, request).await
}

async fn settle(
    service: &Service,
    provider: Provider,
    headers: &HeaderMap,
    request: ChargeRequest,
) -> Response {
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok())
        .filter(|key| !key.is_empty());
    let Some(key) = key else {
        return error(
            StatusCode::BAD_REQUEST,
            "the Idempotency-Key header is missing",
        );
    };
    let answer = service.ledger().charge(provider, key, request);
    match answer {
        Ok(answer) => {
            if answer.stalls {
                // The money has moved; only the answer is late. That is what makes keys necessary.
                tokio::time::sleep(service.stall).await;
            }
            Json(answer.outcome).into_response()
        }
        Err(Refusal::Unavailable) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the provider does not answer",
        ),
        Err(Refusal::Full) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "no room for another idempotency key",
        ),
        Err(Refusal::OtherBody) => error(
            StatusCode::CONFLICT,
            "the idempotency key belongs to another request",
        ),
        Err(Refusal::Amount) => error(
            StatusCode::UNPROCESSABLE_ENTITY,
            "amount_cents is zero or too large",
        ),
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tokio::sync::oneshot;
    use tokio::time::Instant;
    use tower::ServiceExt as _;

    use super::*;

    async fn post(router: &Router, path: &str, key: &str, body: Value) -> (u16, Value) {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        answer(router, request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn answer(router: &Router, request: Request<Body>) -> (u16, Value) {
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn report(router: &Router) -> Value {
        answer(
            router,
            Request::get("/charges").body(Body::empty()).unwrap(),
        )
        .await
        .1
    }

    fn order(token: &str) -> Value {
        json!({ "order_id": "ord-1", "amount_cents": 1_999, "currency": "EUR", "token": token })
    }

    /// A key that has settled is answered the same again and charged once; with another body it is refused.
    #[tokio::test]
    async fn a_key_is_charged_once() {
        let router = router(PaymentOptions::default());
        let first = post(&router, "/charges", "k", order("tok_ok_1")).await;
        assert_eq!(
            (first.0, first.1["status"].as_str()),
            (200, Some("approved"))
        );
        assert_eq!(
            post(&router, "/charges", "k", order("tok_ok_1")).await,
            first
        );
        assert_eq!(
            post(&router, "/charges", "k", order("tok_ok_2")).await.0,
            409
        );
        let report = report(&router).await;
        assert_eq!(report["charges"].as_array().unwrap().len(), 1);
        assert_eq!(
            report["counts"],
            json!({ "requests": 3, "approved": 1, "declined": 0, "unavailable": 0, "repeated": 1, "refused": 1 })
        );
    }

    /// A flaky order goes through after one or two failures, one whose provider is down never; the backup takes it.
    #[tokio::test]
    async fn failures_end_or_fall_back() {
        let router = router(PaymentOptions::default());
        let mut tries = Vec::new();
        while tries.last() != Some(&200) {
            tries.push(
                post(&router, "/charges", "flaky", order("tok_flaky_1"))
                    .await
                    .0,
            );
            assert!(tries.len() <= 3);
        }
        assert_eq!(tries[0], 503);
        for _ in 0..10 {
            assert_eq!(
                post(&router, "/charges", "down", order("tok_down_1"))
                    .await
                    .0,
                503
            );
        }
        let (status, body) = post(&router, "/backup/charges", "down", order("tok_down_1")).await;
        assert_eq!(
            (status, &body["provider"], &body["fee_cents"]),
            (200, &json!("backup"), &json!(60))
        );
    }

    /// A decline is an answer, not an error, and moves no money.
    #[tokio::test]
    async fn a_decline_charges_nothing() {
        let router = router(PaymentOptions::default());
        let (status, body) = post(&router, "/charges", "k", order("tok_declined_1")).await;
        assert_eq!((status, body["status"].as_str()), (200, Some("declined")));
        assert!(body["reason"].is_string());
        assert_eq!(report(&router).await["charges"], json!([]));
    }

    /// The first answer to a stalled order is late, its charge is not, and the second answer comes at once.
    /// (Time is tokio's own and everything is in memory.)
    #[tokio::test(start_paused = true)]
    async fn a_stall_delays_the_answer_only() {
        let router = router(PaymentOptions::default());
        let begun = Instant::now();
        let first = post(&router, "/charges", "k", order("tok_stalled_1")).await;
        assert!(begun.elapsed() >= Duration::from_secs(3));
        let repeated = Instant::now();
        assert_eq!(
            post(&router, "/charges", "k", order("tok_stalled_1")).await,
            first
        );
        assert!(repeated.elapsed() < Duration::from_secs(3));
        assert_eq!(
            report(&router).await["charges"].as_array().unwrap().len(),
            1
        );
    }

    /// Requests without a key, without an amount, or beyond the bound are refused.
    #[tokio::test]
    async fn bad_requests_are_refused() {
        let router = router(PaymentOptions {
            keys_max: 1,
            ..PaymentOptions::default()
        });
        assert_eq!(
            post(&router, "/charges", "", order("tok_ok_1")).await.0,
            400
        );
        let free =
            json!({ "order_id": "o", "amount_cents": 0, "currency": "EUR", "token": "tok_ok_1" });
        assert_eq!(post(&router, "/charges", "k", free).await.0, 422);
        assert_eq!(
            post(&router, "/charges", "k", order("tok_ok_1")).await.0,
            200
        );
        assert_eq!(
            post(&router, "/charges", "l", order("tok_ok_1")).await.0,
            503
        );
    }

    /// The server answers on its listener and ends when it is told to.
    #[tokio::test]
    async fn the_server_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, PaymentOptions::default(), async move {
            stopped.await.unwrap();
        }));
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
