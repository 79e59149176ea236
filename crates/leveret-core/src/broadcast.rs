//! Replicated writes: what one is, where it stands in the log, what a replica does with one that arrives, and what comes of it.
//!
//! The heart's log gives each write its [`Position`]; a replica applies the writes in that order, each exactly once, and what comes of a write
//! is an [`Outcome`] that is equal on all replicas.

mod form;
mod portable;
mod random;
mod rolling;
mod value;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

pub use self::{
    form::misformed,
    portable::{
        NOW_FUNCTION, Portable, SECOND_FUNCTION, Verb, asks_for_time, portable, portable_question,
    },
    random::Random,
    rolling::rolled,
    value::Value,
};
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

/// A write at its place in the log. In JSON it is one flat object, and strict.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Entry")]
pub struct Logged {
    /// Its place.
    pub position: Position,
    /// What is to happen.
    pub write: Write,
}

/// The JSON of a [`Logged`], since a flattened one would take what it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    epoch: u64,
    seq: u64,
    at: Timestamp,
    seed: u64,
    statements: Vec<Statement>,
}

impl From<Entry> for Logged {
    fn from(entry: Entry) -> Logged {
        Logged {
            position: Position {
                epoch: entry.epoch,
                seq: entry.seq,
            },
            write: Write {
                statements: entry.statements,
                at: entry.at,
                seed: entry.seed,
            },
        }
    }
}

impl Serialize for Logged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("Logged", 5)?;
        entry.serialize_field("epoch", &self.position.epoch)?;
        entry.serialize_field("seq", &self.position.seq)?;
        entry.serialize_field("at", &self.write.at)?;
        entry.serialize_field("seed", &self.write.seed)?;
        entry.serialize_field("statements", &self.write.statements)?;
        entry.end()
    }
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
    fn entries_survive_json_and_are_strict() {
        let logged = Logged {
            position: Position { epoch: 2, seq: 7 },
            write: Write {
                statements: vec![Statement {
                    sql: "INSERT INTO t VALUES (?)".to_owned(),
                    args: vec![Value::Integer(i64::MIN), Value::Real(1.0)],
                }],
                at: Timestamp(5),
                seed: u64::MAX,
            },
        };
        let text = serde_json::to_string(&logged).unwrap();
        assert_eq!(
            text,
            r#"{"epoch":2,"seq":7,"at":5,"seed":18446744073709551615,"statements":[{"sql":"INSERT INTO t VALUES (?)","args":[-9223372036854775808,1.0]}]}"#
        );
        assert_eq!(serde_json::from_str::<Logged>(&text).unwrap(), logged);
        let more = text.replacen('{', r#"{"more":1,"#, 1);
        assert!(serde_json::from_str::<Logged>(&more).is_err());
    }

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
