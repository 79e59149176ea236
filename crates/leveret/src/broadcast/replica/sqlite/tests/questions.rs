//! Questions: what is one, what they cost, and how new the answers are.

use std::time::Duration;

use super::*;
use crate::broadcast::{ReadError, ReadLimits};

fn query(sql: &str) -> Query {
    Query {
        statement: statement(sql, Vec::new()),
        min_seq: 0,
        limits: ReadLimits::default(),
    }
}

async fn with_table() -> Fixture {
    let mut fixture = Fixture::new().await;
    let insert = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100)
        INSERT INTO t SELECT i, 'v' || i FROM n";
    fixture
        .apply(&[
            write("CREATE TABLE t (id INTEGER PRIMARY KEY, v)"),
            write(insert),
        ])
        .await;
    fixture
}

#[tokio::test]
async fn questions_are_answered_from_a_snapshot_whose_seq_they_tell() {
    let fixture = with_table().await;
    let ask = |sql: &'static str| fixture.replica().query(query(sql));
    let rows = ask("SELECT id AS a, v FROM t WHERE id < 3").await.unwrap();
    assert_eq!(rows.seq, 2);
    assert_eq!(rows.columns, ["a", "v"]);
    let text = |text: &str| Value::Text(text.to_owned());
    let expected = [
        [Value::Integer(1), text("v1")],
        [Value::Integer(2), text("v2")],
    ];
    assert_eq!(rows.rows, expected);
    assert_eq!(ask("VALUES (1), (2)").await.unwrap().rows.len(), 2);
    let with = ask("WITH x AS (SELECT 1) SELECT * FROM x;").await.unwrap();
    assert_eq!(with.rows, [[Value::Integer(1)]]);
    assert!(!ask("EXPLAIN SELECT 1").await.unwrap().rows.is_empty());
    let plan = ask("EXPLAIN QUERY PLAN DELETE FROM t WHERE v = 1")
        .await
        .unwrap();
    assert!(!plan.rows.is_empty());
    let none = ask("SELECT * FROM t WHERE 0").await.unwrap();
    assert_eq!((none.columns.len(), none.rows.len()), (2, 0));
    let mut argued = query("SELECT ?, typeof(?)");
    argued.statement.args = vec![Value::Integer(i64::MAX), Value::Blob(vec![0])];
    let argued = fixture.replica().query(argued).await.unwrap();
    assert_eq!(argued.rows, [[Value::Integer(i64::MAX), text("blob")]]);
}

/// Whatever is no question is refused, and nothing is changed by it, whatever order it comes in.
#[tokio::test]
async fn what_is_no_question_is_refused() {
    let fixture = with_table().await;
    let before = fixture.replica().contents(Contents::All).await.unwrap();
    for sql in [
        "INSERT INTO t VALUES (1000, 1)",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT 1000, 1 FROM x",
        "DELETE FROM t RETURNING id",
        "UPDATE t SET v = 1",
        "REPLACE INTO t VALUES (1, 1)",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO x",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE x",
        "ATTACH 'x.db' AS x",
        "ATTACH ':memory:' AS x",
        "DETACH x",
        "VACUUM",
        "VACUUM INTO '/tmp/x.db'",
        "ANALYZE",
        "REINDEX",
        "PRAGMA user_version",
        "PRAGMA query_only = OFF",
        "EXPLAIN PRAGMA query_only = OFF",
        "EXPLAIN CREATE TABLE x (a)",
        "SELECT * FROM pragma_table_info('t')",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT * FROM dbstat",
        "SELECT load_extension('x')",
        "SELECT * FROM _leveret_replica",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE t",
        "",
        " ; ",
        "-- SELECT 1",
        "SELECT 1\0",
    ] {
        let refused = fixture.replica().query(query(sql)).await;
        let refused = refused.expect_err(sql);
        assert!(
            matches!(refused, ReadError::NotReadOnly { .. }),
            "{sql}: {refused:?}"
        );
    }
    for (sql, code) in [
        ("SELEC 1", "SQLITE_ERROR"),
        ("SELECT * FROM missing", "SQLITE_ERROR"),
        ("SELECT ?", "SQLITE_RANGE"),
        ("SELECT abs(-9223372036854775808)", "SQLITE_ERROR"),
    ] {
        let refused = fixture.replica().query(query(sql)).await;
        let refused = refused.expect_err(sql);
        let found = matches!(&refused, ReadError::Sql { code: found, .. } if found == code);
        assert!(found, "{sql}: {refused:?}");
    }
    assert_eq!(
        fixture.replica().contents(Contents::All).await.unwrap(),
        before
    );
    assert_eq!(before.0.seq, 2);
}

#[tokio::test]
async fn questions_are_bounded() {
    let fixture = with_table().await;
    let forever =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
    let check = |sql: &'static str, limits: ReadLimits, expect: &'static str| {
        let query = Query {
            limits,
            ..query(sql)
        };
        let asked = fixture.replica().query(query);
        async move {
            let limited = asked.await.expect_err(sql);
            assert!(
                matches!(limited, ReadError::Limit { what } if what == expect),
                "{sql}: {limited:?}"
            );
        }
    };
    let few = ReadLimits {
        rows_max: 99,
        ..ReadLimits::default()
    };
    check("SELECT * FROM t", few, "rows").await;
    let small = ReadLimits {
        bytes_max: 1000,
        ..ReadLimits::default()
    };
    check("SELECT * FROM t", small, "bytes").await;
    let short = ReadLimits {
        time: Duration::from_millis(100),
        ..ReadLimits::default()
    };
    check(forever, short, "time").await;
    let rows = fixture.replica().query(query("SELECT * FROM t")).await;
    assert_eq!(rows.unwrap().rows.len(), 100);
}

/// An answer is never older than asked for: it waits for the write, or says how far the replica is.
#[tokio::test]
async fn questions_wait_for_the_write_they_name() {
    let fixture = with_table().await;
    let asked = |min_seq, ms| Query {
        min_seq,
        limits: ReadLimits {
            time: Duration::from_millis(ms),
            ..ReadLimits::default()
        },
        ..query("SELECT max(id) FROM t")
    };
    let late = fixture.replica().query(asked(3, 50)).await.unwrap_err();
    assert!(
        matches!(late, ReadError::Behind { at: 2, min_seq: 3 }),
        "{late:?}"
    );
    let waiting = fixture.replica().query(asked(3, 60_000));
    let insert = logged(3, write("INSERT INTO t VALUES (1000, 1)"));
    let applying = fixture.replica().apply(vec![insert]);
    let (answer, applied) = tokio::join!(waiting, applying);
    applied.unwrap();
    let answer = answer.unwrap();
    assert_eq!(
        (answer.seq, answer.rows),
        (3, vec![vec![Value::Integer(1000)]])
    );
}
