//! What answers at a service's address from its first moment on: its routes when its database is there, and until then that it is not.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use leveret::broker::Broker;
use serde_json::json;
use tower::ServiceExt;

use crate::{
    failure::Failure,
    health::{self, Health},
    settings::Settings,
    stack::Role,
};

/// A service's front.
#[derive(Clone)]
pub(crate) struct Front {
    role: Role,
    broker: Arc<dyn Broker>,
    settings: Settings,
    behind: Arc<OnceLock<Router>>,
}

impl Front {
    /// Of a service that is not there yet.
    pub(crate) fn new(role: Role, broker: &Arc<dyn Broker>, settings: &Settings) -> Front {
        Front {
            role,
            broker: broker.clone(),
            settings: settings.clone(),
            behind: Arc::default(),
        }
    }

    /// What is served at its address.
    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(pass).with_state(self.clone())
    }

    /// The service is there, with these routes.
    pub(crate) fn open(&self, router: Router) {
        let is_first = self.behind.set(router).is_ok();
        debug_assert!(is_first);
    }

    /// What is said while the service waits for its database: it lives, and is not ready.
    fn waiting(&self, path: &str) -> Response {
        let own = path.strip_prefix('/').and_then(|path| {
            let path = path.strip_prefix(self.role.name())?;
            path.starts_with('/').then_some(path)
        });
        match own.unwrap_or(path) {
            "/health/live" => Json(json!({ "status": "live" })).into_response(),
            "/health/ready" => {
                let body = json!({ "status": "not_ready", "not_ready": [health::DATABASE] });
                (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
            }
            "/health" => {
                let health = Health {
                    role: self.role,
                    now: (self.settings.work.now)(),
                    broker: self.broker.is_connected(),
                    database: false,
                    not_ready: vec![health::DATABASE.to_owned()],
                };
                health.into_response()
            }
            _ => Failure::unavailable().into_response(),
        }
    }
}

async fn pass(State(front): State<Front>, request: Request) -> Response {
    let Some(router) = front.behind.get() else {
        return front.waiting(request.uri().path());
    };
    let answered: Result<Response, Infallible> = router.clone().oneshot(request).await;
    answered.unwrap_or_else(|never| match never {})
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        routing::get,
    };
    use leveret::broker::memory::MemoryBroker;

    use super::*;

    #[tokio::test]
    async fn before_its_database_is_there_and_afterwards() {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let front = Front::new(Role::Billing, &broker, &Settings::local());
        let asked = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answered = front.router().oneshot(request).await.unwrap();
            let status = answered.status().as_u16();
            let body = to_bytes(answered.into_body(), 1000).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        for path in ["/health/live", "/billing/health/live"] {
            assert_eq!(asked(path).await.0, 200, "{path}");
        }
        for path in ["/health", "/billing/health"] {
            let (status, body) = asked(path).await;
            assert_eq!(status, 503, "{path}");
            assert!(body.contains(r#""database":"down""#), "{body}");
            assert!(body.contains(r#""rabbitmq":"up""#), "{body}");
        }
        assert_eq!(asked("/health/ready").await.0, 503);
        let (status, body) = asked("/quotes").await;
        assert_eq!(status, 503);
        assert!(body.contains(r#""statusCode":503"#), "{body}");

        front.open(Router::new().route("/quotes", get(async || "[]")));
        assert_eq!(asked("/quotes").await, (200, "[]".to_owned()));
        assert_eq!(asked("/health/live").await.0, 404);
    }
}
