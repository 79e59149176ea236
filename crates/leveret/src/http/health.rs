//! Whether the process lives, and whether it is ready for work.

use std::time::Duration;

use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, Shared, answer, extract::NoQuery, problem::ProblemBody};
use crate::runtime::Part;

/// How long the store may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A part's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PartState {
    Ready,
    NotReady,
}

impl PartState {
    fn of(ready: bool) -> PartState {
        if ready {
            PartState::Ready
        } else {
            PartState::NotReady
        }
    }
}

/// Whether the process is ready, by parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(super) struct Readiness {
    /// Ready when all parts are.
    pub(super) status: PartState,
    /// The parts.
    pub(super) parts: Parts,
    /// What waits to be published, and why; absent where nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) reasons: Vec<String>,
    /// What does not keep the process from its work, and needs somebody's attention nevertheless; absent where nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
}

/// The parts of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(super) struct Parts {
    /// The store answers.
    pub(super) store: PartState,
    /// The broker is connected.
    pub(super) broker: PartState,
    /// The worker's consumer is live; absent in a process without a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) consumer: Option<PartState>,
    /// The broker takes what is published: nothing is held back.
    pub(super) publishing: PartState,
}

/// Looks at the parts now.
pub(super) async fn look(api: &Shared) -> Readiness {
    let needs_consumer = api.options.needs_consumer;
    let asked = tokio::time::timeout(PING_TIMEOUT, api.engine.not_ready(needs_consumer)).await;
    // Who does not answer in time is the store: the others are asked without waiting.
    let not_ready = asked.unwrap_or_else(|_| vec![Part::Store]);
    let state = |part| PartState::of(!not_ready.contains(&part));
    Readiness {
        status: PartState::of(not_ready.is_empty()),
        parts: Parts {
            store: state(Part::Store),
            broker: state(Part::Broker),
            consumer: needs_consumer.then(|| state(Part::Consumer)),
            publishing: state(Part::Publishing),
        },
        reasons: api.engine.held_back(),
        warnings: api.engine.warnings(),
    }
}

/// The process lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(super) struct Liveness {
    /// `live`.
    status: String,
}

/// Answers as long as the process can.
#[utoipa::path(get, path = "/health/live", operation_id = "live", tag = "operations", responses(
    (status = 200, description = "The process lives", body = Liveness),
    (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn live(_: NoQuery) -> Response {
    answer::json(
        StatusCode::OK,
        &Liveness {
            status: "live".to_owned(),
        },
    )
}

/// Whether the process can do its work: the store answers, the broker is connected and takes what is published, the worker consumes.
#[utoipa::path(get, path = "/health/ready", operation_id = "ready", tag = "operations", responses(
    (status = 200, description = "Ready", body = Readiness),
    (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
    (status = 503, description = "Not ready", body = Readiness),
))]
pub(super) async fn ready(State(api): State<Api>, _: NoQuery) -> Response {
    let readiness = look(&api).await;
    let status = match readiness.status {
        PartState::Ready => StatusCode::OK,
        PartState::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer::json(status, &readiness)
}
