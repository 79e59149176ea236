//! `GET /health`: whether a service and what it needs are there.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use leveret::{broker::Broker, core::time::Timestamp, service::Service};
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
    let health = Health {
        role,
        now: service.now(),
        broker: broker.is_connected(),
        database: matches!(answered, Ok(Ok(()))),
        not_ready: service.not_ready().await,
    };
    health.into_response()
}

/// What a service that waits for its database is not ready for.
pub(crate) const DATABASE: &str = "database";

/// How a service is.
pub(crate) struct Health {
    pub(crate) role: Role,
    pub(crate) now: Timestamp,
    /// Whether it is connected to the broker, and its database answers.
    pub(crate) broker: bool,
    pub(crate) database: bool,
    /// What keeps it from working.
    pub(crate) not_ready: Vec<String>,
}

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        let word = |well: bool| if well { "up" } else { "down" };
        let (status, well) = if self.not_ready.is_empty() {
            (StatusCode::OK, "ok")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "degraded")
        };
        let body = json!({
            "status": well,
            "service": format!("{}-service", self.role.name()),
            "timestamp": self.now.to_string(),
            "dependencies": { "rabbitmq": word(self.broker), "database": word(self.database) },
            "notReady": self.not_ready,
        });
        (status, Json(body)).into_response()
    }
}
