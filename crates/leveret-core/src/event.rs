//! The envelope of events between services: what happened, to which aggregate, in whose course, because of what.
//!
//! ```json
//! {
//!   "eventId": "0192d3a4-7b1e-5c6d-8e9f-0a1b2c3d4e5f", "eventType": "quote.approved", "eventVersion": 1,
//!   "timestamp": "2026-11-21T02:24:23.755Z", "source": "billing-service",
//!   "correlationId": "7f3e…", "causationId": null,
//!   "aggregate": { "id": "c0ff…", "version": 3 },
//!   "data": { }
//! }
//! ```
//!
//! It is read strictly: every member has to be there and be what it is called, and no other may be. An event about nothing in particular cannot be
//! written down.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    json::{Json, begins_object, beyond, unkept_number},
    time::Timestamp,
};

/// The longest body of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// The longest id of an aggregate, in bytes.
pub const AGGREGATE_ID_BYTES_MAX: usize = 200;

/// The longest name of a type or source, in bytes: a routing key holds it.
pub const NAME_BYTES_MAX: usize = 255;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// A uuid: the same event has the same one, however often it is sent.
    pub event_id: Arc<str>,
    /// What happened, such as `quote.approved`; its routing key.
    pub event_type: Arc<str>,
    /// The version of the form of `data`, from 1.
    pub event_version: u32,
    /// When it happened.
    #[serde(with = "crate::time::rfc_3339")]
    pub timestamp: Timestamp,
    /// Who says so.
    pub source: Arc<str>,
    /// In whose course: a uuid, the same in all events of one saga.
    pub correlation_id: Arc<str>,
    /// The event that it follows from; none at the root.
    #[serde(deserialize_with = "present")]
    pub causation_id: Option<Arc<str>>,
    /// What it happened to.
    pub aggregate: AggregateRef,
    /// The rest, an object.
    pub data: Json,
}

/// An aggregate, as it is after an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateRef {
    /// Which.
    pub id: Arc<str>,
    /// How many events of it there are, this one included: from 1.
    pub version: u64,
}

/// Why a body is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event: {reason}")]
pub struct Malformed {
    /// What is wrong, with its place.
    pub reason: String,
}

/// Reads an event.
pub fn decode(body: &[u8]) -> Result<Event, Malformed> {
    if body.len() > EVENT_BYTES_MAX {
        let reason = format!("{} bytes, more than {EVENT_BYTES_MAX}", body.len());
        return Err(Malformed { reason });
    }
    if !begins_object(body) {
        let reason = "it is no JSON object".to_owned();
        return Err(Malformed { reason });
    }
    let event: Event = serde_json::from_slice(body).map_err(|error| Malformed {
        reason: error.to_string(),
    })?;
    let number = std::str::from_utf8(body).ok().and_then(unkept_number);
    match number.map(beyond).or_else(|| event.fault()) {
        Some(reason) => Err(Malformed { reason }),
        None => Ok(event),
    }
}

impl Event {
    /// The event as the body of a message.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an event prints as JSON")
    }

    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<String> {
        let not_a_uuid = |member: &str, id: &str| {
            (!is_uuid(id)).then(|| format!("`{member}` is not a uuid: '{}'", shown(id)))
        };
        let not_a_name = |member: &str, name: &str, max: usize| {
            let can_be = (1..=max).contains(&name.len()) && !name.chars().any(char::is_control);
            (!can_be).then(|| {
                format!("`{member}` has to have 1 to {max} bytes and no control characters")
            })
        };
        not_a_uuid("eventId", &self.event_id)
            .or_else(|| not_a_uuid("correlationId", &self.correlation_id))
            .or_else(|| not_a_uuid("causationId", self.causation_id.as_deref()?))
            .or_else(|| not_a_name("eventType", &self.event_type, NAME_BYTES_MAX))
            .or_else(|| not_a_name("source", &self.source, NAME_BYTES_MAX))
            .or_else(|| not_a_name("aggregate.id", &self.aggregate.id, AGGREGATE_ID_BYTES_MAX))
            .or_else(|| (self.event_version == 0).then(|| "`eventVersion` is 0".to_owned()))
            .or_else(|| {
                (self.aggregate.version == 0).then(|| "`aggregate.version` is 0".to_owned())
            })
            .or_else(|| {
                (!self.data.text().starts_with('{')).then(|| "`data` is not an object".to_owned())
            })
    }
}

/// Whether a text is a uuid as RFC 9562 writes it.
pub fn is_uuid(text: &str) -> bool {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let mut bytes = text.bytes().enumerate();
    text.len() == 36
        && bytes.all(|(at, byte)| {
            if dash(at) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

/// A member that may be null but has to be there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "0192d3a4-7b1e-5c6d-8e9f-0a1b2c3d4e5f";

    fn event() -> Value {
        json!({
            "eventId": ID, "eventType": "quote.approved", "eventVersion": 1,
            "timestamp": "2026-11-21T02:24:23.755Z", "source": "billing-service",
            "correlationId": ID, "causationId": null,
            "aggregate": { "id": "q1", "version": 3 }, "data": { "quoteId": "q1" },
        })
    }

    fn reason(body: &Value) -> String {
        decode(body.to_string().as_bytes()).unwrap_err().reason
    }

    #[test]
    fn there_and_back() {
        let read = decode(event().to_string().as_bytes()).unwrap();
        assert_eq!(read.aggregate.version, 3);
        let again: Value = serde_json::from_slice(&read.encode()).unwrap();
        assert_eq!(again, event());
    }

    #[test]
    fn every_member_has_to_be_there_and_no_other() {
        let members: Vec<String> = event().as_object().unwrap().keys().cloned().collect();
        for member in members {
            let mut without = event();
            without.as_object_mut().unwrap().remove(&member);
            let reason = reason(&without);
            assert!(
                reason.contains(&format!("missing field `{member}`")),
                "{reason}"
            );
        }
        let mut more = event();
        more["extra"] = json!(1);
        assert!(reason(&more).contains("unknown field `extra`"));
    }

    #[test]
    fn what_cannot_be() {
        let check = |path: &str, value: Value, expected: &str| {
            let mut body = event();
            *body.pointer_mut(path).unwrap() = value;
            let reason = reason(&body);
            assert!(reason.contains(expected), "{path}: {reason}");
        };
        check("/eventId", json!("17"), "`eventId` is not a uuid: '17'");
        check("/eventId", json!(null), "invalid type: null");
        check("/causationId", json!(""), "`causationId` is not a uuid");
        check("/eventVersion", json!(0), "`eventVersion` is 0");
        check("/eventVersion", json!("1"), "invalid type: string");
        check("/timestamp", json!("yesterday"), "RFC 3339");
        check("/aggregate/id", json!(""), "`aggregate.id` has to have");
        check("/aggregate/version", json!(-1), "invalid value");
        check("/data", json!([]), "`data` is not an object");
        check("/source", json!("a\nb"), "`source` has to have");
        assert!(decode(b"{").unwrap_err().reason.contains("EOF"));
        assert!(decode(&vec![b' '; EVENT_BYTES_MAX + 1]).is_err());
    }
}
