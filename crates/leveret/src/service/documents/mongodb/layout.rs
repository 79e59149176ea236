//! How it lies in the database. Persisted.
//!
//! ```text
//! { _id: "order/7", kind: "order", id: "7", version: 3, created_at, state: "{…}", fields: { status: ["paid"] },
//!   inbox:     [ { id, at } ],                                                           inbox_since: the oldest `at`
//!   out:       [ { id, lane, at, until, by, must_route, … } ], in the order of commits   due: when some of it can be claimed
//!   deadlines: [ { name, at, claimable, was, by } ],                                     deadline: the first `claimable`
//!   parked:    [ { id, consumer, message_id, order, at, queue, … } ], as they came }
//! ```
//!
//! What is empty or not there is left out. A document without a state is in no list. The state is its text, so that it comes back as it was.
//! What carries commits that put no document has the `_id` `/lane/…` or `/inbox/…`, which no key has, version 0, and goes when it is empty.
//!
//! Of a lane, `until` is when a lease is over or was given back; what has none waits behind others. The largest of the lane counts.

use std::{fmt, sync::Arc};

use leveret_core::{json::Json, time::Timestamp};
use mongodb::bson::{Binary, Bson, Document as Doc, doc, spec::BinarySubtype};

use super::error::Failure;
use crate::{
    broker::{Message, Publication, properties},
    service::documents::{
        Claimed, Commit, Document, Handled, Key, Outgoing, OutgoingId, Parked, check::Kinds,
    },
};

/// The document that a commit writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Home {
    /// One of the service's.
    Document(Key),
    /// One for a lane that is no document's.
    Lane(Arc<str>),
    /// One for messages that changed nothing, named after the first.
    Inbox(String),
}

impl Home {
    /// Where a commit goes; nowhere if it says nothing.
    pub(super) fn of(commit: &Commit, kinds: &Kinds) -> Option<Home> {
        if let Some(put) = commit.put.first() {
            return Some(Home::Document(put.key.clone()));
        }
        if let Some(outgoing) = commit.publish.first() {
            return Some(Home::of_lane(&outgoing.lane, kinds));
        }
        let first = commit.handled.first()?;
        Some(Home::Inbox(handled_id(first)))
    }

    fn of_lane(lane: &Arc<str>, kinds: &Kinds) -> Home {
        let key = lane.split_once('/').map(|(kind, id)| Key::new(kind, id));
        match key {
            Some(key) if kinds.check_keys(std::slice::from_ref(&key)).is_ok() => {
                Home::Document(key)
            }
            _ => Home::Lane(lane.clone()),
        }
    }
}

/// The `_id`.
impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Home::Document(key) => write!(f, "{}/{}", key.kind, key.id),
            Home::Lane(lane) => write!(f, "/lane/{lane}"),
            Home::Inbox(id) => write!(f, "/inbox/{id}"),
        }
    }
}

/// The `_id` of a document.
pub(super) fn key_id(key: &Key) -> String {
    format!("{}/{}", key.kind, key.id)
}

/// What the inbox knows a message by: no two differ by where the consumer ends.
pub(super) fn handled_id(handled: &Handled) -> String {
    let Handled {
        consumer,
        message_id,
    } = handled;
    format!("{}:{consumer}{message_id}", consumer.len())
}

/// Names of outgoing messages: the entry's own, and where it lies.
impl OutgoingId {
    pub(super) fn in_home(entry: &str, home: &str) -> OutgoingId {
        OutgoingId(format!("{entry}:{home}").into())
    }

    /// Entry and home; none of what no adapter gave out.
    pub(super) fn entry_and_home(&self) -> Option<(&str, &str)> {
        self.0.split_once(':')
    }
}

/// An outgoing message, not claimed yet.
pub(super) fn outgoing(id: String, outgoing: &Outgoing, now: Timestamp) -> Doc {
    let publication = &outgoing.publication;
    let mut entry = doc! {
        "id": id,
        "lane": &*outgoing.lane,
        "at": now.0,
        "must_route": outgoing.must_route,
        "copied": publication.copied,
        "exchange": &*publication.exchange,
        "routing_key": &*publication.routing_key,
    };
    add_message(&mut entry, &publication.message);
    entry
}

/// One that was claimed.
pub(super) fn claimed(entry: &Doc, home: &str) -> Result<Claimed, Failure> {
    let stored = Stored(entry);
    let publication = Publication {
        copied: stored.bool("copied")?,
        exchange: stored.text("exchange")?.into(),
        routing_key: stored.text("routing_key")?.into(),
        message: stored.message()?,
    };
    Ok(Claimed {
        id: OutgoingId::in_home(stored.text("id")?, home),
        created_at: Timestamp(stored.number("at")?),
        outgoing: Outgoing {
            lane: stored.text("lane")?.into(),
            publication,
            must_route: stored.bool("must_route")?,
        },
    })
}

/// A message that waits for its document.
pub(super) fn parked(parked: &Parked) -> Doc {
    let mut entry = doc! {
        "id": handled_id(&parked.handled),
        "consumer": &*parked.handled.consumer,
        "message_id": &*parked.handled.message_id,
        "order": parked.order as i64,
        "at": parked.at.0,
        "queue": &*parked.queue,
    };
    add_message(&mut entry, &parked.message);
    entry
}

/// A document with what waits for it, in its order.
pub(super) fn document(stored: &Doc, key: Key) -> Result<Document, Failure> {
    let stored = Stored(stored);
    let state = stored.optional_text("state")?;
    let state = state.map(|text| Json::from_text(text.to_owned()));
    let mut parked = Vec::new();
    for entry in stored.array("parked")? {
        parked.push(waiting(Stored(as_document(entry)?), key.clone())?);
    }
    parked.sort_by_key(|parked| parked.order);
    Ok(Document {
        key,
        version: stored.number("version")? as u64,
        state: state
            .transpose()
            .map_err(|error| Failure::corrupt("state", &error))?,
        created_at: Timestamp(stored.optional_number("created_at").unwrap_or(0)),
        parked,
    })
}

fn waiting(stored: Stored<'_>, key: Key) -> Result<Parked, Failure> {
    Ok(Parked {
        key,
        handled: Handled {
            consumer: stored.text("consumer")?.into(),
            message_id: stored.text("message_id")?.into(),
        },
        order: stored.number("order")? as u64,
        at: Timestamp(stored.number("at")?),
        queue: stored.text("queue")?.into(),
        message: stored.message()?,
    })
}

fn add_message(entry: &mut Doc, message: &Message) {
    if let Some(properties) = properties::to_text(message) {
        entry.insert("properties", properties);
    }
    let body = Binary {
        subtype: BinarySubtype::Generic,
        bytes: message.body.to_vec(),
    };
    entry.insert("body", body);
}

/// A document or entry as it was read.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a>(pub(super) &'a Doc);

impl<'a> Stored<'a> {
    pub(super) fn text(self, name: &str) -> Result<&'a str, Failure> {
        self.0
            .get_str(name)
            .map_err(|error| Failure::corrupt(name, &error))
    }

    fn optional_text(self, name: &str) -> Result<Option<&'a str>, Failure> {
        self.0
            .contains_key(name)
            .then(|| self.text(name))
            .transpose()
    }

    fn bool(self, name: &str) -> Result<bool, Failure> {
        self.0
            .get_bool(name)
            .map_err(|error| Failure::corrupt(name, &error))
    }

    pub(super) fn number(self, name: &str) -> Result<i64, Failure> {
        self.optional_number(name)
            .ok_or_else(|| Failure::corrupt(name, &"it is no number"))
    }

    /// A number of any of the kinds that a server computes with.
    pub(super) fn optional_number(self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            Bson::Int32(number) => Some(i64::from(*number)),
            Bson::Int64(number) => Some(*number),
            Bson::Double(number) => Some(*number as i64),
            _ => None,
        }
    }

    /// The entries of an array, none where there is no array.
    pub(super) fn array(self, name: &str) -> Result<&'a [Bson], Failure> {
        match self.0.get(name) {
            None | Some(Bson::Null) => Ok(&[]),
            Some(Bson::Array(entries)) => Ok(entries),
            Some(_) => Err(Failure::corrupt(name, &"it is no array")),
        }
    }

    fn message(self) -> Result<Message, Failure> {
        let message = properties::from_text(self.optional_text("properties")?);
        let message = message.map_err(|error| Failure::corrupt("message", &error))?;
        let body = self.0.get_binary_generic("body");
        let body = body.map_err(|error| Failure::corrupt("body", &error))?;
        Ok(Message {
            body: body.clone().into(),
            ..message
        })
    }
}

pub(super) fn as_document(entry: &Bson) -> Result<&Doc, Failure> {
    entry
        .as_document()
        .ok_or_else(|| Failure::corrupt("entry", &"it is no document"))
}
