//! Rows, numbers and errors of PostgreSQL as the log's.

use leveret_core::{
    broadcast::{Logged, Position, Write},
    time::Timestamp,
};
use tokio_postgres::Row;

use crate::{
    broadcast::log::LogError,
    postgres::{PostgresError, Reason},
};

impl From<PostgresError> for LogError {
    fn from(error: PostgresError) -> LogError {
        let detail = error.to_string();
        match error.reason() {
            Reason::Unavailable | Reason::Closed => LogError::Unavailable { detail },
            Reason::Refused | Reason::Corrupt | Reason::Url | Reason::Schema => {
                LogError::Refused { detail }
            }
        }
    }
}

impl From<tokio_postgres::Error> for LogError {
    fn from(error: tokio_postgres::Error) -> LogError {
        PostgresError::from(error).into()
    }
}

/// PostgreSQL's whole numbers have a sign; ours have none, and are far from where that matters.
pub(super) fn int(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn whole(row: &Row, column: usize) -> Result<u64, LogError> {
    Ok(row.try_get::<_, i64>(column)?.cast_unsigned())
}

pub(super) fn position(row: &Row, column: usize) -> Result<Position, LogError> {
    Ok(Position {
        epoch: whole(row, column)?,
        seq: whole(row, column + 1)?,
    })
}

pub(super) fn one(rows: Vec<Row>) -> Result<Row, LogError> {
    rows.into_iter().next().ok_or_else(|| LogError::Refused {
        detail: "the heart's row is missing".to_owned(),
    })
}

pub(super) fn unreadable(error: &serde_json::Error) -> LogError {
    LogError::Refused {
        detail: format!("a row cannot be read: {error}"),
    }
}

pub(super) fn logged(row: &Row) -> Result<(Logged, u64), LogError> {
    let text: &str = row.try_get(4)?;
    let logged = Logged {
        position: Position {
            epoch: whole(row, 1)?,
            seq: whole(row, 0)?,
        },
        write: Write {
            at: Timestamp(row.try_get(2)?),
            seed: whole(row, 3)?,
            statements: serde_json::from_str(text).map_err(|error| unreadable(&error))?,
        },
    };
    Ok((logged, text.len() as u64))
}
