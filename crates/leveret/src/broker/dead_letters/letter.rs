//! One dead letter, as it is shown.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    super::work::{self, HEADER_EXCHANGE, HEADER_ROUTING_KEY},
    Delivery, HEADER_DEAD_AT, HEADER_QUEUE, HEADER_REASON, Header,
};

/// The most of a body that is shown, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A dead letter. What it does not say is null.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Letter {
    /// The message's identity.
    pub message_id: Option<String>,
    /// Why it is a dead letter.
    pub reason: Option<String>,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it became one, RFC 3339.
    pub dead_at: Option<String>,
    /// The queue that it came from, and goes back to.
    pub queue: String,
    /// The exchange that it was first published to.
    pub exchange: Option<String>,
    /// The routing key that it was first published with.
    pub routing_key: Option<String>,
    /// The MIME type of its body.
    pub content_type: Option<String>,
    /// The kind of message.
    pub kind: Option<String>,
    /// What it answers or was caused by.
    pub correlation_id: Option<String>,
    /// When it was made, RFC 3339.
    pub timestamp: Option<String>,
    /// The size of its body.
    pub body_bytes: u64,
    /// All headers; left out in brief.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "http", schema(value_type = Option<Object>))]
    pub headers: Option<BTreeMap<String, Value>>,
    /// The body as one of `{"json": …}`, `{"text": "…"}`, `{"base64": "…"}`; left out in brief.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "http", schema(value_type = Option<Object>))]
    pub body: Option<Body>,
    /// Whether the body is only the beginning of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub body_cut: bool,
}

/// A body in the first form that can hold it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// A JSON document, as it was written.
    Json(Box<RawValue>),
    /// UTF-8.
    Text(String),
    /// Anything.
    Base64(String),
}

impl Letter {
    pub(super) fn of(delivery: &Delivery, queue: &str, full: bool) -> Letter {
        let message = &delivery.message;
        let owned = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        let header = |name| text(delivery, name).map(str::to_owned);
        let reason = header(HEADER_REASON).or_else(|| delivery.flaw.as_deref().map(str::to_owned));
        let (body, body_cut) = shown(&message.body);
        Letter {
            message_id: owned(&message.message_id),
            reason,
            attempts: work::attempts(message),
            dead_at: header(HEADER_DEAD_AT),
            queue: header(HEADER_QUEUE).unwrap_or_else(|| queue.to_owned()),
            exchange: header(HEADER_EXCHANGE),
            routing_key: header(HEADER_ROUTING_KEY),
            content_type: owned(&message.content_type),
            kind: owned(&message.kind),
            correlation_id: owned(&message.correlation_id),
            timestamp: message.timestamp.map(|timestamp| timestamp.to_string()),
            body_bytes: message.body.len() as u64,
            headers: full.then(|| headers(&message.headers)),
            body: full.then_some(body),
            body_cut: full && body_cut,
        }
    }
}

/// Why it is a dead letter, if it says so.
pub(super) fn reason(delivery: &Delivery) -> Option<&str> {
    text(delivery, HEADER_REASON).or(delivery.flaw.as_deref())
}

/// A header that is text.
pub(super) fn text<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    match delivery.message.headers.get(name) {
        Some(Header::Text(text)) => Some(text),
        _ => None,
    }
}

fn headers(headers: &BTreeMap<String, Header>) -> BTreeMap<String, Value> {
    let shown = headers.iter();
    shown
        .map(|(name, header)| (name.clone(), header_value(header)))
        .collect()
}

/// Bytes in base64; what JSON has no number for is null.
fn header_value(header: &Header) -> Value {
    match header {
        Header::Text(text) => Value::from(text.as_str()),
        Header::Int(number) => Value::from(*number),
        Header::Bool(truth) => Value::from(*truth),
        Header::Octets(bytes) | Header::Bytes(bytes) => Value::from(STANDARD.encode(bytes)),
        Header::Float(number) => Value::from(*number),
        Header::Double(number) => Value::from(*number),
        Header::Decimal { scale, value } => {
            Value::from(f64::from(*value) / 10_f64.powi(i32::from(*scale)))
        }
        Header::Seconds(seconds) => Value::from(*seconds),
        Header::List(list) => list.iter().map(header_value).collect(),
        Header::Table(table) => {
            let entries = table.iter();
            let entries = entries.map(|(name, header)| (name.clone(), header_value(header)));
            Value::Object(entries.collect())
        }
        Header::Void => Value::Null,
    }
}

fn shown(body: &Bytes) -> (Body, bool) {
    let is_cut = body.len() > BODY_BYTES_MAX;
    let part = &body[..body.len().min(BODY_BYTES_MAX)];
    if !is_cut && let Ok(json) = serde_json::from_slice::<Box<RawValue>>(part) {
        return (Body::Json(json), false);
    }
    let text = match std::str::from_utf8(part) {
        Ok(text) => Some(text),
        // The cut may be in the middle of a character.
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&part[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let body = match text {
        Some(text) => Body::Text(text.to_owned()),
        None => Body::Base64(STANDARD.encode(part)),
    };
    (body, is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_first_form_that_fits() {
        let check = |body: &[u8], expect: &str| {
            let (body, is_cut) = shown(&Bytes::copy_from_slice(body));
            assert_eq!(serde_json::to_string(&body).unwrap(), expect);
            assert!(!is_cut);
        };
        check(br#"{"a": 1.10}"#, r#"{"json":{"a": 1.10}}"#);
        check(
            b"12345678901234567890123",
            r#"{"json":12345678901234567890123}"#,
        );
        check("grün".as_bytes(), r#"{"text":"grün"}"#);
        check(b"", r#"{"text":""}"#);
        check(&[0xff, 0xfe], r#"{"base64":"//4="}"#);
        let long = "ü".repeat(BODY_BYTES_MAX);
        let (body, is_cut) = shown(&Bytes::from(format!("x{long}")));
        let Body::Text(text) = body else {
            panic!("it is text")
        };
        assert!(is_cut);
        assert_eq!(text.len(), BODY_BYTES_MAX - 1);
    }
}
