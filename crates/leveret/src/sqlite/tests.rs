use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;

/// A path of its own, whose files are removed at the end.
pub(crate) struct TempPath(pub(crate) PathBuf);

impl TempPath {
    pub(crate) fn new() -> TempPath {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "leveret-test-{}-{}.db",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        TempPath(std::env::temp_dir().join(name))
    }

    pub(crate) fn open(&self) -> Database {
        Database::open(DatabaseOptions::new(&self.0)).unwrap()
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let mut path = self.0.clone().into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
    }
}

const TABLE: &[&str] = &["CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL)"];

fn with_table(path: &TempPath) -> Database {
    let database = path.open();
    database.migrate("test", TABLE).unwrap();
    database
}

fn insert(database: &Database, id: i64) -> Written<()> {
    database.write(move |session| {
        session.execute("INSERT INTO t (id, v) VALUES (?1, 'x')", [id])?;
        Ok(())
    })
}

fn ids(session: &Session<'_>) -> Result<Vec<i64>, DatabaseError> {
    let mut statement = session.prepare_cached("SELECT id FROM t ORDER BY id")?;
    let rows = statement.query_map((), |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Jobs run in the order of the calls, although nobody polled the first; what resolved is read at once.
#[tokio::test]
async fn writes_in_the_order_of_the_calls() {
    let path = TempPath::new();
    let database = with_table(&path);
    let first = insert(&database, 1);
    let second = database.write(ids);
    assert_eq!(second.await.unwrap(), [1]);
    first.await.unwrap();
    assert_eq!(database.read(ids).await.unwrap(), [1]);
    let forbidden = database.read(|session| Ok(session.execute("DELETE FROM t", ())?));
    assert!(forbidden.await.is_err(), "readers only read");
    database.close().await;
}

/// A statement serves again in the same transaction, after an error and within itself.
#[tokio::test]
async fn statements_serve_again() {
    const INSERT: &str = "INSERT INTO t (id, v) VALUES (?1, 'x')";
    const FIND: &str = "SELECT id FROM t WHERE id >= ?1 ORDER BY id";
    let path = TempPath::new();
    let database = with_table(&path);
    let job = |session: &Session<'_>| {
        session.execute(INSERT, [1])?;
        assert!(session.execute(INSERT, [1]).is_err());
        session.execute(INSERT, [2])?;
        session.rows::<_, DatabaseError>(FIND, [1], |row| {
            let first: i64 = row.get(0)?;
            let second = session.row(FIND, [first + 1], |row| row.get::<_, i64>(0))?;
            Ok((first, second))
        })
    };
    let pairs = database.write(job).await.unwrap();
    assert_eq!(pairs, [(1, Some(2)), (2, None)]);
    database.close().await;
}

/// Of jobs that share a transaction, those that fail, panic or refuse leave nothing behind, and the others stay.
#[tokio::test]
async fn failed_job_is_rolled_back_alone() {
    let path = TempPath::new();
    let database = with_table(&path);
    // Holds the writer until all jobs are queued.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let gate = database.write(move |_| Ok(held.recv().is_err()));
    let good = insert(&database, 1);
    let failing = database.write(|session| {
        session.execute("INSERT INTO t VALUES (2, 'x')", ())?;
        session.execute("INSERT INTO t VALUES (1, 'x')", ())?;
        Ok(())
    });
    let refusing = database.write(|session| {
        session.execute("INSERT INTO t VALUES (3, 'x')", ())?;
        Err::<(), _>(DatabaseError::refused("not today"))
    });
    let panicking = database.write(|session| -> Result<(), DatabaseError> {
        session.execute("INSERT INTO t VALUES (4, 'x')", ())?;
        panic!("on purpose")
    });
    let last = insert(&database, 5);
    drop(release);
    assert!(gate.await.unwrap());
    good.await.unwrap();
    assert!(matches!(failing.await, Err(DatabaseError::Sqlite(_))));
    assert_eq!(refusing.await.unwrap_err().to_string(), "not today");
    assert!(matches!(panicking.await, Err(DatabaseError::Panicked)));
    last.await.unwrap();
    assert_eq!(database.read(ids).await.unwrap(), [1, 5]);

    // Alone in its transaction, too.
    let alone = database.write(|session| {
        session.execute("INSERT INTO t VALUES (6, 'x')", ())?;
        Err::<(), _>(DatabaseError::refused("no"))
    });
    assert!(alone.await.is_err());
    insert(&database, 7).await.unwrap();
    assert_eq!(database.read(ids).await.unwrap(), [1, 5, 7]);
    database.close().await;
}

/// A full disk fails what did not fit; with space again, writes go on.
#[tokio::test]
async fn full_disk_is_reported_and_survived() {
    let path = TempPath::new();
    let database = with_table(&path);
    let limit = |pages: i64| {
        move |session: &Session<'_>| {
            let sql = format!("PRAGMA max_page_count={pages}");
            Ok(session.query_row(&sql, (), |row| row.get::<_, i64>(0))?)
        }
    };
    database.write(limit(16)).await.unwrap();
    let large = database.write(|session| {
        session.execute("INSERT INTO t VALUES (1, hex(zeroblob(1000000)))", ())?;
        Ok(())
    });
    let error = large.await.unwrap_err();
    assert!(error.is_retryable(), "{}", error.chain());
    database.write(limit(1_000_000)).await.unwrap();
    insert(&database, 2).await.unwrap();
    assert_eq!(database.read(ids).await.unwrap(), [2]);
    database.close().await;
}

/// What nobody waits for runs by itself, in its place among the others.
#[tokio::test]
async fn write_soon_runs_without_another_job() {
    let path = TempPath::new();
    let database = with_table(&path);
    let (sender, receiver) = oneshot::channel();
    database.write_soon(
        |session| Ok(session.execute("INSERT INTO t VALUES (1, 'x')", ())?),
        move |result| drop(sender.send(result)),
    );
    assert_eq!(receiver.await.unwrap().unwrap(), 1);
    database.write_soon(
        |session| Ok(session.execute("INSERT INTO t VALUES (2, 'x')", ())?),
        drop,
    );
    assert_eq!(database.write(ids).await.unwrap(), [1, 2]);
    database.close().await;
}

/// Close runs what is queued, is idempotent, refuses what comes later, and lets the file go.
#[tokio::test]
async fn close_finishes_the_queue_and_lets_go() {
    let path = TempPath::new();
    let database = with_table(&path);
    let written: Vec<_> = (0..100).map(|id| insert(&database, id)).collect();
    database.write_soon(
        |session| Ok(session.execute("INSERT INTO t VALUES (100, 'x')", ())?),
        drop,
    );
    database.close().await;
    database.close().await;
    for written in written {
        written.await.unwrap();
    }
    assert!(!database.is_open());
    let late = insert(&database, 1000).await;
    assert!(matches!(late, Err(DatabaseError::Closed)));
    let late = database.read(ids).await;
    assert!(matches!(late, Err(DatabaseError::Closed)));

    let again = path.open();
    assert_eq!(again.read(ids).await.unwrap().len(), 101);
    again.close().await;
}

#[tokio::test]
async fn second_open_is_refused() {
    let path = TempPath::new();
    let database = path.open();
    let second = Database::open(DatabaseOptions::new(&path.0));
    assert!(
        matches!(second, Err(DatabaseError::InUse { .. })),
        "{second:?}"
    );
    database.close().await;
    path.open().close().await;
}

#[tokio::test]
async fn newer_schema_is_refused() {
    const NEWER: &[&str] = &[TABLE[0], "ALTER TABLE t ADD COLUMN w TEXT"];
    let path = TempPath::new();
    let database = path.open();
    database.migrate("test", TABLE).unwrap();
    database.migrate("test", TABLE).unwrap();
    database.migrate("other", &[]).unwrap();
    database.migrate("test", NEWER).unwrap();
    let older = database.migrate("test", TABLE).unwrap_err();
    assert!(
        matches!(
            older,
            DatabaseError::NewerSchema {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{older:?}"
    );
    database.close().await;
}

/// The WAL is copied while the writer goes on, and begins anew although there is always more to write.
#[tokio::test]
async fn the_wal_stays_short_behind_a_busy_writer() {
    let path = TempPath::new();
    let database = with_table(&path);
    let megabyte = |id: i64| {
        database.write(move |session| {
            let sql = "INSERT INTO t VALUES (?1, hex(zeroblob(500000)))";
            Ok(session.prepare_cached(sql)?.execute([id])?)
        })
    };
    let mut waiting = std::collections::VecDeque::new();
    for id in 0..160 {
        waiting.push_back(megabyte(id));
        if waiting.len() > 4 {
            waiting.pop_front().unwrap().await.unwrap();
        }
    }
    for written in waiting {
        written.await.unwrap();
    }
    let mut wal = path.0.clone().into_os_string();
    wal.push("-wal");
    let bytes = std::fs::metadata(wal).unwrap().len();
    assert!(bytes < 80 << 20, "{bytes}");
    assert_eq!(database.read(ids).await.unwrap().len(), 160);
    database.close().await;
}
