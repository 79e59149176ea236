//! From what PostgreSQL says to what a store says: whether trying again can help.

use std::error::Error as _;

use tokio_postgres::error::{DbError, SqlState};

use crate::store::StoreError;

/// Why an operation failed, before it becomes the caller's.
#[derive(Debug)]
pub(super) enum Failure {
    Postgres(tokio_postgres::Error),
    Store(StoreError),
    /// Somebody else was at work on the same rows; nothing happened, and the next try sees what they did.
    Conflict,
}

impl Failure {
    /// Whether the transaction was the victim of another one and should be done again at once.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Failure::Conflict => true,
            Failure::Postgres(error) => matches!(
                error.code(),
                Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
            ),
            Failure::Store(_) => false,
        }
    }

    /// Whether a row of this key was there already.
    pub(super) fn is_unique_violation(&self) -> bool {
        matches!(self, Failure::Postgres(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION))
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::Postgres(error)
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
            Failure::Postgres(error) => classify(&error),
        }
    }
}

fn classify(error: &tokio_postgres::Error) -> StoreError {
    if let Some(said) = error.as_db_error() {
        let detail = format!("{} (SQLSTATE {})", said.message(), said.code().code());
        return if is_passing(said) {
            StoreError::Unavailable { detail }
        } else {
            StoreError::Refused { detail }
        };
    }
    let detail = chain(error);
    // The driver does not tell its kinds of errors apart but by their texts.
    if detail.starts_with("error serializing parameter")
        || detail.starts_with("error encoding message")
    {
        return StoreError::Refused { detail };
    }
    if detail.starts_with("error deserializing column") {
        return StoreError::Corrupt { detail };
    }
    StoreError::Unavailable { detail }
}

/// Conditions of the server, not of what it was asked: it is starting or stopping, out of room, a standby, or busy.
fn is_passing(said: &DbError) -> bool {
    let code = said.code().code();
    let classes = ["08", "40", "53", "57", "58"];
    classes.iter().any(|class| code.starts_with(class)) || matches!(code, "25006" | "55P03")
}

/// The error and its causes. The driver puts neither the URL nor the password into them.
fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
