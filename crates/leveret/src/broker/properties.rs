//! A message without its body as JSON text, as it lies in tables: those of the embedded broker and of a service's documents. Persisted.

use std::collections::BTreeMap;

use leveret_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Header, Message};

/// All of a message but its body, as JSON; nothing for a message without any.
pub(crate) fn to_text(message: &Message) -> Option<String> {
    let properties = Properties {
        content_type: message.content_type.as_deref().map(Into::into),
        message_id: message.message_id.as_deref().map(Into::into),
        correlation_id: message.correlation_id.as_deref().map(Into::into),
        reply_to: message.reply_to.as_deref().map(Into::into),
        kind: message.kind.as_deref().map(Into::into),
        timestamp_ms: message.timestamp.map(|timestamp| timestamp.0),
        headers: message
            .headers
            .iter()
            .map(|(name, header)| (name.as_str().into(), StoredHeader::from(header)))
            .collect(),
    };
    let text = serde_json::to_string(&properties).expect("properties print");
    (text != "{}").then_some(text)
}

/// A message without its body, from its text.
pub(crate) fn from_text(text: Option<&str>) -> Result<Message, serde_json::Error> {
    text.map_or_else(|| Ok(Message::default()), Properties::parse)
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Properties<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    content_type: Text<'a>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    message_id: Text<'a>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    correlation_id: Text<'a>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    reply_to: Text<'a>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    kind: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<std::borrow::Cow<'a, str>, StoredHeader>,
}

type Text<'a> = Option<std::borrow::Cow<'a, str>>;

/// The first three kinds are stored as what they are in JSON, the others by name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredHeader {
    Text(String),
    Int(i64),
    Bool(bool),
    Named(NamedHeader),
}

/// Persisted. Floating-point numbers are stored as their bits, since JSON has neither infinity nor NaN.
#[derive(Serialize, Deserialize)]
enum NamedHeader {
    #[serde(rename = "octets")]
    Octets(Vec<u8>),
    #[serde(rename = "bytes")]
    Bytes(Vec<u8>),
    #[serde(rename = "float_bits")]
    Float(u32),
    #[serde(rename = "double_bits")]
    Double(u64),
    /// Scale and value.
    #[serde(rename = "decimal")]
    Decimal(u8, u32),
    #[serde(rename = "seconds")]
    Seconds(u64),
    #[serde(rename = "list")]
    List(Vec<StoredHeader>),
    #[serde(rename = "table")]
    Table(BTreeMap<String, StoredHeader>),
    #[serde(rename = "void")]
    Void(()),
}

impl From<&Header> for StoredHeader {
    fn from(header: &Header) -> StoredHeader {
        StoredHeader::Named(match header {
            Header::Text(text) => return StoredHeader::Text(text.clone()),
            Header::Int(int) => return StoredHeader::Int(*int),
            Header::Bool(truth) => return StoredHeader::Bool(*truth),
            Header::Octets(bytes) => NamedHeader::Octets(bytes.clone()),
            Header::Bytes(bytes) => NamedHeader::Bytes(bytes.clone()),
            Header::Float(number) => NamedHeader::Float(number.to_bits()),
            Header::Double(number) => NamedHeader::Double(number.to_bits()),
            Header::Decimal { scale, value } => NamedHeader::Decimal(*scale, *value),
            Header::Seconds(seconds) => NamedHeader::Seconds(*seconds),
            Header::List(list) => NamedHeader::List(list.iter().map(StoredHeader::from).collect()),
            Header::Table(table) => {
                let entries = table.iter();
                NamedHeader::Table(
                    entries
                        .map(|(name, header)| (name.clone(), header.into()))
                        .collect(),
                )
            }
            Header::Void => NamedHeader::Void(()),
        })
    }
}

impl From<StoredHeader> for Header {
    fn from(stored: StoredHeader) -> Header {
        let named = match stored {
            StoredHeader::Text(text) => return Header::Text(text),
            StoredHeader::Int(int) => return Header::Int(int),
            StoredHeader::Bool(truth) => return Header::Bool(truth),
            StoredHeader::Named(named) => named,
        };
        match named {
            NamedHeader::Octets(bytes) => Header::Octets(bytes),
            NamedHeader::Bytes(bytes) => Header::Bytes(bytes),
            NamedHeader::Float(bits) => Header::Float(f32::from_bits(bits)),
            NamedHeader::Double(bits) => Header::Double(f64::from_bits(bits)),
            NamedHeader::Decimal(scale, value) => Header::Decimal { scale, value },
            NamedHeader::Seconds(seconds) => Header::Seconds(seconds),
            NamedHeader::List(list) => Header::List(list.into_iter().map(Header::from).collect()),
            NamedHeader::Table(table) => {
                let entries = table.into_iter();
                Header::Table(
                    entries
                        .map(|(name, header)| (name, header.into()))
                        .collect(),
                )
            }
            NamedHeader::Void(()) => Header::Void,
        }
    }
}

impl Properties<'_> {
    fn parse(text: &str) -> Result<Message, serde_json::Error> {
        let stored: Properties<'_> = serde_json::from_str(text)?;
        let headers = stored.headers.into_iter();
        Ok(Message {
            body: bytes::Bytes::new(),
            content_type: stored.content_type.as_deref().map(Into::into),
            message_id: stored.message_id.as_deref().map(Into::into),
            correlation_id: stored.correlation_id.as_deref().map(Into::into),
            reply_to: stored.reply_to.as_deref().map(Into::into),
            kind: stored.kind.as_deref().map(Into::into),
            timestamp: stored.timestamp_ms.map(Timestamp),
            headers: headers
                .map(|(name, value)| (name.into_owned(), value.into()))
                .collect(),
        })
    }
}
