//! Questions: in transactions that only read, each of one snapshot, bounded in time, rows and bytes.

use std::pin::pin;

use futures_util::TryStreamExt;
use leveret_core::broadcast::portable_question;
use tokio::time::Instant;
use tokio_postgres::{Error, IsolationLevel, Transaction, error::SqlState};

use super::{
    super::{Query, ReadError, Rows, size_of},
    apply::arguments,
    fault::{code, described, is_outcome},
    own,
    values::{is_known, values},
};
use crate::postgres::{Lease, Pool, PostgresError};

/// Rows that are fetched in one go.
const ROWS_A_FETCH: i32 = 256;

/// Answers a question from one snapshot.
pub(super) async fn answer(
    pool: &Pool,
    query: &Query,
    deadline: Instant,
) -> Result<Rows, ReadError> {
    let asked = portable_question(&query.statement.sql)
        .map_err(|detail| ReadError::NotReadOnly { detail })?;
    let mut lease = pool.lease().await.map_err(|error| unreached(&error))?;
    let transaction = begin(&mut lease)
        .await
        .map_err(|error| read_error(&error))?;
    let answer = answer_begun(&transaction, query, &asked.sql, deadline).await;
    let ended = transaction.rollback().await;
    if ended.is_ok() {
        lease.set_in_transaction(false);
    }
    answer
}

/// A transaction that reads one snapshot. A lease that is dropped before its end closes its connection.
pub(super) async fn begin(lease: &mut Lease) -> Result<Transaction<'_>, Error> {
    lease.set_in_transaction(true);
    let begun = lease.client_mut().build_transaction();
    begun
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
}

async fn answer_begun(
    transaction: &Transaction<'_>,
    query: &Query,
    sql: &str,
    deadline: Instant,
) -> Result<Rows, ReadError> {
    let failed = |error: Error| read_error(&error);
    let left_ms = deadline
        .saturating_duration_since(Instant::now())
        .as_millis()
        .max(1);
    let bound = format!(
        "SET LOCAL statement_timeout = {}",
        left_ms.min(i32::MAX as u128)
    );
    transaction.batch_execute(&bound).await.map_err(failed)?;
    let standing = own::standing(transaction.client()).await.map_err(failed)?;
    let seq = standing.position.seq;
    if seq < query.min_seq {
        return Err(ReadError::Behind {
            at: seq,
            min_seq: query.min_seq,
        });
    }
    let compiled = transaction.prepare(sql).await.map_err(failed)?;
    if let Some(column) = compiled
        .columns()
        .iter()
        .find(|column| !is_known(column.type_()))
    {
        let message = format!(
            "{} of type {} cannot be returned: cast it to text",
            column.name(),
            column.type_()
        );
        return Err(mistake("0A000", message));
    }
    let arguments =
        arguments(&compiled, &query.statement.args).map_err(|message| ReadError::Sql {
            code: "POSTGRES_RANGE".to_owned(),
            message,
        })?;
    let portal = transaction
        .bind_raw(&compiled, &arguments)
        .await
        .map_err(failed)?;
    let columns = compiled
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    let (mut rows, mut bytes_left) = (Vec::new(), query.limits.bytes_max);
    loop {
        let fetched = transaction.query_portal_raw(&portal, ROWS_A_FETCH).await;
        let mut fetched = pin!(fetched.map_err(failed)?);
        let mut count = 0;
        while let Some(row) = fetched.try_next().await.map_err(failed)? {
            count += 1;
            if rows.len() == query.limits.rows_max {
                return Err(ReadError::Limit { what: "rows" });
            }
            let row = values(&row).map_err(failed)?;
            let left = bytes_left.checked_sub(row.iter().map(size_of).sum());
            bytes_left = left.ok_or(ReadError::Limit { what: "bytes" })?;
            rows.push(row);
        }
        if count < ROWS_A_FETCH {
            return Ok(Rows { columns, rows, seq });
        }
    }
}

fn mistake(state: &str, message: String) -> ReadError {
    ReadError::Sql {
        code: code(state),
        message,
    }
}

fn unreached(error: &PostgresError) -> ReadError {
    ReadError::LocalFault {
        detail: error.to_string(),
    }
}

fn read_error(error: &Error) -> ReadError {
    let Some(said) = error.as_db_error() else {
        return ReadError::LocalFault {
            detail: described(error),
        };
    };
    let (state, message) = (said.code(), said.message().to_owned());
    if *state == SqlState::QUERY_CANCELED {
        ReadError::Limit { what: "time" }
    } else if *state == SqlState::READ_ONLY_SQL_TRANSACTION {
        ReadError::NotReadOnly { detail: message }
    } else if is_outcome(state.code()) || *state == SqlState::INSUFFICIENT_PRIVILEGE {
        mistake(state.code(), message)
    } else {
        ReadError::LocalFault {
            detail: described(error),
        }
    }
}
