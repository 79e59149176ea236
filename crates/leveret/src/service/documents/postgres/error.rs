//! From what PostgreSQL says to what documents say, and trying again where others were quicker.

use crate::{
    postgres::{PostgresError, Reason},
    service::documents::DocumentsError,
};

/// Why an operation failed, before it becomes the caller's.
#[derive(Debug)]
pub(super) enum Failure {
    Postgres(PostgresError),
    Documents(DocumentsError),
}

impl Failure {
    /// Whether the transaction was the victim of another one, and sees what that did when it is done again.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Failure::Postgres(error) => error.is_conflict() || error.is_unique_violation(),
            Failure::Documents(_) => false,
        }
    }

    /// What is stored cannot be read.
    pub(super) fn corrupt(what: &str, error: &dyn std::fmt::Display) -> Failure {
        Failure::Documents(DocumentsError::Refused {
            detail: format!("stored {what} cannot be read: {error}"),
        })
    }
}

impl From<PostgresError> for Failure {
    fn from(error: PostgresError) -> Failure {
        Failure::Postgres(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::Postgres(error.into())
    }
}

impl From<DocumentsError> for Failure {
    fn from(error: DocumentsError) -> Failure {
        Failure::Documents(error)
    }
}

impl From<Failure> for DocumentsError {
    fn from(failure: Failure) -> DocumentsError {
        match failure {
            Failure::Documents(error) => error,
            failure if failure.is_conflict() => DocumentsError::Unavailable {
                detail: "others were at work on the same rows, repeatedly".to_owned(),
            },
            Failure::Postgres(error) => error.into(),
        }
    }
}

impl From<PostgresError> for DocumentsError {
    fn from(error: PostgresError) -> DocumentsError {
        let detail = error.to_string();
        match error.reason() {
            Reason::Unavailable => DocumentsError::Unavailable { detail },
            Reason::Url => DocumentsError::Url { detail },
            Reason::Closed => DocumentsError::Closed,
            Reason::Refused | Reason::Corrupt | Reason::Schema => {
                DocumentsError::Refused { detail }
            }
        }
    }
}

impl From<tokio_postgres::Error> for DocumentsError {
    fn from(error: tokio_postgres::Error) -> DocumentsError {
        PostgresError::from(error).into()
    }
}
