//! Why a database operation failed.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a database operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Another process has the file open.
    #[error("the database {path} is in use by another process")]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock the database {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A newer program wrote the file.
    #[error(
        "the database holds version {found} of '{component}', this program knows up to {known}: use a newer program"
    )]
    NewerSchema {
        /// Whose tables.
        component: &'static str,
        /// The version in the file.
        found: usize,
        /// The newest version known here.
        known: usize,
    },
    /// SQLite reported an error. The job was rolled back.
    #[error("SQLite")]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that the job was part of could not be committed and was rolled back; trying again may succeed, for example
    /// when there is space on the disk again.
    #[error("the transaction was rolled back: {detail}")]
    RolledBack {
        /// What SQLite said.
        detail: Arc<str>,
    },
    /// A commit failed such that nobody knows whether it is on disk; the database refuses writes until it is opened again.
    #[error("the outcome of a commit is uncertain, open the database again: {detail}")]
    Uncertain {
        /// What SQLite said.
        detail: Arc<str>,
    },
    /// Too many jobs wait.
    #[error("the database is overloaded: {queued} jobs wait")]
    Overloaded {
        /// How many.
        queued: usize,
    },
    /// The job panicked; it was rolled back.
    #[error("a database job panicked")]
    Panicked,
    /// The job decided against its own writes, which were rolled back.
    #[error(transparent)]
    Refused(Box<dyn Error + Send + Sync>),
    /// The database was closed.
    #[error("the database was closed")]
    Closed,
}

impl From<rusqlite::types::FromSqlError> for DatabaseError {
    fn from(error: rusqlite::types::FromSqlError) -> DatabaseError {
        DatabaseError::Sqlite(error.into())
    }
}

impl DatabaseError {
    /// An error of the job itself; what it wrote is rolled back.
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> DatabaseError {
        DatabaseError::Refused(error.into())
    }

    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        match self {
            DatabaseError::RolledBack { .. } | DatabaseError::Overloaded { .. } => true,
            DatabaseError::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(
                    rusqlite::ErrorCode::DatabaseBusy
                        | rusqlite::ErrorCode::DatabaseLocked
                        | rusqlite::ErrorCode::DiskFull
                )
            ),
            _ => false,
        }
    }

    /// What went wrong when the file was opened: if it is locked, then because it is in use.
    pub(super) fn or_in_use(self, path: &Path) -> DatabaseError {
        match &self {
            DatabaseError::Sqlite(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) =>
            {
                DatabaseError::InUse {
                    path: path.to_owned(),
                }
            }
            _ => self,
        }
    }

    /// The whole chain of causes, for errors that are passed on as text.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
