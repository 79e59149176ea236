//! Replicated writes: what one is, where it stands in the log, what a replica does with one that arrives, and what comes of it.
//!
//! The heart's log gives each write its [`Position`]; a replica applies the writes in that order, each exactly once, and what comes of a write
//! is an [`Outcome`] that is equal on all replicas.

mod value;

use serde::{Deserialize, Serialize};

pub use self::value::Value;
use crate::time::Timestamp;

/// Where a write stands. `seq` counts the writes of a cluster from 1, without gaps, across epochs; `epoch` counts the hearts that had the
/// log: what an earlier one says after a later one took over is stale.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Which heart logged it.
    pub epoch: u64,
    /// Which write it is. 0: before the first.
    pub seq: u64,
}

/// One statement with its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// One statement of SQL; a `;` behind it and comments are fine.
    pub sql: String,
    /// Its arguments, by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Value>,
}

/// A write: statements that happen together or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// At least one.
    pub statements: Vec<Statement>,
    /// What the time is for them.
    pub at: Timestamp,
    /// What their random numbers are made of, with the position.
    pub seed: u64,
}

/// A write at its place in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Its place.
    #[serde(flatten)]
    pub position: Position,
    /// What is to happen.
    #[serde(flatten)]
    pub write: Write,
}

/// What a replica does with a write that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It is the next one.
    Apply,
    /// It was applied before.
    Skip,
    /// Those in between are missing: they are asked for, all behind this one.
    Fetch {
        /// The last one that was applied.
        after: u64,
    },
    /// A heart that has lost its log to another one says so: it is not to be believed.
    StaleEpoch,
}

/// What a replica that has applied all up to `applied` does with the write at `position`.
pub fn arrived(applied: Position, position: Position) -> Arrived {
    if position.seq <= applied.seq {
        Arrived::Skip
    } else if position.epoch < applied.epoch {
        Arrived::StaleEpoch
    } else if position.seq == applied.seq + 1 {
        Arrived::Apply
    } else {
        Arrived::Fetch { after: applied.seq }
    }
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All statements happened: one result each.
    Done(Vec<StatementResult>),
    /// None happened, on any replica.
    Failed(SqlError),
}

/// What came of one statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatementResult {
    /// Rows that an INSERT, UPDATE or DELETE changed; else 0.
    pub rows_affected: u64,
    /// The row id of the last row that the statement inserted, if it did.
    pub last_insert_id: Option<i64>,
    /// The columns of what it returns, if it returns rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The rows, if it returns any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Vec<Value>>>,
}

/// A mistake in a write that every replica finds alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// A word for programs, such as `SQLITE_CONSTRAINT_UNIQUE`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Which statement of the write, from 0.
    pub statement: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals() {
        let check = |applied: (u64, u64), arriving: (u64, u64), expect: Arrived| {
            let position = |(epoch, seq)| Position { epoch, seq };
            assert_eq!(arrived(position(applied), position(arriving)), expect);
        };
        check((0, 0), (1, 1), Arrived::Apply);
        check((1, 4), (1, 5), Arrived::Apply);
        check((1, 4), (2, 5), Arrived::Apply);
        check((1, 4), (1, 4), Arrived::Skip);
        check((2, 4), (1, 3), Arrived::Skip);
        check((1, 4), (1, 6), Arrived::Fetch { after: 4 });
        check((2, 4), (1, 5), Arrived::StaleEpoch);
        check((2, 4), (1, 9), Arrived::StaleEpoch);
    }
}
