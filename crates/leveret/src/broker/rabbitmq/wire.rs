//! Between Leveret's words and AMQP's: message properties, headers and errors.

use std::{collections::BTreeMap, sync::Arc};

use lapin::{
    BasicProperties, ErrorKind,
    types::{AMQPValue, DecimalValue, FieldTable, ShortString},
};
use leveret_core::time::Timestamp;

use super::FRAME_BYTES_MAX;
use crate::broker::{
    BrokerError, Header, Message,
    header::{check_headers, header_bytes},
};

const PERSISTENT: u8 = 2;
/// The most that headers may have together, in bytes. They go in one frame; one that is larger ends the connection.
const HEADERS_BYTES_MAX: usize = FRAME_BYTES_MAX - 8 * 1024;

/// A name or property that AMQP keeps in at most 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text).map_err(|_| BrokerError::Invalid {
        detail: format!(
            "'{}…' has {} bytes, AMQP takes 255",
            text.chars().take(40).collect::<String>(),
            text.len()
        ),
    })
}

/// The properties of a message as they are sent.
pub(super) fn properties(message: &Message) -> Result<BasicProperties, BrokerError> {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(content_type) = &message.content_type {
        properties = properties.with_content_type(short(content_type)?);
    }
    if let Some(id) = &message.message_id {
        properties = properties.with_message_id(short(id)?);
    }
    if let Some(id) = &message.correlation_id {
        properties = properties.with_correlation_id(short(id)?);
    }
    if let Some(queue) = &message.reply_to {
        properties = properties.with_reply_to(short(queue)?);
    }
    if let Some(kind) = &message.kind {
        properties = properties.with_type(short(kind)?);
    }
    if let Some(timestamp) = message.timestamp {
        let seconds = u64::try_from(timestamp.0.div_euclid(1000)).unwrap_or(0);
        properties = properties.with_timestamp(seconds);
    }
    if !message.headers.is_empty() {
        check_headers(message)?;
        let sizes = message.headers.iter();
        let bytes: usize = sizes.map(|(name, header)| header_bytes(name, header)).sum();
        if bytes > HEADERS_BYTES_MAX {
            return Err(BrokerError::Invalid {
                detail: format!("its headers have {bytes} bytes, more than {HEADERS_BYTES_MAX}"),
            });
        }
        properties = properties.with_headers(table(&message.headers)?);
    }
    Ok(properties)
}

fn table(headers: &BTreeMap<String, Header>) -> Result<FieldTable, BrokerError> {
    let mut table = FieldTable::default();
    for (name, header) in headers {
        table.insert(short(name)?, value(header)?);
    }
    Ok(table)
}

fn value(header: &Header) -> Result<AMQPValue, BrokerError> {
    Ok(match header {
        Header::Text(text) => AMQPValue::LongString(text.as_bytes().into()),
        Header::Octets(bytes) => AMQPValue::LongString(bytes.as_slice().into()),
        Header::Bytes(bytes) => AMQPValue::ByteArray(bytes.as_slice().into()),
        Header::Int(number) => AMQPValue::LongLongInt(*number),
        Header::Bool(truth) => AMQPValue::Boolean(*truth),
        Header::Float(number) => AMQPValue::Float(*number),
        Header::Double(number) => AMQPValue::Double(*number),
        Header::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue {
            scale: *scale,
            value: *value,
        }),
        Header::Seconds(seconds) => AMQPValue::Timestamp(*seconds),
        Header::List(list) => {
            let values: Result<Vec<_>, _> = list.iter().map(value).collect();
            AMQPValue::FieldArray(values?.into())
        }
        Header::Table(headers) => AMQPValue::FieldTable(table(headers)?),
        Header::Void => AMQPValue::Void,
    })
}

/// A message as it arrived.
pub(super) fn message(properties: &BasicProperties, data: Vec<u8>) -> Message {
    let text = |property: &Option<ShortString>| property.as_ref().map(|p| Arc::from(p.as_str()));
    let milliseconds = |seconds: u64| {
        i64::try_from(seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1000)
    };
    Message {
        body: data.into(),
        content_type: text(properties.content_type()),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        kind: text(properties.kind()),
        timestamp: properties.timestamp().map(|s| Timestamp(milliseconds(s))),
        headers: properties
            .headers()
            .as_ref()
            .map_or_else(BTreeMap::new, headers),
    }
}

fn headers(table: &FieldTable) -> BTreeMap<String, Header> {
    let headers = table.into_iter();
    headers
        .map(|(name, value)| (name.as_str().to_owned(), header(value)))
        .collect()
}

fn header(value: &AMQPValue) -> Header {
    match value {
        AMQPValue::LongString(text) => match str::from_utf8(text.as_bytes()) {
            Ok(text) => Header::Text(text.to_owned()),
            Err(_) => Header::Octets(text.as_bytes().to_owned()),
        },
        AMQPValue::ShortString(text) => Header::Text(text.as_str().to_owned()),
        AMQPValue::ByteArray(bytes) => Header::Bytes(bytes.as_slice().to_owned()),
        AMQPValue::Boolean(truth) => Header::Bool(*truth),
        AMQPValue::ShortShortInt(n) => Header::Int((*n).into()),
        AMQPValue::ShortShortUInt(n) => Header::Int((*n).into()),
        AMQPValue::ShortInt(n) => Header::Int((*n).into()),
        AMQPValue::ShortUInt(n) => Header::Int((*n).into()),
        AMQPValue::LongInt(n) => Header::Int((*n).into()),
        AMQPValue::LongUInt(n) => Header::Int((*n).into()),
        AMQPValue::LongLongInt(n) => Header::Int(*n),
        AMQPValue::Float(number) => Header::Float(*number),
        AMQPValue::Double(number) => Header::Double(*number),
        AMQPValue::DecimalValue(DecimalValue { scale, value }) => Header::Decimal {
            scale: *scale,
            value: *value,
        },
        AMQPValue::Timestamp(seconds) => Header::Seconds(*seconds),
        AMQPValue::FieldArray(list) => Header::List(list.as_slice().iter().map(header).collect()),
        AMQPValue::FieldTable(table) => Header::Table(headers(table)),
        AMQPValue::Void => Header::Void,
    }
}

/// An error of the client in the seam's words; `what` names the object that the operation was about.
pub(super) fn error(error: &lapin::Error, what: &str) -> BrokerError {
    let ErrorKind::ProtocolError(protocol) = error.kind() else {
        return BrokerError::Unavailable {
            detail: error.to_string(),
        };
    };
    let detail = protocol.get_message().as_str().to_owned();
    match protocol.get_id() {
        // Not found.
        404 => BrokerError::NotFound {
            what: what.to_owned(),
        },
        // Precondition failed.
        406 => BrokerError::Mismatch {
            what: what.to_owned(),
            detail,
        },
        // Access refused, resource locked, invalid path, not allowed.
        402 | 403 | 405 | 530 => BrokerError::Refused { detail },
        // Content too large.
        311 => BrokerError::Invalid { detail },
        _ => BrokerError::Unavailable { detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_round_trips() {
        let message = Message {
            body: "{}".into(),
            content_type: Some("application/json".into()),
            message_id: Some("m-1".into()),
            correlation_id: Some("c-1".into()),
            reply_to: Some("answers".into()),
            kind: Some("order.created".into()),
            timestamp: Some(Timestamp(1_795_141_463_000)),
            headers: BTreeMap::from([
                ("text".to_owned(), Header::Text("ä".to_owned())),
                ("number".to_owned(), Header::Int(-7)),
                ("truth".to_owned(), Header::Bool(true)),
            ]),
        };
        let properties = properties(&message).unwrap();
        assert_eq!(*properties.delivery_mode(), Some(PERSISTENT));
        assert_eq!(super::message(&properties, b"{}".to_vec()), message);
    }

    #[test]
    fn an_empty_message_has_no_properties_but_persistence() {
        let sent = properties(&Message::default()).unwrap();
        let bare = BasicProperties::default().with_delivery_mode(PERSISTENT);
        assert_eq!(sent, bare);
    }

    #[test]
    fn names_are_bounded() {
        let message = Message {
            message_id: Some("x".repeat(256).into()),
            ..Message::default()
        };
        let error = properties(&message).unwrap_err();
        assert!(matches!(error, BrokerError::Invalid { .. }), "{error}");
        assert!(!error.is_retryable());
        let mut message = Message::default();
        let text = Header::Text("x".repeat(HEADERS_BYTES_MAX));
        message.headers.insert("much".to_owned(), text);
        let error = properties(&message).unwrap_err();
        assert!(matches!(error, BrokerError::Invalid { .. }), "{error}");
    }
}
