//! Opening the file: the lock against other processes, and the settings of each connection.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{DatabaseError, DatabaseOptions};

/// Statements kept prepared by each connection.
const STATEMENTS_CACHED: usize = 256;

/// A commit writes whole pages, and that of one step touches one to five: half of SQLite's default takes 4 % off a run that is alone, and
/// costs nothing with many runs at once. A quarter takes 2 % more off, and costs 10 % of the throughput.
pub(super) const PAGE_BYTES: u32 = 2048;

/// A WAL that a long reader let grow shrinks to this size afterwards.
const WAL_BYTES_KEPT: u32 = 64 << 20;

/// A foreign tool, such as the `sqlite3` shell, may hold the file for this long when it is opened.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Holds `<path>.lock`. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct ProcessLock {
    _file: File,
}

impl ProcessLock {
    pub(crate) fn take(path: &Path) -> Result<ProcessLock, DatabaseError> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let failed = |source| DatabaseError::Lock {
            path: lock_path.clone(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(ProcessLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DatabaseError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

pub(super) fn open_writer(options: &DatabaseOptions) -> Result<Connection, DatabaseError> {
    let connection = open(&options.path, OpenFlags::SQLITE_OPEN_CREATE)?;
    common(&connection, options.cache_kib)?;
    let synchronous = if options.synchronous_full {
        "FULL"
    } else {
        "NORMAL"
    };
    connection.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES};
         PRAGMA journal_mode=WAL;
         PRAGMA synchronous={synchronous};
         PRAGMA journal_size_limit={WAL_BYTES_KEPT};"
    ))?;
    Ok(connection)
}

/// A reader's cache in KiB: what it reads is mostly in the system's cache.
const READER_CACHE_KIB: u32 = 1024;

pub(super) fn open_reader(path: &Path) -> Result<Connection, DatabaseError> {
    let connection = open(path, OpenFlags::empty())?;
    common(&connection, READER_CACHE_KIB)?;
    connection.execute_batch("PRAGMA query_only=ON;")?;
    Ok(connection)
}

/// The connection that copies the WAL into the file.
pub(super) fn open_copier(path: &Path) -> Result<Connection, DatabaseError> {
    let connection = open(path, OpenFlags::empty())?;
    common(&connection, 0)?;
    Ok(connection)
}

/// Where the system has it, in SQLite's mode for a file of one process: the lock is taken once, and the connections share the index of the
/// WAL in memory. That saves six system calls a transaction.
fn open(path: &Path, more: OpenFlags) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = if cfg!(unix) {
        Connection::open_with_flags_and_vfs(path, flags, "unix-excl")
    } else {
        Connection::open_with_flags(path, flags)
    };
    Ok(connection?)
}

fn common(connection: &Connection, cache_kib: u32) -> Result<(), DatabaseError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Plans stay as they are when a parameter changes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.execute_batch(&format!(
        "PRAGMA cache_size=-{cache_kib}; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;"
    ))?;
    Ok(())
}
