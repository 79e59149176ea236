//! Opening the file, and the settings of each connection. What a setting may change in an outcome is the same on every node.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, Result, config::DbConfig, limits::Limit};

use super::functions::VALUE_BYTES_MAX;

/// Another program, such as a backup, may hold the file for this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements kept prepared by a connection.
pub(super) const STATEMENTS_CACHED: usize = 256;

/// A WAL that a long reader let grow shrinks to this size afterwards.
const WAL_BYTES_KEPT: u32 = 64 << 20;

/// The connection that applies: each commit waits for the disk.
pub(super) fn writer(path: &Path) -> Result<Connection> {
    let connection = open(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA journal_size_limit={WAL_BYTES_KEPT};"
    ))?;
    Ok(connection)
}

/// A connection that answers questions, or copies.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.execute_batch("PRAGMA query_only=ON;")?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A plan follows from the statement alone, not from the arguments that it happened to be compiled with.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // No statement writes what only SQLite may write: the tables inside of a virtual table, the schema.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX as i32)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.execute_batch(
        "PRAGMA cache_size=-8192; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;",
    )?;
    Ok(connection)
}
