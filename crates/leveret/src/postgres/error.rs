//! What PostgreSQL and the driver say, sorted by what can be done about it.

use std::{error::Error as _, time::Duration};

use tokio_postgres::error::{DbError, SqlState};

/// Why an operation failed. None of it holds the URL or the password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    /// The server or the connection.
    #[error("{}", described(.0))]
    Driver(#[from] tokio_postgres::Error),
    /// The URL cannot be used.
    #[error("{detail}")]
    Url { detail: String },
    /// Something took too long.
    #[error("{what} within {} s", waited.as_secs_f32())]
    TimedOut {
        what: &'static str,
        waited: Duration,
    },
    /// The tables are of another version.
    #[error("the tables of {component} have version {found}, this program needs {needed}: {help}")]
    Schema {
        component: &'static str,
        found: u32,
        needed: u32,
        help: &'static str,
    },
    /// The server, or what is before it, does not do.
    #[error("{detail}")]
    Unfit { detail: String },
    /// The pool was closed.
    #[error("the connections to PostgreSQL were closed")]
    Closed,
}

/// What can be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Try again: the call may or may not have happened.
    Unavailable,
    /// The server refuses, and will again.
    Refused,
    /// A value is not what it should be.
    Corrupt,
    /// Give another URL.
    Url,
    /// Another program, or the migrations first.
    Schema,
    /// Nothing; it was asked for.
    Closed,
}

impl PostgresError {
    /// What can be done about it.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            PostgresError::Driver(error) => reason(error),
            PostgresError::Url { .. } => Reason::Url,
            PostgresError::TimedOut { .. } => Reason::Unavailable,
            PostgresError::Schema { .. } => Reason::Schema,
            PostgresError::Unfit { .. } => Reason::Refused,
            PostgresError::Closed => Reason::Closed,
        }
    }

    /// Whether the transaction was the victim of another one and should be done again at once.
    pub(crate) fn is_conflict(&self) -> bool {
        let states = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ];
        self.code().is_some_and(|code| states.contains(code))
    }

    /// Whether a row of this key was there already.
    pub(crate) fn is_unique_violation(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// The server's code.
    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            PostgresError::Driver(error) => error.code(),
            _ => None,
        }
    }
}

fn reason(error: &tokio_postgres::Error) -> Reason {
    if let Some(said) = error.as_db_error() {
        return if is_passing(said) {
            Reason::Unavailable
        } else {
            Reason::Refused
        };
    }
    // The driver does not tell its kinds of errors apart but by their texts.
    let text = error.to_string();
    if text.starts_with("error serializing parameter") || text.starts_with("error encoding message")
    {
        return Reason::Refused;
    }
    if text.starts_with("error deserializing column") {
        return Reason::Corrupt;
    }
    Reason::Unavailable
}

/// Conditions of the server, not of what it was asked: it is starting or stopping, out of room, a standby, or busy.
fn is_passing(said: &DbError) -> bool {
    let code = said.code().code();
    let classes = ["08", "40", "53", "57", "58"];
    classes.iter().any(|class| code.starts_with(class))
        || matches!(code, "25006" | "25P03" | "55P03")
}

/// What the server said, or the error and its causes. The driver puts neither the URL nor the password into them.
fn described(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", said.message(), said.code().code());
    }
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
