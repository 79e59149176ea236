//! What failed requests are told as: no path, no query, and little of the answer.

use std::{
    error::Error,
    time::{Duration, UNIX_EPOCH},
};

use leveret_core::time::Timestamp;
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
};

use super::reach::Refused;
use crate::nodes::NodeError;

/// How much of an unexpected response's body goes into the error.
const ERROR_BODY_CHARS: usize = 200;

/// The statuses beside 5xx that another attempt may not meet: the request came too slowly, too early, or too often.
const TRANSIENT: [StatusCode; 3] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
];

/// A status that is not expected. A transient one carries how long the server asks to wait.
pub(super) fn of_status(
    status: StatusCode,
    url: &Url,
    headers: &HeaderMap,
    body: &str,
    now: Timestamp,
) -> NodeError {
    let mut message = format!("{} answered {status}: ", origin(url));
    let chars_max = message.chars().count() + ERROR_BODY_CHARS;
    message.push_str(body);
    let is_transient = status.is_server_error() || TRANSIENT.contains(&status);
    let error = if is_transient {
        let error = NodeError::transient(message);
        match retry_after(headers, now) {
            Some(wait) => error.after(wait),
            None => error,
        }
    } else {
        NodeError::permanent(message)
    };
    error.with_status(status.as_u16()).cut_to(chars_max)
}

/// What `retry-after` says: seconds, or a date, which may have passed.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let ms = date.duration_since(UNIX_EPOCH).ok()?.as_millis();
    let date = Timestamp(i64::try_from(ms).ok()?);
    Some(Duration::from_millis(date.ms_since(now)))
}

pub(super) fn of_transport(error: reqwest::Error, url: &Url) -> NodeError {
    if let Some(refused) = cause::<Refused>(&error) {
        return of_refused(refused);
    }
    let permanent = error.is_builder();
    let message = format!(
        "request to {} failed: {}",
        origin(url),
        chain(&error.without_url())
    );
    if permanent {
        NodeError::permanent(message)
    } else {
        NodeError::transient(message)
    }
}

pub(super) fn of_refused(refused: &Refused) -> NodeError {
    NodeError::permanent(refused.to_string())
}

/// Scheme, host and port of a URL: paths and queries may hold secrets.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The cause of a type, however deep it is.
fn cause<E: Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}
