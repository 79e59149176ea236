//! How a command ends: 0 it did what was asked, 1 it failed, 2 what was asked cannot be done.

use std::{fmt, process::ExitCode};

/// How a command ended, when nothing kept it from doing its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: completed.
    Ok,
    /// 1: a run failed or was cancelled.
    Failed,
    /// 2: what was given is not valid; the reasons have been printed.
    BadInput,
}

impl Exit {
    pub(crate) fn ok_if(ok: bool) -> Exit {
        if ok { Exit::Ok } else { Exit::Failed }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::BadInput => 2,
        })
    }
}

/// An error that is the caller's: exit code 2.
#[derive(Debug)]
pub(crate) struct BadInput(String);

impl BadInput {
    pub(crate) fn new(message: impl Into<String>) -> BadInput {
        BadInput(message.into())
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// The exit code of an error. A reader of our output that went away (`leveret … | head`) is none.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        Exit::Ok
    } else if error.downcast_ref::<BadInput>().is_some() {
        Exit::BadInput
    } else {
        Exit::Failed
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn errors_have_codes() {
        let check = |error: anyhow::Error, expect| assert_eq!(of_error(&error), expect);
        check(anyhow::anyhow!("disk full"), Exit::Failed);
        check(
            anyhow::Error::from(BadInput::new("no JSON")).context("line 3"),
            Exit::BadInput,
        );
        let pipe: Result<(), _> = Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        check(pipe.context("printing").unwrap_err(), Exit::Ok);
    }
}
