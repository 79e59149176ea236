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

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredHeader {
    Text(String),
    Int(i64),
    Bool(bool),
}

impl From<&Header> for StoredHeader {
    fn from(header: &Header) -> StoredHeader {
        match header {
            Header::Text(text) => StoredHeader::Text(text.clone()),
            Header::Int(int) => StoredHeader::Int(*int),
            Header::Bool(truth) => StoredHeader::Bool(*truth),
        }
    }
}

impl Properties<'_> {
    fn parse(text: &str) -> Result<Message, serde_json::Error> {
        let stored: Properties<'_> = serde_json::from_str(text)?;
        let header = |header| match header {
            StoredHeader::Text(text) => Header::Text(text),
            StoredHeader::Int(int) => Header::Int(int),
            StoredHeader::Bool(truth) => Header::Bool(truth),
        };
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
                .map(|(name, value)| (name.into_owned(), header(value)))
                .collect(),
        })
    }
}
