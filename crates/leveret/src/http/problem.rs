//! Errors as answers: the only place that turns an error into an HTTP status.
//!
//! The body is a problem of RFC 9457. What is wrong on our side is logged here, once, and not told to the client.

use std::borrow::Cow;

use axum::{
    extract::rejection::{PathRejection, QueryRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use leveret_core::{
    ids::{IdError, NodeId, RunId, ScheduleId, WorkflowId},
    parse::Diagnostics,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::guard::Scope;
use crate::{
    broker::BrokerError,
    runtime::{CancelError, SignalError, StartError},
    store::{RunStatus, StoreError},
};

/// When a client may try again what is not available now.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// A problem, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ProblemBody {
    /// A stable name of this kind of problem: `urn:leveret:problem:` and a word.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the status means.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// What is wrong with a definition, each with `file`, `line`, `column`, `path`, `severity`, `code`, `message`, `help`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<super::workflows::DiagnosticBody>>)]
    pub diagnostics: Option<Diagnostics>,
}

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct Problem(Box<Content>);

#[derive(Debug)]
struct Content {
    status: StatusCode,
    kind: &'static str,
    detail: Cow<'static, str>,
    diagnostics: Option<Diagnostics>,
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem(Box::new(Content {
            status,
            kind,
            detail: detail.into(),
            diagnostics: None,
        }))
    }

    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(super) fn not_json(error: &serde_json::Error) -> Problem {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            format!("the body is not what is expected: {error}"),
        )
    }

    pub(super) fn no_token() -> Problem {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "token",
            "this server asks for a token: send 'authorization: Bearer TOKEN'",
        )
    }

    pub(super) fn scope(needed: Scope) -> Problem {
        let detail = format!("this needs a token of scope '{}'", needed.as_str());
        Problem::new(StatusCode::FORBIDDEN, "scope", detail)
    }

    pub(super) fn foreign_host() -> Problem {
        Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-host",
            "without tokens this server is asked by an address, by 'localhost', or by a name that the setting api_hosts has",
        )
    }

    pub(super) fn foreign_origin() -> Problem {
        Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "without tokens this server answers no web page of another origin, unless the setting api_hosts has its name",
        )
    }

    pub(super) fn too_many_headers(most: usize) -> Problem {
        let detail = format!("a request has at most {most} headers");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Problem::new(status, "too-many-headers", detail)
    }

    pub(super) fn content_encoding() -> Problem {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-encoding",
            "the body must not be compressed: leave out Content-Encoding and what it says",
        )
    }

    pub(super) fn no_route() -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "there is nothing at this path; see /api/openapi.json",
        )
    }

    pub(super) fn no_version(id: &WorkflowId, version: u32) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no version {version} of workflow '{id}'"),
        )
    }

    pub(super) fn no_workflow(id: &WorkflowId) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no workflow '{id}'"),
        )
    }

    pub(super) fn no_run(id: &RunId) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no run '{id}'"),
        )
    }

    pub(super) fn no_dead_letters(queue: &str) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("queue '{queue}' has no dead letters here"),
        )
    }

    pub(super) fn method_not_allowed() -> Problem {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "this path does not take this method; see the header Allow",
        )
    }

    pub(super) fn body_too_large(bytes_max: usize) -> Problem {
        let detail = format!("the body has more than the {bytes_max} bytes allowed");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
    }

    pub(super) fn body_timeout() -> Problem {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "the body did not arrive in time",
        )
    }

    pub(super) fn body_cut() -> Problem {
        Problem::bad_request("the body could not be read to its end")
    }

    pub(super) fn content_type(expected: &str) -> Problem {
        let detail = format!("the body must be {expected}; say so in the header Content-Type");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", detail)
    }

    pub(super) fn invalid_workflow(diagnostics: Diagnostics) -> Problem {
        let mut problem = Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-workflow",
            "the definition is not valid; see diagnostics",
        );
        problem.0.diagnostics = Some(diagnostics);
        problem
    }

    pub(super) fn invalid_schedule(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-schedule", detail)
    }

    pub(super) fn no_schedule(id: &ScheduleId) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no schedule '{id}'"),
        )
    }

    pub(super) fn other_workflow(path: &WorkflowId, body: &WorkflowId) -> Problem {
        let detail = format!("the definition's id is '{body}', the path says '{path}'");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "other-workflow", detail)
    }

    pub(super) fn other_run(id: &RunId) -> Problem {
        let detail = format!("run '{id}' exists with another workflow or another input");
        Problem::new(StatusCode::CONFLICT, "conflict", detail)
    }

    pub(super) fn ended_before(id: &RunId, status: RunStatus) -> Problem {
        Problem::new(
            StatusCode::CONFLICT,
            "conflict",
            format!("run '{id}' ended before as {status}"),
        )
    }

    pub(super) fn not_waiting(node: &NodeId) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-waiting",
            format!("node '{node}' does not wait, or not yet"),
        )
    }

    pub(super) fn no_webhook(node: &NodeId) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("the run's workflow has no webhook '{node}'"),
        )
    }

    /// The name is in the log, and not for whoever calls.
    pub(super) fn no_secret(name: &str) -> Problem {
        tracing::error!(
            secret = name,
            "a webhook cannot be called: secret '{name}' is not set for this process"
        );
        Problem::unavailable("this server cannot check signatures of this webhook now")
    }

    pub(super) fn no_signature() -> Problem {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "signature",
            "the header X-Leveret-Signature must be the HMAC-SHA256 of the body by the secret of this webhook",
        )
    }

    pub(super) fn called_before() -> Problem {
        Problem::new(
            StatusCode::CONFLICT,
            "waits-no-more",
            "this webhook was called before",
        )
    }

    pub(super) fn misfit(faults: &str) -> Problem {
        let detail = format!("the data does not fit the form: {faults}");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "misfit", detail)
    }

    pub(super) fn waits_no_more(node: &NodeId) -> Problem {
        Problem::new(
            StatusCode::CONFLICT,
            "waits-no-more",
            format!("node '{node}' has what it waited for, or waits no more"),
        )
    }

    pub(super) fn unavailable(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    pub(super) fn panicked() -> Problem {
        // The panic itself was printed by the panic hook.
        Problem::internal()
    }

    fn internal() -> Problem {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong here; see the server's log",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const PROBLEM: [(HeaderName, HeaderValue); 1] = [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        )];
        let Content {
            status,
            kind,
            detail,
            diagnostics,
        } = *self.0;
        let body = ProblemBody {
            kind: format!("urn:leveret:problem:{kind}"),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into_owned(),
            diagnostics,
        };
        let text = serde_json::to_vec(&body).expect("a problem prints");
        let mut response = (status, PROBLEM, text).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, BEARER);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Unavailable { .. } | StoreError::Uncertain { .. } | StoreError::Closed => {
                Problem::unavailable(error.to_string())
            }
            error => {
                tracing::error!(%error, "a request failed at the store");
                Problem::internal()
            }
        }
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Problem {
        if error.is_retryable() || matches!(error, BrokerError::Closed) {
            return Problem::unavailable(error.to_string());
        }
        tracing::error!(%error, "a request failed at the broker");
        Problem::internal()
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Problem {
        match error {
            StartError::Store(error) => error.into(),
            StartError::Conflict { run_id } => Problem::other_run(&run_id),
        }
    }
}

impl From<SignalError> for Problem {
    fn from(error: SignalError) -> Problem {
        match error {
            SignalError::Store(error) => error.into(),
            SignalError::TooLarge { bytes_max, .. } => Problem::body_too_large(bytes_max),
        }
    }
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Problem {
        match error {
            CancelError::Store(error) => error.into(),
            CancelError::NotPublished(error) => error.into(),
        }
    }
}

impl From<IdError> for Problem {
    fn from(error: IdError) -> Problem {
        Problem::bad_request(error.to_string())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        Problem::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::bad_request(plain(&rejection.body_text()))
    }
}

/// What is wrong with a query, in words for those who do not know how it is read here.
fn plain(text: &str) -> String {
    let text = text.strip_prefix("Failed to deserialize query string: ");
    let text = text.unwrap_or("it cannot be read");
    let plain = [
        ("provided string was not ", "must be "),
        ("`true` or `false`", "true or false"),
        ("unknown variant ", "there is no "),
        ("unknown field ", "there is no "),
        ("expected one of ", "but "),
        ("expected ", "but "),
        ("invalid digit found in string", "must be a whole number"),
        ("number too large to fit in target type", "is too large"),
        (
            "cannot parse integer from empty string",
            "must be a whole number",
        ),
    ];
    let plain = plain.iter();
    plain.fold(format!("query: {text}"), |text, (words, plain)| {
        text.replace(words, plain)
    })
}
