//! What every service process answers over HTTP besides its own routes: health and metrics.
//!
//! | path | |
//! |---|---|
//! | `GET /health/live` | 200 as long as the process can answer |
//! | `GET /health/ready` | 200 when every subscription is live, the broker is connected and the database answers; else 503; both say which is not |
//! | `GET /metrics` | the figures of [`scrape`], in the Prometheus text format |

use std::{pin::Pin, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::{Service, scrape};
use crate::metrics::text::{CONTENT_TYPE, TextWriter};

/// Writes further metrics.
pub type Extra =
    Arc<dyn Fn(TextWriter) -> Pin<Box<dyn Future<Output = TextWriter> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Operations {
    services: Arc<[Service]>,
    extra: Option<Extra>,
}

/// The routes for services that share a process, with further metrics if there are some.
pub fn operations(services: Vec<Service>, extra: Option<Extra>) -> Router {
    let live = || async { Json(json!({ "status": "live" })) };
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Operations {
            services: services.into(),
            extra,
        })
}

async fn ready(State(operations): State<Operations>) -> Response {
    let mut missing = Vec::new();
    for service in &*operations.services {
        missing.extend(service.not_ready().await);
    }
    let (status, word) = if missing.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    let body = json!({ "status": word, "not_ready": missing });
    (status, Json(body)).into_response()
}

async fn metrics(State(operations): State<Operations>) -> Response {
    let mut text = TextWriter::default();
    let services: Vec<&Service> = operations.services.iter().collect();
    scrape(&services, &mut text).await;
    if let Some(extra) = &operations.extra {
        text = extra(text).await;
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text.finish()).into_response()
}
