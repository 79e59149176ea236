//! One transaction for a batch of jobs, and what becomes of them when it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode};

use super::{Batch, queue::Job};
use crate::sqlite::{DatabaseError, Session};

pub(super) struct Transactions {
    connection: Connection,
    /// Cleared when the outcome of a commit is uncertain.
    open: Arc<AtomicBool>,
    uncertain: Option<Arc<str>>,
    /// How long the last commit took.
    pub(super) commit_time: Duration,
    done: Vec<Box<dyn Job>>,
}

impl Transactions {
    pub(super) fn new(connection: Connection, open: Arc<AtomicBool>) -> Transactions {
        Transactions {
            connection,
            open,
            uncertain: None,
            commit_time: Duration::ZERO,
            done: Vec::new(),
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs a batch in one transaction, commits, and tells each job how it ended, in their order.
    pub(super) fn run(&mut self, batch: Batch<'_>) {
        if let Some(detail) = &self.uncertain {
            let detail = detail.clone();
            for job in batch {
                job.fail(DatabaseError::Uncertain {
                    detail: detail.clone(),
                });
            }
            return;
        }
        let outcome = match self.begin() {
            Ok(()) => self.run_jobs(batch),
            Err(failure) => {
                self.done.extend(batch);
                Err(failure)
            }
        };
        if let Err(failure) = &outcome {
            self.fail(failure);
        }
        for job in self.done.drain(..) {
            match &outcome {
                Ok(()) => job.committed(),
                Err(failure) => job.fail(failure.error()),
            }
        }
    }

    /// Jobs seldom fail. So none of them gets a savepoint, which would copy each page that it touches; if one fails, all run again.
    fn run_jobs(&mut self, batch: Batch<'_>) -> Result<(), Failure> {
        let session = Session::new(&self.connection);
        for mut job in batch {
            let ran = job.run(&session);
            self.done.push(job);
            if session.is_autocommit() {
                return Err(Failure::lost());
            }
            if !ran {
                drop(session);
                return self.run_again();
            }
        }
        drop(session);
        self.commit()
    }

    /// The last job failed: rolls back, and runs those before it again, each so that it fails alone.
    fn run_again(&mut self) -> Result<(), Failure> {
        self.execute("ROLLBACK")
            .map_err(|error| Failure::uncertain(&error))?;
        if self.done.len() == 1 {
            // Its own error stands; there is nothing to commit.
            return Ok(());
        }
        self.begin()?;
        let mut jobs = std::mem::take(&mut self.done);
        let session = Session::new(&self.connection);
        let ran = jobs
            .iter_mut()
            .try_for_each(|job| run_in_savepoint(&session, job.as_mut()));
        drop(session);
        self.done = jobs;
        ran?;
        self.commit()
    }

    fn begin(&self) -> Result<(), Failure> {
        self.execute("BEGIN IMMEDIATE")
            .map_err(|error| Failure::rolled_back(&error))
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let result = self.execute("COMMIT");
        self.commit_time = begun.elapsed();
        result.map_err(|error| match error.sqlite_error_code() {
            // The last frame of the transaction was not written, so that it does not count even after a crash.
            Some(
                ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::ConstraintViolation,
            ) => Failure::rolled_back(&error),
            _ => Failure::uncertain(&error),
        })
    }

    fn fail(&mut self, failure: &Failure) {
        let rolled_back =
            self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok();
        if failure.uncertain || !rolled_back {
            self.uncertain = Some(failure.detail.clone());
            self.open.store(false, Ordering::Release);
            tracing::error!(
                detail = &*failure.detail,
                "a commit failed, the database refuses writes until it is opened again"
            );
        } else {
            tracing::warn!(detail = &*failure.detail, "a transaction was rolled back");
        }
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute(())?;
        Ok(())
    }
}

/// What the job wrote is gone if it failed.
fn run_in_savepoint(session: &Session<'_>, job: &mut dyn Job) -> Result<(), Failure> {
    let execute = |sql| {
        let executed = session.execute(sql, ());
        executed.map_err(|error| Failure::rolled_back(&error))
    };
    execute("SAVEPOINT job")?;
    let ran = job.run(session);
    if session.is_autocommit() {
        return Err(Failure::lost());
    }
    if !ran {
        execute("ROLLBACK TO job")?;
    }
    execute("RELEASE job")?;
    Ok(())
}

struct Failure {
    detail: Arc<str>,
    uncertain: bool,
}

impl Failure {
    fn rolled_back(error: &rusqlite::Error) -> Failure {
        Failure {
            detail: error.to_string().into(),
            uncertain: false,
        }
    }

    fn uncertain(error: &rusqlite::Error) -> Failure {
        Failure {
            uncertain: true,
            ..Failure::rolled_back(error)
        }
    }

    /// SQLite rolled back by itself, as it does after some errors of a statement (disk full, I/O, memory).
    fn lost() -> Failure {
        Failure {
            detail: "an error of one job ended the transaction".into(),
            uncertain: false,
        }
    }

    fn error(&self) -> DatabaseError {
        let detail = self.detail.clone();
        if self.uncertain {
            DatabaseError::Uncertain { detail }
        } else {
            DatabaseError::RolledBack { detail }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::mpsc};

    use super::{super::queue::Task, *};

    /// After an uncertain commit nothing is written, and everybody is told.
    #[test]
    fn refuses_writes_after_an_uncertain_commit() {
        let open = Arc::new(AtomicBool::new(true));
        let connection = Connection::open_in_memory().unwrap();
        let mut transactions = Transactions::new(connection, open.clone());
        transactions.fail(&Failure {
            detail: "fsync".into(),
            uncertain: true,
        });
        assert!(!open.load(Ordering::Acquire));
        let (sender, receiver) = mpsc::channel();
        let task = Task::new(
            |_: &Session<'_>| -> Result<(), DatabaseError> { panic!("must not run") },
            move |result| sender.send(result).unwrap(),
        );
        let mut backlog: VecDeque<Box<dyn Job>> = VecDeque::from([Box::new(task) as Box<dyn Job>]);
        transactions.run(Batch {
            backlog: &mut backlog,
            taken: 0,
            until: Instant::now(),
        });
        let result = receiver.recv().unwrap();
        assert!(matches!(result, Err(DatabaseError::Uncertain { .. })));
    }
}
