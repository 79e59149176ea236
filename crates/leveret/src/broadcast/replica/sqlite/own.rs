//! The tables of a replica beside those of its users: who it is, how far it has come, what came of the last writes.

use std::sync::Arc;

use leveret_core::broadcast::Position;
use rusqlite::{Connection, OptionalExtension, Result};

use super::super::{Applied, Standing};

/// How the names of all of them begin.
const PREFIX: &str = "_leveret_";

/// How many outcomes are kept, at least.
pub(super) const OUTCOMES_KEPT: u64 = 10_000;

/// `_leveret_zero` sets what `last_insert_rowid()` and `changes()` say before the first statement of a write.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS _leveret_replica (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        database_id TEXT NOT NULL,
        cluster TEXT,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        hash INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS _leveret_outcomes (
        first_seq INTEGER PRIMARY KEY,
        last_seq INTEGER NOT NULL,
        applied TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS _leveret_zero (id INTEGER PRIMARY KEY);
";

/// Whether the table, index, trigger or view is leveret's.
pub(super) fn is_own(name: &str) -> bool {
    name.as_bytes()
        .get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

/// What to say of one that users ask for.
pub(super) fn refusal(name: &str) -> String {
    format!("{name} belongs to leveret")
}

/// A table or index that took such a name and is none of these: only ALTER TABLE … RENAME can do that, which does not say it beforehand.
pub(super) fn intruder(connection: &Connection) -> Result<Option<String>> {
    let mut select = connection.prepare_cached(
        "SELECT name FROM sqlite_schema WHERE name LIKE '!_leveret!_%' ESCAPE '!'
         AND name NOT IN ('_leveret_replica', '_leveret_outcomes', '_leveret_zero')
         ORDER BY name LIMIT 1",
    )?;
    select.query_row((), |row| row.get(0)).optional()
}

/// Makes the tables where they are not, and tells where the database stands.
pub(super) fn prepare(connection: &Connection) -> Result<Standing> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let made = make(connection);
    connection.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    made
}

fn make(connection: &Connection) -> Result<Standing> {
    connection.execute_batch(TABLES)?;
    if let Some(standing) = standing(connection)? {
        return Ok(standing);
    }
    connection.execute(
        "INSERT INTO _leveret_replica VALUES (1, ?, NULL, 0, 0, 0)",
        [uuid::Uuid::now_v7().to_string()],
    )?;
    standing(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Where the database stands; none when it is no replica yet. It does not look whether there are tables of users.
pub(super) fn standing(connection: &Connection) -> Result<Option<Standing>> {
    let mut select = connection.prepare_cached(
        "SELECT database_id, cluster, epoch, seq, hash FROM _leveret_replica WHERE id = 1",
    )?;
    let standing = select.query_row((), |row| {
        Ok(Standing {
            database_id: row.get::<_, String>(0)?.into(),
            cluster: row.get::<_, Option<String>>(1)?.map(Arc::from),
            position: Position {
                epoch: row.get::<_, i64>(2)? as u64,
                seq: row.get::<_, i64>(3)? as u64,
            },
            hash: row.get::<_, i64>(4)? as u64,
            has_tables: false,
        })
    });
    standing.optional()
}

/// Whether users have tables, views or anything else in it.
pub(super) fn has_users_contents(connection: &Connection) -> Result<bool> {
    let mut select = connection.prepare_cached("SELECT name FROM sqlite_schema")?;
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        if !is_own(&name) && !name.starts_with("sqlite_") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes who the database is and where it stands.
pub(super) fn put_standing(connection: &Connection, standing: &Standing) -> Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE _leveret_replica SET database_id = ?, cluster = ?, epoch = ?, seq = ?, hash = ? WHERE id = 1",
    )?;
    let changed = update.execute((
        &*standing.database_id,
        standing.cluster.as_deref(),
        standing.position.epoch as i64,
        standing.position.seq as i64,
        standing.hash as i64,
    ))?;
    assert_eq!(changed, 1, "a replica has one standing");
    Ok(())
}

/// Records what came of writes that follow each other, and forgets the oldest.
pub(super) fn record(connection: &Connection, applied: &[Applied]) -> Result<()> {
    let [first, .., last] = applied else {
        return match applied {
            [one] => record_span(connection, one, one, applied),
            _ => Ok(()),
        };
    };
    record_span(connection, first, last, applied)
}

fn record_span(
    connection: &Connection,
    first: &Applied,
    last: &Applied,
    applied: &[Applied],
) -> Result<()> {
    let text = serde_json::to_string(applied)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO _leveret_outcomes (first_seq, last_seq, applied) VALUES (?, ?, ?)",
    )?;
    insert.execute((
        first.position.seq as i64,
        last.position.seq as i64,
        text.as_str(),
    ))?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM _leveret_outcomes WHERE first_seq <
            (SELECT max(first_seq) FROM _leveret_outcomes WHERE first_seq <= ?)",
    )?;
    delete.execute([last.position.seq.saturating_sub(OUTCOMES_KEPT) as i64])?;
    Ok(())
}

/// The recorded outcomes behind `after`, oldest first.
pub(super) fn outcomes(connection: &Connection, after: u64, limit: u32) -> Result<Vec<Applied>> {
    let mut select = connection.prepare_cached(
        "SELECT applied FROM _leveret_outcomes WHERE first_seq >=
            (SELECT coalesce(max(first_seq), 0) FROM _leveret_outcomes WHERE first_seq <= ?)
         ORDER BY first_seq",
    )?;
    let mut rows = select.query([after.saturating_add(1).min(i64::MAX as u64) as i64])?;
    let mut outcomes = Vec::new();
    while outcomes.len() < limit as usize
        && let Some(row) = rows.next()?
    {
        let text = row.get_ref(0)?.as_str()?;
        let applied: Vec<Applied> = serde_json::from_str(text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
        })?;
        let newer = applied.into_iter().filter(|one| one.position.seq > after);
        outcomes.extend(newer.take(limit as usize - outcomes.len()));
    }
    Ok(outcomes)
}
