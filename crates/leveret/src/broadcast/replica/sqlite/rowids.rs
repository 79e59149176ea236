//! What happened to rows while a statement ran, as far as their row ids matter.
//!
//! When the largest row id of a table is taken, SQLite *draws* the id of a row without a key, from numbers of its own, which no two nodes share.
//! Such an INSERT must fail on every node. Whether an id was drawn cannot be asked; so where that may be, the statement runs twice, and ids
//! that differ were drawn.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, Result, hooks::Action};

/// What was seen since the last [`begin`](Rows::begin).
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The table that the statement itself inserts into.
    target: String,
    /// A row was inserted there.
    pub(super) target_inserted: bool,
    /// Rows that were inserted anywhere.
    pub(super) inserted: u64,
    /// Tables that were given a row with the largest row id.
    pub(super) taken: Vec<String>,
    /// All inserted rows, in their order.
    pub(super) trace: u64,
}

/// Looks on while rows change on a connection.
#[derive(Clone, Debug)]
pub(super) struct Rows(Arc<Mutex<Seen>>);

impl Rows {
    pub(super) fn install(connection: &mut Connection) -> Result<Rows> {
        let rows = Rows(Arc::default());
        let seen = rows.clone();
        connection.update_hook(Some(move |action, _: &str, table: &str, rowid| {
            seen.see(action, table, rowid);
        }))?;
        Ok(rows)
    }

    /// A statement that inserts into this table itself, if into any, begins.
    pub(super) fn begin(&self, target: Option<&str>) {
        let mut seen = self.lock();
        *seen = Seen {
            target: std::mem::take(&mut seen.target),
            ..Seen::default()
        };
        seen.target.clear();
        seen.target.push_str(target.unwrap_or_default());
    }

    pub(super) fn end(&self) -> Seen {
        std::mem::take(&mut self.lock())
    }

    fn see(&self, action: Action, table: &str, rowid: i64) {
        let mut seen = self.lock();
        if rowid == i64::MAX && action != Action::SQLITE_DELETE {
            seen.taken.push(table.to_owned());
        }
        if action == Action::SQLITE_INSERT {
            seen.inserted += 1;
            seen.target_inserted |= seen.target == table;
            let mut hasher = DefaultHasher::new();
            (seen.trace, table, rowid).hash(&mut hasher);
            seen.trace = hasher.finish();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the rows of a table are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// By row ids, under this name.
    RowIds(&'static str),
    /// By whatever a virtual table makes of it.
    Virtual,
    /// By the primary key, or not at all.
    Other,
}

/// How the rows of this table are known.
pub(super) fn keys(connection: &Connection, table: &str) -> Result<Keys> {
    let mut list = connection.prepare_cached(
        "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?",
    )?;
    let found = list.query_row([table], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?))
    });
    match found.optional()? {
        Some((kind, _)) if kind == "virtual" => Ok(Keys::Virtual),
        Some((kind, false)) if kind == "table" || kind == "shadow" => {
            let columns = columns(connection, table)?;
            let free = |name: &&str| !columns.iter().any(|one| one.eq_ignore_ascii_case(name));
            let alias = ["rowid", "_rowid_", "oid"].into_iter().find(free);
            Ok(alias.map_or(Keys::Other, Keys::RowIds))
        }
        _ => Ok(Keys::Other),
    }
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let mut list = connection.prepare_cached("SELECT name FROM pragma_table_xinfo(?)")?;
    list.query_map([table], |row| row.get(0))?.collect()
}

/// Tables whose largest row id is known to be free.
#[derive(Debug, Default)]
pub(super) struct Free(HashSet<String>);

impl Free {
    /// Whether the largest row id of this table is taken, or was given out by AUTOINCREMENT.
    pub(super) fn is_taken(
        &mut self,
        connection: &Connection,
        table: &str,
        alias: &str,
    ) -> Result<bool> {
        if self.0.contains(table) {
            return Ok(false);
        }
        let quoted = quoted(table);
        let largest = i64::MAX;
        let mut row = connection
            .prepare_cached(&format!("SELECT 1 FROM {quoted} WHERE {alias} = {largest}"))?;
        if row.exists(())? || sequence_ended(connection, table)? {
            return Ok(true);
        }
        self.0.insert(table.to_owned());
        Ok(false)
    }

    pub(super) fn forget(&mut self, table: &str) {
        self.0.remove(table);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn sequence_ended(connection: &Connection, table: &str) -> Result<bool> {
    let exists = connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'")?
        .exists(())?;
    if !exists {
        return Ok(false);
    }
    let mut ended = connection.prepare_cached(
        "SELECT 1 FROM sqlite_sequence WHERE name = ? AND seq = 9223372036854775807",
    )?;
    ended.exists([table])
}

/// A name as it stands in a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
