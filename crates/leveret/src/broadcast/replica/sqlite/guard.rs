//! What a statement may do: SQLite asks while it compiles, so that the answer does not depend on how the text is written, nor on whether the
//! statement does it itself or by a trigger, a view or a foreign key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization},
};

use super::own;

/// On whose behalf SQLite compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// This module's own statements: all is allowed.
    Own,
    /// A statement of a write is compiled.
    Write,
    /// A statement of a write runs: only virtual tables and ALTER TABLE compile statements of their own then.
    Running,
    /// A question is compiled.
    Question,
    /// A question that begins with EXPLAIN: the statement behind it never runs.
    Explain,
}

/// The modules of virtual tables that keep all they know in the database. Others read files, or show what differs from node to node.
const MODULES: [&str; 5] = ["fts3", "fts4", "fts5", "rtree", "rtree_i32"];

/// Columns of the schema table that tell about the layout of the file.
const LAYOUT: [&str; 2] = ["rootpage", "ROWID"];

/// What a statement turned out to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The table that it inserts into itself.
    pub(super) target: Option<String>,
    /// All tables that it or its triggers insert into.
    pub(super) inserts: Vec<String>,
    /// It changes rows itself by INSERT, UPDATE or DELETE.
    pub(super) changes_rows: bool,
    /// It inserts, and updates where there is a conflict.
    pub(super) upserts: bool,
    /// It changes the schema.
    pub(super) changes_schema: bool,
    /// It alters a table, which compiles further statements.
    pub(super) alters: bool,
    /// It collects statistics, which plans depend on.
    pub(super) analyzes: bool,
    /// It asks for `changes()` or `last_insert_rowid()`.
    pub(super) counts: bool,
    /// It reads something.
    pub(super) selects: bool,
    /// It writes the statistics that plans depend on.
    writes_statistics: bool,
    /// It writes what AUTOINCREMENT gives out next.
    writes_sequence: bool,
    /// The first thing that it may not do.
    pub(super) refused: Option<String>,
}

impl Facts {
    /// It may set what AUTOINCREMENT gives out next.
    pub(super) fn sequences(&self) -> bool {
        self.writes_sequence
    }
}

#[derive(Debug)]
struct State {
    mode: Mode,
    facts: Facts,
}

/// A connection's guard.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Mutex<State>>);

impl Guard {
    /// Sets the guard up. It begins in [`Mode::Own`].
    pub(super) fn install(connection: &mut Connection) -> rusqlite::Result<Guard> {
        let state = State {
            mode: Mode::Own,
            facts: Facts::default(),
        };
        let guard = Guard(Arc::new(Mutex::new(state)));
        let asked = guard.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            asked.lock().ask(&context)
        }))?;
        Ok(guard)
    }

    /// What is compiled from here on is compiled in this mode, with no facts known.
    pub(super) fn set(&self, mode: Mode) {
        let mut state = self.lock();
        state.mode = mode;
        state.facts = Facts::default();
    }

    /// The statement that was compiled now runs.
    pub(super) fn run(&self) {
        let mut state = self.lock();
        state.mode = Mode::Running;
    }

    /// What was learnt since [`set`](Self::set).
    pub(super) fn facts(&self) -> Facts {
        let mut facts = self.lock().facts.clone();
        // ANALYZE and DROP TABLE write them too, and SQLite asks for the writing first.
        if facts.writes_statistics && !facts.changes_schema {
            let refusal = "statistics are written by ANALYZE only, as plans depend on them";
            facts.refused.get_or_insert_with(|| refusal.to_owned());
        }
        facts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ask(&mut self, context: &AuthContext<'_>) -> Authorization {
        let refusal = match self.mode {
            Mode::Own => return Authorization::Allow,
            // Temporary tables live and die with a process.
            Mode::Write if context.database_name == Some("temp") => {
                let needed = self.facts.alters && looks_for_names(&context.action);
                (!needed).then(|| "TEMP is not allowed in a write".to_owned())
            }
            Mode::Write => self.write(&context.action, context.accessor.is_none()),
            Mode::Running => running(&context.action, &self.facts),
            Mode::Question => self.question(&context.action, false),
            Mode::Explain => self.question(&context.action, true),
        };
        match refusal {
            None => Authorization::Allow,
            Some(refusal) => {
                self.facts.refused.get_or_insert(refusal);
                Authorization::Deny
            }
        }
    }

    /// Notes what a statement of a write does, and why it may not.
    fn write(&mut self, action: &AuthAction<'_>, itself: bool) -> Option<String> {
        let facts = &mut self.facts;
        match *action {
            AuthAction::Select | AuthAction::Recursive => {
                facts.selects = true;
                None
            }
            AuthAction::Read {
                table_name,
                column_name,
            } => read(table_name, column_name, facts),
            AuthAction::Insert { table_name } => {
                if is_system(table_name) {
                    facts.writes_statistics |= is_statistics(table_name);
                    return None;
                }
                facts.writes_sequence |= table_name.eq_ignore_ascii_case("sqlite_sequence");
                facts.changes_rows |= itself;
                if itself && facts.target.is_none() {
                    facts.target = Some(table_name.to_owned());
                }
                if !facts.inserts.iter().any(|known| known == table_name) {
                    facts.inserts.push(table_name.to_owned());
                }
                own(table_name)
            }
            AuthAction::Update { table_name, .. } => {
                facts.writes_sequence |= table_name.eq_ignore_ascii_case("sqlite_sequence");
                if is_system(table_name) {
                    facts.writes_statistics |= is_statistics(table_name);
                    return None;
                }
                facts.changes_rows |= itself;
                facts.upserts |= itself && facts.target.is_some();
                own(table_name)
            }
            AuthAction::Delete { table_name } => {
                if is_system(table_name) {
                    facts.writes_statistics |= is_statistics(table_name);
                    return None;
                }
                facts.changes_rows |= itself;
                own(table_name)
            }
            AuthAction::Function { function_name } => {
                facts.counts |= ["changes", "last_insert_rowid"]
                    .iter()
                    .any(|counter| function_name.eq_ignore_ascii_case(counter));
                None
            }
            AuthAction::Analyze { .. } => {
                facts.analyzes = true;
                facts.changes_schema = true;
                None
            }
            AuthAction::Reindex { .. } => {
                facts.changes_schema = true;
                None
            }
            _ => schema(action, facts),
        }
    }

    /// Why a question may not do this.
    fn question(&mut self, action: &AuthAction<'_>, explain: bool) -> Option<String> {
        match *action {
            AuthAction::Select | AuthAction::Recursive => {
                self.facts.selects = true;
                None
            }
            AuthAction::Function { function_name } => function_name
                .eq_ignore_ascii_case("load_extension")
                .then(|| "load_extension() is not allowed".to_owned()),
            AuthAction::Read { table_name, .. } => {
                own(table_name).or_else(|| pragma_function(table_name))
            }
            AuthAction::Insert { .. } | AuthAction::Update { .. } | AuthAction::Delete { .. }
                if explain =>
            {
                None
            }
            _ => Some(format!("{} changes something", name(action))),
        }
    }
}

/// Why a statement that virtual tables or ALTER TABLE run for themselves may not do this.
fn running(action: &AuthAction<'_>, facts: &Facts) -> Option<String> {
    match *action {
        AuthAction::Pragma { pragma_name, .. } => {
            let is = |name: &str| pragma_name.eq_ignore_ascii_case(name);
            let needed =
                is("data_version") || is("page_size") || (facts.alters && is("quick_check"));
            (!needed).then(|| "PRAGMA is not allowed in a write".to_owned())
        }
        AuthAction::Attach { .. } | AuthAction::Detach { .. } | AuthAction::Unknown { .. } => {
            Some(format!("{} is not allowed in a write", name(action)))
        }
        _ => None,
    }
}

/// Notes a change of the schema, or says why it may not be.
fn schema(action: &AuthAction<'_>, facts: &mut Facts) -> Option<String> {
    let refused = match *action {
        AuthAction::CreateTable { table_name } | AuthAction::DropTable { table_name } => {
            own(table_name)
        }
        AuthAction::AlterTable { table_name, .. } => {
            facts.alters = true;
            own(table_name)
        }
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => own(view_name),
        AuthAction::CreateIndex {
            index_name,
            table_name,
        }
        | AuthAction::DropIndex {
            index_name,
            table_name,
        } => own(table_name).or_else(|| own(index_name)),
        AuthAction::CreateTrigger {
            trigger_name,
            table_name,
        }
        | AuthAction::DropTrigger {
            trigger_name,
            table_name,
        } => own(table_name).or_else(|| own(trigger_name)),
        AuthAction::CreateVtable {
            table_name,
            module_name,
        } => own(table_name).or_else(|| {
            let known = MODULES
                .iter()
                .any(|module| module_name.eq_ignore_ascii_case(module));
            (!known).then(|| format!("virtual tables of '{module_name}' are not allowed"))
        }),
        AuthAction::DropVtable { table_name, .. } => own(table_name),
        _ => Some(format!("{} is not allowed in a write", name(action))),
    };
    facts.changes_schema |= refused.is_none();
    refused
}

/// What ALTER TABLE does in the schema of the temporary tables, of which there are none: it looks for the names that it changes.
fn looks_for_names(action: &AuthAction<'_>) -> bool {
    let (AuthAction::Read { table_name, .. } | AuthAction::Update { table_name, .. }) = *action
    else {
        return false;
    };
    ["sqlite_temp_master", "sqlite_temp_schema"]
        .iter()
        .any(|schema| table_name.eq_ignore_ascii_case(schema))
}

/// Why a write may not read this: it differs from node to node.
fn read(table: &str, column: &str, facts: &Facts) -> Option<String> {
    if facts.alters {
        return None;
    }
    let layout = is_schema(table) && LAYOUT.contains(&column) && !facts.changes_schema;
    if layout {
        return Some(format!("{table}.{column} differs from node to node"));
    }
    own(table).or_else(|| pragma_function(table))
}

fn is_schema(table: &str) -> bool {
    ["sqlite_master", "sqlite_schema"]
        .iter()
        .any(|schema| table.eq_ignore_ascii_case(schema))
}

/// Tables that SQLite writes itself along with users' statements. `sqlite_sequence` is not one of them: users may write it.
fn is_system(table: &str) -> bool {
    is_schema(table) || is_statistics(table)
}

fn is_statistics(table: &str) -> bool {
    table.to_ascii_lowercase().starts_with("sqlite_stat")
}

fn own(table: &str) -> Option<String> {
    own::is_own(table).then(|| own::refusal(table))
}

fn pragma_function(table: &str) -> Option<String> {
    let table = table.to_ascii_lowercase();
    let refused = table.starts_with("pragma_") || table == "dbstat" || table == "sqlite_dbpage";
    refused.then(|| format!("{table} is a PRAGMA, or shows how the file is laid out"))
}

/// How people call it.
fn name(action: &AuthAction<'_>) -> &'static str {
    match action {
        AuthAction::Pragma { .. } => "PRAGMA",
        // ATTACH whose file name is no literal comes without it.
        AuthAction::Attach { .. } | AuthAction::Unknown { .. } => "ATTACH",
        AuthAction::Detach { .. } => "DETACH",
        AuthAction::Transaction { .. } => "BEGIN, COMMIT, END or ROLLBACK",
        AuthAction::Savepoint { .. } => "SAVEPOINT, RELEASE or ROLLBACK TO",
        AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. } => "TEMP",
        AuthAction::Insert { .. } => "INSERT",
        AuthAction::Update { .. } => "UPDATE",
        AuthAction::Delete { .. } => "DELETE",
        AuthAction::Reindex { .. } => "REINDEX",
        AuthAction::Analyze { .. } => "ANALYZE",
        AuthAction::AlterTable { .. } => "ALTER",
        AuthAction::CreateTable { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::CreateVtable { .. } => "CREATE",
        AuthAction::DropTable { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropView { .. }
        | AuthAction::DropVtable { .. } => "DROP",
        _ => "this",
    }
}
