//! From what PostgreSQL says to what a store says: whether trying again can help.

use crate::{
    postgres::{PostgresError, Reason},
    store::StoreError,
};

/// Why an operation failed, before it becomes the caller's.
#[derive(Debug)]
pub(super) enum Failure {
    Postgres(PostgresError),
    Store(StoreError),
    /// Somebody else was at work on the same rows; nothing happened, and the next try sees what they did.
    Conflict,
}

impl Failure {
    /// Whether the transaction was the victim of another one and should be done again at once.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Failure::Conflict => true,
            Failure::Postgres(error) => error.is_conflict(),
            Failure::Store(_) => false,
        }
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

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Store(error) => error,
            Failure::Conflict => StoreError::Unavailable {
                detail: "others were at work on the same runs, repeatedly".to_owned(),
            },
            Failure::Postgres(error) => error.into(),
        }
    }
}

impl From<PostgresError> for StoreError {
    fn from(error: PostgresError) -> StoreError {
        if let PostgresError::Schema {
            found,
            needed,
            help,
            ..
        } = error
        {
            return StoreError::Schema {
                found,
                needed,
                help,
            };
        }
        let detail = error.to_string();
        match error.reason() {
            Reason::Unavailable => StoreError::Unavailable { detail },
            Reason::Refused | Reason::Schema => StoreError::Refused { detail },
            Reason::Corrupt => StoreError::Corrupt { detail },
            Reason::Url => StoreError::Url { detail },
            Reason::Closed => StoreError::Closed,
        }
    }
}
