//! Messages: writes for the nodes, reports for the heart.

use std::sync::Arc;

use leveret_core::{
    broadcast::{Logged, Position, Value},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{broadcast::replica::Applied, broker::Message};

/// The kind of a message with writes. Persisted in queues.
pub const KIND_WRITES: &str = "leveret.writes";

/// The kind of a report. Persisted in queues.
pub const KIND_REPORT: &str = "leveret.report";

/// The header of a dead letter that says why it is one.
pub const REASON_HEADER: &str = "x-leveret-reason";

/// The most writes in a message.
pub const MESSAGE_WRITES_MAX: usize = 256;

/// A message takes no further write when it has so many bytes, about.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Every so many seqs, each node marks its rolling hash in a report, so that those of several nodes can be compared.
pub const MARK_EVERY: u64 = 64;

/// Writes on their way to the nodes: they follow each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    /// Whose they are.
    pub cluster: Arc<str>,
    /// The seqs whose outcomes somebody waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<u64>,
    /// The writes.
    pub entries: Vec<Logged>,
}

impl Broadcast {
    /// The message. Its id is the same in every copy.
    pub fn to_message(&self, now: Timestamp) -> Message {
        let seq = |entry: Option<&Logged>| entry.map_or(0, |entry| entry.position.seq);
        let (first, last) = (seq(self.entries.first()), seq(self.entries.last()));
        let id = format!("{}:{first}-{last}", self.cluster);
        message(KIND_WRITES, id, now, self)
    }

    /// Reads a message of the exchange, strictly.
    pub fn from_message(message: &Message) -> Result<Broadcast, Malformed> {
        let read: Broadcast = read(message)?;
        if read.entries.is_empty() {
            return Err(Malformed::new("it has no entries"));
        }
        let mut before: Option<Position> = None;
        for entry in &read.entries {
            check(entry, before)?;
            before = Some(entry.position);
        }
        Ok(read)
    }
}

fn check(entry: &Logged, before: Option<Position>) -> Result<(), Malformed> {
    let at = entry.position;
    if at.seq == 0 || at.epoch == 0 {
        return Err(Malformed::new("epochs and seqs begin with 1"));
    }
    if before.is_some_and(|before| at.seq != before.seq + 1 || at.epoch < before.epoch) {
        return Err(Malformed::new(format!(
            "seq {} does not follow the entry before it",
            at.seq
        )));
    }
    let statements = &entry.write.statements;
    if statements.is_empty() {
        return Err(Malformed::new(format!("seq {} has no statements", at.seq)));
    }
    let is_nan = |value: &Value| matches!(value, Value::Real(number) if number.is_nan());
    let mut args = statements.iter().flat_map(|statement| &statement.args);
    if args.any(is_nan) {
        return Err(Malformed::new(format!("seq {} has no number", at.seq)));
    }
    Ok(())
}

/// What a node tells after a delivery is applied. Positions only grow within an incarnation; a report that is lost is made up for by the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose.
    pub cluster: Arc<str>,
    /// Who.
    pub node_id: Arc<str>,
    /// Which opening of its database, as registered.
    pub incarnation: u64,
    /// How far it is.
    pub position: Position,
    /// The rolling hash there.
    pub hash: u64,
    /// What came of the writes that are wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Applied>,
    /// The rolling hash at each multiple of [`MARK_EVERY`] that was passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
    /// From the arrival of the delivery to its commit, in milliseconds.
    pub took_ms: u64,
}

/// The rolling hash at a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where.
    pub seq: u64,
    /// The hash.
    pub hash: u64,
}

impl Report {
    /// The message. Its id is the same in every copy.
    pub fn to_message(&self, now: Timestamp) -> Message {
        let id = format!(
            "{}:{}:{:x}:{}",
            self.cluster, self.node_id, self.incarnation, self.position.seq
        );
        message(KIND_REPORT, id, now, self)
    }

    /// Reads a message of the heart's queue.
    pub fn from_message(message: &Message) -> Result<Report, Malformed> {
        read(message)
    }
}

/// Why a message is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    reason: String,
}

impl Malformed {
    /// For this reason.
    pub fn new(reason: impl Into<String>) -> Malformed {
        Malformed {
            reason: reason.into(),
        }
    }

    /// It is of another cluster than ours.
    pub fn foreign(cluster: &str, ours: &str) -> Malformed {
        Malformed::new(format!("it is of cluster {cluster}, not of {ours}"))
    }
}

fn message(kind: &'static str, id: String, now: Timestamp, body: &impl Serialize) -> Message {
    let body = serde_json::to_vec(body).expect("numbers, texts and lists print");
    Message {
        message_id: Some(id.into()),
        kind: Some(Arc::from(kind)),
        timestamp: Some(now),
        ..Message::json(body)
    }
}

fn read<'a, T: Deserialize<'a>>(message: &'a Message) -> Result<T, Malformed> {
    serde_json::from_slice(&message.body)
        .map_err(|error| Malformed::new(format!("it is not what is expected: {error}")))
}
