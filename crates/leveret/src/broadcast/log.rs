//! The seam of the heart's log.

pub mod conformance;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::{
    broadcast::{Logged, Outcome, Position, Write},
    time::Timestamp,
};

/// How long a heart has the log without keeping it. Another one waits at most this long for it.
pub const LOG_LEASE: Duration = Duration::from_secs(8);

/// A client's key for a write: the same again is the same write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As the client says it.
    pub name: Arc<str>,
    /// A digest of statements and arguments: another one under the same name is a mistake.
    pub digest: [u8; 32],
}

/// A write on its way into the log.
#[derive(Clone, Debug)]
pub struct NewWrite {
    /// What is to happen.
    pub write: Write,
    /// The client's key, if it gave one.
    pub key: Option<Key>,
}

/// Where a write is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Logged by this call.
    New(Position),
    /// Logged before, under the same key.
    Known(Position),
    /// The key belongs to another write; nothing was logged.
    KeyTaken,
}

/// The durable log of writes, and what a heart must not forget beside it.
#[async_trait]
pub trait WriteLog: Send + Sync + 'static {
    /// The id of the cluster, made with the log.
    async fn cluster(&self) -> Result<Arc<str>, LogError>;

    /// Takes the log over: a new epoch, durable, larger than all before; whoever had the log is fenced from here on. With a lease that
    /// another owner holds and keeps: [`LogError::Held`]. `owner` is stable for a process's files, so that a restart takes its own lease back
    /// at once. Returns the epoch and the last position.
    async fn open_epoch(&self, owner: &str, now: Timestamp) -> Result<(u64, Position), LogError>;

    /// Puts this position in the place of the log's end, and this cluster in the place of its own: for a log that is lost, or older than what
    /// nodes have applied. All writes are forgotten, so that nodes which are not there restore a snapshot; keys and facts stay. Opens an epoch
    /// above that of the position, and returns it.
    async fn recover(
        &self,
        owner: &str,
        cluster: &str,
        end: Position,
        now: Timestamp,
    ) -> Result<u64, LogError>;

    /// Keeps the lease until [`LOG_LEASE`] from `now` on. [`LogError::Fenced`] when another heart has the log.
    async fn keep(&self, epoch: u64, now: Timestamp) -> Result<(), LogError>;

    /// Ends the lease, so that another heart can have the log at once: what this one appended stays, and nothing more may be appended on the
    /// strength of the lease. [`LogError::Fenced`] when another heart has the log already. A crash before it returns leaves the lease or ends it.
    async fn release(&self, epoch: u64) -> Result<(), LogError>;

    /// Logs a batch in its order, in one commit: seqs without gaps. `Ok` means durable, and that `epoch` was still the last one at the commit.
    /// A crash before it returns leaves all of the batch or nothing.
    async fn append(
        &self,
        epoch: u64,
        batch: Vec<NewWrite>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, LogError>;

    /// The writes behind `seq`, in order, at most `limit` and about `bytes_max`. [`LogError::Truncated`] when the next one is gone.
    async fn after(&self, seq: u64, limit: u32, bytes_max: u64) -> Result<Vec<Logged>, LogError>;

    /// The last position.
    async fn last(&self) -> Result<Position, LogError>;

    /// Keeps the outcomes of writes that have keys (others are ignored), so that a repeated request gets the same answer after a restart too.
    async fn settle(&self, outcomes: Vec<(u64, Outcome)>) -> Result<(), LogError>;

    /// The outcome of a write that has a key, if it was kept.
    async fn outcome(&self, seq: u64) -> Result<Option<Outcome>, LogError>;

    /// Forgets the writes up to `seq`, and keys older than `keys_before`. Returns how many writes went.
    async fn truncate(&self, seq: u64, keys_before: Timestamp) -> Result<u64, LogError>;

    /// The size of what is kept, in bytes, about; and the oldest seq that is kept.
    async fn size(&self) -> Result<(u64, u64), LogError>;

    /// Small facts of the heart (its members, snapshots), as JSON under a name: durable when it returns.
    async fn put_fact(&self, epoch: u64, name: &str, value: &str) -> Result<(), LogError>;

    /// All facts.
    async fn facts(&self) -> Result<Vec<(String, String)>, LogError>;

    /// Closes it. Idempotent.
    async fn close(&self);
}

/// Why a log does not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another heart has the log now: this one must not acknowledge anything more.
    #[error("another heart has taken the log over (epoch {epoch})")]
    Fenced {
        /// The epoch of the other.
        epoch: u64,
    },
    /// Another heart has the log and keeps its lease.
    #[error("heart '{owner}' has the log until {until}")]
    Held {
        /// Who.
        owner: String,
        /// Until when, unless it keeps the lease.
        until: Timestamp,
    },
    /// What is asked for is no more in the log: a snapshot is needed.
    #[error("the log begins at seq {oldest}")]
    Truncated {
        /// The oldest seq that is kept.
        oldest: u64,
    },
    /// The log cannot be reached now.
    #[error("the log is not available: {detail}")]
    Unavailable {
        /// What happened.
        detail: String,
    },
    /// What is stored, or asked for, cannot be.
    #[error("the log: {detail}")]
    Refused {
        /// What is wrong.
        detail: String,
    },
}

impl LogError {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(self, LogError::Unavailable { .. })
    }
}
