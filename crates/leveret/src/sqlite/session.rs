//! A connection as jobs see it.

use std::{cell::RefCell, fmt, ops::Deref};

use rusqlite::{CachedStatement, Connection, Params, Row, Statement};

/// A connection for the time of one transaction, or of one read. A statement is prepared, or looked up among those that are, at its first use
/// and then kept at hand: that takes as long as a simple statement itself, and a transaction runs the same few for each of its jobs.
///
/// Statements are known by their address, so their text is a constant. What a job writes is there for the jobs after it, and durable when its
/// [`write`](super::Database::write) resolves. An error of a statement undoes that statement; that of a job, all that the job wrote.
pub struct Session<'c> {
    connection: &'c Connection,
    statements: RefCell<Vec<(&'static str, CachedStatement<'c>)>>,
}

impl<'c> Session<'c> {
    pub(super) fn new(connection: &'c Connection) -> Session<'c> {
        Session {
            connection,
            statements: RefCell::default(),
        }
    }

    /// Runs a statement; returns how many rows it changed.
    pub fn execute(&self, sql: &'static str, params: impl Params) -> rusqlite::Result<usize> {
        self.with(sql, |statement| statement.execute(params))
    }

    /// Runs a query and reads its first row.
    pub fn row<T, E: From<rusqlite::Error>>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.with(sql, |statement| {
            statement.query(params)?.next()?.map(read).transpose()
        })
    }

    /// Runs a query and reads all its rows.
    pub fn rows<T, E: From<rusqlite::Error>>(
        &self,
        sql: &'static str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        self.with(sql, |statement| {
            let mut rows = statement.query(params)?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(read(row)?);
            }
            Ok(all)
        })
    }

    fn with<T, E: From<rusqlite::Error>>(
        &self,
        sql: &'static str,
        run: impl FnOnce(&mut Statement<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut statement = match self.take(sql) {
            Some(statement) => statement,
            None => self.connection.prepare_cached(sql)?,
        };
        let result = run(&mut statement);
        self.statements.borrow_mut().push((sql, statement));
        result
    }

    fn take(&self, sql: &'static str) -> Option<CachedStatement<'c>> {
        let mut statements = self.statements.borrow_mut();
        let at = statements
            .iter()
            .position(|(known, _)| std::ptr::eq::<str>(*known, sql))?;
        Some(statements.swap_remove(at).1)
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// For what runs seldom, or is made as it goes.
impl Deref for Session<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}
