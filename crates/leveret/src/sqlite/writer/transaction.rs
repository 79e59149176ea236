//! One transaction for a batch of jobs, and what becomes of them when it fails.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rusqlite::{Connection, ErrorCode};

use super::{Batch, queue::Job};
use crate::sqlite::DatabaseError;

pub(super) struct Transactions {
    connection: Connection,
    /// Cleared when the outcome of a commit is uncertain.
    open: Arc<AtomicBool>,
    uncertain: Option<Arc<str>>,
    done: Vec<Box<dyn Job>>,
}

impl Transactions {
    pub(super) fn new(connection: Connection, open: Arc<AtomicBool>) -> Transactions {
        Transactions {
            connection,
            open,
            uncertain: None,
            done: Vec::new(),
        }
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
        let alone = batch.is_alone();
        let outcome = match self.execute("BEGIN IMMEDIATE") {
            Ok(()) => self.run_jobs(batch, alone),
            Err(error) => {
                self.done.extend(batch);
                Err(Failure::rolled_back(&error))
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

    fn run_jobs(&mut self, batch: Batch<'_>, alone: bool) -> Result<(), Failure> {
        for mut job in batch {
            let ran = if alone {
                Ok(job.run(&self.connection))
            } else {
                self.run_in_savepoint(job.as_mut())
            };
            self.done.push(job);
            let ran = ran?;
            if self.connection.is_autocommit() {
                return Err(Failure::lost());
            }
            if alone && !ran {
                // Its own error stands; there is nothing to commit.
                return self
                    .execute("ROLLBACK")
                    .map_err(|error| Failure::uncertain(&error));
            }
        }
        self.commit()
    }

    /// Whether the job succeeded; its writes are gone if not.
    fn run_in_savepoint(&self, job: &mut dyn Job) -> Result<bool, Failure> {
        self.execute("SAVEPOINT job")
            .map_err(|error| Failure::rolled_back(&error))?;
        let ran = job.run(&self.connection);
        if self.connection.is_autocommit() {
            return Ok(ran);
        }
        let end = || {
            if !ran {
                self.execute("ROLLBACK TO job")?;
            }
            self.execute("RELEASE job")
        };
        end().map_err(|error| Failure::rolled_back(&error))?;
        Ok(ran)
    }

    fn commit(&self) -> Result<(), Failure> {
        self.execute("COMMIT")
            .map_err(|error| match error.sqlite_error_code() {
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
    use std::{collections::VecDeque, sync::mpsc, time::Instant};

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
            |_: &Connection| -> Result<(), DatabaseError> { panic!("must not run") },
            move |result| sender.send(result).unwrap(),
        );
        let mut backlog: VecDeque<Box<dyn Job>> = VecDeque::from([Box::new(task) as Box<dyn Job>]);
        transactions.run(Batch {
            backlog: &mut backlog,
            left: 10,
            until: Instant::now(),
        });
        let result = receiver.recv().unwrap();
        assert!(matches!(result, Err(DatabaseError::Uncertain { .. })));
    }
}
