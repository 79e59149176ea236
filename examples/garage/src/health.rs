//! `GET /health`: whether a service and what it needs are there.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use leveret::{broker::Broker, service::Service};
use serde_json::json;
use tokio::time::timeout;

use crate::stack::Role;

/// How long a database may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Public: 200 when all is well, 503 when a dependency is away or a queue is not consumed.
pub(crate) fn router(role: Role, service: &Service, broker: &Arc<dyn Broker>) -> Router {
    let (service, broker) = (service.clone(), broker.clone());
    let show = move || {
        let (service, broker) = (service.clone(), broker.clone());
        async move { health(role, &service, &broker).await }
    };
    Router::new().route("/health", get(show))
}

async fn health(role: Role, service: &Service, broker: &Arc<dyn Broker>) -> Response {
    let answered = timeout(PATIENCE, service.documents().ping()).await;
    let database = matches!(answered, Ok(Ok(())));
    let connected = broker.is_connected();
    let not_ready = service.not_ready().await;
    let word = |well: bool| if well { "up" } else { "down" };
    let (status, well) = if not_ready.is_empty() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "degraded")
    };
    let body = json!({
        "status": well,
        "service": format!("{}-service", role.name()),
        "timestamp": service.now().to_string(),
        "dependencies": { "rabbitmq": word(connected), "database": word(database) },
        "notReady": not_ready,
    });
    (status, Json(body)).into_response()
}
