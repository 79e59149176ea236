//! Questions and their answers in JSON.

use std::time::Duration;

use leveret_core::broadcast::Statement;
use serde::{Deserialize, Serialize};

use crate::broadcast::replica::{Query, ReadError, ReadLimits, Rows};

#[derive(Serialize, Deserialize)]
pub(super) struct Question {
    statement: Statement,
    min_seq: u64,
    timeout_ms: u64,
    rows_max: usize,
    bytes_max: usize,
}

impl From<Query> for Question {
    fn from(query: Query) -> Question {
        Question {
            statement: query.statement,
            min_seq: query.min_seq,
            timeout_ms: query.limits.time.as_millis() as u64,
            rows_max: query.limits.rows_max,
            bytes_max: query.limits.bytes_max,
        }
    }
}

impl From<Question> for Query {
    fn from(question: Question) -> Query {
        Query {
            statement: question.statement,
            min_seq: question.min_seq,
            limits: ReadLimits {
                time: Duration::from_millis(question.timeout_ms),
                rows_max: question.rows_max,
                bytes_max: question.bytes_max,
            },
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Rows(Rows),
    NotReadOnly { detail: String },
    Sql { code: String, message: String },
    Behind { at: u64, min_seq: u64 },
    Limit { what: String },
    LocalFault { detail: String },
}

impl From<Result<Rows, ReadError>> for Answer {
    fn from(result: Result<Rows, ReadError>) -> Answer {
        match result {
            Ok(rows) => Answer::Rows(rows),
            Err(ReadError::NotReadOnly { detail }) => Answer::NotReadOnly { detail },
            Err(ReadError::Sql { code, message }) => Answer::Sql { code, message },
            Err(ReadError::Behind { at, min_seq }) => Answer::Behind { at, min_seq },
            Err(ReadError::Limit { what }) => Answer::Limit {
                what: what.to_owned(),
            },
            Err(ReadError::LocalFault { detail }) => Answer::LocalFault { detail },
        }
    }
}

impl From<Answer> for Result<Rows, ReadError> {
    fn from(answer: Answer) -> Result<Rows, ReadError> {
        Err(match answer {
            Answer::Rows(rows) => return Ok(rows),
            Answer::NotReadOnly { detail } => ReadError::NotReadOnly { detail },
            Answer::Sql { code, message } => ReadError::Sql { code, message },
            Answer::Behind { at, min_seq } => ReadError::Behind { at, min_seq },
            Answer::Limit { what } => ReadError::Limit { what: known(&what) },
            Answer::LocalFault { detail } => ReadError::LocalFault { detail },
        })
    }
}

/// A limit by its name, of which there are few.
fn known(what: &str) -> &'static str {
    ["time", "rows", "bytes"]
        .into_iter()
        .find(|known| *known == what)
        .unwrap_or("size")
}
