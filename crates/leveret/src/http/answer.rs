//! Answers in JSON, printed once, straight into the body.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

pub(super) const JSON: [(HeaderName, HeaderValue); 1] = [(
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/json"),
)];

/// A value as the body of an answer.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(1024);
    serde_json::to_writer(&mut text, body).expect("what the API answers prints");
    (status, JSON, text).into_response()
}
