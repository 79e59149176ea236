//! Broadcast: one *heart* orders writes in a durable log and broadcasts them over a fanout exchange; every *replica* applies each of them,
//! in the log's order, exactly once. The log is the truth, the broker a fast path.
//!
//! ```text
//! client -> heart: log (group commit) -> exchange -> one queue a node -> node: one transaction (effects, outcomes, position) -> ack
//!             ^                                                            |
//!             '------------- reports: position, outcomes, hash ------------'
//! ```
//!
//! - [`WriteLog`]: what a heart knows. Fenced by the epoch: only the last heart that opened it appends.
//! - [`Replica`]: a database that applies writes. Position and outcomes are in the transaction of the effects.
//! - [`HeartLink`]: what a node asks its heart for, beside the broker. Over HTTP, or in the same process.
//! - [`NodeLink`]: what a heart asks a node for. Over HTTP, or in the same process.
//!
//! A crash of the heart between log and exchange leaves a gap, which nodes see and fetch from the log. A crash of a node before its commit
//! brings the delivery again; after it, the delivery is known by its position and skipped.

pub mod heart;
mod link;
pub mod log;
pub mod node;
pub mod replica;
pub mod wire;

#[cfg(feature = "postgres")]
pub use self::replica::postgres::{PostgresReplica, PostgresReplicaOptions};
pub use self::{
    link::{
        CONTENTS_MAX, Fetched, HeartLink, Joined, LinkError, NodeLink, NodeState, Order,
        Registration,
    },
    log::{Appended, Key, LOG_LEASE, LogError, NewWrite, WriteLog},
    replica::{
        Applied, Contents, Query, ReadError, ReadLimits, Replica, ReplicaError, Rows, Snapshot,
        Standing,
        sqlite::{SqliteReplica, SqliteReplicaOptions},
    },
};
