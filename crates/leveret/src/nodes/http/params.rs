//! The parameters of `http`, rendered.

use std::{collections::BTreeMap, time::Duration};

use leveret_core::time::parse_duration;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How long a request may take.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const RESPONSE_BYTES_MAX_DEFAULT: usize = 1 << 20;

pub(super) const PARAMS: &[&str] = &[
    "url",
    "method",
    "headers",
    "query",
    "json",
    "form",
    "text",
    "base64",
    "multipart",
    "timeout",
    "expected_status",
    "response_bytes_max",
    "idempotency_key",
    "ca",
];

/// The parameters that are bodies: one of them at most.
pub(super) const BODIES: [&str; 5] = ["json", "form", "text", "base64", "multipart"];

#[derive(Deserialize)]
pub(super) struct Params {
    pub(super) url: String,
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) query: BTreeMap<String, Value>,
    pub(super) json: Option<Value>,
    pub(super) form: Option<Map<String, Value>>,
    pub(super) text: Option<Value>,
    pub(super) base64: Option<Value>,
    pub(super) multipart: Option<Value>,
    timeout: Option<Value>,
    expected_status: Option<Expected>,
    response_bytes_max: Option<usize>,
    #[serde(default = "yes")]
    pub(super) idempotency_key: bool,
    pub(super) ca: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    One(u16),
    Many(Vec<u16>),
}

impl Params {
    /// Whether the parameters name this status as one of those that are results.
    pub(super) fn names(&self, status: StatusCode) -> bool {
        match &self.expected_status {
            None => false,
            Some(Expected::One(one)) => status.as_u16() == *one,
            Some(Expected::Many(many)) => many.contains(&status.as_u16()),
        }
    }

    /// Whether this status is a result.
    pub(super) fn expects(&self, status: StatusCode) -> bool {
        match self.expected_status {
            None => status.is_success(),
            Some(_) => self.names(status),
        }
    }

    pub(super) fn timeout(&self) -> Result<Duration, String> {
        timeout(self.timeout.as_ref())
    }

    pub(super) fn response_bytes_max(&self) -> usize {
        self.response_bytes_max
            .unwrap_or(RESPONSE_BYTES_MAX_DEFAULT)
    }
}

/// What `timeout` says. Zero is a mistake: no request ends in no time.
pub(super) fn timeout(value: Option<&Value>) -> Result<Duration, String> {
    let limit = match value {
        None | Some(Value::Null) => TIMEOUT_DEFAULT,
        Some(Value::Number(number)) => number
            .as_u64()
            .map(Duration::from_millis)
            .ok_or_else(|| format!("{number} is no timeout in whole milliseconds"))?,
        Some(Value::String(text)) => parse_duration(text)
            .ok_or_else(|| format!("'{text}' is no timeout: say milliseconds or '10s'"))?,
        Some(other) => {
            return Err(format!("{other} is no timeout: say milliseconds or '10s'"));
        }
    };
    if limit.is_zero() {
        return Err("a timeout of 0 lets no request end; leave it out for 30s".to_owned());
    }
    Ok(limit)
}

/// What a header, a query or a form field is sent as: text as it is, anything else as JSON.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
