//! Which errors of PostgreSQL are outcomes, alike on every node, and which are faults of this machine.

use leveret_core::broadcast::SqlError;
use tokio_postgres::Error;

use super::super::ReplicaError;
use crate::postgres::PostgresError;

/// Why a statement was not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// A mistake in it, which every node finds alike.
    Outcome(SqlError),
    /// A fault of this machine, of the server, or of the way there.
    Fault(String),
}

/// Classes of SQLSTATE that are outcomes: a cardinality, data, constraints, what others depend on, an unknown or misused name, CHECK OPTION, a
/// feature that is not there, a limit of the program. All others (connection, resources, locks, shutdown, I/O, damage, privileges) are faults.
const OUTCOMES: [&str; 8] = ["21", "22", "23", "2B", "42", "44", "0A", "54"];

/// Members of these classes that are faults all the same: a privilege, and a stack that is shallower here than elsewhere.
const FAULTS: [&str; 2] = ["42501", "54001"];

/// Whether the code is an outcome.
pub(super) fn is_outcome(state: &str) -> bool {
    let class = state.get(..2).unwrap_or_default();
    OUTCOMES.contains(&class) && !FAULTS.contains(&state)
}

/// The word for programs.
pub(super) fn code(state: &str) -> String {
    match state {
        "23505" => "POSTGRES_CONSTRAINT_UNIQUE",
        "23503" => "POSTGRES_CONSTRAINT_FOREIGNKEY",
        "23502" => "POSTGRES_CONSTRAINT_NOTNULL",
        "23514" => "POSTGRES_CONSTRAINT_CHECK",
        "23P01" => "POSTGRES_CONSTRAINT_EXCLUSION",
        other => return format!("POSTGRES_{other}"),
    }
    .to_owned()
}

/// What an error of a statement means at its place in the write.
pub(super) fn undone(error: &Error, statement: usize) -> Undone {
    match error.as_db_error() {
        Some(said) if is_outcome(said.code().code()) => {
            outcome(statement, &code(said.code().code()), said.message())
        }
        _ => Undone::Fault(described(error)),
    }
}

pub(super) fn outcome(statement: usize, code: &str, message: impl Into<String>) -> Undone {
    Undone::Outcome(SqlError {
        code: code.to_owned(),
        message: message.into(),
        statement,
    })
}

/// What the server said, or the driver. Neither has the URL.
pub(super) fn described(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        None => error.to_string(),
    }
}

pub(super) fn fault(error: &Error) -> ReplicaError {
    ReplicaError::LocalFault {
        detail: described(error),
    }
}

impl From<PostgresError> for ReplicaError {
    fn from(error: PostgresError) -> ReplicaError {
        ReplicaError::LocalFault {
            detail: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_outcomes_or_faults() {
        for state in [
            "23505", "22012", "2BP01", "42P01", "42601", "21000", "0A000", "54000", "44000",
        ] {
            assert!(is_outcome(state), "{state}");
        }
        for state in [
            "53100", "53200", "55P03", "57014", "57P01", "58030", "XX000", "XX001", "08006",
            "40P01", "42501", "54001", "25P02", "25006", "28000", "",
        ] {
            assert!(!is_outcome(state), "{state}");
        }
        assert_eq!(code("23505"), "POSTGRES_CONSTRAINT_UNIQUE");
        assert_eq!(code("22012"), "POSTGRES_22012");
    }
}
