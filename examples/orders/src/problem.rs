//! Answers over HTTP: JSON, and problems as RFC 9457 has them.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use leveret::service::{CallError, DocumentsError, Refusal};
use serde::Serialize;
use serde_json::{Value, json};

/// What is wrong with a request, or on our side.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    field: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            kind,
            detail: detail.into(),
            field: None,
        }
    }

    /// 400: the request cannot be read.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// 422: a field says what cannot be.
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Problem {
        Problem {
            field: Some(field.into()),
            ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
        }
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Problem {
        match error {
            CallError::Refused(Refusal::Rejected { code, reason }) => {
                Problem::new(StatusCode::CONFLICT, code, reason)
            }
            CallError::Refused(Refusal::Malformed { reason }) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", reason)
            }
            error => {
                tracing::error!(%error, "a request could not be served");
                unavailable()
            }
        }
    }
}

impl From<DocumentsError> for Problem {
    fn from(error: DocumentsError) -> Problem {
        match error {
            DocumentsError::Invalid { detail } => Problem::bad_request(detail),
            error => {
                tracing::error!(%error, "a request could not be served");
                unavailable()
            }
        }
    }
}

fn unavailable() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "not available now; try again",
    )
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:orders:problem:{}", self.kind),
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(field) = self.field {
            body["field"] = Value::String(field);
        }
        let mut response = answer(self.status, &body);
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let second = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
        }
        response
    }
}

/// An answer in JSON.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    (status, axum::Json(body)).into_response()
}

/// The body of a request, whose rejection is a problem like any other.
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body, Problem> {
        let read = Bytes::from_request(request, state).await;
        read.map(Body).map_err(|rejection| {
            let kind = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => "too-large",
                _ => "bad-request",
            };
            Problem::new(rejection.status(), kind, rejection.body_text())
        })
    }
}

/// The name in a path, likewise.
pub(crate) struct Named(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, Problem> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = read.map_err(|error| Problem::bad_request(error.body_text()))?;
        Ok(Named(name))
    }
}

/// The path knows other methods.
pub(crate) async fn no_method() -> Problem {
    let detail = "the path does not know this method; see /api/openapi.json";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// Nothing is there.
pub(crate) async fn no_route() -> Problem {
    Problem::not_found("there is nothing at this path; see /api/openapi.json")
}
