//! From what MongoDB says to what documents say.

use std::fmt;

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::service::documents::DocumentsError;

/// Another document has the key.
const DUPLICATE_KEY: i32 = 11000;

/// What passes: a time limit, a primary that is none (any more), a server that starts or ends, a write that another one got in the way of.
const PASSING: [i32; 15] = [
    6, 7, 50, 64, 89, 91, 112, 133, 189, 262, 9001, 10107, 11600, 11602, 13435,
];

/// The longest text of a server that is passed on, in characters.
const DETAIL_CHARS_MAX: usize = 300;

/// Why an operation failed, before it becomes the caller's.
#[derive(Debug)]
pub(super) enum Failure {
    Mongo(Box<Error>),
    Documents(DocumentsError),
}

impl Failure {
    /// Whether there is another document of this `_id`, or one that handled the message.
    pub(super) fn is_duplicate(&self) -> bool {
        match self {
            Failure::Mongo(error) => code(error) == Some(DUPLICATE_KEY),
            Failure::Documents(_) => false,
        }
    }

    /// What is stored cannot be read.
    pub(super) fn corrupt(what: &str, error: &dyn fmt::Display) -> Failure {
        Failure::Documents(DocumentsError::Refused {
            detail: format!("stored {what} cannot be read: {error}"),
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Mongo(Box::new(error))
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
            failure if failure.is_duplicate() => DocumentsError::Unavailable {
                detail: "others were at work on the same documents, repeatedly".to_owned(),
            },
            Failure::Mongo(error) => {
                let detail: String = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
                if passes(&error) {
                    DocumentsError::Unavailable { detail }
                } else {
                    DocumentsError::Refused { detail }
                }
            }
        }
    }
}

fn passes(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. } => true,
        _ => code(error).is_some_and(|code| PASSING.contains(&code)),
    }
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        _ => None,
    }
}
