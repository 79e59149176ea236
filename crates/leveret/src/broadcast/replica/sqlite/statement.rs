//! One statement of a write: compiled under guard, run at the write's moment, within its bounds.

use std::{collections::HashMap, path::Path, sync::Arc};

use leveret_core::broadcast::{Logged, Random, SqlError, Statement, StatementResult, Value};
use rusqlite::{Connection, Error, Result, StatementStatus, types::ValueRef};

use super::{
    super::size_of,
    fault::{self, Failure},
    functions::{Calls, Moment},
    guard::{Facts, Guard, Mode},
    open::{self, STATEMENTS_CACHED},
    own,
    rowids::{self, Free, Keys, Rows, Seen},
    steps::{Steps, WRITE_STEPS_MAX},
};

/// What the statements of a write return together: 1 MiB. Part of what nodes must agree on.
const RETURNED_BYTES_MAX: usize = 1 << 20;

/// What is known of a statement that was compiled once.
#[derive(Debug)]
struct Known {
    facts: Facts,
    /// Dates that must not ask for the time.
    pure: Arc<Calls>,
    /// The keys of the tables that it inserts into.
    inserts: Vec<(String, Keys)>,
}

impl Known {
    fn target(&self) -> Option<(&str, &Keys)> {
        let target = self.facts.target.as_deref()?;
        let keys = self.inserts.iter().find(|(table, _)| table == target);
        keys.map(|(table, keys)| (table.as_str(), keys))
    }
}

/// Words in the schema that decide how a write is handled. That a word is there may be chance, that it is not there is certain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Words {
    dates: bool,
    pub(super) counts: bool,
    pub(super) deferred: bool,
}

/// A connection that runs the statements of writes.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    guard: Guard,
    moment: Moment,
    rows: Rows,
    steps: Steps,
    known: HashMap<String, Arc<Known>>,
    free: Free,
    words: Option<Words>,
    /// The schema was changed since the last rollback.
    changed_schema: bool,
    /// Statistics were collected, and what they are may have been rolled back.
    pub(super) analyzed: bool,
}

/// What a write has left to spend, and how it is run.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    bytes: usize,
    /// `changes()` and `last_insert_rowid()` say 0.
    zeroed: bool,
    /// Each statement that inserts runs twice.
    pub(super) careful: bool,
}

impl Budget {
    pub(super) fn new(careful: bool) -> Budget {
        Budget {
            steps: WRITE_STEPS_MAX,
            bytes: RETURNED_BYTES_MAX,
            zeroed: false,
            careful,
        }
    }
}

/// Why a statement was not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// It cannot be, or not now.
    Failure(Failure),
    /// The write must be run again, with care.
    Again,
}

impl From<Error> for Undone {
    fn from(error: Error) -> Undone {
        Undone::Failure(Failure::Fault(error))
    }
}

impl Session {
    pub(super) fn open(path: &Path) -> Result<Session> {
        let mut connection = open::writer(path)?;
        let moment = Moment::install(&connection)?;
        let rows = Rows::install(&mut connection)?;
        let steps = Steps::install(&mut connection)?;
        let guard = Guard::install(&mut connection)?;
        Ok(Session {
            connection,
            guard,
            moment,
            rows,
            steps,
            known: HashMap::new(),
            free: Free::default(),
            words: None,
            changed_schema: false,
            analyzed: false,
        })
    }

    /// Runs a statement of one's own.
    pub(super) fn own(&self, sql: &str) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute(())?;
        Ok(())
    }

    /// What is known of statements no more holds: the schema changed, or changed back.
    pub(super) fn forget(&mut self) {
        self.connection.flush_prepared_statement_cache();
        self.known.clear();
        self.free.clear();
        self.words = None;
    }

    /// After a rollback: what was learnt of a schema that is no more is forgotten.
    pub(super) fn forget_if_changed(&mut self) {
        if std::mem::take(&mut self.changed_schema) {
            self.forget();
        }
    }

    pub(super) fn words(&mut self) -> Result<Words> {
        if let Some(words) = self.words {
            return Ok(words);
        }
        let mut words = Words::default();
        let mut select = self
            .connection
            .prepare_cached("SELECT lower(sql) FROM sqlite_schema WHERE sql IS NOT NULL")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let sql = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
            let has = |word: &str| sql.contains(word);
            words.dates |= ["date", "time", "julianday", "unixepoch"]
                .into_iter()
                .any(has);
            words.counts |= has("changes") || has("last_insert_rowid");
            words.deferred |= has("deferr");
        }
        drop(rows);
        drop(select);
        self.words = Some(words);
        Ok(words)
    }

    /// Runs the statement at this place of a write.
    pub(super) fn run(
        &mut self,
        logged: &Logged,
        place: usize,
        budget: &mut Budget,
    ) -> Result<StatementResult, Undone> {
        let statement = &logged.write.statements[place];
        let ran = self.run_known(logged, place, statement, budget);
        self.guard.set(Mode::Own);
        self.steps.free();
        ran.map_err(|undone| match undone {
            Undone::Failure(Failure::Fault(error)) if !fault::is_fault(&error) => {
                outcome(place, fault::code(&error), fault::message(&error))
            }
            other => other,
        })
    }

    fn run_known(
        &mut self,
        logged: &Logged,
        place: usize,
        statement: &Statement,
        budget: &mut Budget,
    ) -> Result<StatementResult, Undone> {
        let sql = statement.sql.trim();
        let known = self.know(sql, place)?;
        let first_of_several = place == 0 && logged.write.statements.len() > 1;
        if !budget.zeroed
            && (first_of_several || known.facts.counts || (place == 0 && self.words()?.counts))
        {
            self.zero()?;
            budget.zeroed = true;
        }
        let mut taken = false;
        for (table, keys) in &known.inserts {
            if let Keys::RowIds(alias) = keys {
                taken |= self.free.is_taken(&self.connection, table, alias)?;
            }
        }
        let at = At {
            logged,
            place,
            sql,
            args: &statement.args,
            known: &known,
        };
        let twice = taken || (budget.careful && !known.inserts.is_empty());
        let ran = if twice {
            self.run_twice(&at, budget)
        } else {
            self.run_once(&at, budget)
        };
        let (result, seen) = match ran {
            Ok(ran) => ran,
            Err(Undone::Failure(Failure::Fault(error))) if fault::is_full(&error) => {
                // A sequence that came to its end in this statement counts as well.
                let ended = taken || !self.rows.end().taken.is_empty();
                return Err(if ended {
                    exhausted(place)
                } else {
                    error.into()
                });
            }
            Err(undone) => return Err(undone),
        };
        for table in &seen.taken {
            self.free.forget(table);
        }
        if known.facts.selects || known.facts.sequences() {
            self.free.clear();
        }
        if !twice && !seen.taken.is_empty() && seen.inserted > 1 {
            return Err(Undone::Again);
        }
        self.guard.set(Mode::Own);
        if known.facts.changes_schema {
            self.changed_schema = true;
            if known.facts.alters
                && let Some(name) = own::intruder(&self.connection)?
            {
                let message = own::refusal(&name);
                return Err(outcome(place, "SQLITE_AUTH".to_owned(), message));
            }
            if known.facts.analyzes {
                self.analyzed = true;
                self.own("DELETE FROM sqlite_stat1 WHERE tbl LIKE '!_leveret!_%' ESCAPE '!'")?;
            }
            self.forget();
        }
        Ok(result)
    }

    /// Compiles the statement if it is not known, and learns what it does.
    fn know(&mut self, sql: &str, place: usize) -> Result<Arc<Known>, Undone> {
        if let Some(known) = self.known.get(sql) {
            return Ok(known.clone());
        }
        if sql.contains('\0') {
            let message = "there is a NUL character in the statement".to_owned();
            return Err(outcome(place, "SQLITE_ERROR".to_owned(), message));
        }
        self.moment.compile();
        self.guard.set(Mode::Write);
        let compiled = self.connection.prepare(sql);
        let facts = self.guard.facts();
        self.guard.set(Mode::Own);
        if let Some(refusal) = &facts.refused {
            return Err(outcome(place, "SQLITE_AUTH".to_owned(), refusal.clone()));
        }
        let compiled = compiled?;
        let refused = if compiled.expanded_sql().is_none() {
            Some(("SQLITE_ERROR", "there is no statement"))
        } else if compiled.is_explain() != 0 {
            Some(("SQLITE_AUTH", "EXPLAIN is not allowed in a write"))
        } else {
            None
        };
        drop(compiled);
        if let Some((code, message)) = refused {
            return Err(outcome(place, code.to_owned(), message.to_owned()));
        }
        let pure = if facts.changes_schema || self.words()?.dates {
            self.pure_calls(sql)?
        } else {
            Calls::new()
        };
        let mut inserts = Vec::new();
        for table in &facts.inserts {
            inserts.push((table.clone(), rowids::keys(&self.connection, table)?));
        }
        let known = Arc::new(Known {
            facts,
            pure: Arc::new(pure),
            inserts,
        });
        if self.known.len() >= 2 * STATEMENTS_CACHED {
            self.known.clear();
            self.connection.flush_prepared_statement_cache();
        }
        self.known.insert(sql.to_owned(), known.clone());
        Ok(known)
    }

    /// Which dates stand in a CHECK, a generated column or an index: SQLite compiles them as calls that must be pure.
    fn pure_calls(&self, sql: &str) -> Result<Calls> {
        self.guard.set(Mode::Write);
        let explained = explained_calls(&self.connection, &format!("EXPLAIN {sql}"));
        self.guard.set(Mode::Own);
        explained
    }

    /// `changes()` and `last_insert_rowid()` say 0 from here on, whatever happened on this connection before.
    fn zero(&self) -> Result<()> {
        self.own("INSERT OR REPLACE INTO _leveret_zero (id) VALUES (0)")?;
        self.own("DELETE FROM _leveret_zero WHERE id = 1")
    }

    fn run_twice(
        &self,
        at: &At<'_>,
        budget: &mut Budget,
    ) -> Result<(StatementResult, Seen), Undone> {
        self.own("SAVEPOINT leveret_twice")?;
        let before = (budget.steps, budget.bytes);
        let (_, first) = self.run_once(at, budget)?;
        self.guard.set(Mode::Own);
        self.steps.free();
        self.own("ROLLBACK TO leveret_twice")?;
        (budget.steps, budget.bytes) = before;
        let (result, second) = self.run_once(at, budget)?;
        self.guard.set(Mode::Own);
        self.steps.free();
        self.own("RELEASE leveret_twice")?;
        if first.trace == second.trace {
            Ok((result, second))
        } else {
            Err(exhausted(at.place))
        }
    }

    fn run_once(
        &self,
        at: &At<'_>,
        budget: &mut Budget,
    ) -> Result<(StatementResult, Seen), Undone> {
        self.moment.compile();
        self.guard.set(Mode::Write);
        let mut compiled = self.connection.prepare_cached(at.sql)?;
        let parameters = compiled.parameter_count();
        if parameters != at.args.len() {
            let given = at.args.len();
            let message = format!("the statement has {parameters} parameters, given are {given}");
            return Err(outcome(at.place, "SQLITE_RANGE".to_owned(), message));
        }
        for (place, value) in at.args.iter().enumerate() {
            compiled.raw_bind_parameter(place + 1, Bound(value))?;
        }
        let (position, write) = (at.logged.position, &at.logged.write);
        let random = Random::new(write.seed, position.seq, at.place);
        self.moment.set(write.at, random, at.known.pure.clone());
        self.guard.run();
        self.rows.begin(at.known.facts.target.as_deref());
        compiled.reset_status(StatementStatus::VmStep);
        self.steps.allow(budget.steps);
        let returned = returned(&mut compiled, &mut budget.bytes);
        self.steps.free();
        let too_long = || {
            let message = format!("the write takes more than {WRITE_STEPS_MAX} steps");
            outcome(at.place, "SQLITE_INTERRUPT".to_owned(), message)
        };
        let rows = match returned {
            Ok(Some(rows)) => rows,
            Ok(None) => {
                let message = format!("the write returns more than {RETURNED_BYTES_MAX} bytes");
                return Err(outcome(at.place, "SQLITE_TOOBIG".to_owned(), message));
            }
            Err(error) if fault::is_interrupt(&error) => return Err(too_long()),
            Err(error) => return Err(error.into()),
        };
        let steps = compiled.get_status(StatementStatus::VmStep);
        let left = budget.steps.checked_sub(steps.max(0) as u64);
        budget.steps = left.ok_or_else(too_long)?;
        let columns: Vec<String> = compiled.column_names().map(str::to_owned).collect();
        drop(compiled);
        let seen = self.rows.end();
        let mut result = self.counted(at.known, &seen);
        if !columns.is_empty() {
            (result.columns, result.rows) = (Some(columns), Some(rows));
        }
        Ok((result, seen))
    }

    /// What the statement itself changed.
    fn counted(&self, known: &Known, seen: &Seen) -> StatementResult {
        if !known.facts.changes_rows || known.facts.changes_schema {
            return StatementResult::default();
        }
        let changes = self.connection.changes();
        let inserted = match known.target() {
            Some((_, Keys::RowIds(_))) => {
                seen.target_inserted || (changes > 0 && !known.facts.upserts)
            }
            Some((_, Keys::Virtual)) => changes > 0,
            _ => false,
        };
        StatementResult {
            rows_affected: changes,
            last_insert_id: inserted.then(|| self.connection.last_insert_rowid()),
            ..StatementResult::default()
        }
    }
}

/// A statement at its place.
struct At<'a> {
    logged: &'a Logged,
    place: usize,
    sql: &'a str,
    args: &'a [Value],
    known: &'a Known,
}

fn outcome(statement: usize, code: String, message: String) -> Undone {
    Undone::Failure(Failure::Outcome(SqlError {
        code,
        message,
        statement,
    }))
}

fn exhausted(place: usize) -> Undone {
    let message = "the largest row id is taken: a row without a key has none";
    outcome(place, "SQLITE_FULL".to_owned(), message.to_owned())
}

/// Runs it to its end. None when it returns too much.
fn returned(
    compiled: &mut rusqlite::Statement<'_>,
    bytes_left: &mut usize,
) -> Result<Option<Vec<Vec<Value>>>> {
    let columns = compiled.column_count();
    let mut rows = compiled.raw_query();
    let mut returned = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            let value = value(row.get_ref(column)?);
            let Some(left) = bytes_left.checked_sub(size_of(&value)) else {
                return Ok(None);
            };
            *bytes_left = left;
            values.push(value);
        }
        returned.push(values);
    }
    Ok(Some(returned))
}

/// A value as it is. Text that is no UTF-8 comes as a blob, which has the same bytes.
pub(super) fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => match str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Blob(text.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// An argument on its way into a statement.
pub(super) struct Bound<'a>(pub(super) &'a Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn explained_calls(connection: &Connection, sql: &str) -> Result<Calls> {
    const OPCODE: usize = 1;
    const P4: usize = 5;
    let mut explain = connection.prepare(sql)?;
    let mut rows = explain.raw_query();
    let mut calls = Calls::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, String>(OPCODE)? != "PureFunc" {
            continue;
        }
        let call: String = row.get(P4)?;
        if let Some((name, count)) = call.split_once('(')
            && let Ok(count) = count.trim_end_matches(')').parse()
        {
            calls.insert((name.to_owned(), count));
        }
    }
    Ok(calls)
}
