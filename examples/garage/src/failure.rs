//! What is answered when a request comes to nothing: `{"message", "error", "statusCode"}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use leveret::service::{CallError, DocumentsError, Refusal};
use serde_json::json;

/// Why a request comes to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
}

/// Codes of [`Refusal::rejected`] that are not a 409.
pub(crate) const NOT_FOUND: &str = "not-found";
pub(crate) const FORBIDDEN: &str = "forbidden";
pub(crate) const INVALID: &str = "invalid";
/// The code of those that are.
pub(crate) const CONFLICT: &str = "conflict";

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure {
            status,
            message: message.into(),
        }
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403.
    pub(crate) fn forbidden(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::FORBIDDEN, message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, message)
    }

    /// 409.
    pub(crate) fn conflict(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::CONFLICT, message)
    }

    /// What is wrong.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Its status.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// 503: what it needs is away.
    pub(crate) fn unavailable() -> Failure {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Not available now; try again",
        )
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        match error {
            CallError::Refused(Refusal::Rejected { code, reason }) => {
                let status = match code {
                    NOT_FOUND => StatusCode::NOT_FOUND,
                    FORBIDDEN => StatusCode::FORBIDDEN,
                    INVALID => StatusCode::BAD_REQUEST,
                    _ => StatusCode::CONFLICT,
                };
                Failure::new(status, reason)
            }
            CallError::Refused(Refusal::Malformed { reason }) => Failure::bad_request(reason),
            CallError::Refused(Refusal::Stale { reason } | Refusal::Early { reason, .. }) => {
                Failure::conflict(reason)
            }
            error => {
                tracing::error!(%error, "a request could not be served");
                Failure::unavailable()
            }
        }
    }
}

impl From<DocumentsError> for Failure {
    fn from(error: DocumentsError) -> Failure {
        match error {
            DocumentsError::Invalid { detail } => Failure::bad_request(detail),
            error => {
                tracing::error!(%error, "a request could not be served");
                Failure::unavailable()
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({
            "message": self.message,
            "error": self.status.canonical_reason().unwrap_or("Error"),
            "statusCode": self.status.as_u16(),
        });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Nothing is there.
pub(crate) async fn no_route() -> Failure {
    Failure::not_found("There is nothing at this path; see /api")
}

/// The path knows other methods.
pub(crate) async fn no_method() -> Failure {
    let message = "The path does not know this method; see /api";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
