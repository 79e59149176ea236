//! The seam of a database that applies writes.

pub mod conformance;
mod portable;
#[cfg(feature = "postgres")]
pub(super) mod postgres;
pub(super) mod sqlite;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::broadcast::{Logged, Outcome, Position, Statement, Value};
use serde::{Deserialize, Serialize};

/// What came of a write at a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Which write.
    pub position: Position,
    /// What came of it.
    pub outcome: Outcome,
    /// The rolling hash of all outcomes up to this one: equal on replicas that are.
    pub hash: u64,
}

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What is asked.
    pub statement: Statement,
    /// Answer from a snapshot that has at least this write; wait for it within the time.
    pub min_seq: u64,
    /// Bounds.
    pub limits: ReadLimits,
}

/// What a question may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Time, waiting included. 5 s.
    pub time: Duration,
    /// Rows. 10,000.
    pub rows_max: usize,
    /// Bytes of all values, about. 16 MiB.
    pub bytes_max: usize,
}

impl Default for ReadLimits {
    fn default() -> ReadLimits {
        ReadLimits {
            time: Duration::from_secs(5),
            rows_max: 10_000,
            bytes_max: 16 << 20,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// The columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// The last write that the snapshot has which gave them.
    pub seq: u64,
}

/// What a digest of contents is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// Names, schema, and rows, with their row ids where there are such: between replicas of one kind.
    All,
    /// The columns and rows that replicas of all kinds have alike.
    Portable,
}

/// A copy of a whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The file.
    pub path: PathBuf,
    /// The last write in it.
    pub position: Position,
    /// The cluster it belongs to; none if it has applied nothing yet.
    pub cluster: Option<Arc<str>>,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// Its size.
    pub size_bytes: u64,
}

/// Where a database stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The id of this database, made with it. A snapshot that is put in its place does not change it.
    pub database_id: Arc<str>,
    /// The cluster that it belongs to, if any.
    pub cluster: Option<Arc<str>>,
    /// The last write that it has applied.
    pub position: Position,
    /// The rolling hash of all outcomes up to there.
    pub hash: u64,
    /// Whether it has tables of users.
    pub has_tables: bool,
}

/// A database that applies writes. One task applies; many may query at the same time.
#[async_trait]
pub trait Replica: Send + Sync + 'static {
    /// `sqlite` or `postgres`: snapshots go between replicas of one kind.
    fn kind(&self) -> &'static str;

    /// Where the database stands.
    async fn standing(&self) -> Result<Standing, ReplicaError>;

    /// Makes the database one of this cluster. With `seed` it may have user tables already, else [`ReplicaError::NotEmpty`].
    async fn adopt(&self, cluster: &str, seed: bool) -> Result<(), ReplicaError>;

    /// Applies writes that follow each other and the position, in one transaction with their outcomes and the position. A mistake in a write is
    /// its outcome. `Ok` means durable. After an error or a crash none of them is there; or, where one cannot share a transaction with its
    /// neighbours, those before some write: the position tells.
    async fn apply(&self, writes: Vec<Logged>) -> Result<Vec<Applied>, ReplicaError>;

    /// Outcomes that were recorded, as far as they are kept.
    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, ReplicaError>;

    /// Answers a question, from a snapshot, without changing anything.
    async fn query(&self, query: Query) -> Result<Rows, ReadError>;

    /// A digest of the contents of all user tables at one position: equal on replicas that are.
    async fn contents(&self, of: Contents) -> Result<(Position, [u8; 32]), ReplicaError>;

    /// Copies the database to a file at this path, while writes and questions go on.
    async fn snapshot(&self, to: PathBuf) -> Result<Snapshot, ReplicaError>;

    /// Puts a snapshot in the place of all contents; checked against its digest first. A crash leaves the old contents or the new ones.
    async fn restore(&self, snapshot: Snapshot) -> Result<(), ReplicaError>;

    /// Removes all contents: the database stands before the first write of its cluster, to be rebuilt by replay. A crash leaves the old
    /// contents or none.
    async fn clear(&self) -> Result<(), ReplicaError>;

    /// Closes it. Idempotent.
    async fn close(&self);
}

/// Whether the writes follow the position and each other.
fn check_order(position: Position, writes: &[Logged]) -> Result<(), ReplicaError> {
    let mut before = position;
    for logged in writes {
        let next = logged.position;
        if next.seq != before.seq + 1 || next.epoch < before.epoch {
            return Err(ReplicaError::OutOfOrder { seq: next.seq });
        }
        before = next;
    }
    Ok(())
}

/// About what a value takes in JSON.
fn size_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(text) => 8 + text.len(),
        Value::Blob(bytes) => 8 + bytes.len(),
    }
}

/// Why a replica does not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// A fault of this machine (disk, I/O, a lock of others): nothing was applied, and nothing may be skipped.
    #[error("the database of this node has a fault: {detail}")]
    LocalFault {
        /// What happened.
        detail: String,
    },
    /// The writes do not follow the position.
    #[error("write {seq} does not follow what was applied")]
    OutOfOrder {
        /// The first that does not.
        seq: u64,
    },
    /// The database has contents already.
    #[error("the database has tables already; to begin a cluster with them, say --seed")]
    NotEmpty,
    /// The database belongs to another cluster.
    #[error("the database belongs to cluster {other}")]
    OtherCluster {
        /// Which.
        other: String,
    },
    /// The snapshot is damaged, or not one.
    #[error("the snapshot cannot be used: {detail}")]
    BadSnapshot {
        /// What is wrong.
        detail: String,
    },
    /// This kind of database cannot do that.
    #[error("not possible with this kind of database: {what}")]
    Unsupported {
        /// What.
        what: &'static str,
    },
}

/// Why a question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is no question: it would change something, or is none of SELECT, VALUES, WITH … SELECT, EXPLAIN.
    #[error("only questions can be read: {detail}")]
    NotReadOnly {
        /// What it is.
        detail: String,
    },
    /// A mistake in it.
    #[error("{message}")]
    Sql {
        /// A word for programs.
        code: String,
        /// For people.
        message: String,
    },
    /// The replica did not get as far in time.
    #[error("this node has applied seq {at}, not yet {min_seq}")]
    Behind {
        /// Where it is.
        at: u64,
        /// What was asked for.
        min_seq: u64,
    },
    /// It takes longer, or gives more, than allowed.
    #[error("the answer exceeds the limit: {what}")]
    Limit {
        /// Which limit.
        what: &'static str,
    },
    /// A fault of this machine.
    #[error("the database of this node has a fault: {detail}")]
    LocalFault {
        /// What happened.
        detail: String,
    },
}
