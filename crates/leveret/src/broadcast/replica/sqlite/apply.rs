//! Applying writes: one transaction for many, each in a savepoint, with their outcomes and the position.

use std::path::{Path, PathBuf};

use leveret_core::broadcast::{Logged, Outcome, SqlError, StatementResult, rolled};
use rusqlite::{Error, ErrorCode};

use super::{
    super::{Applied, ReplicaError, Standing, check_order},
    fault::{Failure, message},
    own,
    statement::{Budget, Session, Undone},
};

/// The side of a replica that writes.
#[derive(Debug)]
pub(super) struct Applier {
    path: PathBuf,
    /// None after a fault, until it is opened again.
    session: Option<Session>,
    pub(super) standing: Standing,
    /// Set when nobody knows whether a commit is on disk: nothing is written until the process opens the file again.
    uncertain: Option<String>,
}

/// How a batch ended that did not commit.
enum Stopped {
    /// A statement ended the transaction, or cannot share one: each write needs its own.
    Alone,
    Fault(Error),
    /// The commit itself failed.
    Uncertain(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::Fault(error)
    }
}

impl Applier {
    pub(super) fn open(path: &Path) -> Result<Applier, ReplicaError> {
        let (session, standing) = open(path)?;
        Ok(Applier {
            path: path.to_owned(),
            session: Some(session),
            standing,
            uncertain: None,
        })
    }

    /// Applies writes that follow the position.
    pub(super) fn apply(&mut self, writes: &[Logged]) -> Result<Vec<Applied>, ReplicaError> {
        check_order(self.standing.position, writes)?;
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.session()?;
        let applied = match self.together(writes) {
            Err(Stopped::Alone) => self.each_alone(writes),
            other => other,
        };
        let session = self.session.as_ref();
        let stale = session.is_some_and(|session| session.analyzed);
        match applied {
            Ok(applied) => {
                if stale {
                    // Statistics that were rolled back may still be in this connection's plans.
                    self.session = None;
                }
                Ok(applied)
            }
            Err(stopped) => Err(self.stop(stopped)),
        }
    }

    /// Where the database stands, read again from the file after a fault.
    pub(super) fn standing(&mut self) -> Result<Standing, ReplicaError> {
        let session = self.session()?;
        let has_tables = own::has_users_contents(&session.connection);
        Ok(Standing {
            has_tables: has_tables.map_err(|error| fault(&error))?,
            ..self.standing.clone()
        })
    }

    /// Runs a change of one's own in a transaction.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&rusqlite::Connection, &mut Standing) -> Result<(), ReplicaError>,
    ) -> Result<(), ReplicaError> {
        let mut standing = self.standing.clone();
        let session = self.session()?;
        session
            .own("BEGIN IMMEDIATE")
            .map_err(|error| fault(&error))?;
        let changed = change(&session.connection, &mut standing).and_then(|()| {
            own::put_standing(&session.connection, &standing).map_err(|error| fault(&error))
        });
        if let Err(error) = changed {
            self.stop(Stopped::Alone);
            return Err(error);
        }
        match session.own("COMMIT") {
            Ok(()) => {
                self.standing = standing;
                Ok(())
            }
            Err(error) => Err(self.stop(Stopped::Uncertain(error))),
        }
    }

    /// Lets go of the file, does something with it, and opens it again.
    pub(super) fn exchange(
        &mut self,
        exchange: impl FnOnce() -> Result<(), ReplicaError>,
    ) -> Result<(), ReplicaError> {
        self.check_certain()?;
        self.session = None;
        let exchanged = exchange();
        let (session, standing) = open(&self.path)?;
        self.session = Some(session);
        self.standing = standing;
        exchanged
    }

    fn session(&mut self) -> Result<&mut Session, ReplicaError> {
        self.check_certain()?;
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let (session, standing) = open(&self.path)?;
                self.standing = standing;
                Ok(none.insert(session))
            }
        }
    }

    fn check_certain(&self) -> Result<(), ReplicaError> {
        self.uncertain.as_ref().map_or(Ok(()), |detail| {
            Err(ReplicaError::LocalFault {
                detail: format!("after a commit of uncertain end, open it again: {detail}"),
            })
        })
    }

    /// After a fault, what the connection believes is not trusted.
    fn stop(&mut self, stopped: Stopped) -> ReplicaError {
        self.session = None;
        match stopped {
            Stopped::Alone => ReplicaError::LocalFault {
                detail: "the transaction was ended".to_owned(),
            },
            Stopped::Fault(error) => fault(&error),
            Stopped::Uncertain(error) => {
                let certain = matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy)
                );
                if !certain {
                    self.uncertain = Some(message(&error));
                }
                fault(&error)
            }
        }
    }

    fn together(&mut self, writes: &[Logged]) -> Result<Vec<Applied>, Stopped> {
        let session = self.session.as_mut().ok_or(Stopped::Alone)?;
        let mut standing = self.standing.clone();
        let mut applied = Vec::with_capacity(writes.len());
        if session.words()?.deferred {
            return Err(Stopped::Alone);
        }
        session.own("BEGIN IMMEDIATE")?;
        for logged in writes {
            // Constraints that are deferred are looked at when the transaction ends: then it must hold one write only.
            if session.words()?.deferred {
                session.own("ROLLBACK")?;
                session.forget();
                return Err(Stopped::Alone);
            }
            let outcome = in_savepoint(session, logged)?;
            applied.push(settle(&mut standing, logged, outcome));
        }
        commit(session, &standing, &applied)?;
        self.standing = standing;
        Ok(applied)
    }

    /// Each write in a transaction of its own: durable one by one.
    fn each_alone(&mut self, writes: &[Logged]) -> Result<Vec<Applied>, Stopped> {
        let mut all = Vec::with_capacity(writes.len());
        for logged in writes {
            let session = self.session.as_mut().ok_or(Stopped::Alone)?;
            let mut standing = self.standing.clone();
            let mut outcome = alone(session, logged)?;
            let mut applied = settle(&mut standing, logged, outcome);
            match commit(session, &standing, std::slice::from_ref(&applied)) {
                Err(Stopped::Uncertain(error)) if is_constraint(&error) => {
                    session.own("ROLLBACK")?;
                    session.forget();
                    let last = logged.write.statements.len().saturating_sub(1);
                    outcome = Outcome::Failed(SqlError {
                        code: "SQLITE_CONSTRAINT_FOREIGNKEY".to_owned(),
                        message: message(&error),
                        statement: last,
                    });
                    session.own("BEGIN IMMEDIATE")?;
                    standing = self.standing.clone();
                    applied = settle(&mut standing, logged, outcome);
                    commit(session, &standing, std::slice::from_ref(&applied))?;
                }
                other => other?,
            }
            self.standing = standing;
            all.push(applied);
        }
        Ok(all)
    }
}

fn open(path: &Path) -> Result<(Session, Standing), ReplicaError> {
    let opened = Session::open(path).and_then(|session| {
        let standing = own::prepare(&session.connection)?;
        Ok((session, standing))
    });
    opened.map_err(|error| fault(&error))
}

/// Runs a write in a savepoint of the open transaction.
fn in_savepoint(session: &mut Session, logged: &Logged) -> Result<Outcome, Stopped> {
    let mut careful = false;
    loop {
        session.own("SAVEPOINT leveret")?;
        let ran = run(session, logged, careful);
        let failed = match ran {
            _ if session.connection.is_autocommit() && !is_fault(&ran) => {
                session.forget();
                return Err(Stopped::Alone);
            }
            Ok(results) => {
                session.own("RELEASE leveret")?;
                return Ok(Outcome::Done(results));
            }
            Err(Undone::Failure(Failure::Fault(error))) => return Err(error.into()),
            Err(Undone::Failure(Failure::Outcome(error))) => Some(error),
            Err(Undone::Again) => None,
        };
        session.own("ROLLBACK TO leveret")?;
        session.own("RELEASE leveret")?;
        session.forget_if_changed();
        match failed {
            Some(error) => return Ok(Outcome::Failed(error)),
            None => careful = true,
        }
    }
}

/// Runs a write in a transaction of its own, which is open afterwards with all of the write in it, or nothing.
fn alone(session: &mut Session, logged: &Logged) -> Result<Outcome, Stopped> {
    let mut careful = false;
    loop {
        session.own("BEGIN IMMEDIATE")?;
        let failed = match run(session, logged, careful) {
            Ok(results) if !session.connection.is_autocommit() => {
                return Ok(Outcome::Done(results));
            }
            // No statement ends its transaction and succeeds.
            Ok(_) => return Err(Stopped::Alone),
            Err(Undone::Failure(Failure::Fault(error))) => return Err(error.into()),
            Err(Undone::Failure(Failure::Outcome(error))) => Some(error),
            Err(Undone::Again) => None,
        };
        if !session.connection.is_autocommit() {
            session.own("ROLLBACK")?;
        }
        session.forget_if_changed();
        match failed {
            Some(error) => {
                session.own("BEGIN IMMEDIATE")?;
                return Ok(Outcome::Failed(error));
            }
            None => careful = true,
        }
    }
}

fn run(
    session: &mut Session,
    logged: &Logged,
    careful: bool,
) -> Result<Vec<StatementResult>, Undone> {
    let mut budget = Budget::new(careful);
    (0..logged.write.statements.len())
        .map(|place| session.run(logged, place, &mut budget))
        .collect()
}

fn is_fault(ran: &Result<Vec<StatementResult>, Undone>) -> bool {
    matches!(ran, Err(Undone::Failure(Failure::Fault(_))))
}

fn is_constraint(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

fn settle(standing: &mut Standing, logged: &Logged, outcome: Outcome) -> Applied {
    standing.position = logged.position;
    standing.hash = rolled(standing.hash, logged.position, &outcome);
    Applied {
        position: logged.position,
        outcome,
        hash: standing.hash,
    }
}

fn commit(session: &Session, standing: &Standing, applied: &[Applied]) -> Result<(), Stopped> {
    own::record(&session.connection, applied)?;
    own::put_standing(&session.connection, standing)?;
    session.own("COMMIT").map_err(Stopped::Uncertain)
}

pub(super) fn fault(error: &Error) -> ReplicaError {
    ReplicaError::LocalFault {
        detail: message(error),
    }
}
