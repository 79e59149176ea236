//! Headers: which of them are the node's own, which go along to another origin, and both directions between them and JSON.

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::params::text_of;
use crate::nodes::NodeError;

/// Headers that frame a message or belong to one connection (RFC 9110, section 7.6.1), and the codings that the node can take. They are the
/// node's own: those of a forwarded message would cut this one, or let it hang.
const OURS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Headers without secrets, which go along when another origin is asked.
const SAFE: [&str; 6] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "content-language",
    "idempotency-key",
    "user-agent",
];

/// The codings that the node can undo.
pub(super) const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("gzip, br, deflate");

/// Whether the node sends this header by itself, or not at all.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(&name.as_str())
}

/// Whether a header goes along when a redirect leads to another origin. What tells of the body does as long as there is one.
pub(super) fn is_safe(name: &HeaderName) -> bool {
    SAFE.contains(&name.as_str()) || is_of_body(name)
}

/// Whether a header tells of the body.
pub(super) fn is_of_body(name: &HeaderName) -> bool {
    name == "content-type" || name == "content-encoding"
}

pub(super) fn unfit(name: &str) -> String {
    format!("the value of header '{name}' has characters that headers cannot have")
}

/// Puts the headers of the parameters over those that are there. A list is a header that comes several times. What is the node's own is left
/// out, as is what a forwarded `connection` names: whole sets of headers are handed on from other messages.
pub(super) fn put(
    headers: &mut HeaderMap,
    given: &BTreeMap<String, Value>,
) -> Result<(), NodeError> {
    let connection = given
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .map(|(_, value)| text_of(value).to_ascii_lowercase());
    let connection: Vec<String> = connection.collect();
    let is_hop = |name: &HeaderName| {
        let mut named = connection.iter().flat_map(|text| text.split(','));
        named.any(|named| named.trim() == name.as_str())
    };
    for (name, value) in given {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| NodeError::permanent(format!("'{name}' is no header name")))?;
        if is_ours(&name) || is_hop(&name) {
            continue;
        }
        let values = match value {
            Value::Array(several) => several.iter().collect(),
            one => vec![one],
        };
        headers.remove(&name);
        for value in values {
            let value = HeaderValue::from_str(&text_of(value))
                .map_err(|_| NodeError::permanent(unfit(name.as_str())))?;
            headers.append(&name, value);
        }
    }
    Ok(())
}

/// The headers of a response: text by lower-case name. Those that came several times are joined by commas, as HTTP lets everybody do, but for
/// `set-cookie`, whose values have commas of their own: it is a list always.
pub(super) fn readable(headers: &HeaderMap) -> Map<String, Value> {
    let read = headers.keys().map(|name| {
        let values = headers.get_all(name).iter().map(text);
        let value = if name == "set-cookie" {
            values.collect()
        } else {
            Value::from(values.collect::<Vec<_>>().join(", "))
        };
        (name.to_string(), value)
    });
    read.collect()
}

/// UTF-8, else Latin-1, which headers were once.
fn text(value: &HeaderValue) -> String {
    match str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
    }
}
