//! Which errors of SQLite are outcomes, alike on every node, and which are faults of this machine.

use leveret_core::broadcast::SqlError;
use rusqlite::{Error, ErrorCode, ffi};

/// Why a write did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// A mistake in it, which every node finds alike.
    Outcome(SqlError),
    /// A fault of this machine.
    Fault(Error),
}

impl From<Error> for Failure {
    /// For statements of one's own, which have no mistakes.
    fn from(error: Error) -> Failure {
        Failure::Fault(error)
    }
}

/// Whether the error comes from this machine (disk, I/O, memory, locks, permissions, a damaged file) and not from the statement.
///
/// | fault of this machine | outcome |
/// |---|---|
/// | `SQLITE_INTERNAL`, `PERM`, `BUSY`, `LOCKED`, `NOMEM`, `READONLY`, `IOERR`, `CORRUPT`, `FULL`, `CANTOPEN`, `PROTOCOL`, `NOLFS`, `NOTADB`, `SCHEMA`, `MISUSE` | `SQLITE_ERROR`, `ABORT`, `AUTH`, `CONSTRAINT`, `INTERRUPT` (too many steps), `MISMATCH`, `RANGE`, `TOOBIG` and all others |
///
/// Two corners: `SQLITE_CORRUPT_VTAB` and `SQLITE_CONSTRAINT_*` are outcomes, and `SQLITE_FULL` is one where the largest row id is taken, which
/// is looked up.
pub(super) fn is_fault(error: &Error) -> bool {
    let Some(error) = sqlite(error) else {
        return false;
    };
    if error.extended_code == ffi::SQLITE_CORRUPT_VTAB {
        return false;
    }
    matches!(
        error.code,
        ErrorCode::InternalMalfunction
            | ErrorCode::PermissionDenied
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::NoLargeFileSupport
            | ErrorCode::NotADatabase
            | ErrorCode::SchemaChanged
            | ErrorCode::ApiMisuse
    )
}

/// Whether SQLite said "full": no room on the disk, or no row id left.
pub(super) fn is_full(error: &Error) -> bool {
    sqlite(error).is_some_and(|error| error.code == ErrorCode::DiskFull)
}

/// Whether the statement was ended from outside: it had too many steps, or too much time.
pub(super) fn is_interrupt(error: &Error) -> bool {
    sqlite(error).is_some_and(|error| error.code == ErrorCode::OperationInterrupted)
}

fn sqlite(error: &Error) -> Option<&ffi::Error> {
    match error {
        Error::SqliteFailure(error, _) | Error::SqlInputError { error, .. } => Some(error),
        _ => None,
    }
}

/// The word for programs.
pub(super) fn code(error: &Error) -> String {
    match (error, sqlite(error)) {
        (_, Some(error)) => code_name(error.extended_code),
        (Error::MultipleStatement, _) => "SQLITE_ERROR".to_owned(),
        _ => "SQLITE_MISUSE".to_owned(),
    }
}

/// The text for people, without the statement.
pub(super) fn message(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        Error::MultipleStatement => "there are several statements in one text".to_owned(),
        other => other.to_string(),
    }
}

fn code_name(code: i32) -> String {
    let known = match code {
        ffi::SQLITE_CONSTRAINT_CHECK => "SQLITE_CONSTRAINT_CHECK",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "SQLITE_CONSTRAINT_FOREIGNKEY",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "SQLITE_CONSTRAINT_NOTNULL",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "SQLITE_CONSTRAINT_PRIMARYKEY",
        ffi::SQLITE_CONSTRAINT_TRIGGER => "SQLITE_CONSTRAINT_TRIGGER",
        ffi::SQLITE_CONSTRAINT_UNIQUE => "SQLITE_CONSTRAINT_UNIQUE",
        ffi::SQLITE_CONSTRAINT_ROWID => "SQLITE_CONSTRAINT_ROWID",
        ffi::SQLITE_CONSTRAINT_VTAB => "SQLITE_CONSTRAINT_VTAB",
        ffi::SQLITE_CONSTRAINT_DATATYPE => "SQLITE_CONSTRAINT_DATATYPE",
        ffi::SQLITE_CONSTRAINT_FUNCTION => "SQLITE_CONSTRAINT_FUNCTION",
        ffi::SQLITE_CORRUPT_VTAB => "SQLITE_CORRUPT_VTAB",
        _ => match code & 0xff {
            ffi::SQLITE_ERROR => "SQLITE_ERROR",
            ffi::SQLITE_ABORT => "SQLITE_ABORT",
            ffi::SQLITE_INTERRUPT => "SQLITE_INTERRUPT",
            ffi::SQLITE_FULL => "SQLITE_FULL",
            ffi::SQLITE_TOOBIG => "SQLITE_TOOBIG",
            ffi::SQLITE_CONSTRAINT => "SQLITE_CONSTRAINT",
            ffi::SQLITE_MISMATCH => "SQLITE_MISMATCH",
            ffi::SQLITE_AUTH => "SQLITE_AUTH",
            ffi::SQLITE_RANGE => "SQLITE_RANGE",
            _ => return format!("SQLITE_{code}"),
        },
    };
    known.to_owned()
}
