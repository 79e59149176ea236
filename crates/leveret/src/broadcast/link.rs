//! What heart and nodes ask of each other beside the broker.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::broadcast::{Logged, Position};
use serde::{Deserialize, Serialize};

use super::replica::{Applied, Contents, Query, ReadError, Rows, Snapshot};

/// A node that wants to be a member, or stays one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name.
    pub node_id: String,
    /// The id of its database, made with it: the same again is the same node, whatever process it is.
    pub database_id: String,
    /// Drawn anew whenever it opens or restores its database: reports of an earlier one do not speak for this one.
    pub incarnation: u64,
    /// The cluster that its database belongs to, if any.
    pub cluster: Option<Arc<str>>,
    /// What it has applied.
    pub position: Position,
    /// The rolling hash there.
    pub hash: u64,
    /// `sqlite` or `postgres`: snapshots go between nodes of one kind.
    pub kind: String,
    /// Where its [`NodeLink`] answers, such as `http://10.0.0.2:7091`.
    pub advertise: String,
    /// Whether its database had tables before it joined, and these are meant to be the beginning.
    pub seed: bool,
    /// How it is.
    pub state: NodeState,
    /// Why it applies nothing, if it has a fault.
    pub fault: Option<String>,
    /// The last [`Order::Restore`] that this process has carried out: the order stands until its ticket is here.
    pub restored: Option<u64>,
}

/// How a node is. Shown in status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It applies what arrives, and answers.
    Live,
    /// It applies what it missed.
    CatchingUp,
    /// It puts a snapshot in the place of its contents.
    Restoring,
    /// Its contents differ from those of the others: it applies on, and answers no questions.
    Quarantined,
    /// Its machine has a fault: it applies nothing, and answers no questions.
    Faulted,
    /// The heart has not heard of it within its lease.
    Lost,
}

impl NodeState {
    /// All of them.
    pub const ALL: [NodeState; 6] = [
        NodeState::Live,
        NodeState::CatchingUp,
        NodeState::Restoring,
        NodeState::Quarantined,
        NodeState::Faulted,
        NodeState::Lost,
    ];

    /// Its name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeState::Live => "live",
            NodeState::CatchingUp => "catching_up",
            NodeState::Restoring => "restoring",
            NodeState::Quarantined => "quarantined",
            NodeState::Faulted => "faulted",
            NodeState::Lost => "lost",
        }
    }
}

/// What the heart wants a node to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Apply, and answer.
    Serve,
    /// Put a snapshot of another node in the place of all contents, then replay. Once for each ticket.
    Restore {
        /// Which order it is.
        ticket: u64,
    },
    /// Apply on, and answer no questions.
    Quarantined,
    /// Delete the queue, and end.
    Removed,
}

/// The heart's answer: a lease, to be renewed within `lease_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The heart's epoch.
    pub epoch: u64,
    /// The last write of the log.
    pub last: Position,
    /// The oldest seq of the log.
    pub oldest: u64,
    /// How long the name is this node's.
    pub lease_ms: u64,
    /// What to do.
    pub order: Order,
}

/// Writes from the log, or that a snapshot is needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetched {
    /// In order, directly behind the asked seq; empty when there are none yet.
    Entries(Vec<Logged>),
    /// The log no more has them.
    Truncated {
        /// The oldest seq it has.
        oldest: u64,
    },
}

/// The longest that a node may take for [`NodeLink::contents`].
pub const CONTENTS_MAX: Duration = Duration::from_secs(60);

/// What a node asks its heart for.
#[async_trait]
pub trait HeartLink: Send + Sync + 'static {
    /// Takes or renews the lease on the node's name.
    async fn register(&self, registration: Registration) -> Result<Joined, LinkError>;

    /// The writes behind `after`.
    async fn fetch(&self, after: u64) -> Result<Fetched, LinkError>;

    /// A snapshot from another node, for a node of this kind, streamed to a file in the directory. With an empty name it is for no node, and
    /// of a SQLite database.
    async fn snapshot(&self, node_id: &str, into: PathBuf) -> Result<Snapshot, LinkError>;
}

/// What a heart asks a node for.
#[async_trait]
pub trait NodeLink: Send + Sync + 'static {
    /// Answers a question.
    async fn query(&self, query: Query) -> Result<Result<Rows, ReadError>, LinkError>;

    /// The digest of its contents at exactly this seq, so that all nodes are looked at one seq. The node waits until it is there, within a
    /// bound, and applies nothing until the digest is made. Refused when it is past it.
    async fn contents(&self, at: u64, of: Contents) -> Result<(Position, [u8; 32]), LinkError>;

    /// Copies its database to a file in the directory, streamed.
    async fn snapshot(&self, into: PathBuf) -> Result<Snapshot, LinkError>;

    /// Outcomes that it has recorded behind `after`, as far as it keeps them, at most `limit`.
    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, LinkError>;

    /// Tells it to look at its orders now: register again, and fetch what it lacks.
    async fn nudge(&self) -> Result<(), LinkError>;
}

/// Why the other side does not answer as asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It cannot be reached, or not in time.
    #[error("no answer: {detail}")]
    Unavailable {
        /// What happened.
        detail: String,
    },
    /// The name belongs to another node.
    #[error("node '{node_id}' is another database, at {advertise}")]
    NameTaken {
        /// The name.
        node_id: String,
        /// Where the other one is.
        advertise: String,
    },
    /// It answers, and says no.
    #[error("refused: {detail}")]
    Refused {
        /// Why.
        detail: String,
    },
}

impl LinkError {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(self, LinkError::Unavailable { .. })
    }
}
