mod copies;
mod fuzz;
mod outcomes;
mod processes;
mod questions;

use std::fmt::Write as _;

use leveret_core::{
    broadcast::{Logged, Outcome, Position, Statement, Value, Write},
    time::Timestamp,
};

use super::*;
use crate::sqlite::tests::TempPath;

/// 2026-11-21T02:24:23.755Z.
const AT: i64 = 1_795_227_863_755;

/// A replica in a file that is removed at the end.
pub(super) struct Fixture {
    pub(super) path: TempPath,
    replica: Option<SqliteReplica>,
    next: u64,
}

impl Fixture {
    pub(super) async fn new() -> Fixture {
        let path = TempPath::new();
        let replica = open(&path.0);
        replica.adopt("test", false).await.unwrap();
        Fixture {
            path,
            replica: Some(replica),
            next: 1,
        }
    }

    pub(super) fn replica(&self) -> &SqliteReplica {
        self.replica.as_ref().unwrap()
    }

    pub(super) async fn reopen(&mut self) {
        self.replica.take().unwrap().close().await;
        self.replica = Some(open(&self.path.0));
    }

    /// Gives the writes their places and applies them together.
    pub(super) async fn apply(&mut self, writes: &[Vec<Statement>]) -> Vec<Applied> {
        let logged = writes.iter().map(|statements| {
            let logged = logged(self.next, statements.clone());
            self.next += 1;
            logged
        });
        let logged = logged.collect();
        self.replica().apply(logged).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let paths: Vec<TempPath> = (0..20).map(|_| TempPath::new()).collect();
    let make = async |number: u32| Arc::new(open(&paths[number as usize].0)) as Arc<dyn Replica>;
    crate::broadcast::replica::conformance::exercise(make).await;
}

fn open(path: &Path) -> SqliteReplica {
    SqliteReplica::open(path, &SqliteReplicaOptions::default()).unwrap()
}

pub(super) fn logged(seq: u64, statements: Vec<Statement>) -> Logged {
    Logged {
        position: Position { epoch: 1, seq },
        write: Write {
            statements,
            at: Timestamp(AT + seq as i64 * 1000),
            seed: 7,
        },
    }
}

pub(super) fn statement(sql: &str, args: Vec<Value>) -> Statement {
    Statement {
        sql: sql.to_owned(),
        args,
    }
}

/// A write as text: statements with `;;` between them.
pub(super) fn write(text: &str) -> Vec<Statement> {
    let statements = text.split(";;").map(str::trim);
    statements.map(|sql| statement(sql, Vec::new())).collect()
}

/// An outcome as text: for each statement its rows affected, `#` and its last insert id, and what it returns.
pub(super) fn show(outcome: &Outcome) -> String {
    let results = match outcome {
        Outcome::Failed(error) => {
            return format!("{}@{} {}", error.code, error.statement, error.message);
        }
        Outcome::Done(results) => results,
    };
    let shown = results.iter().map(|result| {
        let mut text = result.rows_affected.to_string();
        if let Some(id) = result.last_insert_id {
            write!(text, " #{id}").unwrap();
        }
        for row in result.rows.iter().flatten() {
            write!(text, " {}", serde_json::to_string(row).unwrap()).unwrap();
        }
        text
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// Runs the same writes through three replicas: all in one delivery; one by one; one by one, each time in a process that has just begun. What
/// comes of them must be the same, and so must the contents.
pub(super) async fn three(writes: &[Vec<Statement>]) -> Vec<String> {
    let (mut together, mut single, mut restarted) = (
        Fixture::new().await,
        Fixture::new().await,
        Fixture::new().await,
    );
    let first = together.apply(writes).await;
    for (place, write) in writes.iter().enumerate() {
        let write = std::slice::from_ref(write);
        restarted.reopen().await;
        assert_eq!(single.apply(write).await, first[place..=place]);
        assert_eq!(restarted.apply(write).await, first[place..=place]);
    }
    assert_eq!(dump(&single.path.0), dump(&together.path.0));
    let contents = together.replica().contents(Contents::All).await.unwrap();
    assert_eq!(
        single.replica().contents(Contents::All).await.unwrap(),
        contents
    );
    assert_eq!(
        restarted.replica().contents(Contents::All).await.unwrap(),
        contents
    );
    first.iter().map(|applied| show(&applied.outcome)).collect()
}

/// Everything that users have, as text.
pub(super) fn dump(path: &Path) -> String {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut tables = connection
        .prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE '!_leveret%' ESCAPE '!' AND name NOT LIKE 'sqlite_schema' ORDER BY name")
        .unwrap();
    let mut text = String::new();
    for table in tables.query_map((), |row| row.get::<_, String>(0)).unwrap() {
        let table = table.unwrap();
        let mut rows = connection
            .prepare(&format!("SELECT * FROM \"{table}\""))
            .unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query(()).unwrap();
        while let Some(row) = rows.next().unwrap() {
            text += &table;
            for column in 0..columns {
                write!(text, "|{:?}", row.get_ref(column).unwrap()).unwrap();
            }
            text.push('\n');
        }
    }
    text
}
