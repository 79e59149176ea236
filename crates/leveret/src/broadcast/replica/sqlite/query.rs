//! Questions: on connections that cannot write, each from one snapshot, bounded in time, rows and bytes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rusqlite::{Connection, Error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    super::{Query, ReadError, Rows, size_of},
    fault,
    guard::{Guard, Mode},
    open, own,
    statement::{Bound, value},
};

/// How often a question is asked whether its time is over, in steps of SQLite's virtual machine.
const STEPS_BETWEEN: i32 = 1000;

/// The connections for questions, opened when they are first needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    /// The most at the same time.
    most: u32,
    idle: Mutex<Vec<Reader>>,
}

/// A connection for questions.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) connection: Connection,
    guard: Guard,
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Readers {
    pub(super) fn new(path: &Path, most: u32) -> Readers {
        Readers {
            path: path.to_owned(),
            permits: Arc::new(Semaphore::new(most as usize)),
            most,
            idle: Mutex::default(),
        }
    }

    /// Leave to read; none once it is closed.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Waits until nobody reads, and keeps it so while the permit is held.
    pub(super) async fn quiet(&self) -> Option<OwnedSemaphorePermit> {
        let all = self.permits.clone().acquire_many_owned(self.most).await;
        self.lock().clear();
        all.ok()
    }

    pub(super) fn take(&self) -> rusqlite::Result<Reader> {
        let idle = self.lock().pop();
        idle.map_or_else(|| Reader::open(&self.path), Ok)
    }

    pub(super) fn put_back(&self, reader: Reader) {
        if !self.permits.is_closed() {
            self.lock().push(reader);
        }
    }

    pub(super) fn close(&self) {
        self.permits.close();
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    fn open(path: &Path) -> rusqlite::Result<Reader> {
        let mut connection = open::reader(path)?;
        let guard = Guard::install(&mut connection)?;
        let deadline: Arc<Mutex<Option<Instant>>> = Arc::default();
        let asked = deadline.clone();
        let over = move || {
            let deadline = asked.lock().unwrap_or_else(PoisonError::into_inner);
            deadline.is_some_and(|deadline| Instant::now() >= deadline)
        };
        connection.progress_handler(STEPS_BETWEEN, Some(over))?;
        Ok(Reader {
            connection,
            guard,
            deadline,
        })
    }

    /// Answers a question from one snapshot.
    pub(super) fn answer(&self, query: &Query, deadline: Instant) -> Result<Rows, ReadError> {
        let begun = self.connection.execute_batch("BEGIN");
        begun.map_err(|error| read_fault(&error))?;
        let answer = self.answer_begun(query, deadline);
        self.set_deadline(None);
        self.guard.set(Mode::Own);
        let ended = self.connection.execute_batch("ROLLBACK");
        let answer = answer?;
        ended.map_err(|error| read_fault(&error))?;
        Ok(answer)
    }

    fn answer_begun(&self, query: &Query, deadline: Instant) -> Result<Rows, ReadError> {
        let standing = own::standing(&self.connection).map_err(|error| read_fault(&error))?;
        let seq = standing.map_or(0, |standing| standing.position.seq);
        if seq < query.min_seq {
            return Err(ReadError::Behind {
                at: seq,
                min_seq: query.min_seq,
            });
        }
        self.set_deadline(Some(deadline));
        let mut compiled = self.compile(&query.statement.sql)?;
        let (parameters, given) = (compiled.parameter_count(), query.statement.args.len());
        if parameters != given {
            return Err(ReadError::Sql {
                code: "SQLITE_RANGE".to_owned(),
                message: format!("the statement has {parameters} parameters, given are {given}"),
            });
        }
        for (place, value) in query.statement.args.iter().enumerate() {
            let bound = compiled.raw_bind_parameter(place + 1, Bound(value));
            bound.map_err(|error| read_error(&error))?;
        }
        self.guard.run();
        let columns: Vec<String> = compiled.column_names().map(str::to_owned).collect();
        let mut rows = Vec::new();
        let mut bytes_left = query.limits.bytes_max;
        let mut cursor = compiled.raw_query();
        while let Some(row) = cursor.next().map_err(|error| read_error(&error))? {
            if rows.len() == query.limits.rows_max {
                return Err(ReadError::Limit { what: "rows" });
            }
            let mut values = Vec::with_capacity(columns.len());
            for column in 0..columns.len() {
                let value = value(row.get_ref(column).map_err(|error| read_error(&error))?);
                let left = bytes_left.checked_sub(size_of(&value));
                bytes_left = left.ok_or(ReadError::Limit { what: "bytes" })?;
                values.push(value);
            }
            rows.push(values);
        }
        Ok(Rows { columns, rows, seq })
    }

    /// Compiles what changes nothing.
    fn compile(&self, sql: &str) -> Result<rusqlite::Statement<'_>, ReadError> {
        let no_question = |detail: String| Err(ReadError::NotReadOnly { detail });
        if sql.contains('\0') {
            return no_question("there is a NUL character in it".to_owned());
        }
        self.guard.set(Mode::Question);
        let compiled = self.connection.prepare(sql);
        let facts = self.guard.facts();
        if let Some(refusal) = facts.refused {
            self.guard.set(Mode::Explain);
            let compiled = self.connection.prepare(sql);
            return match compiled {
                Ok(compiled) if compiled.is_explain() != 0 => Ok(compiled),
                _ => no_question(refusal),
            };
        }
        let compiled = match compiled {
            Err(Error::MultipleStatement) => {
                return no_question("there are several statements in one text".to_owned());
            }
            other => other.map_err(|error| read_error(&error))?,
        };
        if compiled.expanded_sql().is_none() {
            return no_question("there is no statement".to_owned());
        }
        let reads = compiled.readonly() && (facts.selects || compiled.is_explain() != 0);
        if !reads {
            return no_question("it selects nothing".to_owned());
        }
        Ok(compiled)
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

fn read_error(error: &Error) -> ReadError {
    if fault::is_interrupt(error) {
        ReadError::Limit { what: "time" }
    } else if fault::is_fault(error) {
        read_fault(error)
    } else {
        ReadError::Sql {
            code: fault::code(error),
            message: fault::message(error),
        }
    }
}

pub(super) fn read_fault(error: &Error) -> ReadError {
    ReadError::LocalFault {
        detail: fault::message(error),
    }
}
